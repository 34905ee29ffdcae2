"""The tables in docs/security.md: a row for each attack that tests are marked with."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = Path("docs", "security.md")
TABLE = re.compile(r"(<!-- attacks: (\w+) -->\n).*?(<!-- end of attacks -->)", re.DOTALL)
COLUMNS = ("asset", "threat", "control")


def page() -> str:
    """The page as it is, with each attacker's table by the tests as they are now."""
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "tests").rglob("*.py"))}
    written = tables(sources)
    text = TABLE.sub(lambda place: place[1] + written.pop(place[2]) + place[3], (ROOT / PAGE).read_text())
    if written:
        raise ValueError(f"no place in {PAGE} for the attacks of {', '.join(written)}")
    return text


def tables(sources: dict[str, str]) -> dict[str, str]:
    """Each attacker's table, from the tests' sources by their paths."""
    words: dict[str, dict[str, str]] = {}
    tests: dict[str, list[str]] = defaultdict(list)
    for path, source in sources.items():
        for attack, named, test in _marks(source):
            tests[attack].append(f"`{path}::{test}`")
            if named and attack in words:
                raise ValueError(f"{attack} is described twice, the second time at {path}::{test}")
            if named:
                words[attack] = named
    rows: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for attack, proofs in tests.items():
        if set(words.get(attack, ())) != set(COLUMNS):
            raise ValueError(f"of {attack} one test says {', '.join(COLUMNS)}: {', '.join(proofs)}")
        cells = [words[attack][column] for column in COLUMNS]
        rows[attack.partition("/")[0]].append((*cells, ", ".join(proofs)))
    head = f"| {' | '.join(COLUMNS)} | test |\n|---|---|---|---|\n"
    return {group: head + "".join(f"| {' | '.join(row)} |\n" for row in sorted(rows[group])) for group in rows}


def _marks(source: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """Each mark of an attack, with the words that it brings and the test that it stands on."""
    for node in ast.walk(ast.parse(source)) if "@pytest.mark.attack(" in source else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.attack":
                    words = {str(word.arg): ast.literal_eval(word.value) for word in mark.keywords}
                    yield ast.literal_eval(mark.args[0]), words, node.name
