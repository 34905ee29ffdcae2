"""The commands of files: data put, get, ls, rm; and download, for what runs have stored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ultramarine_contract.errors import InvalidSpec, counted

from ultramarine.display.terminal import size_text

from . import datasets
from .bars import transfer_bar
from .completing import named
from .session import DocumentFormat, DocumentOutput, print_document, session_of

if TYPE_CHECKING:
    from ultramarine.storage.data import Transfer

_REMOTE = Annotated[str, typer.Argument(help="Name in the namespace, such as churn/churn.csv, or s3://BUCKET/KEY.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(no_args_is_help=True, help="Files of the namespace in the object storage.")
    for command in (put, get, ls, rm):
        group.command()(command)
    datasets.register(group)
    app.add_typer(group, name="data")
    app.command()(download)


def put(
    context: typer.Context,
    local: Annotated[Path, typer.Argument(help="File or folder of this machine.")],
    remote: Annotated[
        str, typer.Argument(help="Name; for a file, a folder with a slash.", show_default="that of LOCAL")
    ] = "",
    register: Annotated[
        str, typer.Option(metavar="DATASET", help="Register the files as the next version of a dataset.")
    ] = "",
) -> None:
    """Upload a file, or the files of a folder; print the URI, or with --register the version.

    Files with the same content are skipped. An interrupted upload continues when the command runs again.
    """
    session = session_of(context)
    if register:
        if remote:
            raise typer.BadParameter("give REMOTE or --register: the files of a version have a place of their own")
        datasets.put_version(session, local, register)
        return
    with transfer_bar(session, "Uploading") as progress:
        done = session.client.data.put(local, remote, progress)
    session.note(f"Uploaded {_summary(done)}.")
    typer.echo(done.uri)


def get(
    context: typer.Context,
    remote: _REMOTE,
    local: Annotated[
        Path | None, typer.Argument(help="File or folder.", show_default="the last part of REMOTE")
    ] = None,
) -> None:
    """Download a file, all files below a folder, or a version such as churn@3; print the path.

    Files appear when they are complete. An interrupted download continues when the command runs again.
    """
    session = session_of(context)
    if datasets.is_reference(remote):
        with transfer_bar(session, "Downloading") as progress:
            typer.echo(session.client.datasets.download(remote, local or "", progress))
        return
    with transfer_bar(session, "Downloading") as progress:
        done = session.client.data.get(remote, local, progress)
    session.note(f"Downloaded {_summary(done)}.")
    typer.echo(done.path)


def ls(
    context: typer.Context,
    prefix: Annotated[str, typer.Argument(help="Folder.", show_default="all of the namespace")] = "",
    long: Annotated[bool, typer.Option("-l", "--long", help="Show sizes in bytes and times (UTC).")] = False,
    output: DocumentOutput = DocumentFormat.TABLE,
) -> None:
    """List a folder: names for `data get`; those of folders end in a slash."""
    session = session_of(context)
    data = session.client.data
    entries = data.ls(prefix)
    if not output.is_table:
        files = [
            {"name": data.name(entry.uri), "uri": entry.uri}
            | ({"bytes": entry.bytes, "modified": f"{entry.modified:%Y-%m-%dT%H:%M:%SZ}"} if entry.modified else {})
            for entry in entries
        ]
        print_document({"files": files}, output)
        return
    width = max((len(str(entry.bytes)) for entry in entries), default=0)
    for entry in entries:
        time = f"{entry.modified:%Y-%m-%d %H:%M:%S}" if entry.modified else ""
        columns = f"{entry.bytes if entry.modified else '':>{width}}  {time:19}  " if long else ""
        typer.echo(f"{columns}{data.name(entry.uri)}")
    if not entries:
        session.note(f"No files in namespace {session.client.namespace}. `ultramarine data put FILE` uploads one.")


def rm(
    context: typer.Context,
    remote: _REMOTE,
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Delete a folder.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask; needed without a terminal.")] = False,
) -> None:
    """Delete a file, or with -r a folder. There is no way back."""
    session = session_of(context)
    data = session.client.data
    if recursive and not yes:
        entries = data.tree(remote)
        size = size_text(sum(entry.bytes for entry in entries))
        what = f"{counted(len(entries), 'file')}, {size}, of {data.uri(remote)}"
        if not sys.stdin.isatty():
            raise InvalidSpec(f"{what} would be deleted, and no terminal can be asked. Repeat with --yes.")
        typer.confirm(f"Delete {what}?", abort=True, err=True)
    session.note(f"Deleted {counted(data.rm(remote, recursive), 'file')}.")


def download(
    context: typer.Context,
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="Name, or KIND/NAME such as sw/churn. Kind: trainingjob.",
            autocompletion=named("trainingjob"),
        ),
    ],
    folder: Annotated[Path | None, typer.Argument(help="Folder.", show_default="the name of the run")] = None,
    outputs: Annotated[str, typer.Option(metavar="NAME", help="Output.", show_default="all outputs")] = "",
    logs: Annotated[bool, typer.Option("--logs", help="Download the archived logs.")] = False,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Download the newest checkpoint.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Download a sweep's report.")] = False,
) -> None:
    """Download what a run has stored: its outputs, those of a sweep's best trial, its logs, checkpoint or report.

    What a job logged by mlflow without a tracking server, models among it, is in the folder mlruns beside the outputs.
    Outputs and checkpoints are checked against their digests. Each gets a folder of its own below FOLDER.
    """
    from ultramarine_contract.common import RUNS_NAME

    from ultramarine.storage import artifacts

    from .submit import run_of

    session = session_of(context)
    chosen = run_of(session, run)
    target = folder or Path(chosen.name)
    data, storage = session.client.data, session.client.platform.storage
    stored: dict[str, artifacts.Artifact] = {}
    if outputs:
        stored[outputs] = artifacts.output_of(chosen, outputs)
    elif not (logs or checkpoints or report):
        stored = artifacts.outputs_of(chosen)
        if logged := artifacts.mlflow_of(chosen):
            stored.setdefault(RUNS_NAME, logged)
        if not stored:
            state = f"{chosen.resource.kind} {chosen.name} is {chosen.state}"
            raise artifacts.NothingStored(f"{state} and has no outputs. `--logs` downloads its logs.")
    if checkpoints:
        stored["checkpoint"] = artifacts.checkpoint_of(chosen)
    with transfer_bar(session, "Downloading") as progress:
        for name, artifact in stored.items():
            manifest = artifacts.download(storage, artifact, target / name, progress)
            session.note(f"Downloaded {name}: {counted(len(manifest.files), 'file')}, {size_text(manifest.bytes)}.")
            typer.echo(target / name)
            for entry in manifest.files:
                if name == RUNS_NAME and entry.path.endswith("/MLmodel"):
                    model = (target / name / entry.path).parent
                    session.note(f"Register the logged model: ultramarine models import {model} --as NAME")
        uris = ([artifacts.logs_of(chosen)] if logs else []) + ([artifacts.report_of(chosen)] if report else [])
        for uri in uris:
            done = data.get(uri, target / "logs" if uri.endswith("/") else f"{target}/", progress)
            session.note(f"Downloaded {_summary(done)}.")
            typer.echo(done.path)


def _summary(done: Transfer) -> str:
    skipped = f"; {done.skipped} of them were there with the same content" if done.skipped else ""
    return f"{counted(done.files, 'file')}, {size_text(done.bytes)}{skipped}"
