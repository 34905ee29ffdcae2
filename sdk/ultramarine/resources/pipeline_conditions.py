"""Conditions of steps: CEL over params, steps and item, checked before a run and evaluated in it.

Any user of a namespace may write a condition, so it must be cheap: no pattern, and no repetition within another one.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ultramarine_contract import cel
from ultramarine_contract.errors import listed

ROOTS = ("params", "steps", "item")
MAX_DEPTH = 60  # levels of a condition
_PATTERNS = cel.parsed("a.matches(b)")[1]  # the function that Python evaluates with unbounded effort


class ConditionError(ValueError):
    """A condition that does not compile, or has no value."""


@functools.lru_cache(maxsize=4096)
def compiled(expression: str) -> cel.Tree:
    """Return the tree of a condition. Raises ConditionError if it does not compile."""
    try:
        tree = cel.parsed(expression)
    except (cel.Unsupported, IndexError, RecursionError):
        raise ConditionError("it does not compile; write CEL, such as steps.check.metrics.auc > 0.9") from None
    if _depth(tree) > MAX_DEPTH:
        raise ConditionError(f"it is nested more than {MAX_DEPTH} times; write it in several steps")
    for part in _parts(tree):
        if part[0] == "call" and part[1] is None:
            raise ConditionError("it calls an unknown function; remove the call")
        if part[0] == "call" and part[1] is _PATTERNS:
            raise ConditionError("it uses matches; use contains, startsWith or endsWith")
        if part[0] == "macro" and any(inner[0] == "macro" for inner in _parts(part[4])):
            raise ConditionError("it has a repetition within another one; use one of all, exists, filter and map")
    if names := sorted(set(_free(tree, frozenset())) - set(ROOTS)):
        raise ConditionError(f"{names[0]} is unknown; use params.NAME, steps.NAME or item")
    return tree


def names(expression: str, root: str) -> set[str]:
    """Return the names that a condition has below a root: params.NAME, steps.NAME or steps['NAME']."""
    below: set[str] = set()
    for part in _parts(compiled(expression)):
        match part:
            case ("field", ("name", at), name) if at == root:
                below.add(str(name))
            case ("entry", ("name", at), ("constant", name)) if at == root:
                below.add(str(name))
    return below


def holds(expression: str, values: Mapping[str, Any]) -> bool:
    """Return the value of a condition. Raises ConditionError if it has none, or is neither true nor false."""
    tree = compiled(expression)
    try:
        value = cel.evaluate(tree, values)
    except cel.Failure as failure:
        missing = (
            fault
            for step, name in _metrics(tree)
            if str(failure) == f"no {name}" and (fault := _missing(step, name, values))
        )
        raise ConditionError(next(missing, f"it has no value: {failure}")) from None
    except (cel.Unsupported, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise ConditionError("it has no value; compare values of one type") from None
    if not isinstance(value, bool):
        raise ConditionError(f"it must be true or false, not {value!r:.50}; compare it with a value")
    return value


def no_metric(step: str, state: str, name: str, metrics: Collection[str]) -> str:
    """Return that a step has no such metric, with the remedy."""
    if state in ("Failed", "Skipped"):
        why = "it failed" if state == "Failed" else "it was skipped"
        return f'step {step} has no metric {name}: {why}; ask steps.{step}.state == "Succeeded" first, with &&'
    printed = f"it printed: {listed(sorted(metrics))}" if metrics else "it printed none"
    remedy = f"print {name}=0.9 there, or ask has(steps.{step}.metrics.{name}) first"
    return f"step {step} printed no metric {name} ({printed}); {remedy}"


def _metrics(tree: Any) -> Iterator[tuple[str, str]]:
    """Yield step and name of each metric that a condition reads, without those that it asks for by has()."""
    match tree:
        case ("has", _):
            return
        case ("field" | "entry", ("field" | "entry", ("field" | "entry", ("name", "steps"), step), field), name):
            step, field, name = (part[1] if isinstance(part, tuple) else part for part in (step, field, name))
            if field == "metrics":
                yield str(step), str(name)
    for part in tree[1:]:
        if isinstance(part, tuple):
            yield from _metrics(part)


def _missing(step: str, name: str, values: Mapping[str, Any]) -> str:
    """Return that a step has no such metric; empty if it has, or if the condition has no such step."""
    document = values.get("steps", {}).get(step)
    if document is None or name in document["metrics"]:
        return ""
    return no_metric(step, str(document.get("state")), name, document["metrics"])


def _depth(tree: cel.Tree) -> int:
    """Return the number of levels of a tree, without recursion."""
    level, depth = [tree], 0
    while level:
        depth += 1
        level = [part for node in level for part in node[1:] if isinstance(part, tuple)]
    return depth


def _parts(tree: Any) -> Iterator[cel.Tree]:
    """Yield a tree and all trees in it."""
    yield tree
    for part in tree[1:]:
        if isinstance(part, tuple):
            yield from _parts(part)


def _free(tree: Any, bound: frozenset[str]) -> Iterator[str]:
    """Yield the names that no repetition binds."""
    match tree:
        case ("name", name):
            if name not in bound and name not in cel.TYPES:
                yield name
        case ("macro", _, inner, variable, body):
            yield from _free(inner, bound)
            yield from _free(body, bound | {variable})
        case _:
            for part in tree[1:]:
                if isinstance(part, tuple):
                    yield from _free(part, bound)
