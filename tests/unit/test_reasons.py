"""The registry of reasons against the code: each reason that can be set has a line, and each line a reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from ultramarine_operator.generate import reference
from ultramarine_operator.kinds import KINDS

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = ROOT / "operator" / "ultramarine_operator"
# The operator, and what speaks through it: the object storage's client, the trainer, the sweep's coordinator.
SOURCES = (OPERATOR, ROOT / "contract", ROOT / "trainer-image")
WORD = re.compile(r"(?!Normal$|Warning$)[A-Z][a-z]+([A-Z][A-Za-z]*)*|OOMKilled")
# Whatever takes a reason: its name, by the last part of what is called.
TAKES_REASON = re.compile(
    r"Event|Verdict|Trouble|InvalidSpec|NotYet|Conflict|Refused|End|\w*Error|_?(pending|finishing|"
    r"failed|succeeded|Failed)"
)
# Neither a condition nor an event shows these.
INTERNAL = {
    "Error": "the base class of errors",
    "NotLeading": "ends a pass silently",
    "StorageError": "a default that each raise replaces",
    "GatewayError": "a default that each raise replaces",
    "InvalidEndpoint": "ends a program at its start",
    "Resumed": "ends an attempt of a trial that goes on in another one",
    "Haste": "the trainer's own, beside reasons of the storage",
    "Paused": "a phase of a rollout",
    "Unwanted": "ends a trial that its sweep had ended before the start",
    "UploadNotFound": "the command begins the upload again",
    "ObjectChanged": "the command alone reads an object in parts",
    "Busy": "the coordinator tries again",
}


@cache
def sources() -> list[tuple[Path, ast.Module]]:
    paths = [path for folder in SOURCES for path in sorted(folder.rglob("*.py")) if path.name != "reasons.py"]
    return [(path, ast.parse(path.read_text())) for path in paths]


@cache
def constants() -> dict[str, str]:
    """Return the constants whose values look like reasons, by name; those of the same name must agree."""
    values: dict[str, str] = {}
    for _, tree in sources():
        for node in tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(word))):
                    values[name] = word
                case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=words)):
                    for target, value in zip(names, words, strict=False):
                        if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
                            values[target.id] = str(value.value)
    return {name: word for name, word in values.items() if WORD.fullmatch(word)}


def words(node: ast.expr | None) -> Iterator[str]:
    """Yield the reasons that an expression can be, as far as it is a word, a constant, or a choice of them."""
    match node:
        case ast.Constant(value=str(word)) if WORD.fullmatch(word):
            yield word
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in constants() and name.isupper():
            yield constants()[name]
        case ast.IfExp(body=body, orelse=other):
            yield from (*words(body), *words(other))
        case ast.Call(func=ast.Name(id="str"), args=[value]):
            yield from words(value)
        case ast.BoolOp(values=values):
            for value in values:
                yield from words(value)


def set_by(node: ast.AST) -> Iterator[str]:
    """Yield the reasons that a node sets."""
    match node:
        case ast.Call(func=ast.Name(id="Condition"), args=[_, _, reason, *_]):
            yield from words(reason)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args) if TAKES_REASON.fullmatch(name):
            for argument in args:
                yield from words(argument)
        case ast.keyword(arg="reason", value=value):
            yield from words(value)
        case ast.Assign(targets=[ast.Name(id="reason")], value=value):
            yield from words(value)
        case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id="reason"), *_])], value=ast.Tuple(elts=[value, *_])):
            yield from words(value)
        case ast.Return(value=ast.Tuple(elts=[value, ast.Constant(value=str()) | ast.JoinedStr()])):
            yield from words(value)
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "reason":
                    yield from words(value)


def shown(path: Path) -> set[str]:
    """Return the reasons with a line that the code in `path` may use: a kind knows its own and the common ones."""
    room = path.relative_to(OPERATOR).parts if path.is_relative_to(OPERATOR) else ()
    return {
        reason
        for package, table in reference.tables()
        if room[:1] != ("kinds",) or len(room) < 3 or package in ("", room[1])
        for lines in (*table.reasons.values(), table.events)
        for reason in lines
    }


def test_each_reason_that_the_code_can_set_has_a_line() -> None:
    """A reason without its meaning in the registry is a reason that no reader can look up."""
    missing = {
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {word}"
        for path, tree in sources()
        for node in ast.walk(tree)
        for word in set_by(node)
        if word not in shown(path) and word not in INTERNAL
    }

    assert missing == set()


def test_each_collection_of_reasons_has_lines_for_all_of_them() -> None:
    """A set of reasons, such as those of pods that wait, is complete in the registry."""
    known_words = {*shown(OPERATOR), *INTERNAL}
    missing = set()
    for path, tree in sources():
        for node in tree.body:
            value = getattr(node, "value", None)
            elements = getattr(value, "elts", None) or getattr(value, "keys", None) or []
            held = {word for element in elements for word in words(element)}
            if len(held) > 3 and len(held & known_words) * 4 > len(held) * 3:
                missing |= {f"{path.name}:{node.lineno}: {word}" for word in held - known_words}

    assert missing == set()


def test_each_line_is_about_a_reason_of_the_code() -> None:
    """A line about a reason that no program knows is outdated."""
    used = {
        node.value
        for _, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert {word for word in shown(OPERATOR) if word not in used} == set()


def test_each_condition_has_its_meaning() -> None:
    """A type of condition that a plan can set stands in the registry."""
    types = {
        word
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Condition"
        for word in words(node.args[0])
    }

    assert types <= {type for _, table in reference.tables() for type in table.conditions}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_has_a_table(kind) -> None:
    """A kind's package has a table of the reasons that the kind shows."""
    assert kind.name in {table.title for _, table in reference.tables()}
