"""The commands of any object: get, describe, apply, delete."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .completing import kinds
from .completing import names as completed_names
from .session import Format, Output, Session, aligned, print_list, print_object, session_of

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

_KIND = Annotated[
    str,
    typer.Argument(
        help="Kind by any name (tj, trainingjobs, ...), or KIND/NAME.", show_default=False, autocompletion=kinds
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(get)
    app.command()(describe)
    app.command()(apply)
    app.command()(delete)


def get(
    context: typer.Context,
    kind: _KIND = "",
    names: Annotated[
        list[str] | None, typer.Argument(help="Names.", show_default="all", autocompletion=completed_names)
    ] = None,
    output: Output = Format.TABLE,
    selector: Annotated[str, typer.Option("-l", "--selector", help="Labels, as in team=a,stage!=old.")] = "",
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on with changes.")] = False,
) -> None:
    """List objects of one kind, or of all kinds."""
    session = session_of(context)
    client = session.client
    kind, slash, rest = kind.partition("/")
    if slash:
        names = [rest, *(names or [])]
    resources = (
        [client.kinds.named(name) for name in kind.split(",")]
        if kind
        else [entry.resource for entry in client.kinds.ours()]
    )
    if watch and len(resources) != 1:
        raise typer.BadParameter("--watch takes a kind, as in `ultramarine get tj --watch`")
    if names and selector:
        raise typer.BadParameter("give names or a selector")
    # Read before the objects are printed, so that a change in between is a line too.
    printed = _versions(session, resources[0], selector) if watch else {}
    if output.is_table:
        shown = False
        for resource in resources:
            tables = (
                [client.cluster.table(resource, name) for name in names]
                if names
                else [client.cluster.table(resource, selector=selector)]
            )
            lines = table_lines(tables, output == Format.WIDE)
            if len(lines) > 1:
                if len(resources) > 1:
                    typer.echo(("\n" if shown else "") + resource.plural)
                typer.echo("\n".join(lines))
                shown = True
        if not shown and not watch:
            from ultramarine.absence import namespace_problem

            problem = namespace_problem(client)
            session.note(f"No {kind or 'objects'} in namespace {client.namespace}. {problem}".rstrip())
    else:
        documents = [
            document
            for resource in resources
            for document in (
                [client.cluster.get(resource, name) for name in names]
                if names
                else client.cluster.list(resource, selector)
            )
        ]
        if names and len(documents) == 1:
            print_object(session, documents[0], output)
        else:
            print_list(session, documents, output)
    if watch:
        _watch(session, resources[0], names or [], selector, output, printed)


def _versions(session: Session, resource: Any, selector: str) -> dict[str, str]:
    """Return the resource versions of the objects by uid."""
    metas = [item["metadata"] for item in session.cluster.list(resource, selector)]
    return {meta["uid"]: meta["resourceVersion"] for meta in metas}


def _watch(
    session: Session, resource: Any, names: list[str], selector: str, output: Format, printed: dict[str, str]
) -> None:
    from ultramarine.kube.errors import NotFound

    cluster = session.cluster
    for event in cluster.watch(resource, names[0] if len(names) == 1 else "", selector):
        meta = event.object["metadata"]
        if names and meta["name"] not in names:
            continue
        if event.type == "ADDED" and printed.get(meta["uid"]) == meta["resourceVersion"]:
            continue
        if event.type == "DELETED":
            session.note(f"{resource.plural}/{meta['name']} deleted")
        elif output.is_table:
            with suppress(NotFound):  # it was deleted meanwhile, which is the next event
                lines = table_lines([cluster.table(resource, meta["name"])], output == Format.WIDE)
                typer.echo("\n".join(lines[1:]))
        else:
            print_object(session, event.object, output)


def table_lines(tables: list[Manifest], wide: bool) -> list[str]:
    """Return the server's tables as lines of aligned columns, with one heading."""
    columns = [
        (index, column)
        for index, column in enumerate(tables[0]["columnDefinitions"])
        if wide or column.get("priority", 0) == 0
    ]
    rows = [[column["name"].upper() for _, column in columns]]
    for table in tables:
        for row in table.get("rows") or []:
            cells = row["cells"]
            rows.append([_cell(cells[index]) for index, _ in columns])
    return aligned(rows)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def apply(
    context: typer.Context,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE...", help="Manifests, folders, or - for stdin.")
    ] = None,
    filename: Annotated[list[str] | None, typer.Option("-f", "--filename", help="The same, as in kubectl.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Let the server check, and change nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Take over fields that another writer owns.")] = False,
) -> None:
    """Create or change objects; local paths in them are uploaded.

    All files are read, and Pipelines and the templates of Schedules checked, before the first object is changed.
    """
    from ultramarine_contract.meta import PIPELINE, PIPELINE_RUN, SCHEDULE

    from ultramarine.files.reading import InvalidFiles, load
    from ultramarine.files.validation import validate
    from ultramarine.kube.errors import Rejected
    from ultramarine.storage.uploads import upload_local_paths

    from .applying import check_kinds, schedule_warnings
    from .bars import transfer_bar

    session = session_of(context)
    client = session.client
    chosen = [*(files or []), *(filename or [])]
    if not chosen:
        raise typer.BadParameter("name at least one file, as in `ultramarine apply job.yaml`")
    documents = load(chosen)
    check_kinds(documents)
    composites = {kind.kind for kind in (PIPELINE, PIPELINE_RUN, SCHEDULE)}
    unseen = [document for document in documents if document.manifest.get("kind") in composites]
    if problems := validate(unseen).problems:  # the API server checks neither templates nor references of steps
        raise InvalidFiles(problems)
    for document in documents:
        folder = Path(document.file).parent
        with transfer_bar(session, "Uploading") as progress:
            manifest = upload_local_paths(client.platform, document.manifest, dry_run, folder, session.note, progress)
        try:
            made = client.apply(manifest, dry_run, force, session.note)
        except Rejected:  # our words have the line and the nearest name
            if problems := validate([document]).problems:
                raise InvalidFiles(problems) from None
            raise
        suffix = " (dry run)" if dry_run else ""
        typer.echo(f"{client.kinds.of(made).plural}/{made['metadata']['name']} applied{suffix}")
    for document in documents:  # with the Pipelines of these files
        for warning in schedule_warnings(client, document.manifest):
            session.note(warning)


