"""A TrainingJob's life before a real API server, with the real operator, which is killed on the way."""

from __future__ import annotations

import pytest
from bare import RESOURCES, eventually
from stories import ready, reasons, status, training, until, versions


def test_a_training_job_goes_from_pending_to_a_model_version(api, operator, node):
    """A TrainingJob makes its Job, follows its pod, and registers what the pod uploaded; its diary tells all that."""
    api.apply(training("churn"))
    until(api, "churn", "Pending")
    node.start_pod("churn")
    until(api, "churn", "Running")
    record = node.upload("churn")
    node.succeed("churn", record)
    assert "condition met" in api.run("wait", "--for=condition=Succeeded", "tj/churn", "--timeout=120s")
    eventually("the version is ready", lambda: ready(api, "churn-1"))

    told = status(api, "tj", "churn")
    assert told["outputs"]["model"] == {
        "uri": record.uri,
        "digest": record.digest,
        "bytes": record.bytes,
        "format": "sklearn",
        "modelVersion": "churn-1",
    }
    assert told["modelVersion"] == "churn-1"
    assert told["score"] == "accuracy=0.97"
    version = api.get("mv", "churn-1")
    assert (version["spec"]["uri"], version["spec"]["digest"]) == (record.uri, record.digest)
    assert version["spec"]["format"] == {"name": "sklearn"}
    assert not version["metadata"].get("ownerReferences"), "a version outlives the job that made it"
    eventually("the Model knows it", lambda: status(api, "mdl", "churn").get("latestReadyVersion") == "1")
    eventually("its diary is whole", lambda: {"Started", "Succeeded"} <= reasons(api, "churn"))


def test_jobs_survive_the_death_of_the_operator_wherever_they_are(api, operator, node):
    """Killed with one job just applied, one made, one running and one that ends meanwhile, it goes on with each."""
    api.apply(*(training(name) for name in ("made", "running", "ending")))
    for name in ("running", "ending"):
        node.start_pod(name)
        until(api, name, "Running")
    node.job_of("made")
    api.apply(training("applied"))
    operator.kill()
    node.succeed("ending", node.upload("ending"))
    operator.start()
    for name in ("applied", "made"):
        node.start_pod(name)
    for name in ("applied", "made", "running"):
        node.succeed(name, node.upload(name))

    for name in ("applied", "made", "running", "ending"):
        until(api, name, "Succeeded")
        assert versions(api, name) == [f"{name}-1"]
    assert len(api.all("jobs")) == 4


@pytest.mark.parametrize("first", ["models", "modelversions", "trainingjobs"])
def test_one_version_whenever_the_operator_dies_in_the_registration(api, operator, node, first):
    """Killed at the first sign of any write of the registration, it makes one version when it is back."""
    api.apply(training("churn"))
    node.start_pod("churn")
    record = node.upload("churn")
    until(api, "churn", "Running")
    path = RESOURCES[first].path(api.namespace)
    since = {"watch": "true", "resourceVersion": api.http.get(path).json()["metadata"]["resourceVersion"]}
    with api.http.stream("GET", path, params=since) as watch:  # entered when the server has answered: it is open
        node.succeed("churn", record)
        next(watch.iter_lines())
        operator.kill()
    operator.start()
    until(api, "churn", "Succeeded")

    assert versions(api, "churn") == ["churn-1"]
    assert len(api.all("mdl")) == 1


@pytest.mark.attack(
    "author/version-numbers",
    asset="other people's versions",
    threat="two jobs, or a crash, register the same number",
    control="the number is part of the name, and creating it is a compare-and-swap",
)
def test_many_jobs_for_one_model_get_numbers_of_their_own(api, operator, node):
    """Jobs that end together, with the operator killed among them, make one version each, without a gap."""
    names = [f"job-{number}" for number in range(4)]
    api.apply(*(training(name, outputs={"model": {"registerAs": "churn"}}) for name in names))
    for name in names:
        node.start_pod(name)
    records = [node.upload(name, content=name) for name in names]
    for name, record in zip(names, records, strict=True):
        node.succeed(name, record)
        if name == names[2]:
            operator.kill()
    operator.start()
    for name in names:
        until(api, name, "Succeeded")
    operator.kill()
    operator.start()
    eventually("passes over all", lambda: operator.passes("TrainingJob") >= 4)

    assert sorted(versions(api, "churn")) == ["churn-1", "churn-2", "churn-3", "churn-4"]
    assert len({status(api, "tj", name)["modelVersion"] for name in names}) == 4
