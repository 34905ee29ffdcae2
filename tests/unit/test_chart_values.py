"""Values that are empty, unknown or of the wrong type: a chart, or one sentence that names the value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ultramarine_contract.meta import Manifest
from unit.rendered import CHART

VALUES: Manifest = yaml.safe_load((CHART / "values.yaml").read_text())
OPEN = {"resources"}  # below these an author takes away what Helm lets him
NULLABLE = {("training", "priorityClasses")}
PARTS = ("operator", "storage", "mlflow", "gateway")  # sections of `pods` that have no defaults


def sections(values: Manifest, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of each section whose names are the chart's own, the whole first."""
    yield path
    for key, value in values.items():
        is_part = path == ("pods",) and key in PARTS
        if isinstance(value, dict) and (is_part or (value and key not in OPEN)):
            yield from sections(value, (*path, key))


def leaves(values: Manifest, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path and the default of each value that is not a section."""
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in OPEN:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def at(paths: list[tuple[tuple[str, ...], Any]]) -> Manifest:
    """Values with these at their paths."""
    values: Manifest = {}
    for path, value in paths:
        place = values
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
    return values


def place(path: tuple[str, ...]) -> str:
    return "/" + "/".join(path) if path else ""


ALL = list(sections(VALUES))


def sentences(errors: str) -> list[str]:
    """Return Helm's errors for single values, which it groups by section."""
    lines = [line.strip() for line in errors.splitlines()]
    return [line for line in lines if line.startswith("- ") and not line.endswith(": validation failed")]


def test_the_sections_are_those_of_the_file():
    """The walk below misses none of them."""
    assert {(key,) for key, value in VALUES.items() if isinstance(value, dict)} <= set(ALL)
    assert {("pods", part) for part in PARTS} <= set(ALL)
    assert ("tls", "internal") in ALL


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_what_is_empty_is_named(chart, depth):
    """Helm takes away the default of `mlflow:` with nothing below it, and of null; one line says which is missing."""
    paths = {*ALL, *(path for path, _ in leaves(VALUES))} - NULLABLE
    empty = [path for path in paths if len(path) == depth]
    errors = sentences(chart.refusal(at([(path, None) for path in empty])))

    for path in empty:
        (line,) = (line for line in errors if line.startswith(f"- at '{place(path[:-1])}': "))
        assert "missing propert" in line
        assert f"'{path[-1]}'" in line
    assert len(errors) == len({path[:-1] for path in empty}), errors


def test_a_name_that_the_chart_does_not_know_is_refused(chart):
    """In each section, and in the parts of lists that have names."""
    errors = sentences(chart.refusal(at([((*path, "surplus"), 1) for path in ALL])))

    for path in ALL:
        assert f"- at '{place(path)}': additional properties 'surplus' not allowed" in errors
    for listed in ({"pods": {"tolerations": [{"surplus": 1}]}}, {"gatewayApi": {"parentRefs": [{"surplus": 1}]}}):
        assert "additional properties 'surplus' not allowed" in chart.refusal(listed)


def test_a_value_of_the_wrong_type_is_refused(chart):
    """Each by one line with its path; a section may be no text, and a text no section."""
    wrong = {path: 7 if isinstance(default, str | bool) else "text" for path, default in leaves(VALUES)}
    errors = sentences(chart.refusal(at(list(wrong.items()))))

    for path in wrong:
        assert [line for line in errors if line.startswith(f"- at '{place(path)}': ")], path
    errors = sentences(chart.refusal(at([((key,), 7) for key in VALUES])))
    assert sorted(errors) == sorted(f"- at '/{key}': got number, want {KINDS[type(VALUES[key])]}" for key in VALUES)


KINDS = {dict: "object", list: "array", bool: "boolean"}


def test_what_may_be_null_renders(chart):
    """Limits that are taken away, and no list of PriorityClasses."""
    resources = {"requests": {"cpu": None}, "limits": None}
    chart.render({"operator": {"resources": resources}, "training": {"priorityClasses": None}})


def test_a_label_of_the_platforms_own_is_not_for_the_values(chart):
    """Services and network policies select by them."""
    for name in ("app.kubernetes.io/component", "ultramarine.dev/kind"):
        assert "/pods/labels/" in chart.refusal({"pods": {"labels": {name: "x"}}})
