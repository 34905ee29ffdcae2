"""Repetitions of a step: an object for each entry of a list, or one after another while a condition holds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ultramarine.resources import pipeline_conditions as conditions
from ultramarine.resources.pipeline import MAX_STATES, Step
from ultramarine.resources.pipeline_conditions import ConditionError
from ultramarine.resources.pipeline_references import whole
from ultramarine.resources.pipeline_repetition import MAX_ITEMS
from ultramarine.resources.pipeline_values import Unresolved, items_of
from ultramarine_contract.errors import UltramarineError

from ...shared.conditions import ENDED as ENDED_RUNS
from ...shared.conditions import state_of, timestamp
from ...shared.questions import ReadText
from . import partitions, room
from .board import RETRY, Board
from .graph import Node
from .results import ENDED, may_pass

ITEMS_NAME = "items.json"


def repeat(board: Board, node: Node) -> None:
    """Bring the repetitions of a step as far as they go. Raises Unresolved if they cannot begin."""
    step = node.step
    follows = step.for_each is not None and _only_follows(board, step)
    if follows:
        items: list[Any] | None = [None] * (board.states[step.name].items or 0)
    else:
        items = _items(board, step) if step.for_each is not None else None
    if step.for_each is not None and items is None:
        return
    state = board.states[step.name]
    count = len(items) if items is not None else max(state.items or 1, 1)
    if len(board.states) + count - (state.items or 0) > MAX_STATES:
        raise Unresolved(f"the run would have more than {MAX_STATES} steps; use fewer entries")
    if state.items is None or state.state == "Waiting":
        most = step.while_.max_iterations if step.while_ is not None else count
        if fault := room.fault_of(board, step, most, room.expected_bytes(board, node)):
            raise Unresolved(fault)
        kept = board.kept(state) | {"items": count, "start_time": timestamp(board.now)}
        board.put(step.name, "Running", **kept)
    if items is not None and step.for_each is not None:
        _advance_entries(board, node, items, 0 if follows else step.for_each.parallel)
    else:
        _advance_rounds(board, node)


def _items(board: Board, step: Step) -> list[Any] | None:
    """Return the entries of a step; None while they are being read."""
    assert step.for_each is not None
    items: Any = step.for_each.items
    if step.for_each.partitions is not None:
        items = partitions.entries_of(board, step.name, step.for_each.partitions)
        if items is None:
            return None
    elif (reference := whole(items)) is not None:
        items = board.values.resolve(reference, None)
        if reference.is_output and isinstance(items, str):
            answer = board.answer(ReadText(f"{items.rstrip('/')}/{ITEMS_NAME}"))
            if isinstance(answer, UltramarineError) and not may_pass(answer):
                raise Unresolved(f"forEach.items: {answer.message}")
            if not isinstance(answer, str):
                board.look_again(timedelta() if answer is None else RETRY)
                return None
            items = items_of(answer)
    elif isinstance(items, str):
        items = items_of(items)
    if len(items) > MAX_ITEMS:
        raise Unresolved(f"forEach has {len(items)} entries; use at most {MAX_ITEMS}")
    return list(items)


def _only_follows(board: Board, step: Step) -> bool:
    """True if a pass only follows objects that run, and needs no entry: the list is read when something may begin."""
    assert step.for_each is not None
    count = board.states[step.name].items or 0
    begun = [part for number in range(count) if (part := board.states.get(f"{step.name}-{number}")) is not None]
    live = [part for part in begun if part.state not in ENDED]
    children = [board.children.get(part.child) for part in live]
    if any(child is None or state_of(child) in ENDED_RUNS for child in children):
        return False
    return bool(live) and (len(begun) == count or len(live) >= step.for_each.parallel)


def _live(board: Board, names: list[str]) -> int:
    return sum(board.states[name].state not in ENDED for name in names if name in board.states)


def _advance_entries(board: Board, node: Node, items: list[Any], parallel: int) -> None:
    """Bring the entries on; with `parallel` 0 none begins, and the entries may be unknown."""
    step, is_final = node.step, node.is_final
    names = [f"{step.name}-{number}" for number in range(len(items))]
    before = _live(board, names)
    for name, item in zip(names, items, strict=True):
        if name in board.states:
            board.advance_work(node, name, item)
    live = _live(board, names)
    if not parallel and live < before:
        board.look_again(timedelta())  # its object was ended just now, and another entry may begin
        return
    own = set(names)
    halting = [name for name in board.failed if name in own or not is_final]
    stops = (halting and not board.spec.continue_on_step_failure) or (board.run.spec.cancel and not is_final)
    fault = _lack_of_room(board, step, names) if parallel and not stops else ""
    stops = stops or bool(fault)
    for name, item in zip(names, items, strict=True):
        if live >= parallel or stops or board.run.spec.suspend:
            break
        if name not in board.states:
            board.advance_work(node, name, item)
            live += board.states[name].state not in ENDED
    begun = [board.states[name] for name in names if name in board.states]
    if any(part.state not in ENDED for part in begun):
        return
    failed = [part for part in begun if part.state == "Failed"]
    if failed:
        message = f"{len(failed)} of {len(items)} entries failed; {failed[0].name}: {failed[0].message}"
        board.end(step.name, "Failed", message, **board.kept(board.states[step.name]))
    elif len(begun) == len(items):
        board.end(step.name, "Succeeded", **board.kept(board.states[step.name]))
    elif stops:
        why = fault or (f"step {halting[0]} failed" if halting else "the run was cancelled")
        board.end(step.name, "Failed", why, **board.kept(board.states[step.name]))


def _lack_of_room(board: Board, step: Step, names: list[str]) -> str:
    """Return why the entries that have not begun do not fit, by the size of the first that has ended."""
    if names[-1:] and names[-1] in board.states:
        return ""
    ended = next((part for name in names if (part := board.states.get(name)) and part.state == "Succeeded"), None)
    return room.fault_of(board, step, len(names), room.bytes_of(ended)) if ended is not None else ""


def _advance_rounds(board: Board, node: Node) -> None:
    step = node.step
    assert step.while_ is not None
    while True:
        state = board.states[step.name]
        number = (state.items or 1) - 1
        name = f"{step.name}-{number}"
        board.advance_work(node, name, number)
        part = board.states[name]
        if part.state not in ENDED:
            return
        kept = board.kept(state) | {"outputs": part.outputs, "metrics": part.metrics}
        if part.state != "Succeeded":
            board.end(step.name, "Failed", f"{name}: {part.message}", **kept)
            return
        board.put(step.name, "Running", **kept)
        try:
            names = board.values.names(conditions.names(step.while_.condition, "steps"), number)
            names["steps"][step.name] = {**names["steps"].get(step.name, {}), "metrics": part.metrics}
            goes_on = conditions.holds(step.while_.condition, names)
        except ConditionError as error:
            board.end(step.name, "Failed", f"while.condition: {error}", **kept)
            return
        if not goes_on or number + 1 >= step.while_.max_iterations:
            message = "" if not goes_on else f"maxIterations={step.while_.max_iterations} is reached"
            board.end(step.name, "Succeeded", message, **kept)
            return
        board.put(step.name, "Running", **{**kept, "items": number + 2})
