"""Statuses that kubelets and Job controllers write, as values for tests without a node."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from ultramarine_contract import common as contract
from ultramarine_contract.cache_records import CacheTask
from ultramarine_contract.dataset_records import (
    DATA,
    FACTS,
    PROFILE,
    SUMMARY_NAME,
    ColumnFacts,
    ImportSummary,
    ProfileSummary,
)
from ultramarine_contract.environment_records import ARCHIVE_NAME, LOCK_NAME, BuildRecord, BuildTask
from ultramarine_contract.meta import Manifest
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import BestTrial, SweepSummary, SweepTask
from ultramarine_contract.training_records import TerminationRecord, TrainingContext, TrainingTask
from ultramarine_contract.version_records import CompileRecord, CompileTask, DeleteTask
from ultramarine_operator.shared.testing import MODEL_FILE
from ultramarine_trainer.attempt.caching import store_records


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod_of(owner: Manifest, name: str, labels: dict[str, str] | None = None) -> Manifest:
    """A pod as the owner's template wants it, bound to a node."""
    template = owner["spec"]["template"]
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }
    meta = {
        "name": name,
        "labels": {**template["metadata"].get("labels", {}), **(labels or {})},
        "annotations": template["metadata"].get("annotations", {}),
        "ownerReferences": [reference],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {**template["spec"], "nodeName": "node-1"}}


def ended_pod(code: int, message: str, reason: str = "", name: str = "trainer") -> Manifest:
    """The status of a pod whose container, a trainer's if no other, ended with `code` and those last words."""
    times = {"startedAt": now(), "finishedAt": now()}
    ended = {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "message": message, **times}
    container: dict[str, Any] = {
        "name": name,
        "image": "ultramarine/trainer:1",
        "imageID": "sha256:feed",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": ended},
    }
    return {"phase": "Failed" if code else "Succeeded", "containerStatuses": [container]}


def complete_job(indexed: bool = True) -> Manifest:
    """The status of a Job whose one pod has succeeded."""
    over = [_condition(type, "CompletionsReached") for type in ("SuccessCriteriaMet", "Complete")]
    counts: Manifest = {"active": 0, "ready": 0, "succeeded": 1, **({"completedIndexes": "0"} if indexed else {})}
    return {**counts, "conditions": over, "completionTime": now()}


def failed_job(failed: int, reason: str = "BackoffLimitExceeded") -> Manifest:
    """The status of a Job that was given up after `failed` failed pods."""
    over = [_condition(type, reason) for type in ("FailureTarget", "Failed")]
    return {"active": 0, "ready": 0, "failed": failed, "conditions": over}


def _condition(type: str, reason: str) -> Manifest:
    return {"type": type, "status": "True", "reason": reason, "lastTransitionTime": now()}


def task_of(job: Manifest) -> TrainingTask:
    """Return the task of the trainer in a Job's pod."""
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return TrainingTask.from_json(
        next(variable["value"] for variable in variables if variable["name"] == contract.ENV_TASK)
    )


def upload(storage: Storage, job: Manifest, content: str) -> contract.OutputRecord:
    """Do the trainer's work: upload a model under the prefix that its task names."""
    return put(storage, f"{task_of(job).output_prefix}model", content)


