"""Datasets before a real API server, with the real operator: what is in use cannot be deleted."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest
from bare import Api, Refused, eventually
from stories import partitioned, status, there
from ultramarine_contract.meta import API_VERSION, Manifest
from ultramarine_contract.storage import Storage
from ultramarine_operator.shared.testing import WEIGHTS, WEIGHTS_DIGEST, applied
from unit.conftest import ObjectStore


def dataset(**spec: object) -> Manifest:
    """The Dataset churn."""
    whole = {"type": "file", **spec}
    return {"apiVersion": API_VERSION, "kind": "Dataset", "metadata": {"name": "churn"}, "spec": whole}


def version(number: int) -> Manifest:
    """A version of churn: one object."""
    spec = {"dataset": "churn", "version": str(number), "uri": "s3://lake/churn.csv", "digest": WEIGHTS_DIGEST}
    return {"apiVersion": API_VERSION, "kind": "DatasetVersion", "metadata": {"name": f"churn-{number}"}, "spec": spec}


def reader(reference: str) -> Manifest:
    """A TrainingJob that reads a version."""
    spec = {"command": ["true"], "inputs": {"data": {"dataset": reference}}}
    return {"apiVersion": API_VERSION, "kind": "TrainingJob", "metadata": {"name": "reader"}, "spec": spec}


def in_use(api: Api) -> Manifest:
    """Users of versions, as the status of the Dataset names them."""
    users: Manifest = status(api, "dset", "churn").get("inUse", {})
    return users


def look_now(api: Api) -> None:
    """Have the operator look at churn now; the end of a run and its version come to it by its next look, after 30 s."""
    api.run("annotate", "dset", "churn", f"looked-at={uuid4()}", "--overwrite")


def noted(api: Api, users: Manifest) -> None:
    """Wait until the run has its version, and the Dataset these users."""
    eventually("the run has its version", lambda: status(api, "tj", "reader").get("datasets"))
    look_now(api)
    eventually("the users are noted", lambda: in_use(api) == users)


def refusal(api: Api, kind: str, name: str) -> str:
    """Return the API server's message for a delete that must be refused, once its admission knows the users.

    Admission reads a Dataset by a watch, a moment after it was written.
    """
    eventually(f"the deletion of {name} is refused", lambda: not deleted(api, kind, name, "--dry-run=server"))
    with pytest.raises(Refused) as caught:
        api.run("delete", kind, name)
    assert there(api, kind, name)
    return str(caught.value)


def deleted(api: Api, kind: str, name: str, *words: str) -> bool:
    """Delete an object; False while admission does not permit it yet."""
    try:
        api.run("delete", kind, name, *words)
    except Refused:
        return False
    return True


@pytest.fixture
def stored(api: Api, operator: object, object_store: ObjectStore) -> Api:
    """A namespace with two versions of churn that are ready."""
    (object_store.folder / "lake" / "churn.csv").write_bytes(WEIGHTS)
    api.apply(dataset(), version(1), version(2))
    eventually("the versions are ready", lambda: status(api, "dset", "churn").get("latestReadyVersion") == "2")
    return api


def test_a_version_with_an_alias_is_not_deleted(stored: Api) -> None:
    """The refusal names the alias and the remedy; without the alias the version goes."""
    stored.apply(dataset(aliases={"golden": 1}))
    eventually("the alias is noted", lambda: in_use(stored) == {"churn-1": "alias golden"})

    message = refusal(stored, "dsv", "churn-1")
    assert "DatasetVersion churn-1 is used by alias golden; wait for its runs, or delete them, and move its" in message

    stored.run("delete", "dsv", "churn-2")
    stored.apply(dataset(aliases={}))
    eventually("nobody uses it", lambda: in_use(stored) == {})
    eventually("the version goes", lambda: deleted(stored, "dsv", "churn-1"))
    assert stored.all("dsv") == []


def test_what_an_unfinished_run_reads_is_not_deleted(stored: Api) -> None:
    """Neither the version nor its Dataset, until the run is gone; another version is free."""
    stored.apply(reader("churn@latest"))
    noted(stored, {"churn-2": "TrainingJob reader"})

    assert "DatasetVersion churn-2 is used by TrainingJob reader; wait" in refusal(stored, "dsv", "churn-2")
    assert "Dataset churn is used: churn-2 by TrainingJob reader; wait" in refusal(stored, "dset", "churn")

    stored.run("delete", "dsv", "churn-1")
    stored.run("delete", "tj", "reader")
    look_now(stored)
    eventually("no run reads it", lambda: in_use(stored) == {})
    eventually("the version goes", lambda: deleted(stored, "dsv", "churn-2"))
    stored.run("delete", "dset", "churn")
    assert stored.all("dsv", "dset") == []


def test_a_version_that_a_pipeline_run_is_pinned_to_is_not_deleted(
    api: Api, operator: object, store: Storage, tmp_path: Path
) -> None:
    """The refusal names the run, also after its end; when the run is deleted, the version goes."""
    partitioned(api, store, tmp_path / "orders")
    job = {"command": ["true"], "inputs": {"rows": {"uri": "$(item.uri)", "digest": "$(item.digest)"}}}
    step = {"name": "months", "forEach": {"partitions": "orders@latest"}, "trainingJob": job}
    api.apply(applied("PipelineRun", "monthly", {"pipelineSpec": {"steps": [step]}}))
    users = {"orders-1": "PipelineRun monthly"}
    eventually("the run is noted", lambda: status(api, "dset", "orders").get("inUse") == users)
    assert "DatasetVersion orders-1 is used by PipelineRun monthly; wait" in refusal(api, "dsv", "orders-1")

    api.run("patch", "plr", "monthly", "--type=merge", "-p", '{"spec": {"cancel": true}}')
    eventually("the run has ended", lambda: status(api, "plr", "monthly").get("state") == "Cancelled")
    refusal(api, "dsv", "orders-1")
    assert status(api, "dset", "orders").get("inUse") == users

    api.run("delete", "plr", "monthly")
    eventually("the version goes", lambda: deleted(api, "dsv", "orders-1"))


def test_a_version_that_a_later_step_will_read_is_not_deleted(stored: Api) -> None:
    """The run is pinned as it begins; neither a deletion nor another operator changes what its last step reads."""
    steps = [
        {"name": "first", "trainingJob": {"command": ["true"]}},
        {"name": "last", "after": ["first"], "trainingJob": reader("churn@latest")["spec"]},
    ]
    stored.apply(applied("PipelineRun", "nightly", {"pipelineSpec": {"steps": steps}}))
    eventually("the run is noted", lambda: in_use(stored) == {"churn-2": "PipelineRun nightly"})
    assert status(stored, "plr", "nightly")["datasets"] == [{"reference": "churn@latest", "version": "churn-2"}]
    assert "DatasetVersion churn-2 is used by PipelineRun nightly; wait" in refusal(stored, "dsv", "churn-2")
    assert "Dataset churn is used: churn-2 by PipelineRun nightly; wait" in refusal(stored, "dset", "churn")

    stored.run("patch", "plr", "nightly", "--type=merge", "-p", '{"spec": {"cancel": true}}')
    eventually("no run reads it", lambda: in_use(stored) == {})
    eventually("the version goes", lambda: deleted(stored, "dsv", "churn-2"))


def test_a_namespace_takes_what_is_in_use_along(stored: Api) -> None:
    """In a namespace that is being deleted nothing is refused."""
    stored.apply(dataset(aliases={"golden": 1}), reader("churn@2"))
    noted(stored, {"churn-1": "alias golden", "churn-2": "TrainingJob reader"})
    refusal(stored, "dset", "churn")

    stored.run("delete", "namespace", stored.namespace, "--wait=false")

    for kind, name in (("dsv", "churn-1"), ("dsv", "churn-2"), ("dset", "churn")):
        eventually(f"{name} goes", lambda kind=kind, name=name: deleted(stored, kind, name))


def test_without_an_operator_an_annotation_permits_deletion(api: Api) -> None:
    """The refusal has the command; no operator corrects the users of an earlier one."""
    api.apply(dataset(), version(1))
    users = {"status": {"inUse": {"churn-1": "TrainingJob lost"}}}
    api.run("patch", "dset", "churn", "--subresource=status", "--type=merge", "-p", json.dumps(users))
    assert "TrainingJob lost" in refusal(api, "dset", "churn")

    command = "annotate dset churn ultramarine.dev/allow-deletion=true"
    assert f"If no operator runs: kubectl {command}" in refusal(api, "dset", "churn")
    assert f"If no operator runs: kubectl {command}" in refusal(api, "dsv", "churn-1")
    api.run(*command.split())
    eventually("the version goes", lambda: deleted(api, "dsv", "churn-1"))
    eventually("the Dataset goes", lambda: deleted(api, "dset", "churn"))
