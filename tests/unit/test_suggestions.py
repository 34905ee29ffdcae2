"""Remedies for names that do not exist."""

from __future__ import annotations

import pytest
from ultramarine.suggestions import suggest


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("bleu", "Did you mean blue?"), ("bl", "Did you mean blue?"), ("red", "Deployments: blue, green.")],
)
def test_the_nearest_name_is_suggested(name: str, remedy: str) -> None:
    """Without a near name the message lists the names that exist."""
    assert suggest(name, iter(("blue", "green")), "Deployments: blue, green.") == remedy


def test_a_part_of_a_name_suggests_the_name() -> None:
    """The end of a long name is far from it by letters; two letters are in too many names."""
    assert suggest("jobs", ["sweeps", "trainingjobs"], "Kinds: all.") == "Did you mean trainingjobs?"
    assert suggest("ob", ["sweeps", "trainingjobs"], "Kinds: all.") == "Kinds: all."


def test_a_suggestion_is_shown_as_its_caller_writes_names() -> None:
    """Names of columns are quoted, and their quotes do not count as equal letters."""
    assert suggest("agee", ["age"], "Remove the column.", shown=repr) == "Did you mean 'age'?"
    assert suggest("b", ["a"], "Remove the column.", shown=repr) == "Remove the column."
