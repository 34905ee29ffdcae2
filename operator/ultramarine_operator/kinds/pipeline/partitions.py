"""Entries of a step that runs for each partition of a dataset: the version is resolved once, and kept in the status."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ultramarine.resources.dataset_versions import NotReady
from ultramarine.resources.pipeline import PartitionsPin
from ultramarine.resources.pipeline_values import Unresolved, check_is_folder, partition_entries
from ultramarine_contract.errors import UltramarineError

from ...shared.questions import ReadPartitions
from .board import RETRY, Board
from .results import may_pass


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
    return partition_entries(pin.version, pin.uri, answer)


def _pinned(board: Board, step: str, text: str) -> PartitionsPin | None:
    """Return the version of a step as it was resolved first; None while none is ready."""
    state = board.states[step]
    if state.partitions is not None and state.partitions.version:
        return state.partitions
    dataset = board.values.dataset_in(text)
    resolved = board.version_of(dataset)
    if isinstance(resolved, NotReady):
        if resolved.is_final:
            raise Unresolved(f"forEach.partitions: {resolved.message}")
        kept = board.kept(state) | {"partitions": PartitionsPin(dataset=dataset)}
        board.put(step, "Waiting", f"forEach.partitions: {resolved.message}", **kept)
        return None
    check_is_folder(resolved)
    pin = PartitionsPin(dataset=dataset, version=resolved.version, uri=resolved.uri, digest=resolved.digest)
    board.put(step, state.state, **board.kept(state) | {"partitions": pin})
    return pin
