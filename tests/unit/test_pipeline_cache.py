"""The cache of pipelines before a real storage: what a trainer records, and what a run finds."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ultramarine_contract.cache_records import CacheRecord, CacheTask, key_of, latest_uri, record_uri
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import BestTrial, SweepSummary, SweepTask
from ultramarine_operator.shared.questions import CacheAnswer, Clients, LookUpStep
from ultramarine_sweep.service.caching import store_records
from unit.test_trainer_run import Pod, pod  # noqa: F401  the fixture

PARTS = {"code": "sha256:1", "command": '["clean"]', "parameters.rate": "0.1"}


def ask(storage: Storage, bucket: str, parts: dict[str, str], **more: Any) -> CacheAnswer:
    """Ask for the step clean of the pipeline churn, as the operator does."""

    async def unasked(*_: str) -> Any:
        raise AssertionError

    clients = Clients(storage, lambda *_: (), unasked, unasked)
    question = LookUpStep(bucket, "team-a", "churn", "clean", tuple(parts.items()), **more)
    return asyncio.run(question.ask(clients))


def train(pod: Pod, bucket: str, parts: dict[str, str], text: str = "a") -> CacheRecord:  # noqa: F811
    """Let a trainer do the work of these parts, and return what it has recorded."""
    pod.prefix = f"s3://{bucket}/team-a/trainingjobs/clean/uid-{text}/"
    program = f"open({str(pod.base / 'outputs/table/a.csv')!r}, 'w').write({text!r}); print('rows=3')"
    task = CacheTask(key_of(parts), parts, "churn", "clean", f"run-{text}")
    code, _, _, stderr = pod.run(sys.executable, "-c", program, outputs={"table": ""}, job="team-a/clean", cache=task)
    assert code == 0, stderr
    return CacheRecord.from_json(
        Storage(pod.environment["ULTRAMARINE_STORAGE_ENDPOINT"]).read(record_uri(bucket, "team-a", task.key))
    )


def test_a_success_is_recorded_and_found(pod, storage, bucket):  # noqa: F811
    """A trainer records outputs and metrics under the key of its work; the next run finds them."""
    assert ask(storage, bucket, PARTS) == CacheAnswer(
        key_of(PARTS), tuple(PARTS.items()), None, "no earlier run did this work"
    )
    record = train(pod, bucket, PARTS)
    assert (record.run, record.job, record.metrics) == ("run-a", "clean", {"rows": 3.0})
    assert storage.read(record.outputs["table"].uri + "a.csv") == b"a"

    answer = ask(storage, bucket, PARTS)
    assert answer.record == record
    assert ask(storage, bucket, PARTS, reuses=False).record is None


def search(storage: Storage, bucket: str, folder: Path, outcome: str) -> SweepTask:
    """Let a coordinator store the outcome of a sweep with one trial."""
    (folder / "model.txt").write_text("model")
    prefix = f"s3://{bucket}/team-a/sweeps/tune/uid/"
    output = storage.upload_folder(folder, f"{prefix}trials/3/model/")
    cache = CacheTask(key_of(PARTS), PARTS, "churn", "clean", "run-a")
    objectives = ({"metric": "auc", "goal": "maximize"},)
    task = SweepTask("team-a/tune", "uid", prefix, objectives, {"lr": {"uniform": {"min": 0, "max": 1}}}, cache=cache)
    task = SweepTask.from_json(task.to_json())
    best = BestTrial(3, (0.9,), {"lr": 0.1}, {"model": output})
    store_records(storage, task, SweepSummary(outcome, best=(best,)))
    return task


def test_the_best_trial_of_a_sweep_is_recorded_and_found(storage, bucket, tmp_path):
    """A coordinator records outputs and objective of the best trial; a failed sweep is no record."""
    search(storage, bucket, tmp_path, "Failed")
    assert ask(storage, bucket, PARTS).record is None
    search(storage, bucket, tmp_path, "Succeeded")
    record = ask(storage, bucket, PARTS).record
    assert (record.run, record.job, record.metrics) == ("run-a", "tune", {"auc": 0.9})
    assert storage.read(record.outputs["model"].uri + "model.txt") == b"model"
    storage.delete_artifact(record.outputs["model"].uri)
    assert "output model of run run-a is gone" in ask(storage, bucket, PARTS).miss


def test_a_miss_names_the_part_that_differs(pod, storage, bucket):  # noqa: F811
    """The latest record of the step is compared: the first part that differs, with both values and its run."""
    train(pod, bucket, PARTS)
    answer = ask(storage, bucket, {**PARTS, "parameters.rate": "0.2"})
    assert (answer.record, answer.miss) == (None, "parameters.rate is 0.2, and was 0.1 in run run-a")
    both = ask(storage, bucket, {**PARTS, "parameters.rate": "0.2", "code": "sha256:2"})
    assert both.miss == "code is sha256:2, and was sha256:1; 1 more parts differ in run run-a"


@pytest.mark.parametrize("damage", ["gone", "changed", "foreign", "unreadable"])
def test_a_record_whose_outputs_are_not_there_is_not_reused(pod, storage, bucket, damage):  # noqa: F811
    """An output that is gone, was changed, or lies elsewhere makes the step run again, and is named."""
    record = train(pod, bucket, PARTS)
    output, uri = record.outputs["table"], record_uri(bucket, "team-a", record.key)
    words = "gone from the storage"
    if damage == "gone":
        storage.delete_artifact(output.uri)
    elif damage == "changed":
        manifest = storage.read(output.uri + "manifest.json")
        storage.write(output.uri + "manifest.json", manifest.replace(b"a.csv", b"b.csv"))
        words = "was changed in the storage"
    elif damage == "foreign":
        document = record.document()
        document["outputs"]["table"]["uri"] = f"s3://{bucket}/team-b/x/"
        storage.write(uri, json.dumps(document).encode())
        words = "not in a folder of the namespace's jobs"
    else:
        storage.write(uri, b"{")
    answer = ask(storage, bucket, PARTS)
    assert answer.record is None
    assert words in answer.miss


def test_the_content_of_an_input_decides_about_the_key(storage, bucket):
    """A folder, an object and an artifact are known by content; another place is no other key."""
    for folder, text in (("x", b"1"), ("y", b"1"), ("z", b"2")):
        storage.write(f"s3://{bucket}/team-a/{folder}/a.csv", text)

    def key(uri: str) -> str:
        parts = {**PARTS, "inputs.raw": uri}
        return ask(storage, bucket, parts, contents=(("inputs.raw", f"s3://{bucket}/team-a/{uri}"),)).key

    assert key("x/") == key("y/") != key("z/")
    assert key("x/a.csv") == key("y/a.csv") != key("z/a.csv")
    with pytest.raises(StorageError, match="nothing is stored"):
        key("absent/")


def test_a_trainer_records_nothing_without_a_key_or_with_an_unsafe_one(pod, storage, bucket):  # noqa: F811
    """Any user may write the annotation: names that would be other paths are not recorded."""
    task = CacheTask("../" * 20, PARTS, "..", "clean", "run")
    pod.prefix = f"s3://{bucket}/team-a/trainingjobs/clean/uid/"
    code, _, _, stderr = pod.run("true", cache=task)
    assert code == 0, stderr
    assert not storage.exists(latest_uri(bucket, "team-a", "churn", "clean"))
    assert [uri for uri in storage.folders(f"s3://{bucket}/team-a/") if "cache" in uri] == []
