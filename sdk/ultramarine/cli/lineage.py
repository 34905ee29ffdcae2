"""The commands of lineage and audit."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from .session import session_of


class LineageFormat(StrEnum):
    """Formats of a lineage."""

    TREE = "tree"
    JSON = "json"
    MERMAID = "mermaid"
    OPENLINEAGE = "openlineage"


_FORMAT = Annotated[LineageFormat, typer.Option("-o", "--output", help="tree, json, mermaid or openlineage.")]

group = typer.Typer(no_args_is_help=True, help="Records of what happened in the namespace.")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(lineage)
    app.add_typer(group, name="audit")


def lineage(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="model, dataset, endpoint, another kind, or uri.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Name, such as churn@8 or churn@champion.", show_default=False)],
    output: _FORMAT = LineageFormat.TREE,
) -> None:
    """Show where an object comes from and what came of it: data, code, runs, versions, endpoints.

    ultramarine lineage model churn@champion

    ultramarine lineage dataset raw@3
    """
    from ultramarine.lineage import as_text, lineage_of

    kind = {"endpoint": "onlineendpoint", "run": "trainingjob"}.get(kind, kind)
    typer.echo(as_text(lineage_of(session_of(context).client, kind, name), output))


@group.command("verify")
def verify_records(
    context: typer.Context,
    head: Annotated[str, typer.Option(help="Digest that an earlier check gave for the last record.")] = "",
) -> None:
    """Check that no record was removed or altered; exit with 1 if one was.

    Keep the digest of the last record elsewhere, and give it to a later check:

    ultramarine audit verify --head sha256:0c57e4...
    """
    from ultramarine.lineage import audit

    session = session_of(context)
    verdict = audit(session.client, head)
    for fault in verdict.faults:
        typer.echo(fault)
    session.note(
        f"{verdict.records} records, {len(verdict.faults)} faults; the last record is {verdict.head or 'none'}."
    )
    if verdict.faults:
        raise typer.Exit(1)
