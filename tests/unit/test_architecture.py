"""Names in ARCHITECTURE.md: each path, module and identifier that it quotes exists."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sdk", "contract", "operator", "trainer-image", "server-image", "gateway-image", "cluster")
FOLDERS = (*PACKAGES, "storage-image", "mlflow-image", "charts", "crds", "docs", "examples", "bench", "tests")
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", TEXT)))
# Files in the object storage, fields of a status, values and templates of the chart.
ELSEWHERE = {
    "latest.json",
    "result.json",
    "status.observedGeneration",
    "status.provenance.requestedBy",
    "progress.enabled",
    "ultramarine.settings",
}
PATHS = [
    name for name in QUOTED if re.fullmatch(r"[\w.*/-]+(/[\w.*-]*|\.(py|md|ya?ml|json|go|toml|tpl))(: \S+)?", name)
]
DOTTED = [name for name in QUOTED if re.fullmatch(r"\w+(\.\w+)+", name) and name not in PATHS]
WORDS = [name for name in QUOTED if re.fullmatch(r"_\w+|\w+_\w+|[A-Z]\w+", name)]


def sources() -> Iterator[Path]:
    """Every Python file of a package."""
    for package in PACKAGES:
        yield from (path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts)


def names(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Every name that a module or a class binds."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.ImportFrom(level=1, names=aliases):  # what a package offers of its own modules
                yield from (alias.name for alias in aliases)


@pytest.fixture(scope="module")
def bound() -> dict[str, set[str]]:
    """Names that each module, package and class binds."""
    members: dict[str, set[str]] = defaultdict(set)
    for path in sources():
        tree = ast.parse(path.read_text())
        module = path.parent.name if path.stem == "__init__" else path.stem
        members[module].update(names(tree))
        folder = path.parent.parent if path.stem == "__init__" else path.parent
        members[folder.name].add(module)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                members[node.name].update(names(node))
    return members


@pytest.fixture(scope="module")
def files() -> list[str]:
    """Paths of all files and folders, each after a slash."""
    top = [*ROOT.glob("*.*"), *(ROOT / folder for folder in FOLDERS)]
    below = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return [f"/{path.relative_to(ROOT).as_posix()}" for path in (*top, *below)]


@pytest.mark.parametrize("name", PATHS)
def test_each_path_exists(name: str, files: list[str], bound: dict[str, set[str]]) -> None:
    """KIND and NAME in a path stand for any kind; a name after the path is bound by that module or its classes."""
    if name in ELSEWHERE:
        return
    path, _, inner = name.partition(": ")
    pattern = "*/" + re.sub(r"KIND|NAME", "*", path.removeprefix(".../")).rstrip("/")

    assert any(fnmatch(file, pattern) for file in files)
    assert not inner or inner.split(".")[0] in bound[Path(path).stem]


@pytest.mark.parametrize("name", DOTTED)
def test_each_dotted_name_exists(name: str, bound: dict[str, set[str]]) -> None:
    """The part before a dot is a module, package or class that binds the part after it."""
    if name in ELSEWHERE:
        return
    parts = name.split(".")
    missing = [f"{left}.{right}" for left, right in pairwise(parts) if right not in bound[left]]

    assert missing == []


def test_each_identifier_occurs_in_the_code() -> None:
    """A constant, class or function that was renamed would send a reader into the void."""
    texts = "\n".join(path.read_text() for path in sources())
    placeholders = {"NameSpec", "NameStatus"}

    assert [word for word in WORDS if word not in placeholders and not re.search(rf"\b{word}\b", texts)] == []


def test_the_page_stays_short() -> None:
    """A reader takes it in at one sitting."""
    assert TEXT.count("\n") <= 250
