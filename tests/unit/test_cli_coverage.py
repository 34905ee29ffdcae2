"""Each command runs in a test on the real cluster, or from a wheel alone if it needs no cluster."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer
from pages import ROOT, typed
from ultramarine.cli.main import app

TESTS = ROOT / "tests"
METHODS = ("run", "begin", "ultramarine")
OFFLINE = {"validate", "schema", "explain", "completion", "convert azureml"}


def commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the names of all commands of a group, with those of its groups."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield " ".join(words)
    for name, entry in inner.items():
        yield from commands(entry, (*words, name))


def texts(nodes: Iterable[ast.expr]) -> Iterator[str]:
    """Yield the texts with which a list of arguments begins."""
    for node in nodes:
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            return
        yield node.value


def calls(file: Path) -> Iterator[str]:
    """Yield command lines of a test file as far as they are written out: arguments of run() and begin(), and tuples."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Tuple):
            yield " ".join(texts(node.elts))
        method = node.func if isinstance(node, ast.Call) else None
        if isinstance(method, ast.Attribute) and isinstance(method.value, ast.Name) and method.attr in METHODS:
            yield " ".join(texts(node.args))


@cache
def at_a_terminal() -> set[str]:
    """Return the command lines of the end-to-end tests that have a user at a terminal, and of the typed tutorial."""
    files = [file for file in (TESTS / "e2e").glob("test_*.py") if "from person import" in file.read_text()]
    page = ROOT / "docs" / "tutorials" / "from-a-folder.md"
    lines = (shlex.split(command.command)[1:] for command in typed(page))
    return {line for file in files for line in calls(file)} | {" ".join(words) for words in lines}


def runs(command: str, lines: Iterable[str]) -> bool:
    """True if a command line begins with the words of a command."""
    return any(f"{line} ".startswith(f"{command} ") for line in lines)


@pytest.mark.parametrize("command", [*commands(typer.main.get_command(app))])
def test_a_command_runs_where_it_is_used(command: str) -> None:
    """A command that needs a cluster is part of a story on one; the others run without this repository."""
    lines = calls(TESTS / "unit" / "test_wheel.py") if command in OFFLINE else at_a_terminal()

    assert runs(command, lines)


def test_a_command_without_a_test_is_noticed() -> None:
    """A name that no test has, and the beginning of another word, are no runs."""
    assert not runs("no-such-command", at_a_terminal())
    assert not runs("endpoints deplo", at_a_terminal())
