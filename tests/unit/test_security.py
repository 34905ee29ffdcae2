"""docs/security.md speaks of tests that exist, and what is installed is pinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_threat_catalog_names_exists():
    """A control whose test was renamed or removed is noticed."""
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "security.md").read_text()))
    assert len(named) > 40
    for path, name in sorted(named):
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_every_requirement_is_pinned():
    """Each distribution that an image or a person's environment asks for has one exact version in constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    wanted = {_plain(re.split(r"[\[<>=!~ ;]", requirement)[0]) for requirement in requirements} - {project["name"]}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", line) for line in lines)
    assert wanted <= {_plain(line.partition("==")[0]) for line in lines}


def _plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
