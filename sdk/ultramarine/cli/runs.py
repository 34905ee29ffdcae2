"""The commands over runs: sweep show, repro, open, plan."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from ultramarine_contract.errors import UltramarineError

from .completing import named
from .session import Format, Output, Session, aligned, print_document, print_object, session_of
from .submit import run_of

if TYPE_CHECKING:
    from ultramarine.sweeps import Trial

_MOST_ROWS = 20
sweep = typer.Typer(help="Look at sweeps.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(sweep, name="sweep")
    app.command()(repro)
    app.command("open")(open_page)


class ManifestFormat(StrEnum):
    """Format of a manifest for a file."""

    YAML = "yaml"
    JSON = "json"


@sweep.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the Sweep.", show_default=False, autocompletion=named("sweep"))],
    output: Output = Format.TABLE,
    all: Annotated[bool, typer.Option("--all", "-a", help=f"Show all trials, not the {_MOST_ROWS} best.")] = False,
) -> None:
    """Show the trials of a sweep, the best first, and a chart of its progress."""
    from dataclasses import asdict

    from ultramarine.display.terminal import chart
    from ultramarine.runs import explanation
    from ultramarine.sweeps import bests_so_far, objectives_of

    session = session_of(context)
    run = session.client.sweep(name)
    object = run.object
    if output == Format.NAME:
        print_object(session, object, output)
        return
    trials = run.trial_list()
    if not output.is_table:
        print_document({"sweep": name, "trials": [asdict(trial) for trial in trials]}, output)
        return
    typer.echo(explanation(object))
    if not trials:
        session.note("No trial has begun.")
        return
    metric, maximize = objectives_of(object)[0]
    ranked = sorted(trials, key=lambda trial: _rank(trial, metric, maximize))
    typer.echo()
    typer.echo("\n".join(table_of(ranked if all else ranked[:_MOST_ROWS])))
    if len(trials) > _MOST_ROWS and not all:
        typer.echo(f"and {len(trials) - _MOST_ROWS} more trials; -a shows all")
    points = bests_so_far(trials, metric, maximize)
    if lines := chart(points, min(shutil.get_terminal_size().columns, 100)):
        typer.echo(f"\n{metric} of each trial, and the best so far:")
        typer.echo("\n".join(lines))


def _rank(trial: Trial, metric: str, maximize: bool) -> tuple[int, float, int]:
    order = ("Succeeded", "Running", "Stopped", "Failed").index(trial.outcome)
    value = trial.values.get(metric, 0.0)
    return order, -value if maximize else value, trial.number


def table_of(trials: list[Trial]) -> list[str]:
    """Return the lines of a table of trials, with a column for each objective and parameter."""
    metrics = list(dict.fromkeys(name for trial in trials for name in trial.values))
    params = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows = [["TRIAL", "OUTCOME", *map(str.upper, metrics), *params, "SECONDS", "MESSAGE"]]
    for trial in trials:
        values = [_number(trial.values.get(name)) for name in metrics]
        rows.append(
            [str(trial.number), trial.outcome, *values, *(_number(trial.params.get(name)) for name in params)]
            + [f"{trial.seconds:.1f}", trial.message[:80]]
        )
    return aligned(rows)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def repro(
    context: typer.Context,
    job: Annotated[
        str, typer.Argument(help="Name of the TrainingJob.", show_default=False, autocompletion=named("trainingjob"))
    ],
    name: Annotated[str, typer.Option(help="Name of the new job.", show_default="JOB-again")] = "",
    output: Annotated[ManifestFormat, typer.Option("-o", "--output", help="Format.")] = ManifestFormat.YAML,
) -> None:
    """Print the manifest that repeats a job: its recorded code, packages, data and parameters.

    What may differ from the old job stands on standard error.

    ultramarine repro churn > again.yaml && ultramarine submit again.yaml
    """
    from ultramarine.runs.repro import reproduce

    session = session_of(context)
    result = reproduce(session.client, job, name)
    print_document(result.manifest, output)
    for line in result.differences:
        session.note(f"May differ: {line}")


def open_page(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="RUN|mlflow", help="Name, KIND/NAME, or mlflow.", show_default=False)],
    browser: Annotated[bool, typer.Option(help="Open a browser, beside printing the address.")] = True,
) -> None:
    """Open a sweep's report, a run in MLflow, or MLflow itself in the browser.

    MLflow is reached through the cluster's API server, until Ctrl-C.
    """
    session = session_of(context)
    if what == "mlflow":
        _mlflow(session, "/", browser)
        return
    run = run_of(session, what)
    status = run.status
    if (status.get("report") or {}).get("uri"):
        from ultramarine.sweeps import SweepRun

        assert isinstance(run, SweepRun)
        import tempfile

        folder = Path(tempfile.mkdtemp(prefix="ultramarine-"))
        _show(session, run.report(folder / f"{run.name}.html").as_uri(), browser)
    elif uri := (status.get("mlflow") or {}).get("uri"):
        address = urlsplit(uri)
        _mlflow(session, f"{address.path or '/'}#{address.fragment}", browser)
    else:
        raise UltramarineError(
            f"{run.resource.kind} {run.name} has no page: no report, and no run in MLflow. See"
            f" `ultramarine describe {what if '/' in what else f'tj {what}'}`.",
            "NoPage",
        )


def _mlflow(session: Session, path: str, browser: bool) -> None:
    from threading import Event

    platform = session.client.platform
    port = platform.facts.mlflow_port
    if not port:
        raise UltramarineError(
            "the platform has no MLflow. Ask your administrator to set the chart's value `mlflow`.", "NoMlflow"
        )
    tunnel = platform.tunnel(port)
    _show(session, f"http://{tunnel.address}{path}", browser)
    session.note("Ctrl-C closes the way to MLflow.")
    Event().wait()


def _show(session: Session, address: str, browser: bool) -> None:
    typer.echo(address)
    import webbrowser  # takes 20 ms, which only this command should

    if browser and not webbrowser.open(address):
        session.note("No browser was found. Open the address yourself.")
