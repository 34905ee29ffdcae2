"""MLflow models that only MLflow loads: their requirements.txt becomes the environment of a deployment without one."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from builders import DIGEST, NOW, PLATFORM, child, condition, endpoint, model, ours, read, seen, version
from ultramarine_contract.common import ArtifactManifest, FileEntry
from ultramarine_contract.mlflow_folders import FILE_KEYS, flavors, needed_requirements, requirements
from ultramarine_contract.version_records import CompileRecord
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.model.plan import plan_version, questions_version
from ultramarine_operator.kinds.onlineendpoint.endpoint import Endpoint, selector
from ultramarine_operator.kinds.onlineendpoint.plan import plan
from ultramarine_operator.kinds.onlineendpoint.rollout.decide import identity
from ultramarine_operator.shared.environments import topic_of
from ultramarine_operator.shared.questions import CheckArtifact, CheckMlflow, MlflowFacts
from unit.test_model_automatic import LATER, explicit
from unit.test_model_compiling import compile_job_of, wording
from unit.test_onlineendpoint_own_code import environment, failed, own, pod_of, task_of

RECORDED = Path(__file__).parent / "mlflow-3.17.2"
LINES = ("mlflow==3.17.2", "inflection==0.5.1")
URI = "s3://lake/team-a/uploads/churn/1/"
TEXT = "# made by MLflow\nmlflow==3.17.2\n\ninflection==0.5.1\n"


def manifest_of(files: dict[str, str]) -> ArtifactManifest:
    """The manifest of a folder."""
    return ArtifactManifest(
        tuple(FileEntry(path, len(text), hashlib.sha256(text.encode()).hexdigest()) for path, text in files.items())
    )


def needed(files: dict[str, str], **stored: str) -> tuple[str, ...]:
    """The requirements of a folder's model, of which `stored` files are others than the manifest says."""
    return needed_requirements(manifest_of(files), lambda path: {**files, **stored}[path].encode())


PYFUNC = (RECORDED / "pyfunc" / "MLmodel").read_text()


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RECORDED.glob("*/MLmodel")))
def test_flavors_are_those_that_mlflow_wrote(name: str) -> None:
    """Of all recorded folders the one of python_function alone needs MLflow."""
    text = (RECORDED / name / "MLmodel").read_text()

    assert "python_function" in flavors(text)
    assert bool(FILE_KEYS.keys() & flavors(text)) == (name != "pyfunc")


@pytest.mark.parametrize("text", ["", "flavors:", "flavors: {a: b}\n", "{" * 1000, "flavors:\n- a\n", "a: 1\n"])
def test_another_text_names_no_flavor(text: str) -> None:
    """Such a folder is served or refused as before."""
    assert flavors(text) == ()


def test_requirements_lie_beside_the_only_model() -> None:
    """A folder above does not matter; comments and empty lines are left out."""
    assert needed({"MLmodel": PYFUNC, "requirements.txt": TEXT}) == LINES
    assert needed({"model/MLmodel": PYFUNC, "model/requirements.txt": TEXT, "requirements.txt": "other"}) == LINES


@pytest.mark.parametrize(
    ("files", "stored"),
    [
        ({"MLmodel": PYFUNC}, {}),
        ({"MLmodel": (RECORDED / "onnx" / "MLmodel").read_text(), "requirements.txt": TEXT}, {}),
        ({"a/MLmodel": PYFUNC, "b/MLmodel": PYFUNC, "a/requirements.txt": TEXT}, {}),
        ({"../MLmodel": PYFUNC, "../requirements.txt": TEXT}, {}),
        ({"MLmodel": PYFUNC + "#" * (1 << 18), "requirements.txt": TEXT}, {}),
        ({"MLmodel": PYFUNC, "requirements.txt": TEXT}, {"requirements.txt": "evil\n"}),
        ({"MLmodel": PYFUNC, "requirements.txt": "a" * 501}, {}),
        ({"MLmodel": PYFUNC, "requirements.txt": "a\n" * 501}, {}),
    ],
)
def test_other_folders_need_nothing(files: dict[str, str], stored: dict[str, str]) -> None:
    """No such file, a flavor that the server reads, two models, an unsafe path, too much, or another content."""
    assert needed(files, **stored) == ()


