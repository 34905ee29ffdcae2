"""Room in the object of a run: etcd stores none above 1.5 MiB, so a step whose entries do not fit is refused."""

from __future__ import annotations

import json

from ultramarine.resources.base import Schema
from ultramarine.resources.pipeline import Step, StepOutput, StepStatus
from ultramarine_contract.meta import TRAINING_JOB, content_hash

from ...shared.conditions import timestamp
from .board import Board
from .graph import Node
from .work import DIGITS

MAX_BYTES = 1024 * 1024  # of a run; the rest of 1.5 MiB is for conditions, other writers' fields and longer values


def fault_of(board: Board, step: Step, count: int, size: int) -> str:
    """Return why `count` entries of this size do not fit into the run beside the rest of it; empty if they fit."""
    manifest, prefix = board.run.manifest, f"{step.name}-"
    others = [state for state in board.states.values() if not _is_entry(state.name, prefix)]
    rest = len(_json(manifest["spec"])) + sum(map(bytes_of, (*board.datasets, *others)))
    if rest + count * size <= MAX_BYTES:
        return ""
    fitting = max(MAX_BYTES - rest, 0) // size
    field, noun, limit = ("forEach", "entries", "entries") if step.for_each else ("while", "rounds", "maxIterations")
    return (
        f"{field}: {count} {noun} of about {size} bytes do not fit into the run's object of {MAX_BYTES} bytes; "
        f"use at most {fitting} {limit}, or fewer outputs or metrics"
    )


def bytes_of(state: Schema) -> int:
    """Return the size of an entry of the status in the object of its run."""
    return len(_json(state.model_dump(by_alias=True, exclude_defaults=True))) + 1


def expected_bytes(board: Board, node: Node) -> int:
    """Return the size that the state of an entry will have when it has succeeded, with one metric."""
    run, name = board.run, f"{node.step.name}-0000"
    child, kind = f"{name}-{'0' * DIGITS}", node.runnable.made.kind if node.runnable.resource else ""
    place = "trainingjobs" if kind == TRAINING_JOB.kind else "sweeps"
    folder = f"s3://{board.seen.platform.storage_bucket}/{run.namespace}/{place}/{child}"
    outputs = node.runnable.outputs(node.document) or ()
    now = timestamp(board.now)
    return bytes_of(
        StepStatus(
            name=name,
            state="Succeeded",
            child=child,
            kind=kind,
            start_time=now,
            completion_time=now,
            miss_reason="no earlier run did this work",
            outputs={name: StepOutput(uri=f"{folder}/{run.uid}/{name}/{content_hash(name)[:16]}/") for name in outputs},
            metrics={"metric": 0.123456789},
        )
    )


def _is_entry(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name.removeprefix(prefix).isdecimal()


def _json(document: object) -> str:
    return json.dumps(document, separators=(",", ":"))
