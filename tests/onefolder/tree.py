"""A temporary tree: the repository by links, with one folder more below kinds/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GREETING = Path(__file__).parent / "greeting"
KIND_FOLDER = Path("operator/ultramarine_operator/kinds/greeting")
# Folders that generators write below, and that Python must find in the tree: copied. All else is a link.
COPIED = ("sdk", "contract", "operator", "crds", "docs", "charts", "tests", "server-image")
LINKED = (".git", ".venv", "pyproject.toml", "constraints.txt", "trainer-image", "gateway-image", "cluster", "examples")
GOLDEN = "tests/golden/loud_greeting.yaml"


@dataclass(frozen=True)
class Tree:
    """The temporary tree."""

    root: Path

    def run(self, *argv: str, **environment: str) -> str:
        """Run Python in the tree, and return what it printed."""
        parts = ("sdk", "contract", "operator", "trainer-image", "server-image", "gateway-image", "cluster", "tests")
        path = os.pathsep.join(str(self.root / part) for part in parts)
        done = subprocess.run(
            [sys.executable, *argv],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{argv}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def pytest(self, *argv: str, **environment: str) -> str:
        """Run tests of the tree."""
        return self.run("-m", "pytest", "-p", "no:cacheprovider", *argv, **environment)

    def added(self) -> dict[str, str]:
        """Files that differ from the repository's, by path, with their text."""
        files = {
            path.relative_to(self.root): path.read_bytes()
            for part in COPIED
            for path in (self.root / part).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        same = {path for path, data in files.items() if (ROOT / path).exists() and (ROOT / path).read_bytes() == data}
        return {str(path): files[path].decode() for path in sorted(files.keys() - same)}


def grown(folder: Path) -> Tree:
    """Make the tree in an empty folder, add the kind and generate what follows from it."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in COPIED:
        shutil.copytree(ROOT / part, folder / part, ignore=ignored, copy_function=shutil.copy)
    for name in LINKED:
        _link(ROOT / name, folder / name)
    shutil.copytree(GREETING, folder / KIND_FOLDER, ignore=ignored)
    tree = Tree(folder)
    tree.run("-m", "ultramarine_operator.generate")
    return tree


def _link(source: Path, target: Path) -> None:
    if source.exists() and not target.exists():
        target.symlink_to(source)
