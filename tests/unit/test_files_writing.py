"""YAML that the SDK and the command write, read again as kubectl reads it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ultramarine.files.nodes import nodes
from ultramarine.files.scalars import WORDS
from ultramarine.files.writing import yaml_text


def read(text: str) -> Any:
    """Return the value of a YAML text as kubectl reads it."""
    [node] = nodes(text)
    return node.value


NUMBERS = ("1e5", "0o17", "017", "1_000", "0x1f", "-0.5", "3.11")
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]))
VALUES = st.recursive(TEXTS | st.integers(-9, 9) | st.booleans(), lambda part: st.lists(part, max_size=3))


@pytest.mark.parametrize("text", [*WORDS, *NUMBERS, "2026-12-01", "a: b", "#"])
def test_a_text_stays_a_text(text: str) -> None:
    """Words and numbers in texts have quotes."""
    assert read(yaml_text({"value": text, text: 1})) == {"value": text, text: 1}


@given(VALUES)
def test_values_are_read_as_they_were(value: Any) -> None:
    """Whatever a manifest has, both readers agree."""
    text = yaml_text({"value": value})

    assert read(text) == {"value": value}
    assert yaml.safe_load(text) == {"value": value}


def test_scripts_are_blocks() -> None:
    """Texts of several lines are shown as they are, and nothing has an anchor."""
    shared = {"a": 1}

    text = yaml_text({"script": "import sys\nprint(1)\n", "one": shared, "other": shared})

    assert "script: |\n  import sys\n  print(1)\n" in text
    assert "&" not in text
