"""The commands of schedules: list, trigger."""

from __future__ import annotations

from typing import Annotated

import typer

from .session import Format, Output, session_of

group = typer.Typer(no_args_is_help=True, help="Schedules, which start runs by themselves.")


def register(app: typer.Typer) -> None:
    """Add the group of this file."""
    app.add_typer(group, name="schedule")


@group.command("list")
def list_schedules(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List schedules with their last result and their next time."""
    from .objects import get

    get(context, "schedules", None, output, "", False)


@group.command()
def trigger(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the Schedule.", show_default=False)],
) -> None:
    """Start a run of a schedule now. Its next time and its triggers stay as they are."""
    session = session_of(context)
    run = session.client.trigger(name)
    typer.echo(run.reference)
    session.note(f"Follow it: ultramarine logs -f {run.reference}")
