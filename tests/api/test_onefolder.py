"""A kind that is one folder goes through the tiers that have an API server."""

from __future__ import annotations

import re

import pytest
from onefolder.tree import Tree, grown

pytestmark = pytest.mark.slow  # each starts an API server of its own


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The repository with the kind Greeting in it."""
    return grown(tmp_path_factory.mktemp("tree"))


def passed(report: str) -> int:
    """The number of tests that have passed."""
    return int(re.findall(r"(\d+) passed", report)[-1])


def test_its_rules_and_misuse(tree: Tree) -> None:
    """Bounds, words, rules, columns and defaults are tried, and thousands of drawn manifests, without a line for it."""
    files = [f"tests/api/{name}.py" for name in ("test_admission", "test_limits", "test_crds", "test_misuse")]
    report = tree.pytest(*files, "-k", "Greeting or every_rule or poison", ULTRAMARINE_MISUSE="300")

    assert passed(report) > 30, report


def test_its_lives(tree: Tree) -> None:
    """Its life goes on under kills, lost answers, edits, refusals and poison."""
    tests = "kind_has_lives or 01_killed_after or 04_ or 05_stale or 07_ or 09_ or 10_poison or 12_removed"
    report = tree.pytest(
        "tests/chaos/test_promises.py", "-m", "not long", "-k", tests, ULTRAMARINE_CHAOS_KIND="Greeting"
    )

    assert passed(report) == 11, report
