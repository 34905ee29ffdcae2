"""The command `convert`: files of other platforms become manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ultramarine_contract.errors import counted

from .session import Session, session_of

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

    from ultramarine.azureml import Conversion

_PLACEHOLDER = "s3://bucket/namespace"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(help="Convert files of other platforms to manifests.", no_args_is_help=True)
    group.callback()(_group)
    group.command()(azureml)
    app.add_typer(group, name="convert")


def _group() -> None:
    """Keep `azureml` a command of its own, though it is the only one."""


def azureml(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="Files or folders of Azure ML CLI v2.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the manifests; it is created.")],
    report: Annotated[Path | None, typer.Option(help="File of the report, as JSON.")] = None,
    location: Annotated[
        str, typer.Option(help="Folder of the object storage for uploads, such as s3://ultramarine/team-a.")
    ] = _PLACEHOLDER,
) -> None:
    """Convert Azure ML files to manifests, and say what is lost. No cluster is needed.

    The table `compute:` of the ultramarine.yaml nearest to a file maps compute targets to node selectors and resources.
    Names that it lacks come from the one nearest to the working folder.
    """
    from ultramarine.azureml import convert, inlined, read_table

    conversion = inlined(convert(paths, location, read_table(Path.cwd())))
    _write(output, conversion.manifests)
    if report is not None:
        report.write_text(json.dumps(conversion.as_document(), indent=2, ensure_ascii=False) + "\n")
    _tell(session_of(context), conversion, output)
    if not any(file.objects for file in conversion.files):
        raise typer.Exit(1)


def _write(folder: Path, manifests: list[Manifest]) -> None:
    """Write a file for each object. Raises InvalidSpec before the first one if any exists."""
    from ultramarine_contract.errors import InvalidSpec

    from ultramarine.files.writing import yaml_text

    files = {
        folder / f"{manifest['kind'].lower()}-{manifest['metadata']['name']}.yaml": manifest for manifest in manifests
    }
    if former := [path for path in files if path.exists()]:
        raise InvalidSpec(f"{former[0]} exists. Choose an empty folder, or remove the file.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, manifest in files.items():
        path.write_text(yaml_text(manifest), encoding="utf-8")


def _tell(session: Session, conversion: Conversion, output: Path) -> None:
    """Print uploads, losses and refusals, and a line of counts."""
    for upload in conversion.uploads:
        session.note(f"Upload: {upload}")
    for loss in conversion.losses:
        session.note(f"Loss: {loss}")
    refused = [file for file in conversion.files if file.refusal]
    for file in refused:
        session.note(f"Not converted: {file.file} {file.refusal}.")
    converted = len(conversion.files) - len(refused)
    typer.echo(
        f"{converted} of {counted(len(conversion.files), 'file')} converted to"
        f" {counted(len(conversion.manifests), 'manifest')} in {output}, with"
        f" {len(conversion.losses)} loss{'' if len(conversion.losses) == 1 else 'es'} and"
        f" {counted(len(conversion.uploads), 'upload')}."
    )
