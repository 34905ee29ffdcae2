"""Reference of the command: docs/reference/command.md, with the usage, arguments and options of each command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.core import TyperArgument
from typer.main import get_command
from ultramarine.cli.main import app

from .reference import FOLDER, MARK

PAGE = FOLDER / "command.md"
_HEADER = MARK + "from sdk/ultramarine/cli; do not edit. -->\n"
_INTRODUCTION = """# Commands

All commands with their arguments, options and defaults, as `--help` prints them.
[The command](../command.md) explains their use.
The options of `ultramarine` itself, such as `-n`, may stand behind a command too.
"""


def page() -> dict[Path, str]:
    """Return the page by its path."""
    context = typer.Context(get_command(app), info_name="ultramarine")
    return {PAGE: "\n".join([_HEADER + _INTRODUCTION, *_sections(context)]).rstrip() + "\n"}


def _sections(context: typer.Context) -> Iterator[str]:
    """Yield the lines of a command and of the commands below."""
    command = context.command
    yield from (f"## {context.command_path}", "", _prose(command.help or ""), "")
    yield from ("```text", " ".join([context.command_path, *command.collect_usage_pieces(context)]), "```", "")
    for kind, is_argument in (("argument", True), ("option", False)):
        parameters = [entry for entry in command.params if isinstance(entry, TyperArgument) == is_argument]
        rows = [record for entry in parameters if (record := entry.get_help_record(context))]
        if rows:
            yield from (f"| {kind} | meaning |", "|---|---|")
            yield from (f"| `{_cell(name)}` | {_cell(_prose(meaning))} |" for name, meaning in rows)
            yield ""
    for name, below in getattr(command, "commands", {}).items():
        yield from _sections(typer.Context(below, info_name=name, parent=context))


def _prose(text: str) -> str:
    """Return a help text as Markdown: example lines as code, the other signs as they are."""
    text = re.sub(r"^(ultramarine .*)$", r"`\1`", text.strip(), flags=re.M)
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", part) for part in parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
