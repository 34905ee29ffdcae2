"""Conversion of a set of Azure ML files to manifests. Pure: it reads files, and reaches no cluster and no network."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ultramarine_contract.errors import InvalidSpec

from ultramarine.azureml.compute import PROJECT_FILE, Compute
from ultramarine.azureml.context import Asset, Context, Refused
from ultramarine.azureml.data import define_data, define_datastore, reference
from ultramarine.azureml.endpoints import convert_group, grouped
from ultramarine.azureml.environments import define_environment
from ultramarine.azureml.jobs import convert_job, job_run
from ultramarine.azureml.models import define_model
from ultramarine.azureml.pipelines import convert_component, convert_pipeline, pipeline_run
from ultramarine.azureml.reading import SUFFIXES, Document, Unreadable, files_in, read
from ultramarine.azureml.recognition import (
    COMPONENT,
    CONDA,
    CONVERTED,
    DATA,
    DATASTORE,
    DEPLOYMENT,
    ENDPOINT,
    ENVIRONMENT,
    IMPORT,
    JOB,
    MODEL,
    NO_RESOURCE,
    PIPELINE,
    SCHEDULE,
    SWEEP,
    schema_of,
)
from ultramarine.azureml.report import Conversion, ConvertedFile, Loss, Place, shown
from ultramarine.azureml.schedules import convert_import, convert_schedule
from ultramarine.azureml.sweeps import convert_sweep, sweep_run
from ultramarine.resources.base import URI_PATTERN

LOCATION = "s3://bucket/namespace"  # stands for the bucket and the namespace's folder in it
MAX_NEIGHBORS = 300  # files that are looked at beside a named one
_ASSETS: dict[str, tuple[str, Callable[[Context, Asset], None] | None]] = {
    DATASTORE: ("datastores", define_datastore),
    ENVIRONMENT: ("environments", define_environment),
    DATA: ("data", define_data),
    MODEL: ("models", define_model),
    COMPONENT: ("components", None),
}
_RUNS = {JOB: convert_job, SWEEP: convert_sweep, PIPELINE: convert_pipeline}
_TEMPLATES = {JOB: job_run, SWEEP: sweep_run, PIPELINE: pipeline_run}


def convert(
    paths: Iterable[Path], location: str = LOCATION, computes: Mapping[str, Compute] | None = None
) -> Conversion:
    """Convert files and folders. Raises InvalidSpec for a missing path or a wrong location.

    Other faults are refusals of files. Assets that a named file refers to are also read from the files beside it.

    Uploads go below `location`, such as s3://ultramarine/team-a. `computes` has what stands for compute targets that
    the project of a file does not list.
    """
    if not re.fullmatch(URI_PATTERN, f"{location.rstrip('/')}/"):
        raise InvalidSpec(f"location {location} is not a folder of a bucket. Write s3://BUCKET/FOLDER.")
    context = Context(location.rstrip("/"), computes or {})
    refusals: dict[int, str] = {}
    outcomes: list[ConvertedFile | tuple[Document, str]] = []
    named = _existing(paths)
    for path, is_named in files_in(named):
        try:
            read_documents = read(path)
        except Unreadable as error:
            outcomes.append(ConvertedFile(shown(path), "", refusal=error.message))
            continue
        for document in read_documents:
            if path.name == PROJECT_FILE and document.value.keys() == {"compute"}:
                continue
            schema = schema_of(document.value)
            if is_named or path.suffix.lower() != ".json" or schema in CONVERTED:
                outcomes.append((document, schema))
    recognized = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
    documents = [document for document, _ in recognized]
    context.beside = _beside([path for path in named if path.is_file()], documents)
    neighbors = _neighbors(context.beside, documents)
    recognized += neighbors
    if all(schema not in (ENDPOINT, DEPLOYMENT) for _, schema in recognized):
        context.inputs_only |= {id(document) for document, schema in neighbors if schema == MODEL}
    for document, _ in recognized:
        for line, name in document.placeholders:
            problem = f"{{{{{name}}}}} is a placeholder, and became {name}"
            context.losses.append(Loss(Place(shown(document.file), line, name), problem, "Write its value"))
    _convert_all(context, recognized, refusals)
    places = [(document, document.file.resolve()) for document, _ in recognized]
    files = [
        outcome if isinstance(outcome, ConvertedFile) else _file(context, *outcome, refusals, places)
        for outcome in (*outcomes, *neighbors)
    ]
    contents, asked = _contents(context), {shown(path) for path in named}
    files = [file for file in files if file.schema or file.file in asked or not _is_content(file, contents)]
    entries = dict.fromkeys(context.losses)  # each once
    losses, notes = ([loss for loss in entries if loss.is_note is is_note] for is_note in (False, True))
    return Conversion(context.manifests, context.uploads, losses, notes, files)


def _contents(context: Context) -> dict[Path, bool]:
    """Return local paths of models, data and code, and True for those around the file that names them."""
    contents: dict[Path, bool] = {}
    for upload in context.uploads:
        if upload.is_local:
            path = _absolute(upload.source)
            contents[path] = _absolute(upload.place.file).is_relative_to(path)
    return contents


def _is_content(file: ConvertedFile, contents: dict[Path, bool]) -> bool:
    """True for a file that is content, not an Azure file; beside the file that names the folder, only JSON is."""
    if NO_RESOURCE in file.refusal:
        return False
    path = _absolute(file.file)
    is_json = path.suffix.lower() == ".json"
    return any(contents.get(place) is False or (is_json and place in contents) for place in (path, *path.parents))


def _absolute(path: str) -> Path:
    """Return a path from the root; links are not followed, since they may go in circles."""
    return Path(os.path.normpath(Path.cwd() / path))


def _beside(named: list[Path], documents: list[Document]) -> list[tuple[Document, str]]:
    """Return what is in the folders of named files, with schemas."""
    candidates: list[tuple[Document, str]] = []
    familiar = {path.resolve() for path in (*named, *(document.file for document in documents))}
    for path in sorted({sibling for file in named for sibling in _siblings(file)}):
        if path.resolve() not in familiar:
            with suppress(Unreadable):
                candidates += [(document, schema_of(document.value)) for document in read(path)]
    return candidates


def _neighbors(beside: list[tuple[Document, str]], documents: list[Document]) -> list[tuple[Document, str]]:
    """Return the assets that documents name, and files beside them define."""
    names = {name for document in documents for name in _references(document.value)}
    return [
        (document, schema)
        for document, schema in beside
        if schema in _ASSETS and str(document.value.get("name") or document.file.stem) in names
    ]


def _siblings(file: Path) -> list[Path]:
    with suppress(OSError):
        return [path for path in islice(file.parent.iterdir(), MAX_NEIGHBORS) if path.suffix.lower() in SUFFIXES]
    return []


def _references(value: Any) -> Iterator[str]:
    """Yield the names of the assets that a value refers to."""
    if isinstance(value, str) and (named := reference(value.strip())):
        yield named[0]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from _references(child)


def _existing(paths: Iterable[Path]) -> list[Path]:
    existing = list(paths)
    for path in existing:
        if not path.exists() and not path.is_symlink():
            raise InvalidSpec(f"{path} does not exist. Name a file or a folder with Azure ML files.")
    return existing


def _convert_all(context: Context, recognized: list[tuple[Document, str]], refusals: dict[int, str]) -> None:
    """Convert assets first, since others name them, endpoints with their deployments, and parts of others last."""
    of = {schema: [document for document, other in recognized if other == schema] for schema in CONVERTED}
    for schema, (area, define) in _ASSETS.items():
        for document in of[schema]:
            name = str(document.value.get("name") or document.file.stem)
            version = document.value.get("version")
            asset = Asset(document, name, "" if version is None else str(version))
            context.assets.setdefault(area, []).append(asset)
            if define is not None:
                _attempt(context, refusals, [document], partial(define, context, asset))
    context.runs += [document for schema in _RUNS for document in of[schema]]
    for document in of[SCHEDULE]:
        make = partial(convert_schedule, context, context.fields(document), _TEMPLATES)
        _attempt(context, refusals, [document], make)
    for schema, convert_run in _RUNS.items():
        for document in of[schema]:
            if not context.is_part(document):
                _attempt(context, refusals, [document], partial(convert_run, context, context.fields(document)))
    for group in grouped(of[ENDPOINT], of[DEPLOYMENT]):
        members = [document for document in (group.endpoint, *group.deployments) if document is not None]
        _attempt(context, refusals, members, partial(convert_group, context, group))
    for document in of[IMPORT]:
        if not context.is_part(document):
            make = partial(convert_import, context, context.fields(document), document)
            _attempt(context, refusals, [document], make)
    for asset in context.assets.get("components", []):
        if not context.is_part(asset.document):
            _attempt(context, refusals, [asset.document], partial(convert_component, context, asset))
    for document in of[CONDA]:
        if not context.is_part(document):
            asset = Asset(document, str(document.value.get("name") or document.file.resolve().parent.name), "")
            _attempt(context, refusals, [document], partial(define_environment, context, asset))


def _attempt(context: Context, refusals: dict[int, str], documents: list[Document], make: Callable[[], None]) -> None:
    """Convert documents as a whole: a refusal leaves nothing of them."""
    marks = [(entries, len(entries)) for entries in (context.manifests, context.uploads, context.losses)]
    objects, imported = {key: list(names) for key, names in context.objects.items()}, dict(context.imported)
    parts = {part: set(owners) for part, owners in context.parts.items()}
    try:
        make()
    except (Refused, OSError) as error:
        for entries, count in marks:
            del entries[count:]
        context.objects, context.imported, context.parts = objects, imported, parts
        reason = error.message if isinstance(error, Refused) else f"names a file that cannot be read: {error}"
        refusals.update({id(document): reason for document in documents})


def _file(
    context: Context,
    document: Document,
    schema: str,
    refusals: dict[int, str],
    places: list[tuple[Document, Path]],
) -> ConvertedFile:
    """Return the outcome of a document; that of a part has the objects of the files that read it.

    `places` has all documents with their resolved files.
    """
    file = shown(document.file)
    if schema not in CONVERTED:
        return ConvertedFile(file, "", refusal=f"is {schema}")
    objects = context.noted(document)
    if objects:
        return ConvertedFile(file, schema, tuple(objects))
    if owners := context.owners(document.file.resolve()):
        objects = [name for other, place in places if place in owners for name in context.noted(other)]
        reason = f"belongs to {shown(min(owners))}, which does not convert. See the reason of that file"
        return ConvertedFile(file, schema, tuple(dict.fromkeys(objects)), "" if objects else reason)
    return ConvertedFile(file, schema, (), refusals.get(id(document), ""))
