"""Provenance of an attempt: one in-toto statement of SLSA provenance with its inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ultramarine_contract import __version__
from ultramarine_contract.records import PREDICATE, STATEMENT
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.training_records import TerminationRecord, TrainingContext, TrainingTask

BUILD_TYPE = "https://ultramarine.dev/TrainingJob/v1alpha1"


def statement(
    task: TrainingTask,
    context: TrainingContext,
    pod: str,
    image: str,
    command: Sequence[str],
    record: TerminationRecord,
    exit_code: int,
    began: datetime,
    ended: datetime,
) -> bytes:
    """Return the statement as JSON: its subjects are the outputs, so a failed attempt has none.

    `image` is the one that ran, as the node resolved it (NAME@sha256:...), or nothing where that is not known.
    Source: in-toto Attestation Framework, Statement v1; SLSA v1.0, Provenance.
    """
    document = {
        "_type": STATEMENT,
        "subject": [_resource(output.uri, output.digest) for _, output in sorted(record.outputs.items())],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "command": list(command),
                    "parameters": context.parameters,
                    "job": context.job,
                    "requestedBy": context.requested_by,
                },
                "resolvedDependencies": _dependencies(task, context, image, record),
            },
            "runDetails": {
                "builder": {"id": f"https://ultramarine.dev/trainer@{__version__}"},
                "metadata": {
                    "invocationId": f"{task.output_prefix}#{pod}",
                    "startedOn": began.isoformat(timespec="seconds"),
                    "finishedOn": ended.isoformat(timespec="seconds"),
                },
                "byproducts": [
                    {"name": "exitCode", "annotations": {"value": exit_code, "reason": record.reason}},
                    {"name": "metrics", "annotations": dict(record.metrics)},
                    {"name": "usage", "annotations": _usage(context, record, (ended - began).total_seconds())},
                ],
            },
        },
    }
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _usage(context: TrainingContext, record: TerminationRecord, seconds: float) -> dict[str, Any]:
    """Seconds of CPU, GPU and memory (GiB): reserved while it ran, or the measured CPU if that is more."""
    reserved = context.reserved
    return {
        "reserved": reserved,
        "seconds": round(seconds, 2),
        "cpuSeconds": round(max(reserved.get("cpu", 0.0) * seconds, record.cpu_seconds), 2),
        "gpuSeconds": round(reserved.get("gpu", 0.0) * seconds, 2),
        "memoryGibSeconds": round(reserved.get("memoryGib", 0.0) * seconds, 2),
    }


def _dependencies(
    task: TrainingTask, context: TrainingContext, image: str, record: TerminationRecord
) -> list[dict[str, Any]]:
    resources: list[dict[str, Any]] = [{"name": "image", "uri": context.image}] if context.image else []
    if resources and (resolved := image.rpartition("sha256:")[2]):
        resources[0]["digest"] = {"sha256": resolved}
    source, commit = task.source or SourceTask(), record.source.commit
    sha256 = (record.source.digest or context.source_digest).removeprefix("sha256:")
    digest = ({"sha256": sha256} if sha256 else {}) | ({"gitCommit": commit} if commit else {})
    if digest:
        resources.append(
            {"name": "source", "uri": f"git+{source.git_url}" if source.git_url else source.uri, "digest": digest}
        )
    if task.environment is not None:
        resources.append(_resource(task.environment.uri, task.environment.digest) | {"name": "environment"})
    inputs = sorted(record.inputs.items())
    return resources + [_resource(task.inputs.get(name, ""), record.digest) | {"name": name} for name, record in inputs]


def _resource(uri: str, digest: str) -> dict[str, Any]:
    return {"uri": uri, "name": uri, "digest": {"sha256": digest.removeprefix("sha256:")}}