def put(storage: Storage, prefix: str, content: str) -> contract.OutputRecord:
    """Store a model below `prefix`, as a trainer does."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MODEL_FILE).write_text(content)
        return storage.upload_folder(Path(folder), prefix, "sklearn")


def record_step(storage: Storage, job: Manifest, record: TerminationRecord) -> CacheTask | None:
    """Store the outcome of a pipeline's step in the cache, as a trainer does; return the step's task, if it has one."""
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    text = next(variable["value"] for variable in variables if variable["name"] == contract.ENV_CONTEXT)
    context = TrainingContext.from_json(text)
    store_records(storage, task_of(job).output_prefix, context, record)
    return context.cache


def profile_and_store(storage: Storage, job: Manifest) -> contract.OutputRecord:
    """Do the work of a pod that profiles a table: store the summary of a good one."""
    summary = ProfileSummary("csv", 10, 1, (ColumnFacts("age", "int64"),))
    return _store(storage, job, PROFILE, SUMMARY_NAME, summary.to_json())


def import_and_store(storage: Storage, job: Manifest) -> dict[str, contract.OutputRecord]:
    """Do the work of a pod that imports a source: store a file, and the summary."""
    return {
        DATA: _store(storage, job, DATA, "churn.csv", "age\n7\n"),
        FACTS: _store(storage, job, FACTS, SUMMARY_NAME, ImportSummary(changed=True).to_json()),
    }


def _store(storage: Storage, job: Manifest, output: str, name: str, content: str) -> contract.OutputRecord:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_text(content)
        return storage.upload_folder(Path(folder), f"{task_of(job).output_prefix}{output}")


def uri_to_delete(job: Manifest) -> str:
    """The artifact that a deleting pod's task names."""
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return DeleteTask.from_json(variables[0]["value"]).uri


def search_and_store(storage: Storage, job: Manifest, well: bool = True) -> SweepSummary:
    """Do a sweep's work: store the best trial's output and the summary, and give what the coordinator then says.

    One that does not go `well` has seen too many trials fail.
    """
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    text = next(variable["value"] for variable in variables if variable["name"] == contract.ENV_SWEEP)
    task = SweepTask.from_json(text)
    outputs: dict[str, contract.OutputRecord] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.skops").write_text("weights")
        for name in task.outputs:
            outputs[name] = storage.upload_folder(Path(folder), f"{task.prefix}trials/3/{name}", "sklearn")
    best = BestTrial(3, (0.25,), {"lr": 0.01}, outputs)
    end = ("Succeeded", "MaxTrialsReached", "10 trials are over")
    bad = ("Failed", "MaxFailedTrialsReached", "3 trials have failed")
    summary = SweepSummary(*(end if well else bad), succeeded=10 if well else 1, failed=0 if well else 3, best=(best,))
    storage.write(task.prefix + contract.SUMMARY_NAME, summary.to_json())
    return replace(summary, best=())


def build_and_store(storage: Storage, job: Manifest) -> BuildRecord:
    """Do the work of a pod that builds an environment: store an archive, the lock and the record."""
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    task = BuildTask.from_json(variables[0]["value"])
    place = f"{task.prefix}{'e' * 16}/"
    storage.write(place + ARCHIVE_NAME, b"archive")
    storage.write(place + LOCK_NAME, b"lightgbm==4.6.0\n")
    digest = "sha256:" + "e" * 64
    record = BuildRecord(place + ARCHIVE_NAME, digest, 2**20, 2**22, 3, place + LOCK_NAME, "3.11.2", 12.5)
    storage.write(task.prefix + contract.RESULT_NAME, record.to_json())
    return record


def compile_and_store(storage: Storage, job: Manifest, well: bool) -> CompileRecord:
    """Do a compiling pod's work: store a model and the verdict, or a verdict that says how far the answers differ."""
    variables = job["spec"]["template"]["spec"]["initContainers"][1]["env"]
    task = CompileTask.from_json(variables[0]["value"])
    figures: dict[str, Any] = {"rows": 1000, "rows_from": "1000 rows", "worst_relative_error": 0.0}
    if well:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "model.onnx").write_text(task.digest)
            made = storage.upload_folder(Path(folder), task.prefix, "onnx")
        record = CompileRecord(made.uri, made.digest, made.bytes, 21, label_agreement=1.0, **figures)
    else:
        message = "half of the labels differ"
        record = CompileRecord(reason="ParityFailed", message=message, label_agreement=0.5, **figures)
    storage.write(task.prefix + contract.RESULT_NAME, record.to_json())
    return record
