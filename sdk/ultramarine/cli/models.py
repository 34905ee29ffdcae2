"""The commands of models: list, show, trust, promote, import, download, delete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ultramarine_contract.errors import UltramarineError

from ultramarine.display.terminal import size_text

from .bars import transfer_bar
from .completing import named, versions
from .session import Format, Output, Session, print_list, print_object, session_of

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

    from ultramarine.models import Models

_REFERENCE = Annotated[
    str,
    typer.Argument(
        metavar="MODEL@VERSION", help="Or MODEL@ALIAS, or MODEL for the newest.", autocompletion=versions("model")
    ),
]

group = typer.Typer(no_args_is_help=True, help="Models and their versions.")


def register(app: typer.Typer) -> None:
    """Add the group of this file."""
    app.add_typer(group, name="models")


@group.command("list")
def list_models(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(help="Model whose versions to list.", show_default="all models", autocompletion=named("model")),
    ] = "",
    output: Output = Format.TABLE,
) -> None:
    """List models, or the versions of one model."""
    from ultramarine_contract.meta import MODEL, MODEL_VERSION

    from .objects import table_lines

    session = session_of(context)
    cluster, models = session.cluster, session.client.models
    resource = MODEL_VERSION if model else MODEL
    objects = models.versions(model) if model else cluster.list(MODEL)
    if output.is_table:
        table = cluster.table(resource)
        names = [item["metadata"]["name"] for item in objects]
        rows = {row["object"]["metadata"]["name"]: row for row in table.get("rows") or []}
        table["rows"] = [rows[name] for name in names if name in rows]
        if names:
            typer.echo("\n".join(table_lines([table], output == Format.WIDE)))
        else:
            session.note(f"No models in namespace {cluster.namespace}. `ultramarine submit --register` makes one.")
    else:
        print_list(session, objects, output)


@group.command()
def show(context: typer.Context, reference: _REFERENCE, output: Output = Format.TABLE) -> None:
    """Show a version: state, files, signature, origin, metrics, aliases, and the endpoints that serve it."""
    from ultramarine.files.writing import yaml_text
    from ultramarine.versions.series import is_ready, why

    session = session_of(context)
    models = session.client.models
    version = models.version(reference)
    if not output.is_table:
        print_object(session, version, output)
        return
    spec, status = version["spec"], version.get("status") or {}
    lineage = dict(spec.get("lineage") or {})
    metrics = lineage.pop("metrics", {})
    aliases, users = models.aliases(spec["model"]), models.users(version)
    details: dict[str, Any] = {
        "state": "Ready" if is_ready(version) else f"{status.get('state') or 'Waiting'}: {why(version)}",
        "aliases": ", ".join(sorted(alias for alias, target in aliases.items() if target == spec["version"])),
        "endpoints": ", ".join(users),
        "created": version["metadata"]["creationTimestamp"],
        "format": spec["format"]["name"],
        "bytes": status.get("bytes"),
        "uri": spec["uri"],
        "digest": spec["digest"],
        "compiled": status.get("compiled"),
        "codeExecution": status.get("codeExecution"),
        "files": _files(session, version),
        "signature": _signature(models, version, users),
        "metrics": metrics,
        "lineage": lineage,
    }
    typer.echo(f"ModelVersion {session.client.namespace}/{version['metadata']['name']}")
    shown = {key: value for key, value in details.items() if value not in (None, "", {}, [])}
    typer.echo(yaml_text(shown), nl=False)


def _signature(models: Models, version: Manifest, users: list[str]) -> dict[str, Any] | str:
    """Return inputs and outputs, or why none are shown and what to do for them."""
    from ultramarine_contract.formats import CUSTOM

    try:
        if signature := models.signature(version):
            return signature
    except UltramarineError as error:
        return f"not shown: {error.message}"
    if version["spec"]["format"]["name"] == CUSTOM:
        return "known to the scoring script alone, as the format is custom"
    if users:
        return f"known to the scoring script of endpoint {users[0]} alone"
    return "inferred by the server; deploy the version to see it"


def _files(session: Session, version: Manifest) -> dict[str, str]:
    """Return the sizes of a version's files by path; empty, with a note, if the storage does not answer."""
    try:
        return {entry.path: size_text(entry.bytes) for entry in session.client.models.files(version)}
    except UltramarineError as error:
        session.note(f"The files cannot be listed: {error.message}")
        return {}


@group.command()
def trust(context: typer.Context, reference: _REFERENCE) -> None:
    """Let servers load a version whose format runs its maker's code, such as pickle, joblib or torch."""
    version = session_of(context).client.models.trust(reference)
    typer.echo(f"{version['metadata']['name']} may run code")


@group.command()
def promote(
    context: typer.Context,
    reference: _REFERENCE,
    alias: Annotated[str, typer.Option(help="Alias that leads to the version.")] = "champion",
) -> None:
    """Let an alias lead to a version. Endpoints that name the alias follow without a failed request."""
    session = session_of(context)
    version = session.client.models.promote(reference, alias)
    model = version["spec"]["model"]
    typer.echo(f"{model}@{alias} is {version['metadata']['name']}")
    followers = [
        endpoint["metadata"]["name"]
        for endpoint in session.client.list("onlineendpoints")
        for deployment in endpoint["spec"]["deployments"]
        if deployment.get("model") == f"{model}@{alias}"
    ]
    if followers:
        session.note(f"Endpoints that follow: {', '.join(sorted(set(followers)))}.")


@group.command("import")
def import_model(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="File or folder.")],
    model: Annotated[str, typer.Option("--as", help="Model that gets the next version.")],
    format: Annotated[str, typer.Option(help="Format, such as onnx.", show_default="detected")] = "",
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="Trust a format that runs code, such as pickle.")
    ] = False,
) -> None:
    """Upload a model from this machine, and register it as the next version."""
    session = session_of(context)
    models = session.client.models
    with transfer_bar(session, "Uploading") as progress:
        version = models.add(path, model, format, allow_code_execution=allow_code_execution, progress=progress)
    session.note(f"ModelVersion {version['metadata']['name']} is registered; its files are checked.")
    models.wait(version)
    typer.echo(f"{model}@{version['spec']['version']}")
    session.note(f"Serve it: ultramarine endpoints deploy {model}@{version['spec']['version']}")


@group.command()
def download(
    context: typer.Context,
    reference: _REFERENCE,
    folder: Annotated[Path | None, typer.Argument(help="Folder.", show_default="MODEL-VERSION")] = None,
) -> None:
    """Fetch the files of a version, checked by their digest."""
    session = session_of(context)
    with transfer_bar(session, "Downloading") as progress:
        target = session.client.models.download(reference, folder or "", progress)
    typer.echo(str(target))


@group.command()
def delete(context: typer.Context, reference: Annotated[str, typer.Argument(metavar="MODEL@VERSION")]) -> None:
    """Delete a version that no alias and no endpoint names. Its files stay unless deletionPolicy is Delete."""
    if "@" not in reference:
        raise typer.BadParameter(f"name a version, such as {reference}@3")
    typer.echo(f"modelversions/{session_of(context).client.models.delete(reference)} deleted")
