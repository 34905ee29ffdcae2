"""The table that maps each promise of docs/reliability.md and docs/security.md to its tests and their tier.

A promise of reliability.md is a row of a table, with a comment `<!-- tests: PATTERN... -->`. A pattern is a
test's name, after the end of its file's path and `::` if needed; `*` stands for any characters. A promise of
security.md is the control of a mark `attack`. docs/conf.py puts the table into docs/reference/promises.md.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(r"^\| (\d+) \| (.*?) <!-- tests: (.*?) --> \|$", re.MULTILINE)
NUMBERED = re.compile(r"^\| \d+ \|.*$", re.MULTILINE)
# By the beginning of a test's path, the longest first.
TIERS = {
    "tests/security/test_tenant.py": "e2e",
    "tests/security": "unit",
    "tests/gateway": "unit",
    "tests/golden": "unit",
    "tests/unit": "unit",
    "tests/api": "api",
    "tests/chaos": "chaos-short",
    "tests/e2e": "e2e",
}


@dataclass(frozen=True, order=True)
class Proof:
    """A test, the target of make that runs it, and the attacks that it repeats with their words."""

    path: str
    name: str
    target: str
    attacks: tuple[tuple[str, str], ...] = ()

    def matches(self, pattern: str) -> bool:
        """Return True if the pattern of a promise means this test."""
        path, _, name = pattern.rpartition("::")
        return fnmatchcase(self.name, name) and (not path or fnmatchcase(self.path, f"*/{path}"))


def proofs(root: Path = ROOT) -> list[Proof]:
    """Return all tests."""
    return [
        proof
        for path in sorted((root / "tests").rglob("test_*.py"))
        for proof in _proofs(path.relative_to(root).as_posix(), path.read_text())
    ]


def _proofs(path: str, source: str) -> Iterator[Proof]:
    tier = next((tier for beginning, tier in TIERS.items() if path.startswith(beginning)), "none")
    module = ast.parse(source)
    lines = source.splitlines()
    assigned = (node for node in module.body if isinstance(node, ast.Assign))
    own = (node.value for node in assigned if ast.unparse(node.targets[0]) == "pytestmark")
    common = {mark for value in own for mark in _marks(value, lines)}
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            marks = common | {mark for decorator in node.decorator_list for mark in _marks(decorator, lines)}
            target = "chaos" if "long" in marks else "test-all" if "slow" in marks else tier
            yield Proof(path, node.name, target, tuple(_attacks(node)))


def _marks(node: ast.expr, lines: list[str]) -> set[str]:
    return set(re.findall(r"pytest\.mark\.(\w+)", "\n".join(lines[node.lineno - 1 : node.end_lineno])))


def _attacks(test: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.attack":
            words = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
            yield ast.literal_eval(mark.args[0]), words.get("control", "")


def promises(page: str, tests: list[Proof]) -> dict[str, list[Proof]]:
    """Return the tests of each promise, by its number or attack and its words, from the text of reliability.md."""
    result = {
        f"{number} | {words}": sorted(
            proof for pattern in patterns.split() for proof in _matching(number, pattern, tests)
        )
        for number, words, patterns in ROW.findall(page)
    }
    if len(result) != len(NUMBERED.findall(page)):
        raise ValueError("a promise of docs/reliability.md names no tests; add <!-- tests: NAME --> to its row")
    controls: dict[str, str] = {}
    repeated: dict[str, list[Proof]] = defaultdict(list)
    for proof in tests:
        for attack, control in proof.attacks:
            controls[attack] = control or controls.get(attack, "")
            repeated[attack].append(proof)
    return result | {f"{attack} | {controls[attack]}": repeated[attack] for attack in sorted(repeated)}


def _matching(number: str, pattern: str, tests: list[Proof]) -> list[Proof]:
    if matching := [proof for proof in tests if proof.matches(pattern)]:
        return matching
    raise ValueError(f"no test matches {pattern!r} of promise {number} in docs/reliability.md; correct the pattern")


def table() -> str:
    """Return the table in Markdown for a page in docs/reference, with a row for each test."""
    lines = ["| promise | what holds | test | `make` |", "|---|---|---|---|"]
    page = (ROOT / "docs" / "reliability.md").read_text()
    for promise, tests in promises(page, proofs()).items():
        for place, proof in enumerate(tests):
            lines.append(f"| {'|' if place else promise} | `{proof.path}::{proof.name}` | {proof.target} |")
    return re.sub(r"\]\((?=[\w-]+\.md)", "](../", "\n".join(lines) + "\n")
