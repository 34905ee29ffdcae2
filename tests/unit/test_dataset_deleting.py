"""Deletion of the files of deleted versions by a Dataset with deletionPolicy Delete."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from builders import child, condition, kinds_of, read
from builders import model as stored_model
from builders import version as model_version
from ultramarine_contract.common import ENV_TASK
from ultramarine_contract.meta import Key, Manifest
from ultramarine_contract.version_records import DeleteTask
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.dataset.plan import plan_dataset
from ultramarine_operator.kinds.dataset.testing import stored_dataset, stored_version
from ultramarine_operator.kinds.model.plan import plan_model
from ultramarine_operator.runs.deleting import delete_job_name
from ultramarine_operator.shared.plan import Obj, Plan
from ultramarine_operator.shared.testing import DIGEST, NOW, seen, stored

UPLOAD = "s3://lake/team-a/datasets/churn/0123456789abcdef/"
OUTPUT = "s3://lake/team-a/trainingjobs/clean/0a-1b/table/0123456789abcdef/"
PROFILE = "s3://lake/team-a/trainingjobs/churn-1-profile/0a-1b/profile/0123456789abcdef/"
TOPICS = {kind.name: kind.topics for kind in KINDS}


def version(number: int = 1, uri: str = UPLOAD, profile: str = "") -> Manifest:
    """A ready version of churn."""
    status: Manifest = {"conditions": [{"type": "Ready", "status": "True"}]}
    if profile:
        status["profile"] = {"uri": profile}
    return stored_version(number, status, uri=uri).manifest


def entry(uri: str = UPLOAD, number: int = 1, deleting: bool = False) -> Manifest:
    """Return the entry of a folder in the status."""
    return {"version": str(number), "uri": uri, **({"deleting": True} if deleting else {})}


def deleting_dataset(*artifacts: Manifest, **spec: Any) -> Obj[Any]:
    """The Dataset churn with deletionPolicy Delete, which remembers these."""
    return stored_dataset({"artifacts": list(artifacts)}, deletionPolicy="Delete", **spec)


GONE = deleting_dataset(entry(deleting=True))
NAME = delete_job_name(GONE, "1", UPLOAD)


def passed(dataset: Obj[Any], *children: Manifest, related: tuple[Manifest, ...] = ()) -> Plan:
    """One pass over a Dataset."""
    return plan_dataset(dataset, seen(*children, related=related), NOW)


def after(got: Plan, **spec: Any) -> Obj[Any]:
    """The Dataset when its status was written."""
    return stored_dataset(got.status, deletionPolicy="Delete", **spec)


@pytest.mark.parametrize("place", [UPLOAD, OUTPUT])
def test_the_files_and_the_profile_of_a_version_are_remembered(place: str) -> None:
    """An upload or the output of a job; with Retain, the default, the status says nothing."""
    related = (version(uri=place, profile=PROFILE),)
    got = passed(deleting_dataset(), related=related)
    assert got.status["artifacts"] == sorted((entry(place), entry(PROFILE)), key=lambda one: str(one["uri"]))
    assert condition(got, "ArtifactsDeleted")["reason"] == "VersionsExist"
    kept = passed(stored_dataset(), related=related)
    assert "artifacts" not in kept.status
    assert condition(kept, "ArtifactsDeleted") == {}


@pytest.mark.attack("author/deleting")
@pytest.mark.parametrize(
    "other",
    [
        "s3://lake/churn/1/",
        "s3://lake/team-b/datasets/churn/0123456789abcdef/",
        "s3://lake/team-a/datasets/churn/",
        "s3://lake/team-a/datasets/0123456789abcdef/",
        f"{UPLOAD}churn.csv",
    ],
)
def test_what_the_platform_has_not_stored_is_never_deleted(other: str) -> None:
    """A URI that was registered by hand is not remembered, nor taken from a status that a user wrote."""
    assert "artifacts" not in passed(deleting_dataset(), related=(version(uri=other),)).status
    got = passed(deleting_dataset(entry(other, deleting=True)))
    assert (got.apply, "artifacts" in got.status) == ((), False)


def test_the_files_go_in_the_pass_after_the_status_says_so() -> None:
    """A Job deletes the one folder, once the API server confirms that the version is gone; then it is forgotten."""
    missed = passed(deleting_dataset(entry()))
    assert (missed.apply, missed.after) == ((), timedelta(0))
    assert missed.status["artifacts"] == [entry(deleting=True)]

    got = passed(after(missed))
    assert kinds_of(got.apply) == [f"Job/{NAME}"]
    assert got.absent == (Key("DatasetVersion", "team-a", "churn-1"),)
    (container,) = got.apply[0]["spec"]["template"]["spec"]["containers"]
    (task,) = [variable["value"] for variable in container["env"] if variable["name"] == ENV_TASK]
    assert DeleteTask.from_json(task) == DeleteTask(UPLOAD)

    ended = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2030-01-01T11:59:00Z"}]}
    done = passed(GONE, child("Job", NAME, GONE, status=ended))
    assert "artifacts" not in done.status
    assert [event.reason for event in done.events] == ["ArtifactDeleted"]
    assert condition(done, "ArtifactsDeleted")["status"] == "True"


def test_files_wait_for_the_run_that_reads_them() -> None:
    """An annotation or a namespace's end may delete a version that is in use; the condition names the run."""
    pin = {"version": "churn-1", "uri": UPLOAD, "digest": DIGEST}
    spec = {"command": ["true"], "inputs": {"data": {"dataset": "churn@1"}}}
    reader = stored("TrainingJob", "one", spec, {"state": "Running", "datasets": {"data": pin}})
    got = passed(GONE, related=(reader,))
    assert got.apply == ()
    assert "churn-1 is still used by TrainingJob one" in condition(got, "ArtifactsDeleted")["message"]
    assert got.after is not None


