"""The demo needs no package beyond its own extra, which is all that `make demo` installs on a new machine."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _closure(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    """Return the names of a distribution and of all that it requires, in the spelling of `_plain`."""
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    try:
        lines = requires(name) or []
    except PackageNotFoundError:
        return {name}
    names = {name}
    for line in lines:
        requirement, _, marker = line.partition(";")
        wanted_by = re.findall(r"extra == ['\"]([^'\"]+)['\"]", marker)
        if wanted_by and not extras.intersection(wanted_by):
            continue
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[([^]]*)\])?", requirement)
        assert match is not None, line
        inner = frozenset(part.strip() for part in (match[2] or "").split(",") if part.strip())
        names |= _closure(_plain(match[1]), inner, seen)
    return names


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_demo_stores_its_data_with_the_packages_of_its_extra():
    """A new machine has these alone: a package of development in the demo would end it after the build."""
    names = _closure("ultramarine", frozenset({"demo"}), set())
    assert "scikit-learn" in names
    absent = {
        module
        for module, owners in packages_distributions().items()
        if not names.intersection(map(_plain, owners)) and not module.startswith("_")
    }
    assert "pandas" in absent
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("demo_with_less.py"),
            ",".join(sorted(absent)),
            str(ROOT / "examples/quickstart"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
