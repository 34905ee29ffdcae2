"""The lists of docs/security.md follow from the tests, and what is installed is pinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from ultramarine_operator.generate import threats

ROOT = Path(__file__).parents[2]


WORDS = 'asset="a", threat="t", control="c"'


def test_an_attack_has_one_item_however_many_tests_repeat_it():
    """One test describes the attack, and others repeat it by its name."""
    first = f'@pytest.mark.attack("client/x", {WORDS})\ndef test_one(): ...'
    second = '@pytest.mark.attack("client/x")\nasync def test_two(): ...'
    assert threats.lists({"a.py": first, "b.py": second}) == {"client": "- **a**: t. *Control*: c. (`client/x`)\n"}


@pytest.mark.parametrize(
    ("marks", "why"),
    [
        (['"client/x"'], "no test of client/x has"),
        (['"client/x", asset="a", threat="t"'], "no test of client/x has"),
        ([f'"client/x", {WORDS}', f'"client/x", {WORDS}'], "described twice"),
    ],
)
def test_an_attack_is_described_once(marks, why):
    """An attack without words, or with two descriptions, is an error that names the attack."""
    source = "\n".join(f"@pytest.mark.attack({mark})\ndef test_it(): ..." for mark in marks)
    with pytest.raises(ValueError, match=why):
        threats.lists({"a.py": source})


@pytest.mark.attack(
    "supply/requirements",
    asset="the images",
    threat="another version of a requirement than the one tested",
    control="`constraints.txt` pins every distribution of all images",
)
def test_every_requirement_is_pinned():
    """Each distribution that an image or a person's environment asks for has one exact version in constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = (project["dependencies"], *project["optional-dependencies"].values())
    requirements = [requirement for extra in listed for requirement in extra]
    wanted = {_plain(re.split(r"[\[<>=!~ ;]", requirement)[0]) for requirement in requirements} - {project["name"]}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", line) for line in lines)
    assert wanted <= {_plain(line.partition("==")[0]) for line in lines}


def _plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