def test_retention_deletes_a_version_when_its_files_are_remembered() -> None:
    """A crash between the two must not forget the files."""
    versions = (version(1), version(2, "s3://lake/team-a/datasets/churn/fedcba9876543210/"))
    first = passed(deleting_dataset(retention={"versions": 1}), related=versions)
    assert first.delete == ()
    second = passed(after(first, retention={"versions": 1}), related=versions)
    assert [ref.name for ref in second.delete] == ["churn-1"]


def test_files_of_another_version_stay() -> None:
    """Of the same Dataset, of another, or of a Model: an event names the version."""
    model = model_version(4, uri=UPLOAD)
    for other in (version(2), {**version(7), "metadata": {**version(7)["metadata"], "name": "shop-7"}}, model):
        assert TOPICS[other["kind"]](other) & TOPICS["Dataset"](GONE.manifest), "otherwise the plan would not see it"
        got = passed(GONE, related=(other,))
        assert [made for made in got.apply if made["kind"] == "Job"] == []
        assert [event.reason for event in got.events] == ["ArtifactRetained"]
        assert other["metadata"]["name"] in got.events[0].message


def test_a_model_leaves_the_files_of_a_dataset() -> None:
    """A DatasetVersion of the output that a ModelVersion had keeps it."""
    left = {"artifacts": [entry(OUTPUT, deleting=True)]}
    churn = read({**stored_model(deletionPolicy="Delete"), "status": left})
    other = version(3, OUTPUT)
    assert TOPICS["DatasetVersion"](other) & TOPICS["Model"](churn.manifest)
    got = plan_model(churn, seen(related=(other,)), NOW)
    assert (got.apply, [event.reason for event in got.events]) == ((), ["ArtifactRetained"])


def test_a_model_never_deletes_an_upload() -> None:
    """Uploads belong to Datasets."""
    left = {"artifacts": [entry(deleting=True)]}
    got = plan_model(read({**stored_model(deletionPolicy="Delete"), "status": left}), seen(), NOW)
    assert (got.apply, "artifacts" in got.status) == ((), False)


def test_a_model_and_a_dataset_of_one_name_have_jobs_of_their_own() -> None:
    """Their versions may have had the same files."""
    assert delete_job_name(read(stored_model()), "1", OUTPUT) != delete_job_name(stored_dataset(), "1", OUTPUT)
