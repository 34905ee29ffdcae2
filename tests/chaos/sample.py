"""The sample of runs that `make test` makes: a fixed number a test, others for each commit, changed kinds first.

`make test-all` and a plain `pytest tests/chaos` make all runs.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ultramarine_operator.kinds import KINDS

NAME = "ULTRAMARINE_CHAOS_SAMPLE"  # any text; by default the commit's tree
RUNS = "ULTRAMARINE_CHAOS_RUNS"
KINDS_FOLDER = "operator/ultramarine_operator/kinds/"
RESOURCES_FOLDER = "sdk/ultramarine/resources/"
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """At most `runs` of whatever there is; `name` decides which, and the kinds of `first` come before others."""

    runs: int | None = None  # None: all
    name: str = ""
    first: frozenset[str] = frozenset()

    def of(self, things: Iterable[T], salt: str = "", kind: Callable[[T], str] = lambda thing: "") -> list[T]:
        """Draw from things that differ in their texts; another salt draws others."""

        def place(thing: T) -> tuple[bool, bytes]:
            return kind(thing) not in self.first, hashlib.sha256(f"{self.name} {salt} {thing}".encode()).digest()

        return list(things) if self.runs is None else sorted(things, key=place)[: self.runs]

    def __str__(self) -> str:
        if self.runs is None:
            return "chaos: all runs"
        order = f", first of {', '.join(sorted(self.first))}" if self.first else ""
        return f"chaos: {self.runs} runs a test{order}; again with {NAME}={self.name} {RUNS}={self.runs}"


ALL_RUNS = Sample()


def drawn(runs: int) -> Sample:
    """The sample of this commit, or what the environment says."""
    name = os.environ.get(NAME) or _git("rev-parse", "--short", "HEAD^{tree}") or "none"
    return Sample(int(os.environ.get(RUNS, runs)), name, frozenset(_changed()))


def _changed() -> set[str]:
    """The kinds in whose folders something differs from where the branch began, or on main from the parent."""
    bases = (_git("merge-base", "HEAD", branch) for branch in ("origin/main", "main"))
    head = _git("rev-parse", "HEAD")
    base = next((base for base in bases if base not in ("", head)), "HEAD^")
    paths = _git("diff", "--name-only", base, "--", f":/{KINDS_FOLDER}", f":/{RESOURCES_FOLDER}").split()
    # kinds/sweep/plan.py and resources/sweep_space.py are both of sweep.
    folders = {Path(path.removeprefix(KINDS_FOLDER)).parts[0] for path in paths if path.startswith(KINDS_FOLDER)}
    folders |= {Path(path).stem.partition("_")[0] for path in paths if path.startswith(RESOURCES_FOLDER)}
    return {kind.name for kind in KINDS if kind.plan.__module__.split(".")[2] in folders}


def _git(*words: str) -> str:
    """Return the output of git; empty if git fails."""
    argv = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
