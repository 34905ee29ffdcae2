"""The commands of pipelines' runs: run start, list, show, watch, cancel, resume, why, diff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ultramarine_contract.meta import PIPELINE, PIPELINE_RUN

from .completing import named
from .session import Format, Output, Session, aligned, echo, print_list, print_object, session_of

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

_RUN = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Name of the PipelineRun.", show_default=False, autocompletion=named("pipelinerun")
    ),
]
run = typer.Typer(help="Start pipelines, and look at their runs.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(run, name="run")


@run.command()
def start(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(help="Name of a Pipeline, or a file with one.", show_default=False)],
    set: Annotated[list[str] | None, typer.Option("--set", help="PARAMETER=VALUE; repeatable.")] = None,
    name: Annotated[str, typer.Option(help="Name of the run.", show_default="of the pipeline, with a suffix")] = "",
    force: Annotated[bool, typer.Option("--force-rerun", help="Run all steps, whatever the cache has.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once the run is created.")] = False,
) -> None:
    """Start a run of a pipeline, and follow it to its end.

    The Pipeline of a file is applied first, with the local paths that it names.
    """
    from ultramarine.files.reading import InvalidFiles, load
    from ultramarine.files.validation import validate
    from ultramarine.runs.pipelines import check_run, pipeline_in, run_manifest
    from ultramarine.storage.uploads import upload_local_paths

    session = session_of(context)
    client = session.client
    parameters = parameters_in(set or [])
    is_file = pipeline.endswith((".yaml", ".yml", ".json"))
    documents = load([pipeline]) if is_file else []
    if problems := validate(documents).problems:
        raise InvalidFiles(problems)
    client.platform.check()  # before the Pipeline of a file is applied
    if is_file:
        manifest = pipeline_in([document.manifest for document in documents])
        manifest = upload_local_paths(client.platform, manifest, False, Path(pipeline).parent, session.note)
        pipeline = str(manifest["metadata"]["name"])
        check_run(run_manifest(pipeline, name, parameters), manifest.get("spec"))
        client.apply(manifest)
    document = run_manifest(pipeline, name, parameters)
    if force:
        document["spec"]["forceRerun"] = True
    _create(session, document, detach)


def _create(session: Session, document: Manifest, detach: bool) -> None:
    made = session.client.create(PIPELINE_RUN, document)
    name = str(made["metadata"]["name"])
    session.note(f"PipelineRun {name} created in namespace {session.client.namespace}.")
    if not detach:
        follow_steps(session, name)


def parameters_in(items: list[str]) -> dict[str, Any]:
    """Return the values of --set NAME=VALUE; a value is YAML. Raises InvalidSpec."""
    from .composing import assign

    values: dict[str, Any] = {}
    for item in items:
        assign(values, item)
    return values


@run.command("list")
def list_runs(
    context: typer.Context,
    pipeline: Annotated[str, typer.Option(help="Runs of this Pipeline alone.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """List runs, the newest first."""
    session = session_of(context)
    runs = [run for run in session.cluster.list(PIPELINE_RUN) if pipeline in ("", run["spec"].get("pipeline"))]
    runs.sort(key=lambda run: str(run["metadata"].get("creationTimestamp", "")), reverse=True)
    if not output.is_table:
        print_list(session, runs, output)
        return
    rows = [["RUN", "PIPELINE", "STATE", "PROGRESS", "REUSED", "FAILED", "TIME"]]
    for entry in runs:
        status = entry.get("status") or {}
        counts = status.get("counts") or {}
        rows.append(
            [str(entry["metadata"]["name"]), str(entry["spec"].get("pipeline", "")), str(status.get("state", ""))]
            + [str(status.get("progress", "")), str(counts.get("cached", 0)), str(counts.get("failed", 0))]
            + [str(status.get("duration", ""))]
        )
    typer.echo("\n".join(aligned(rows)))


@run.command()
def show(context: typer.Context, name: _RUN, output: Output = Format.TABLE) -> None:
    """Show a run and its steps: in a terminal as a graph, elsewhere and with -o wide as a table."""
    from rich.console import Console

    from ultramarine.runs import explanation

    from .details import dataset_lines

    session = session_of(context)
    document = session.cluster.get(PIPELINE_RUN, name)
    if not output.is_table:
        print_object(session, document, output)
        return
    echo(explanation(document))
    if (console := Console()).is_terminal and output == Format.TABLE:
        from .graphs import graph

        console.print(graph(document, _spec_of(session, document)))
    else:
        typer.echo("\n".join(table_of(document)))
    status = document.get("status") or {}
    for line in dataset_lines(status):
        echo(f"Dataset {line}")
    for output_name, stored in (status.get("outputs") or {}).items():
        echo(f"Output {output_name}: {stored['uri']}")


def table_of(document: Manifest) -> list[str]:
    """Return the steps of a run as lines of a table."""
    from ultramarine.runs.pipelines import HEADING, lines_of

    return aligned([HEADING, *(line.cells for line in lines_of(document))])


@run.command()
def watch(context: typer.Context, name: _RUN) -> None:
    """Follow a run to its end; exit with 1 unless it succeeds."""
    follow_steps(session_of(context), name)


def follow_steps(session: Session, name: str) -> None:
    """Show the steps of a run while they change: in a terminal as a graph, elsewhere a line for each change."""
    from rich.live import Live

    from ultramarine.runs import ENDED, explanation, state_of
    from ultramarine.runs.pipelines import lines_of

    from .graphs import graph

    former: dict[str, str] = {}
    document: Manifest = {}
    spec: Manifest | None = None
    with Live(console=session.progress, auto_refresh=False, transient=False) as live:
        for event in session.cluster.watch(PIPELINE_RUN, name):
            document = event.object
            if session.progress.is_terminal:
                spec = spec or _spec_of(session, document)
                live.update(graph(document, spec), refresh=True)
            else:
                for line in lines_of(document):
                    if former.get(line.name) != line.state and line.state != "Waiting":
                        session.note(f"{line.name}: {line.state}{f', {line.note}' if line.note else ''}")
                    former[line.name] = line.state
            if event.type == "DELETED" or state_of(document) in ENDED:
                break
    session.note(explanation(document))
    if state_of(document) != "Succeeded":
        raise typer.Exit(1)


def _spec_of(session: Session, document: Manifest) -> Manifest | None:
    """Return the spec of a run's Pipeline; None if the Pipeline was deleted."""
    from ultramarine.kube.errors import NotFound

    name = document["spec"].get("pipeline")
    try:
        spec: Manifest | None = session.cluster.get(PIPELINE, name).get("spec") if name else None
    except NotFound:
        return None
    return spec


