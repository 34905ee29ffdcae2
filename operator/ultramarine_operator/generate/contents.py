"""The table in docs/images.md: which Python packages are in the trainer's and the server's image, in which version."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = Path("docs", "images.md")
BEGIN, END = "<!-- packages -->\n", "<!-- end of packages -->"
# The extras of pyproject.toml that each image is made from.
IMAGES = {"trainer": ("trainer", "sweep"), "server": ("server",)}


def page() -> str:
    """The page as it is, with the table by the requirements as they are now."""
    before, _, rest = (ROOT / PAGE).read_text().partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


def table() -> str:
    """A row for each package that pyproject.toml names for an image; the versions are those of constraints.txt."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = (ROOT / "constraints.txt").read_text().split()
    versions = {_same(name): version for name, _, version in (line.partition("==") for line in lines)}
    inside = {image: {name for extra in named for name in extras[extra]} for image, named in IMAGES.items()}
    text = f"| package | version | {' | '.join(IMAGES)} |\n|---|---|{'---|' * len(IMAGES)}\n"
    for name in sorted(set[str]().union(*inside.values()), key=str.lower):
        marks = " | ".join("yes" if name in packages else "" for packages in inside.values())
        text += f"| {name} | {versions[_same(name)]} | {marks} |\n"
    return text


def _same(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
