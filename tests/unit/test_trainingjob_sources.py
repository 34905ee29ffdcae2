"""Sources of code: the ways to the trainer, and their records in the status."""

from __future__ import annotations

import pytest
from builders import DIGEST, NOW, PLATFORM, ended_container, job, pod, seen, sweep, training_job
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.training_records import SourceRecord, TerminationRecord, TrainingTask
from ultramarine_operator.kinds.sweep.manifests import workers_job
from ultramarine_operator.kinds.trainingjob.plan import plan
from ultramarine_operator.shared.pods import assess
from ultramarine_operator.shared.podspec import CONTAINER_SECURITY


@pytest.mark.parametrize(
    ("source", "task", "volume"),
    [
        ({"inline": {"a.py": ""}}, None, {"name": "churn-source"}),
        ({"configMap": {"name": "code"}}, {"config_map": "code"}, {"name": "code", "optional": True}),
        ({"uri": "s3://lake/code.tar.gz", "digest": DIGEST}, {"uri": "s3://lake/code.tar.gz", "digest": DIGEST}, None),
        (
            {"git": {"url": "https://example.com/churn.git", "ref": "v1", "path": "src"}},
            {"git_url": "https://example.com/churn.git", "git_ref": "v1", "git_path": "src"},
            None,
        ),
    ],
)
def test_each_source_gets_to_the_trainer(source, task, volume):
    """Inline code and a ConfigMap are mounted, an archive and a repository are the trainer's to fetch."""
    made = plan(training_job(source=source), seen(), NOW).apply[-1]["spec"]["template"]["spec"]
    env = {variable["name"]: variable.get("value") for variable in made["containers"][0]["env"]}
    given = TrainingTask.from_json(env["ULTRAMARINE_TASK"]).source

    assert given == (SourceTask(**task) if task else None)
    assert [v["configMap"] for v in made["volumes"] if v["name"] == "source"] == ([volume] if volume else [])


PRIVATE = {"git": {"url": "git@example.com:team/churn.git", "secretRef": {"name": "churn-git"}}}
LIMITS = {"limits": {"memory": "1Gi", "nvidia.com/gpu": 2}}


def private(kind):
    """The pod of a TrainingJob, or of a sweep's worker, whose code is in a private repository."""
    if kind == "TrainingJob":
        churn = training_job(source=PRIVATE, resources=LIMITS)
        return plan(churn, seen(), NOW).apply[-1]["spec"]["template"]["spec"]
    churn = sweep(trialTemplate={"spec": {"command": ["train"], "source": PRIVATE, "resources": LIMITS}})
    return workers_job(churn, PLATFORM, ["lr"], 1)["spec"]["template"]["spec"]


@pytest.mark.attack(
    "training/git-credentials",
    asset="credentials of a private repository",
    threat="the command reads them",
    control="only the init container that fetches the source mounts the Secret; it runs the platform's image and "
    "no code of the repository, and leaves files that the command's container can read and not write. "
    "They are in no log, status or task; a URL with a password is refused",
)
@pytest.mark.parametrize("kind", ["TrainingJob", "Sweep"])
def test_credentials_are_mounted_where_the_source_is_fetched_and_nowhere_else(kind):
    """The command's container has neither the Secret nor its volume, and may only read what was fetched."""
    made = private(kind)
    [init], [trainer] = made["initContainers"], made["containers"]
    secrets = [v for v in made["volumes"] if "secret" in v]
    mounts = {mount["name"]: mount for mount in trainer["volumeMounts"]}

    assert [v["secret"]["secretName"] for v in secrets] == ["churn-git"]
    assert secrets[0]["name"] in {mount["name"] for mount in init["volumeMounts"]}
    assert secrets[0]["name"] not in mounts
    assert mounts["source"]["readOnly"]
    assert "churn-git" not in str({**trainer, "env": [e for e in trainer["env"] if e["name"] != "ULTRAMARINE_TASK"]})
    assert init["image"] == "ultramarine/trainer:1"  # not the author's, which could do anything with them
    assert init["securityContext"] == CONTAINER_SECURITY
    assert init["resources"]["limits"] == {"memory": "1Gi", "ephemeral-storage": "100Gi"}
    assert "envFrom" not in init


def test_a_source_that_is_open_to_all_needs_no_container_of_its_own():
    """A public repository is fetched where the command runs, without the second that another container takes."""
    churn = training_job(source={"git": {"url": "https://example.com/churn.git"}})
    assert "initContainers" not in plan(churn, seen(), NOW).apply[-1]["spec"]["template"]["spec"]


def test_a_fetch_that_is_killed_for_its_memory_is_told_with_its_limit():
    """The verdict is about the container that failed, although the command's never began."""
    churn = training_job(source=PRIVATE, resources={"limits": {"memory": "64Mi"}})
    spec = plan(churn, seen(), NOW).apply[-1]["spec"]["template"]["spec"]
    killed = {"name": "source", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    dead = pod(churn, phase="Failed", initContainerStatuses=[killed])
    verdict = assess({**dead, "spec": spec}, killed)

    assert verdict.message.endswith("used more memory than its limit of 64Mi")


def test_what_the_trainer_says_of_its_source_is_kept():
    """Commit and digest of the code that ran are in the provenance of the finished job."""
    churn = training_job(source={"git": {"url": "https://example.com/churn.git"}})
    record = TerminationRecord(source=SourceRecord(DIGEST, "3fa9" * 10))
    done = pod(churn, phase="Succeeded", **ended_container(0, "Completed", record.to_json()))
    got = plan(churn, seen(job(churn, "Complete"), done), NOW)

    assert got.status["provenance"] == {"imageDigest": "sha256:feed", "sourceDigest": DIGEST, "gitCommit": "3fa9" * 10}


def test_a_task_that_asks_for_something_newer_is_refused_by_an_older_trainer():
    """A feature that is not requested is not in the task; an image must not ignore an unknown feature silently."""
    assert TrainingTask().to_json() == "{}"
    assert "git_secret" not in TrainingTask(source=SourceTask(git_url="https://example.com/churn.git")).to_json()
    with pytest.raises(ValueError, match="teleport"):
        TrainingTask.from_json('{"teleport": {}}')
