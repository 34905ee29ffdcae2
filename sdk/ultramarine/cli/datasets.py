"""The commands of datasets: data show, diff, promote, croissant; and put with --register."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from ultramarine_contract.errors import counted

from ultramarine.display.terminal import size_text

from .bars import transfer_bar
from .completing import versions
from .session import (
    DocumentFormat,
    DocumentOutput,
    Format,
    Output,
    Session,
    aligned,
    print_document,
    print_object,
    session_of,
)

_REFERENCE = Annotated[
    str,
    typer.Argument(
        metavar="DATASET@VERSION", help="Or DATASET@ALIAS, or DATASET@latest.", autocompletion=versions("dataset")
    ),
]


def register(group: typer.Typer) -> None:
    """Add the commands of this file to the group `data`."""
    for command in (show, diff, promote, croissant):
        group.command()(command)


def is_reference(text: str) -> bool:
    """True for DATASET@VERSION and its like; names of files with an @ are written with ./ before them."""
    from ultramarine.resources.dataset import DATASET_REFERENCE

    return re.fullmatch(DATASET_REFERENCE, text) is not None


def put_version(session: Session, local: Path, dataset: str) -> None:
    """Upload files as the next version of a dataset; print it once it is checked, and what its profile finds."""
    datasets = session.client.datasets
    with transfer_bar(session, "Uploading") as progress:
        added = datasets.add(local, dataset, progress)
    name = added.version["metadata"]["name"]
    session.note(f"DatasetVersion {name} {'is registered' if added.is_new else 'has the same content already'}.")
    try:
        datasets.wait(added.version)
    finally:  # of a quarantined version, too
        typer.echo(f"{dataset}@{added.version['spec']['version']}")
    for violation in datasets.violations(name):
        examples = f"; {violation['examples'][0]}" if violation.get("examples") else ""
        rows = f", in {counted(violation['rows'], 'row')}" if violation.get("rows") else ""
        session.note(f"Warning: {name} breaks a rule: {violation['rule']}{rows}{examples}")


def show(context: typer.Context, reference: _REFERENCE, output: Output = Format.TABLE) -> None:
    """Show a version: state, content, columns, requirements that it breaks, origin, and aliases."""
    from ultramarine.datasets import state_of
    from ultramarine.files.writing import yaml_text
    from ultramarine.versions.series import why

    session = session_of(context)
    datasets = session.client.datasets
    version = datasets.version(reference)
    if not output.is_table:
        print_object(session, version, output)
        return
    spec, status = version["spec"], version.get("status") or {}
    aliases = datasets.aliases(spec["dataset"])
    columns = status.get("columns") or []
    details: dict[str, Any] = {
        "state": "Ready" if state_of(version) == "Ready" else f"{state_of(version) or 'Waiting'}: {why(version)}",
        "aliases": ", ".join(sorted(alias for alias, target in aliases.items() if target == spec["version"])),
        "type": status.get("type"),
        "format": status.get("format"),
        "rows": status.get("rows"),
        "files": status.get("files"),
        "size": size_text(status.get("bytes", 0)),
        "uri": spec["uri"],
        "digest": spec["digest"],
        "profile": f"{status['profile']['uri']}profile.html" if status.get("profile") else None,
        "lineage": spec.get("lineage"),
        "violations": status.get("violations"),
    }
    typer.echo(f"DatasetVersion {session.client.namespace}/{version['metadata']['name']}")
    typer.echo(yaml_text({key: value for key, value in details.items() if value not in (None, "", {}, [])}), nl=False)
    if columns:
        rows = [
            ["COLUMN", "TYPE", "MISSING"],
            *([c["name"], c.get("type", ""), str(c.get("nulls", 0))] for c in columns),
        ]
        typer.echo("\n".join(aligned(rows)))
    if (hidden := status.get("columnCount", 0) - len(columns)) > 0:
        session.note(f"{hidden} more columns are in the profile.")


def diff(
    context: typer.Context,
    old: _REFERENCE,
    new: Annotated[str, typer.Argument(metavar="DATASET@VERSION", help="Version to compare with the first.")],
    output: DocumentOutput = DocumentFormat.TABLE,
) -> None:
    """Compare two versions of tables by their profiles: rows, columns, and the drift of each column.

    Drift is 0 for equal distributions and 1 for distributions without a common value.
    """
    from ultramarine.versions.differences import compare

    session = session_of(context)
    datasets = session.client.datasets
    profiles = [datasets.profile(datasets.version(reference)) for reference in (old, new)]
    difference = compare(*profiles)
    if not output.is_table:
        print_document(difference.document(), output)
        return
    rows = difference.rows
    typer.echo(f"Rows: {rows[0]:,} -> {rows[1]:,} ({rows[1] - rows[0]:+,})")
    for label, names in (("Added", difference.added), ("Removed", difference.removed)):
        if names:
            typer.echo(f"{label} columns: {', '.join(names)}")
    lines = [["COLUMN", "TYPE", "MISSING", "DRIFT"]]
    for column in difference.columns:
        type = column.types[0] if column.types[0] == column.types[1] else " -> ".join(column.types)
        missing = " -> ".join(f"{share:.1%}" for share in column.missing)
        lines.append([column.name, type, missing, "" if column.drift is None else f"{column.drift:.3f}"])
    typer.echo("\n".join(aligned(lines)))


def promote(
    context: typer.Context,
    reference: _REFERENCE,
    alias: Annotated[str, typer.Option(help="Alias that leads to the version.")],
) -> None:
    """Let an alias lead to a version. Runs that have begun go on with the version that they read."""
    version = session_of(context).client.datasets.promote(reference, alias)
    typer.echo(f"{version['spec']['dataset']}@{alias} is {version['metadata']['name']}")


def croissant(context: typer.Context, reference: _REFERENCE) -> None:
    """Print the Croissant metadata (JSON-LD) of a version: files with digests, and the columns of a table."""
    import json

    from ultramarine.versions.croissant import metadata

    client = session_of(context).client
    version = client.datasets.version(reference)
    typer.echo(json.dumps(metadata(client, version), indent=2, ensure_ascii=False))