def delete(
    context: typer.Context,
    kind: _KIND,
    names: Annotated[
        list[str] | None, typer.Argument(help="Names.", show_default=False, autocompletion=completed_names)
    ] = None,
) -> None:
    """Delete objects and what belongs to them, except models that an alias or an endpoint names."""
    from ultramarine.absence import explained
    from ultramarine.kube.errors import NotFound

    from .deleting import delete_object

    session = session_of(context)
    kind, slash, rest = kind.partition("/")
    chosen = [rest, *(names or [])] if slash else names or []
    if not chosen:
        raise typer.BadParameter("name at least one object, as in `ultramarine delete tj churn`")
    resource = session.client.kinds.named(kind)
    missing = False
    for name in chosen:
        try:
            note = delete_object(session, resource, name)
        except NotFound as error:
            missing = True
            session.note(f"Error: {explained(session.client, error).message}")
            continue
        typer.echo(f"{resource.plural}/{name} deleted")
        if note:
            session.note(note)
    if missing:
        raise typer.Exit(1)


def describe(
    context: typer.Context,
    kind: Annotated[
        str,
        typer.Argument(
            help="Kind by any name, KIND/NAME, or a NAME that one object has.", show_default=False, autocompletion=kinds
        ),
    ],
    name: Annotated[str, typer.Argument(help="Name.", show_default=False, autocompletion=completed_names)] = "",
) -> None:
    """Explain an object: its state, what happened, why, and what to do."""
    from .describing import describe_object

    session = session_of(context)
    kind, slash, rest = kind.partition("/")
    name = rest if slash else name
    resource = session.client.kinds.named(kind) if name else session.client.kind_of(kind)
    describe_object(session, resource, name or kind)
