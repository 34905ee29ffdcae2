"""The lists in docs/security.md: an item for each attack that tests are marked with."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = Path("docs", "security.md")
LIST = re.compile(r"(<!-- attacks: (\w+) -->\n).*?(<!-- end of attacks -->)", re.DOTALL)
WORDS = {"asset", "threat", "control"}


def page() -> str:
    """Return the page with each attacker's list, as the tests are now."""
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "tests").rglob("*.py"))}
    written = lists(sources)
    text = LIST.sub(lambda place: place[1] + written.pop(place[2]) + place[3], (ROOT / PAGE).read_text())
    if written:
        raise ValueError(f"{PAGE} has no place for the attacks of {', '.join(written)}; add <!-- attacks: NAME -->")
    return text


def lists(sources: dict[str, str]) -> dict[str, str]:
    """Return each attacker's list, from the tests' sources by their paths."""
    described: dict[str, dict[str, str]] = {}
    tests: dict[str, list[str]] = defaultdict(list)
    for path, source in sources.items():
        for attack, words, test in _marks(source):
            tests[attack].append(f"{path}::{test}")
            if words and attack in described:
                raise ValueError(f"{attack} is described twice, the second time at {path}::{test}")
            if words:
                described[attack] = words
    items: dict[str, list[str]] = defaultdict(list)
    for attack, proofs in tests.items():
        words = described.get(attack, {})
        if set(words) != WORDS:
            raise ValueError(f"no test of {attack} has asset, threat and control; add them at {', '.join(proofs)}")
        item = f"- **{words['asset']}**: {words['threat']}. *Control*: {words['control']}. (`{attack}`)\n"
        items[attack.partition("/")[0]].append(item)
    return {attacker: "".join(sorted(items[attacker])) for attacker in items}


def _marks(source: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """Yield each mark of an attack with its words and its test."""
    for node in ast.walk(ast.parse(source)) if "@pytest.mark.attack(" in source else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.attack":
                    words = {str(word.arg): ast.literal_eval(word.value) for word in mark.keywords}
                    yield ast.literal_eval(mark.args[0]), words, node.name
