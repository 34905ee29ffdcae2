"""Entries of a step that runs for each partition of a dataset: the version is resolved once, and kept in the status."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from ultramarine.resources.base import URI_PATTERN
from ultramarine.resources.dataset import DATASET_REFERENCE
from ultramarine.resources.pipeline import PartitionsPin
from ultramarine.resources.pipeline_references import whole
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.partitions import Partition

from ...shared.datasets import NotReady, look_up
from ...shared.questions import ReadPartitions
from .board import RETRY, Board
from .results import Unresolved, may_pass


def entries_of(board: Board, step: str, text: str) -> list[dict[str, Any]] | None:
    """Return key, values, URI and digest of each partition; None while version or partitions are awaited."""
    pin = _pinned(board, step, text)
    if pin is None:
        return None
    answer = board.answer(ReadPartitions(pin.uri, pin.digest))
    if isinstance(answer, UltramarineError):
        if not may_pass(answer):
            raise Unresolved(f"forEach.partitions: {answer.message}")
        board.look_again(RETRY)
        return None
    if answer is None:
        board.look_again(timedelta())
        return None
    if not answer:
        message = f"DatasetVersion {pin.version} has no folders such as month=2026-01; set partitionBy of its source"
        raise Unresolved(f"forEach.partitions: {message}, or use forEach.items")
    return [_entry(pin, partition) for partition in answer]


def _pinned(board: Board, step: str, text: str) -> PartitionsPin | None:
    """Return the version of a step as it was resolved first; None while none is ready."""
    state = board.states[step]
    if state.partitions is not None and state.partitions.version:
        return state.partitions
    reference = whole(text)
    dataset = str(board.values.resolve(reference, None)) if reference is not None else text
    if not re.match(DATASET_REFERENCE, dataset):
        raise Unresolved(f"forEach.partitions: expected DATASET@VERSION, got {dataset!r:.80}")
    resolved = look_up(dataset, board.seen)
    if isinstance(resolved, NotReady):
        if resolved.is_final:
            raise Unresolved(f"forEach.partitions: {resolved.message}")
        board.put(step, "Waiting", f"forEach.partitions: {resolved.message}", partitions=PartitionsPin(dataset=dataset))
        return None
    if not resolved.uri.endswith("/"):
        raise Unresolved(f"forEach.partitions: DatasetVersion {resolved.version} is one file; use forEach.items")
    pin = PartitionsPin(dataset=dataset, version=resolved.version, uri=resolved.uri, digest=resolved.digest)
    board.put(step, state.state, **board.kept(state) | {"partitions": pin})
    return pin


def _entry(pin: PartitionsPin, partition: Partition) -> dict[str, Any]:
    uri = f"{pin.uri}{partition.key}/"
    if not re.match(URI_PATTERN, uri):
        message = f"partition {partition.key!r:.200} of {pin.version} has a space, a backslash or a percent sign"
        raise Unresolved(f"forEach.partitions: {message}; partition by a column of other values")
    return {"key": partition.key, "values": dict(partition.values), "uri": uri, "digest": partition.digest}
