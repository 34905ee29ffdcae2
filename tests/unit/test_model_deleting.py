"""Deletion of the artifacts of deleted versions by a Model with deletionPolicy Delete."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from builders import NOW, PLATFORM, child, condition, ended_container, kinds_of, model, ours, read, seen, version
from ultramarine_contract.common import ENV_TASK
from ultramarine_contract.meta import Key, Manifest
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_contract.version_records import DeleteTask
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.model.plan import plan_model
from ultramarine_operator.runs.deleting import AT_ONCE, RETRY, delete_job, delete_job_name
from ultramarine_operator.shared.plan import Obj, Plan

PLACE = "s3://lake/team-a/trainingjobs/churn/0a-1b"
MODELS, VERSIONS = (next(kind for kind in KINDS if kind.name == name) for name in ("Model", "ModelVersion"))


def uri(number: int) -> str:
    """Return the URI at which a TrainingJob has stored the artifact of a version."""
    return f"{PLACE}/model/{number:016x}/"


def stored(number: int, **spec: Any) -> Manifest:
    """A version that a TrainingJob has registered."""
    return version(number, **{"uri": uri(number), **spec})


def entry(number: int, deleting: bool = False) -> Manifest:
    """Return the entry of the artifact in the status."""
    return {"version": str(number), "uri": uri(number), **({"deleting": True} if deleting else {})}


def deleting_model(*artifacts: Manifest, **spec: Any) -> Obj[Any]:
    """The Model churn with deletionPolicy Delete, which remembers these."""
    return read({**model(deletionPolicy="Delete", **spec), "status": {"artifacts": list(artifacts)}})


GONE = deleting_model(entry(1, deleting=True))
NAME = delete_job_name(GONE, "1", uri(1))


def job(type: str = "", at: str = "2030-01-01T11:59:00Z", **meta: Any) -> Manifest:
    """The Job that deletes what version 1 had stored, at work or ended that way."""
    ended = [{"type": type, "status": "True", "lastTransitionTime": at}] if type else []
    made = child("Job", NAME, GONE, status={"conditions": ended})
    made["metadata"] |= meta
    return made


def after(got: Plan, churn: Obj[Any] = GONE) -> Obj[Any]:
    """The Model when its status was written."""
    return read({**churn.manifest, "status": got.status})


def test_what_versions_have_stored_is_remembered():
    """With Delete the status says what goes with each version; with Retain, the default, it says nothing."""
    got = plan_model(deleting_model(), seen(related=(stored(1), stored(2))), NOW)
    assert got.status["artifacts"] == [entry(1), entry(2)]
    reported = condition(got, "ArtifactsDeleted")
    assert (reported["status"], reported["reason"]) == ("False", "VersionsExist")
    assert got.apply == ()
    assert plan_model(after(got), seen(related=(stored(1), stored(2))), NOW).after is None

    kept = plan_model(read(model()), seen(related=(stored(1),)), NOW)
    assert "artifacts" not in kept.status
    assert condition(kept, "ArtifactsDeleted") == {}


@pytest.mark.attack(
    "author/deleting",
    asset="files in the storage",
    threat="a Model, a Dataset or its status has others deleted than what a version has stored",
    control="only a folder of the namespace's own trainings or uploads, of the shape that the platform gives it, "
    "checked by plan and pod; with the namespace's keys; not what another version is of",
)
@pytest.mark.parametrize(
    "other",
    [
        "s3://lake/churn/1/",
        "s3://lake/team-b/trainingjobs/churn/0a-1b/model/0000000000000001/",
        "s3://other/team-a/trainingjobs/churn/0a-1b/model/0000000000000001/",
        f"{PLACE}/checkpoints/0000000000000001/",
        f"{PLACE}/model/",
        f"{uri(1)}model.skops",
        "s3://lake/team-a/tests/one.onnx",
    ],
)
def test_what_no_training_of_the_namespace_has_stored_is_never_deleted(other):
    """A URI that was registered by hand is not remembered, nor taken from a status that a user wrote."""
    got = plan_model(deleting_model(), seen(related=(stored(1, uri=other),)), NOW)
    assert "artifacts" not in got.status

    forged = deleting_model({"version": "1", "uri": other, "deleting": True})
    got = plan_model(forged, seen(), NOW)
    assert (got.apply, "artifacts" in got.status) == ((), False)


def test_the_status_says_first_that_a_version_is_gone():
    """Nothing is deleted in the pass that misses a version: the next one sees who else is of the same files."""
    missed = plan_model(deleting_model(entry(1)), seen(related=(stored(2),)), NOW)
    assert missed.apply == ()
    assert missed.after == timedelta(0)
    assert missed.status["artifacts"] == [entry(1, deleting=True), entry(2)]
    assert condition(missed, "ArtifactsDeleted")["reason"] == "Deleting"

    got = plan_model(after(missed), seen(related=(stored(2),)), NOW)
    assert kinds_of(got.apply) == [f"Job/{NAME}"]
    assert got.absent == (Key("ModelVersion", "team-a", "churn-1"),)
    assert got.status["artifacts"] == missed.status["artifacts"]


def test_the_job_deletes_the_one_folder_and_no_other():
    """Its pod gets one URI, and the program refuses any other folder than an artifact's."""
    (container,) = delete_job(GONE, "1", uri(1), PLATFORM)["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["ultramarine-server", "delete"]
    (task,) = [variable["value"] for variable in container["env"] if variable["name"] == ENV_TASK]
    assert DeleteTask.from_json(task) == DeleteTask(uri(1))
    for wrong in ("s3://lake/team-a/", f"{PLACE}/checkpoints/0000000000000001/", f"{uri(1)}x"):
        with pytest.raises(ValueError, match="neither the folder"):
            DeleteTask.from_json(DeleteTask(wrong).to_json())


def test_the_name_of_the_job_fits():
    """The longest names of a Model and of a version leave room for it."""
    longest = read(ours("Model", "m" * 40, {}))
    assert len(delete_job_name(longest, "9" * 9, uri(1))) <= 63


def test_a_job_that_is_complete_ends_it():
    """The artifact leaves the status with an event; then the Job goes, so that a crash makes no second one."""
    got = plan_model(GONE, seen(job("Complete")), NOW)
    assert "artifacts" not in got.status
    assert [event.reason for event in got.events] == ["ArtifactDeleted"]
    assert condition(got, "ArtifactsDeleted")["status"] == "True"
    assert (got.delete, got.after) == ((), timedelta(0))

    done = plan_model(after(got), seen(job("Complete")), NOW)
    assert [ref.name for ref in done.delete] == [NAME]
    assert (done.events, done.after) == ((), None)


def test_a_storage_that_is_away_is_tried_again():
    """The condition has the pod's words; the failed Job is replaced after a while, and not before."""
    record = TerminationRecord(reason="Unreachable", message="the storage does not answer")
    status = {"phase": "Failed", **ended_container(1, message=record.to_json(), name="delete")}
    pod = child("Pod", f"{NAME}-x", GONE, status=status)
    pod["metadata"]["ownerReferences"] = [{"uid": f"Job-{NAME}-uid", "controller": True}]
    got = plan_model(GONE, seen(job("Failed"), pod), NOW)
    reported = condition(got, "ArtifactsDeleted")
    assert (reported["status"], reported["reason"]) == ("False", "DeletionFailed")
    assert "the storage does not answer" in reported["message"]
    assert "set spec.deletionPolicy to Retain" in reported["message"]
    assert (got.apply, got.delete, got.after) == ((), (), RETRY - timedelta(minutes=1))

    later = plan_model(GONE, seen(job("Failed"), pod), NOW + RETRY)
    assert [ref.name for ref in later.delete] == [NAME]
    going = plan_model(GONE, seen(job("Failed", deletionTimestamp="2030-01-01T12:05:00Z")), NOW + RETRY)
    assert (going.apply, going.delete) == ((), ())
    assert kinds_of(plan_model(GONE, seen(), NOW + RETRY).apply) == [f"Job/{NAME}"]


@pytest.mark.attack("author/deleting")
@pytest.mark.parametrize(
    "shared", [uri(1), f"{uri(1)}model.skops", f"{PLACE}/", f"{PLACE}/model/", "s3://lake/team-a/"]
)
def test_files_that_another_version_is_of_stay(shared):
    """The same folder, one above or a file in it: the artifact is kept, and an event names the other version."""
    other = ours("ModelVersion", "shop-4", {**version(4)["spec"], "model": "shop", "uri": shared})
    assert VERSIONS.topics(other) & MODELS.topics(GONE.manifest), "otherwise the plan would not see it"
    got = plan_model(GONE, seen(related=(other,)), NOW)
    assert "artifacts" not in got.status
    assert got.apply == ()
    assert got.status["versions"] == 0, "it is another Model's"
    assert [event.reason for event in got.events] == ["ArtifactRetained"]
    assert "shop-4" in got.events[0].message


@pytest.mark.parametrize("other", [f"{PLACE}/report/{1:016x}/", uri(2), "s3://lake/team-a", "s3://lake/team-b/"])
def test_neighbours_share_nothing(other):
    """Versions of other files neither meet the Model nor keep the artifact."""
    beside = ours("ModelVersion", "shop-4", {**version(4)["spec"], "model": "shop", "uri": other})
    assert not VERSIONS.topics(beside) & MODELS.topics(GONE.manifest)
    assert kinds_of(plan_model(GONE, seen(related=(beside,)), NOW).apply) == [f"Job/{NAME}"]


def test_a_version_that_is_there_again_keeps_its_files():
    """Applied again with the same files, while the Job is at work or waits: the Job is stopped."""
    got = plan_model(GONE, seen(job(), related=(stored(1),)), NOW)
    assert got.status["artifacts"] == [entry(1)]
    assert got.after == timedelta(0)
    stopped = plan_model(after(got), seen(job(), related=(stored(1),)), NOW)
    assert [ref.name for ref in stopped.delete] == [NAME]


def test_the_way_out_is_retain():
    """After a change to Retain nothing is remembered, and a running Job is stopped; a Job of another owner is not."""
    strangers = {**job(), "metadata": {**job()["metadata"], "name": "other", "ownerReferences": []}}
    retained = read({**model(), "status": {"artifacts": [entry(1, deleting=True)]}})
    got = plan_model(retained, seen(job(), strangers), NOW)
    assert [ref.name for ref in got.delete] == [NAME]
    assert "artifacts" not in got.status


def test_what_an_endpoint_still_serves_waits():
    """A pod of an endpoint may have to fetch it again; it is looked at again."""
    endpoint = ours("OnlineEndpoint", "shop", {"deployments": []}, {"modelVersion": "churn-1"})
    got = plan_model(GONE, seen(related=(endpoint,)), NOW)
    assert got.apply == ()
    assert "still served by OnlineEndpoint shop" in condition(got, "ArtifactsDeleted")["message"]
    assert got.after is not None


def test_what_a_pool_may_still_serve_waits():
    """Without a ready version a pool goes on with the one that it had; when it has another, the files go."""
    many = {"name": "many", "pool": {"selector": {"matchLabels": {"tier": "small"}}}}
    endpoint = ours("OnlineEndpoint", "shops", {"deployments": [many]})
    churn = deleting_model(entry(1, deleting=True))
    churn.manifest["metadata"]["labels"] = {"tier": "small"}
    got = plan_model(churn, seen(related=(endpoint,)), NOW)
    assert got.apply == ()
    words = condition(got, "ArtifactsDeleted")["message"]
    assert "churn-1 is still served by the pool of OnlineEndpoint shops, until latest is a ready version" in words

    assert kinds_of(plan_model(churn, seen(related=(endpoint, stored(2))), NOW).apply) == [f"Job/{NAME}"]


def test_what_a_list_that_cannot_be_written_may_name_waits():
    """A pool whose new list is too long goes on with the old one, whatever would be chosen now."""
    many = {"name": "many", "pool": {"selector": {"matchLabels": {"tier": "small"}}}}
    status = {"deployments": [{"name": "many", "state": "Waiting", "message": "the list takes 900001 bytes"}]}
    churn = deleting_model(entry(1, deleting=True))
    churn.manifest["metadata"]["labels"] = {"tier": "small"}
    got = plan_model(
        churn, seen(related=(ours("OnlineEndpoint", "shops", {"deployments": [many]}, status), stored(2))), NOW
    )

    assert got.apply == ()
    assert (
        "by the pool of OnlineEndpoint shops, whose list cannot be written"
        in condition(got, "ArtifactsDeleted")["message"]
    )
    assert got.after is not None


def test_few_jobs_at_a_time():
    """Retention may give up hundreds at once; the other artifacts wait for their turn."""
    many = deleting_model(*(entry(number, deleting=True) for number in range(1, 20)))
    got = plan_model(many, seen(), NOW)
    assert len(got.apply) == AT_ONCE
    assert len(got.status["artifacts"]) == 19
    assert len(plan_model(many, seen(job()), NOW).apply) == AT_ONCE - 1


def test_retention_deletes_a_version_when_its_artifact_is_remembered():
    """A crash between the two must not forget the artifact; a version with foreign files does not wait."""
    versions = (version(1), stored(2), stored(3))
    first = plan_model(deleting_model(retention={"versions": 1}), seen(related=versions), NOW)
    assert [ref.name for ref in first.delete] == ["churn-1"]
    assert first.after == timedelta(0)

    got = plan_model(after(first, deleting_model(retention={"versions": 1})), seen(related=versions), NOW)
    assert [ref.name for ref in got.delete] == ["churn-1", "churn-2"]


COMPILED = f"s3://lake/team-a/compiled/{'a' * 16}-f245cbd7/"  # of the digest that `version` has


def compiled(number: int, **spec: Any) -> Manifest:
    """A version that was compiled."""
    made = stored(number, **spec)
    return {**made, "status": {**made["status"], "compiled": {"uri": f"{COMPILED}{'c' * 16}/"}}}


def compiled_entry(number: int, deleting: bool = False) -> Manifest:
    """Return the entry of the compiled artifact in the status, beside that of the native files."""
    return {**entry(number, deleting), "uri": COMPILED}


def test_what_was_compiled_goes_with_its_version():
    """Its folder, with the verdict beside it, is remembered and deleted by a Job of its own."""
    got = plan_model(deleting_model(), seen(related=(compiled(1),)), NOW)
    assert got.status["artifacts"] == [compiled_entry(1), entry(1)]
    assert plan_model(after(got), seen(related=(compiled(1),)), NOW).after is None

    missed = plan_model(after(got), seen(), NOW)
    assert missed.status["artifacts"] == [compiled_entry(1, True), entry(1, True)]
    assert "of 1 version that cannot be found" in condition(missed, "ArtifactsDeleted")["message"]
    deletes = plan_model(after(missed), seen(), NOW).apply
    tasks = [made["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] for made in deletes]
    assert [DeleteTask.from_json(task).uri for task in tasks] == [COMPILED, uri(1)]
    assert len(set(kinds_of(deletes))) == 2


def test_a_version_that_is_there_keeps_what_was_compiled_whatever_its_status_says():
    """A status may be lost; a version that was created again with other files is another one."""
    churn = deleting_model(compiled_entry(1), entry(1))
    assert plan_model(churn, seen(related=(stored(1),)), NOW).status["artifacts"] == [compiled_entry(1), entry(1)]
    replaced = plan_model(churn, seen(related=(stored(1, digest="sha256:" + "b" * 64),)), NOW)
    assert replaced.status["artifacts"] == [compiled_entry(1, True), entry(1)]


@pytest.mark.parametrize("other", [compiled(2), stored(2, uri="s3://lake/churn/2/")])
def test_what_was_compiled_of_equal_models_stays_for_the_other(other):
    """Of whatever Model it is, and compiled or not yet: its pod finds the verdict in the same place."""
    churn = deleting_model(compiled_entry(1, deleting=True))
    other = {**other, "metadata": {**other["metadata"], "name": "shop-2"}, "spec": {**other["spec"], "model": "shop"}}
    assert VERSIONS.topics(other) & MODELS.topics(churn.manifest), "otherwise the plan would not see it"
    got = plan_model(churn, seen(related=(other,)), NOW)
    assert ("artifacts" in got.status, got.apply) == (False, ())
    assert [event.reason for event in got.events] == ["ArtifactRetained"]
    strange = {**other, "spec": {**other["spec"], "digest": "sha256:" + "b" * 64}}
    assert not VERSIONS.topics(strange) & MODELS.topics(churn.manifest)
    assert len(plan_model(churn, seen(related=(strange,)), NOW).apply) == 1


@pytest.mark.parametrize("forged", ["s3://lake/team-b/compiled/", "s3://other/team-a/compiled/", "s3://lake/team-a/x/"])
def test_a_forged_place_of_a_compiled_model_is_never_deleted(forged):
    """A status does not make the platform delete what lies elsewhere."""
    place = f"{forged}{'a' * 16}-f245cbd7/"
    got = plan_model(deleting_model({"version": "1", "uri": place, "deleting": True}), seen(), NOW)
    assert (got.apply, "artifacts" in got.status) == ((), False)


def test_retention_waits_for_what_was_compiled_to_be_remembered():
    """A version whose compiled model is not in the list yet stays for one more pass."""
    churn, versions = deleting_model(entry(1), entry(2), retention={"versions": 1}), (compiled(1), stored(2))
    first = plan_model(churn, seen(related=versions), NOW)
    assert first.delete == ()
    assert [ref.name for ref in plan_model(after(first, churn), seen(related=versions), NOW).delete] == ["churn-1"]


def test_the_memory_has_an_end():
    """Of very many versions the oldest are remembered, the condition says so, and no pass follows for that."""
    many = tuple(stored(number) for number in range(1, 503))
    got = plan_model(deleting_model(retention={"versions": 1000}), seen(related=many), NOW)
    assert len(got.status["artifacts"]) == 500
    assert (
        "502 artifacts are deleted when their versions are, of which only 500"
        in condition(got, "ArtifactsDeleted")["message"]
    )
    again = after(got, deleting_model(retention={"versions": 1000}))
    assert plan_model(again, seen(related=many), NOW).after is None
