"""The commands of schedules: list, trigger, suspend, resume."""

from __future__ import annotations

from typing import Annotated

import typer

from .completing import named
from .session import Format, Output, session_of

_NAME = Annotated[
    str, typer.Argument(help="Name of the Schedule.", show_default=False, autocompletion=named("schedule"))
]

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
    name: _NAME,
) -> None:
    """Start a run of a schedule now. Its next time and its triggers stay as they are."""
    session = session_of(context)
    run = session.client.trigger(name)
    typer.echo(run.reference)
    session.note(f"Follow it: ultramarine logs -f {run.reference}")


@group.command()
def suspend(context: typer.Context, name: _NAME) -> None:
    """Hold a schedule: no run begins. Runs that have begun go on."""
    _set_suspended(context, name, True)


@group.command()
def resume(context: typer.Context, name: _NAME) -> None:
    """Continue a schedule that is suspended."""
    _set_suspended(context, name, False)


def _set_suspended(context: typer.Context, name: str, value: bool) -> None:
    from ultramarine_contract.meta import SCHEDULE

    session = session_of(context)
    session.cluster.patch(SCHEDULE, name, {"spec": {"suspend": value}})
    remedy = f" Continue it with `ultramarine schedule resume {name}`."
    session.note(f"{name} is suspended.{remedy}" if value else f"{name} continues.")
