"""Versions of datasets as inputs and outputs of runs: resolved once, verified at each read, registered exactly once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from builders import condition
from hands import task_of
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.errors import StorageError
from ultramarine_contract.meta import Manifest
from ultramarine_contract.partitions import partitions_of
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import WantedTrial
from ultramarine_operator.kinds.dataset.testing import stored_version
from ultramarine_operator.kinds.sweep.plan import plan as sweep_plan
from ultramarine_operator.kinds.sweep.podpertrial import trial_job
from ultramarine_operator.kinds.sweep.testing.samples import sweep
from ultramarine_operator.kinds.trainingjob.plan import plan
from ultramarine_operator.kinds.trainingjob.testing.samples import training_job
from ultramarine_operator.runs.dataset_registration import Data, registered, to_register
from ultramarine_operator.runs.registration import Maker
from ultramarine_operator.shared.testing import DIGEST, NOW, PLATFORM, seen, stored
from ultramarine_trainer.data.inputs import fetch_folder

READY = {"state": "Ready", "conditions": [{"type": "Ready", "status": "True", "reason": "ArtifactFound"}]}
PIN = {"version": "churn-1", "uri": "s3://lake/churn/1/", "digest": DIGEST}
INPUTS = {"data": {"dataset": "churn@latest"}}


def version(number: int = 1, **spec: Any) -> Manifest:
    """A ready version of churn."""
    return stored_version(number, READY, **spec).manifest


def test_a_job_waits_for_its_version_and_keeps_it():
    """The status has the version before the Job is made, and a newer one changes nothing."""
    waiting = plan(training_job(inputs=INPUTS), seen(), NOW)
    assert waiting.apply == ()
    assert condition(waiting, "Running")["reason"] == "DatasetNotReady"
    assert "inputs.data: Dataset churn has no version yet" in condition(waiting, "Running")["message"]

    pinned = plan(training_job(inputs=INPUTS), seen(related=(version(),)), NOW)
    assert (pinned.status["datasets"], pinned.apply) == ({"data": PIN}, ())
    began = plan(training_job(pinned.status, inputs=INPUTS), seen(related=(version(), version(2))), NOW)
    (job,) = [child for child in began.apply if child["kind"] == "Job"]
    assert (task_of(job).inputs, task_of(job).digests) == ({"data": PIN["uri"]}, {"data": DIGEST})


def test_a_version_that_nothing_may_read_fails_the_job():
    """A refused version never becomes ready."""
    refused = stored_version(3, {"state": "Refused", "conditions": []}).manifest
    got = plan(training_job(inputs={"data": {"dataset": "churn@3"}}), seen(related=(refused,)), NOW)
    assert (got.status["state"], got.status["failure"]["reason"]) == ("Failed", "DatasetNotFound")


def test_a_sweep_waits_for_its_version_and_keeps_it():
    """The status has the version before any pod is made, and the workers read that one after a newer exists."""
    spec = {"command": ["true"], "inputs": INPUTS}
    waiting = sweep_plan(sweep(trialTemplate={"spec": spec}), seen(), NOW)
    assert waiting.apply == ()
    assert condition(waiting, "Running")["reason"] == "DatasetNotReady"
    assert "inputs.data: Dataset churn has no version yet" in condition(waiting, "Running")["message"]

    pinned = sweep_plan(sweep(trialTemplate={"spec": spec}), seen(related=(version(),)), NOW)
    assert (pinned.status["datasets"], pinned.apply) == ({"data": PIN}, ())
    look = seen(related=(version(), version(2)))
    began = sweep_plan(sweep(pinned.status, trialTemplate={"spec": spec}), look, NOW)
    (workers,) = [made for made in began.apply if made["metadata"]["name"] == "hpo-workers"]
    assert (task_of(workers).inputs, task_of(workers).digests) == ({"data": PIN["uri"]}, {"data": DIGEST})
    assert began.status["datasets"] == {"data": PIN}


def test_a_version_that_nothing_may_read_fails_the_sweep():
    """The sweep ends before it has pods."""
    refused = stored_version(3, {"state": "Refused", "conditions": []}).manifest
    spec = {"command": ["true"], "inputs": {"data": {"dataset": "churn@3"}}}
    got = sweep_plan(sweep(trialTemplate={"spec": spec}), seen(related=(refused,)), NOW)
    assert (got.status["state"], got.status["failure"]["reason"]) == ("Failed", "DatasetNotFound")


def test_the_trials_of_a_sweep_read_one_version():
    """Each trial's TrainingJob has the files themselves, with their digest."""
    spec = {"command": ["true"], "inputs": INPUTS}
    owner = sweep({"datasets": {"data": PIN}}, execution="PodPerTrial", trialTemplate={"spec": spec})
    job = trial_job(owner, WantedTrial(0, {}), PLATFORM)
    assert job["spec"]["inputs"] == {"data": {"uri": PIN["uri"], "digest": DIGEST}}


