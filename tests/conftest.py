"""Options, marks and reports that all tests share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# The same examples in each run, and as much time as they take: a failure on a busy machine alone proves nothing.
# `--hypothesis-profile=default` draws others.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

MARKS = {
    "slow": "`make test-all` alone runs it: faster tests keep the promise in `make test`, or few changes touch it",
    "long": "`make chaos` alone runs it: the same promises under many more faults",
    "attack": "an attempt of an attacker that is refused: an item of docs/security.md, described at one of its tests",
    "exclusive": "needs the whole cluster: runs after the end-to-end tests that share it",
}
left_out = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that have tests write files of the repository again."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.yaml as things are now")
    parser.addoption("--record-cast", action="store_true", help="write the recording of the tutorial in a terminal")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks."""
    for mark, meaning in MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}")
    config.stash[left_out] = Counter()


def pytest_deselected(items: Iterable[pytest.Item]) -> None:
    """Count by mark and file what a selection leaves out; the exclusive tests and the others have a run each."""
    for item in items:
        expression = item.config.getoption("markexpr")
        exclusive = item.get_closest_marker("exclusive") is not None
        if "exclusive" in expression and ("not exclusive" in expression) == exclusive:
            continue
        mark = next((mark for mark in ("long", "slow") if item.get_closest_marker(mark)), "")
        item.config.stash[left_out][f"{mark} {item.path.stem}"] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand a worker's counts to the process that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(session.config.stash[left_out])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take a worker's counts; every worker collects the same tests."""
    node.config.stash[left_out] |= Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out, and which target runs it."""
    counts = config.stash[left_out]
    for mark in ("slow", "long", ""):
        files = {file: counts[key] for key in sorted(counts) for word, file in (key.split(" "),) if word == mark}
        if files:
            why = f"{mark}: {MARKS[mark]}" if mark else "as the command asked"
            shown = ", ".join(f"{file} {count}" for file, count in files.items())
            terminalreporter.write_line(f"left out {sum(files.values())} ({why}): {shown}")
    if not counts:
        terminalreporter.write_line("left out: nothing")