def test_requirements_have_no_comments() -> None:
    """Their lines are those that an author would write into the deployment."""
    assert requirements(TEXT) == LINES


# ---- The version


def mlflow_version(status=None, **spec):
    """ModelVersion churn-1 of format mlflow."""
    whole = {**version(1)["spec"], "uri": URI, "format": {"name": "mlflow"}, **spec}
    return read(ours("ModelVersion", "churn-1", whole, status))


def test_the_check_of_the_artifact_finds_the_requirements():
    """They stay in the status, and are read of no folder that the namespace may not read."""
    [ask] = questions_version(mlflow_version(), seen())
    assert ask == CheckMlflow(URI)
    got = plan_version(mlflow_version(), seen(answers={ask: MlflowFacts(DIGEST, 42, LINES)}), NOW)
    assert (got.status["state"], got.status["requirements"]) == ("Ready", list(LINES))
    later = plan_version(mlflow_version(got.status), seen(), LATER)
    assert later.status["requirements"] == list(LINES)

    plain = plan_version(mlflow_version(), seen(answers={ask: MlflowFacts(DIGEST, 42)}), NOW)
    assert "requirements" not in plain.status
    elsewhere = mlflow_version(uri="s3://models/churn/")
    assert questions_version(elsewhere, seen()) == (CheckArtifact("s3://models/churn/"),)


@pytest.mark.parametrize(("lines", "words"), [(LINES, "of its requirements.txt"), ((), "with its packages")])
def test_a_flavor_whose_packages_the_server_lacks_has_them_by_the_verdict(lines, words):
    """Only the pod that loads it finds that out; without consent nothing follows."""
    record = CompileRecord(load_error="DependencyMissing", message="no module", requirements=lines)
    twin = explicit()
    allowed = read({**twin.manifest, "spec": {**twin.manifest["spec"], "allowCodeExecution": True}})
    [ask] = questions_version(mlflow_version(allowCodeExecution=True), seen())
    facts = {ask: MlflowFacts(DIGEST, 42)}
    status = plan_version(mlflow_version(allowCodeExecution=True), seen(answers=facts), NOW).status
    of = mlflow_version(status, allowCodeExecution=True)
    done = seen(compile_job_of(replace(allowed, manifest=of.manifest), "Complete"))
    [job] = done.children
    pod = wording(of, record)
    pod["metadata"]["ownerReferences"] = [{"uid": job["metadata"]["uid"], "controller": True}]
    got = plan_version(of, seen(job, pod), LATER)

    assert got.status.get("requirements", []) == list(lines)
    assert words in condition(got, "Compiled")["message"]
    assert got.status["state"] == "Ready"


# ---- The endpoint


def needing(lines=LINES, number=1, **spec):
    """Version churn-1 as it was found to need MLflow."""
    made = version(number, uri=URI, format={"name": "mlflow"}, **{"allowCodeExecution": True, **spec})
    made["status"]["requirements"] = list(lines)
    return made


def planned(owner, *related, children=()):
    """The plan of an endpoint beside a version that needs MLflow."""
    return plan(owner, seen(*children, platform=PLATFORM, related=related), NOW)


def created(got):
    """Name of the only Environment that a plan creates."""
    [made] = got.create
    return made["metadata"]["name"]


def test_the_environment_is_the_one_of_the_same_lines_in_a_deployment():
    """So it is shared with them; no pod is made before it is built."""
    got = planned(own(), needing())
    written = planned(own(environment={"requirements": list(LINES)}), version(1))

    assert got.create == written.create
    assert [made["kind"] for made in got.apply] == ["Service"]
    assert created(got) in condition(got, "Ready")["message"]
    kind = next(kind for kind in KINDS if kind.name == "OnlineEndpoint")
    assert topic_of(created(got)) in kind.topics(own().manifest | {"status": got.status})


