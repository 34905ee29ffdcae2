"""The command `plan`: what a file would create or change, and the pods that would run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ultramarine_contract.errors import UltramarineError, counted
from ultramarine_contract.meta import PIPELINE

from .session import echo, session_of

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

    from ultramarine.client import Client
    from ultramarine.files.plan import Plan

_WORDS = {
    "create": "would be created",
    "change": "would be changed",
    "recreate": "cannot be changed like this; delete it and create it again, or choose another name",
    "keep": "stays as it is",
}
_SHOWN = 60  # characters of a value


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(plan)


def plan(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Manifests, folders, or - for stdin.")],
    set: Annotated[list[str] | None, typer.Option("--set", help="PARAMETER=VALUE of a run; repeatable.")] = None,
) -> None:
    """Show what files would create or change, and the pods that would run; change nothing.

    The server checks each object; exit with 1 if it would refuse one. Of a Pipeline: the steps that a run with these
    parameters would run, those whose results it would reuse, and the estimated time.
    """
    from ultramarine.files.reading import load
    from ultramarine.storage.uploads import upload_local_paths

    from .applying import schedule_warnings
    from .forecasting import forecast_of
    from .pipelines import parameters_in

    session = session_of(context)
    client = session.client
    refused = False
    for document in load(files):
        folder = Path(document.file).parent
        manifest = upload_local_paths(client.platform, document.manifest, True, folder, session.note)
        try:
            outcome = compared(client, manifest)
            lines = lines_of(outcome)
            if manifest["kind"] == PIPELINE.kind:
                lines = chain(lines, list(forecast_of(client, manifest, parameters_in(set or []))))
            lines = chain(lines, list(schedule_warnings(client, manifest)))
        except UltramarineError as error:
            refused = True
            echo(f"{document.subject} would be refused: {error.message}")
            continue
        refused = refused or outcome.action == "recreate"
        echo(f"{document.subject} {_WORDS[outcome.action]}")
        for line in lines:
            echo(f"  {line}")
    if refused:
        raise typer.Exit(1)


def compared(client: Client, manifest: Manifest) -> Plan:
    """Return the difference of the live object and what the server would store. Raises Rejected and others."""
    from ultramarine.files.plan import Plan, plan
    from ultramarine.files.schemas import kinds
    from ultramarine.kube.errors import NotFound, Rejected

    resource, name = client.kinds.of(manifest), manifest["metadata"].get("name", "")
    try:
        live = client.cluster.get(resource, name) if name else None
    except NotFound:
        live = None
    if live is None:
        stored = client.cluster.create(resource, manifest, dry_run=True)
        return plan(stored, None) if resource.kind in kinds() else Plan("create")
    try:
        stored = client.cluster.apply(resource, manifest, dry_run=True, force=True)
    except Rejected:
        if resource.kind in kinds() and (outcome := plan(manifest, live)).action == "recreate":
            return outcome
        raise
    if resource.kind in kinds():
        return plan(stored, live)
    same = all(stored.get(key) == live.get(key) for key in stored if key not in ("metadata", "status"))
    return Plan("keep" if same else "change")


def lines_of(outcome: Plan) -> Iterator[str]:
    """Yield the lines of a plan: changes, pods, and what they reserve together."""
    from ultramarine_contract.quantities import quantity

    for change in outcome.changes:
        if change.fixed or outcome.action != "recreate":
            yield f"{change.path}: {_shown(change.before)} -> {_shown(change.after)}"
    if outcome.action == "recreate":
        return
    for pods in outcome.pods:
        count = str(pods.most) if pods.least == pods.most else f"{pods.least} to {pods.most}"
        requests = ", ".join(f"{name} {amount}" for name, amount in pods.requests.items())
        yield f"pods: {count} of {pods.what}, {f'each with {requests}' if requests else 'with the default resources'}"
    totals = ", ".join(f"{name} {quantity(amount)}" for name, amount in outcome.totals.items())
    if totals and sum(pods.most for pods in outcome.pods) > 1:
        yield f"at most together: {totals}"


def _shown(value: Any) -> str:
    from ultramarine.files.plan import ABSENT

    if value is ABSENT:
        return "none"
    if isinstance(value, str) and "\n" in value:
        return f"text of {counted(len(value.splitlines()), 'line')}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
