"""The command `automl`: from a local table to a registered model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ultramarine_contract.meta import API_VERSION, AUTOML_JOB

from .session import Session, aligned, session_of

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

MAX_STEM = 26  # characters of a name before the suffix of the API server
_HEADING = ["ALGORITHM", "SCORE", "STD", "FIT", "P95", "SIZE"]


class Task(StrEnum):
    """Kind of prediction."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(automl)


def automl(
    context: typer.Context,
    table: Annotated[
        str, typer.Argument(help="CSV, Parquet or JSON lines file, s3://..., or DATASET@VERSION.", show_default=False)
    ],
    target: Annotated[str, typer.Option(help="Column that the model predicts.", show_default=False)],
    task: Annotated[Task, typer.Option(help="Kind of prediction.")] = Task.CLASSIFICATION,
    minutes: Annotated[float, typer.Option(min=0.5, help="Time limit in minutes.")] = 60.0,
    register: Annotated[str, typer.Option(help="Model that gets the result as its next version.")] = "",
    metric: Annotated[str, typer.Option(help="Metric, such as roc_auc or rmse.")] = "auto",
    parallel: Annotated[int, typer.Option(min=1, help="Number of pods that evaluate candidates.")] = 1,
    drop: Annotated[list[str] | None, typer.Option(help="Column that the model does not get; repeatable.")] = None,
    cpu: Annotated[str, typer.Option(help="CPU request of each pod, such as 2 or 500m.")] = "",
    memory: Annotated[str, typer.Option(help="Memory request and limit of each pod, such as 4Gi.")] = "",
    name: Annotated[str, typer.Option(help="Name of the job.", show_default="of the table, with a suffix")] = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once the job is created.")] = False,
) -> None:
    """Search for the best model of a table, and follow the search to its end.

    ultramarine automl train.csv --target churned --minutes 5 --register churn
    """
    session = session_of(context)
    client = session.client
    client.platform.check()
    spec: dict[str, Any] = {
        "task": task.value,
        "data": {**_data(session, table), "target": target},
        "metric": metric,
        "limits": {"timeoutSeconds": int(minutes * 60), "parallelTrials": parallel},
    }
    if drop:
        spec["features"] = {"drop": drop}
    if register:
        spec["outputs"] = {"model": {"registerAs": register}}
    if requests := {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}:
        spec["resources"] = {"requests": requests, **({"limits": {"memory": memory}} if memory else {})}
    meta = {"name": name} if name else {"generateName": f"{_stem(table)}-"}
    document = {"apiVersion": API_VERSION, "kind": AUTOML_JOB.kind, "metadata": meta, "spec": spec}
    made = client.create(AUTOML_JOB, document)
    created = str(made["metadata"]["name"])
    session.note(f"AutoMLJob {created} created in namespace {client.namespace}.")
    if not detach:
        follow(session, created)


def _data(session: Session, table: str) -> dict[str, str]:
    """Return the place of a table, after its upload if it is a local file."""
    from ultramarine.storage.uploads import upload_local_paths

    from .bars import transfer_bar

    if table.startswith("s3://"):
        return {"uri": table}
    if "@" in table and not Path(table).exists():
        return {"dataset": table}
    document = {"apiVersion": API_VERSION, "spec": {"inputs": {"data": {"path": table}}}}
    with transfer_bar(session, "Uploading") as progress:
        made = upload_local_paths(session.client.platform, document, False, Path(), session.note, progress)
    uri: str = made["spec"]["inputs"]["data"]["uri"]
    return {"uri": uri}


def _stem(table: str) -> str:
    """Return the beginning of a job's name by the name of its table."""
    from ultramarine.files.projects import object_name

    last = table.rstrip("/").rpartition("/")[2].partition("@")[0].partition(".")[0]
    return object_name(last, "automl", MAX_STEM)


def follow(session: Session, name: str) -> None:
    """Print the progress of a job until it ends, then the leaderboard; exit with 1 unless it succeeds."""
    from ultramarine.runs import ENDED, explanation, state_of

    document: Manifest = {}
    last = ""
    for event in session.cluster.watch(AUTOML_JOB, name):
        document = event.object
        state = state_of(document)
        if event.type == "DELETED" or state in ENDED:
            break
        if (line := _line(document, state)) != last:
            session.note(last := line)
    if (status := document.get("status") or {}).get("leaderboard"):
        typer.echo("\n".join(aligned([_HEADING, *map(_row, status["leaderboard"])])))
    for guardrail in status.get("guardrails") or []:
        if guardrail["severity"] != "info":
            session.note(f"{guardrail['severity']}: {guardrail['message']}")
    session.note(explanation(document))
    if status.get("modelVersion"):
        session.note(f"Registered: {status['modelVersion']}")
    if state_of(document) != "Succeeded":
        raise typer.Exit(1)


def _line(document: Manifest, state: str) -> str:
    """Return the sentence of a job that goes on."""
    conditions = (document.get("status") or {}).get("conditions") or []
    message = next((str(c.get("message")) for c in conditions if c.get("type") == "Running" and c.get("message")), "")
    return f"{state}: {message}" if message else state


def _row(candidate: dict[str, Any]) -> list[str]:
    """Return a candidate as a line of the leaderboard; costs that were not measured are empty."""
    units = (("score", "{:.5g}"), ("std", "{:.2g}"), ("fitSeconds", "{:.2g} s"), ("p95Milliseconds", "{:.3g} ms"))
    cells = [form.format(candidate[name]) if name in candidate else "" for name, form in units]
    size = f"{candidate['mebibytes']:.2g} MiB" if "mebibytes" in candidate else ""
    return [str(candidate["algorithm"]), *cells, size]