def test_pods_get_the_environment_when_it_is_built():
    """The archive is unpacked beside the model, as for an environment of the deployment."""
    name = created(planned(own(), needing()))
    built = environment(name)
    built["spec"] = {"python": {"requirements": list(LINES)}}
    pod = pod_of(planned(own(), needing(), built))

    containers = {c["name"]: c for c in (*pod["initContainers"], *pod["containers"])}
    assert task_of(containers["server"])["environment"]["digest"] == built["status"]["digest"]
    assert "environment" in [volume["name"] for volume in pod["volumes"]]


@pytest.mark.parametrize(
    ("deployment", "changes"),
    [
        ({}, {"allowCodeExecution": False}),
        ({}, {"lines": ()}),
        ({"environment": {"name": "ours"}}, {}),
        ({"scoring": {"source": {"inline": {"score.py": "def init(): pass\ndef run(data): return data\n"}}}}, {}),
        ({"container": {"image": "own:1", "ports": {"http": 8080}}}, {}),
    ],
)
def test_nothing_is_made_without_consent_or_beside_the_authors_choice(deployment, changes):
    """A script and a container have the packages that their author gives them."""
    assert planned(own(**deployment), needing(**changes)).create == ()


def test_consent_may_come_from_the_model():
    """As for all other code of a version."""
    trusted = model(trust={"allowCodeExecution": True})
    assert planned(own(), needing(allowCodeExecution=False), trusted).create


def test_damaged_lines_in_a_status_are_ignored():
    """Whoever may write a status may have damaged it."""
    assert planned(own(), needing(["a\nb"])).create == ()


def test_a_failed_build_names_the_version_and_the_remedy():
    """The author of the endpoint did not write the requirements."""
    name = created(planned(own(), needing()))
    broken = environment(name, conditions=failed("there is no inflection==0.5.1"))
    broken["spec"] = {"python": {"requirements": list(LINES)}}
    message = condition(planned(own(), needing(), broken), "Ready")["message"]

    assert "there is no inflection==0.5.1" in message
    assert "set environment on the deployment, or register churn-1 again" in message


def test_a_version_with_other_requirements_is_awaited_beside_the_pods():
    """The status names both environments, so that the endpoint uses both, and hears of the next one's end."""
    before = {"deployments": [{"name": "blue", "modelVersion": "churn-1", "environment": "env-before"}]}
    owner = endpoint(deployments=[{"name": "blue", "model": "churn@1"}], status=before)
    live = child("Deployment", "churn-blue", owner, {"replicas": 1, "template": {"spec": {}}})
    live["metadata"]["labels"] = selector(owner, "blue")
    got = planned(owner, needing(), children=(live,))
    [status] = got.status["deployments"]

    assert (status["environment"], status["nextEnvironment"]) == ("env-before", created(got))
    kind = next(kind for kind in KINDS if kind.name == "OnlineEndpoint")
    topics = kind.topics({**owner.manifest, "status": got.status})
    assert {topic_of("env-before"), topic_of(created(got))} <= topics


def test_a_rollout_begins_when_the_environment_is_built():
    """Until then it has no identity, as with an environment of the deployment."""
    rollout = {"candidate": "green", "steps": [100], "gates": None}
    deployments = [{"name": "blue", "model": "churn@1"}, {"name": "green", "model": "churn@2"}]
    owner = Endpoint.of(endpoint(deployments=deployments, rollout=rollout))
    related = (version(1), needing(number=2))
    assert identity(owner, seen(related=related)) == ""
    name = created(planned(own("churn@2"), *related))
    built = environment(name)
    built["spec"] = {"python": {"requirements": list(LINES)}}
    assert identity(owner, seen(related=(*related, built)))