MAKER = Maker("team-a", "ultramarine.dev/training-job-uid", "uid-1", "ada")
DATA = Data("table", "clean", OutputRecord("s3://lake/out/", DIGEST, 10), {"trainingJob": "job", "inputs": ["raw-3"]})


def test_an_output_becomes_the_next_version_once():
    """The Dataset is made with it; the version is recognized by its maker."""
    dataset, made = to_register(MAKER, [DATA], seen())
    assert (dataset["kind"], dataset["spec"]) == ("Dataset", {})
    assert made["metadata"]["name"] == "clean-1"
    assert made["spec"]["lineage"] == {"trainingJob": "job", "inputs": ["raw-3"], "requestedBy": "ada"}

    there = stored("DatasetVersion", "clean-1", made["spec"], labels=made["metadata"]["labels"])
    newer = stored("DatasetVersion", "clean-2", {**made["spec"], "version": "2", "digest": "sha256:" + "b" * 64})
    look = seen(related=(there, newer))
    assert to_register(MAKER, [DATA], look) == ()
    assert registered(MAKER, [DATA], look) == {"table": "clean-1"}


def test_the_content_of_the_newest_version_makes_no_other():
    """That of an older one does; the number of a deleted version is not given again."""
    spec = {"dataset": "clean", "uri": "s3://lake/out/", "digest": DIGEST}
    same = stored("DatasetVersion", "clean-4", {**spec, "version": "4"})
    assert registered(MAKER, [DATA], seen(related=(same,))) == {"table": "clean-4"}
    assert to_register(MAKER, [DATA], seen(related=(same,))) == ()

    other = stored("DatasetVersion", "clean-5", {**spec, "version": "5", "digest": "sha256:" + "b" * 64})
    owner = stored("Dataset", "clean", {}, {"latestVersion": "7"})
    (made,) = to_register(MAKER, [DATA], seen(related=(same, other, owner)))
    assert made["metadata"]["name"] == "clean-8"


@pytest.mark.parametrize("change", ["other", "missing", "all"])
def test_changed_bytes_are_named_at_the_read(storage: Storage, bucket: str, tmp_path: Path, change: str) -> None:
    """DataChanged names the file that differs from the version, or is gone; or the version whose files are all gone."""
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.csv").write_text("a\n1\n")
    (folder / "sub/b.csv").write_text("a\n2\n")
    record = storage.upload_folder(folder, f"s3://{bucket}/clean/")
    lines: list[str] = []
    got = fetch_folder(storage, "data", record.uri, tmp_path / "one", lines.append, record.digest)
    assert (got.digest, got.files) == (record.digest, 2)
    assert sorted(path.name for path in (tmp_path / "one").rglob("*") if path.is_file()) == ["a.csv", "b.csv"]

    if change == "other":
        storage.write(f"{record.uri}sub/b.csv", b"a\n3\n")
    elif change == "missing":
        storage.delete(f"{record.uri}sub/b.csv")
    else:
        storage.delete_artifact(record.uri)
    file = record.uri if change == "all" else "sub/b.csv"
    with pytest.raises(StorageError, match=re.escape(file)) as caught:
        fetch_folder(storage, "data", record.uri, tmp_path / "two", lines.append, record.digest)
    assert caught.value.reason == "DataChanged"


def test_a_partition_is_verified_by_the_digest_of_its_files(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """Its folder has no list of files; a changed file is noticed, and the other partition still read."""
    folder = tmp_path / "data"
    for month in ("2026-01", "2026-02"):
        (folder / f"month={month}").mkdir(parents=True)
        (folder / f"month={month}/part-0.csv").write_text(f"a\n{month}\n")
    record = storage.upload_folder(folder, f"s3://{bucket}/orders/")
    first, second = partitions_of(storage.manifest(record.uri))
    storage.write(f"{record.uri}month=2026-02/part-0.csv", b"a\nother\n")
    got = fetch_folder(storage, "data", f"{record.uri}{first.key}/", tmp_path / "one", print, first.digest)
    assert (got.digest, (tmp_path / "one/part-0.csv").read_text()) == (first.digest, "a\n2026-01\n")
    with pytest.raises(StorageError, match="month=2026-02") as caught:
        fetch_folder(storage, "data", f"{record.uri}{second.key}/", tmp_path / "two", print, second.digest)
    assert caught.value.reason == "DataChanged"


def test_a_mark_changes_with_the_objects(storage: Storage, bucket: str) -> None:
    """That of a prefix follows each object below it."""
    for name in ("a", "b"):
        storage.write(f"s3://{bucket}/raw/{name}.csv", b"1")
    one, all_of_them = storage.mark(f"s3://{bucket}/raw/a.csv"), storage.mark(f"s3://{bucket}/raw/")
    assert (storage.mark(f"s3://{bucket}/raw/a.csv"), storage.mark(f"s3://{bucket}/raw/")) == (one, all_of_them)
    storage.write(f"s3://{bucket}/raw/b.csv", b"2")
    assert storage.mark(f"s3://{bucket}/raw/a.csv") == one
    assert storage.mark(f"s3://{bucket}/raw/") != all_of_them
