"""The commands that need no cluster: validate, schema, explain, init."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from ultramarine_contract.errors import InvalidSpec, counted

_ALL = typer.Option("--all", help="Write the schemas of all kinds into the folder of --output.")
_OUTPUT = typer.Option("-o", "--output", help="File, or with --all folder, to write.", show_default="the terminal")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(validate)
    app.command()(schema)
    app.command()(explain)
    app.command()(init)


def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Manifests, folders, or - for stdin.")],
) -> None:
    """Check manifests without a cluster; exit with 1 if the platform would refuse one.

    Each problem is a line: FILE:LINE:COLUMN: KIND/NAME: FIELD: what is wrong; what to do
    """
    from ultramarine.files.reading import read
    from ultramarine.files.validation import validate as check

    reading = read(files)
    report = check(reading.documents)
    problems = sorted((*reading.problems, *report.problems))
    for note in report.notes:
        typer.echo(f"Note: {note}", err=True)
    for problem in problems:
        typer.echo(str(problem))
    typer.echo(f"{counted(report.checked, 'object')} checked, {counted(len(problems), 'problem')}.", err=True)
    if problems:
        raise typer.Exit(1)


def schema(
    kind: Annotated[str, typer.Argument(help="Kind, such as TrainingJob or tj.")] = "",
    every: Annotated[bool, _ALL] = False,
    output: Annotated[Path | None, _OUTPUT] = None,
) -> None:
    """Print the JSON schema of a kind, with which editors complete and check manifests.

    Name it in a manifest's first line: # yaml-language-server: $schema=FILE
    """
    from ultramarine.files.editors import schema_text
    from ultramarine.files.schemas import kind_named, kinds

    if every == bool(kind):
        raise InvalidSpec("schema takes a kind, or --all. Give one of the two.")
    if every and output is None:
        raise InvalidSpec("schema --all writes files. Name their folder with -o.")
    if every and output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for entry in kinds().values():
            file = output / f"{entry.name.lower()}.json"
            file.write_text(schema_text(entry), "utf-8")
            typer.echo(file, err=True)
        return
    text = schema_text(kind_named(kind))
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, "utf-8")


def explain(
    field: Annotated[str, typer.Argument(help="Kind or field, such as trainingjob.spec.outputs.")],
) -> None:
    """Describe a field: type, meaning, default, limits, rules, an example, and the fields below."""
    from ultramarine.files.explaining import explain as page

    typer.echo(page(field))


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the project; its name becomes the job's.")] = Path(),
    template: Annotated[str, typer.Option(help="sklearn, torch, xgboost or r.")] = "sklearn",
) -> None:
    """Begin a project: a training script, its manifest, a README and an ignore file. Nothing is overwritten."""
    from ultramarine.files.projects import make_project

    for file in make_project(folder, template):
        typer.echo(file, err=True)
    target = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    typer.echo(f"Next: {target}ultramarine submit", err=True)