@run.command()
def cancel(context: typer.Context, name: _RUN) -> None:
    """End a run: its running jobs are deleted, and steps of finally run."""
    session = session_of(context)
    session.cluster.patch(PIPELINE_RUN, name, {"spec": {"cancel": True}})
    session.note(f"{name} ends. Continue from its results with `ultramarine run resume {name}`.")


@run.command()
def resume(
    context: typer.Context,
    name: _RUN,
    from_: Annotated[list[str] | None, typer.Option("--from", help="Step to run again; repeatable.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="PARAMETER=VALUE, repeatable.")] = None,
    new: Annotated[str, typer.Option("--name", help="Name of the new run.", show_default="RUN with a suffix")] = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once the run is created.")] = False,
) -> None:
    """Start a new run that takes over what an ended run has done; steps that use a parameter of --set run again."""
    session = session_of(context)
    former = session.cluster.get(PIPELINE_RUN, name)
    kept = {field: former["spec"][field] for field in _REPEATED if field in former["spec"]}
    if set:
        kept["parameters"] = {**(kept.get("parameters") or {}), **parameters_in(set)}
    rerun = {"of": name, **({"from": from_} if from_ else {})}
    meta = {"name": new} if new else {"generateName": f"{name[:34]}-"}
    document = {"apiVersion": former["apiVersion"], "kind": PIPELINE_RUN.kind, "metadata": meta}
    _create(session, {**document, "spec": {**kept, "rerun": rerun}}, detach)


_REPEATED = ("pipeline", "pipelineSpec", "parameters", "ttlSecondsAfterFinished")


@run.command()
def why(
    context: typer.Context,
    name: _RUN,
    step: Annotated[str, typer.Argument(help="Name of the step.", show_default=False)],
) -> None:
    """Say why a step is in its state: what it waits for, why it ran again, or why it failed."""
    from ultramarine.runs.pipelines import reason_of

    for sentence in reason_of(session_of(context).cluster.get(PIPELINE_RUN, name), step):
        echo(sentence)


@run.command()
def diff(
    context: typer.Context,
    name: _RUN,
    other: Annotated[str, typer.Argument(help="Name of the second PipelineRun.", show_default=False)],
) -> None:
    """Show the differences of two runs: pipeline, parameters, steps and metrics."""
    from ultramarine.runs.pipelines import differences

    cluster = session_of(context).cluster
    lines = list(differences(cluster.get(PIPELINE_RUN, name), cluster.get(PIPELINE_RUN, other)))
    echo("\n".join(lines) or f"{name} and {other} did the same work with the same results.")
