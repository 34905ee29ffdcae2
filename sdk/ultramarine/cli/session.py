"""State that all commands share: the cluster, the streams, the formats of output."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from ultramarine_contract.meta import Manifest

    from ultramarine.client import Client
    from ultramarine.kube.client import Cluster


class Format(StrEnum):
    """Format of a command's output."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"

    @property
    def is_table(self) -> bool:
        """True for a table or a page for readers."""
        return self in (Format.TABLE, Format.WIDE)


class DocumentFormat(StrEnum):
    """Format of a result without a name."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"

    @property
    def is_table(self) -> bool:
        """True for a table for readers."""
        return self == DocumentFormat.TABLE


Output = Annotated[Format, typer.Option("-o", "--output", help="Format of the output.", show_default=True)]
DocumentOutput = Annotated[DocumentFormat, typer.Option("-o", "--output", help="Format of the output.")]


@dataclass
class Session:
    """The global options of one call, and what they lead to."""

    namespace: str = ""
    context: str = ""
    kubeconfig: str = ""
    debug: bool = False
    _closing: list[Any] = field(default_factory=list)

    @cached_property
    def client(self) -> Client:
        """The SDK's client on the chosen cluster and namespace."""
        from ultramarine.client import Client

        client = Client(self.context, self.namespace, self.kubeconfig)
        self._closing.append(client)
        return client

    @property
    def is_offline(self) -> bool:
        """True if no cluster is configured on this machine."""
        from ultramarine.kube.config import NoConfiguration

        try:
            self.cluster  # noqa: B018
        except NoConfiguration:
            return True
        return False

    @property
    def cluster(self) -> Cluster:
        """The Kubernetes API of the chosen cluster."""
        return self.client.cluster

    @cached_property
    def console(self) -> Console:
        """Terminal of the results."""
        from rich.console import Console

        return Console(highlight=False, soft_wrap=not sys.stdout.isatty())

    @cached_property
    def progress(self) -> Console:
        """Terminal of what is not a result: progress, notes, warnings."""
        from rich.console import Console

        return Console(stderr=True, highlight=False, soft_wrap=True)

    def note(self, text: str, state: str = "") -> None:
        """Print a line beside the results, on standard error, perhaps after a state."""
        echo(f"{state}: {text}" if state else text, err=True, state=state)

    def close(self) -> None:
        """Close all connections."""
        for client in self._closing:
            client.close()


def session_of(context: typer.Context) -> Session:
    """Return the session of a call."""
    session = context.find_object(Session)
    assert session is not None
    return session


_COLOURS = {"ok": "green", "Succeeded": "green", "FAILED": "red", "Failed": "red", "Invalid": "red", "Error": "red"}


def echo(text: str, err: bool = False, state: str = "") -> None:
    """Print a text; a terminal gets lines that it need not break within words, and an opening `state` in its colour."""
    stream = sys.stderr if err else sys.stdout
    if stream.isatty():
        width = shutil.get_terminal_size().columns
        text = "\n".join(_folded(line, width) for line in text.split("\n"))
        if state and not os.environ.get("NO_COLOR"):
            text = typer.style(state, fg=_COLOURS.get(state, "cyan")) + text.removeprefix(state)
    typer.echo(text, err=err)


def _folded(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    import textwrap

    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def aligned(rows: list[list[str]]) -> list[str]:
    """Return the lines of a table; the first row is its heading."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def print_list(session: Session, documents: list[Manifest], output: Format) -> None:
    """Print objects as a List, whatever their number, so that programs can rely on its `items`; or their names."""
    if output == Format.NAME:
        for document in documents:
            print_object(session, document, output)
    else:
        print_document({"apiVersion": "v1", "kind": "List", "items": documents}, output)


def print_object(session: Session, document: Manifest, output: Format) -> None:
    """Print an object as JSON or YAML, or its name as other commands take it: trainingjobs/churn."""
    if output == Format.NAME:
        typer.echo(f"{session.client.kinds.of(document).plural}/{document['metadata']['name']}")
    else:
        print_document(document, output)


def print_document(content: Any, output: StrEnum) -> None:
    """Print a document as JSON, or else as YAML, without colours."""
    if output == Format.JSON:
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        from ultramarine.files.writing import yaml_text

        typer.echo(yaml_text(content), nl=False)
