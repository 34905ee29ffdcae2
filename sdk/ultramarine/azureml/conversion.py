"""Conversion of a set of Azure ML files to manifests. Pure: it reads files, and reaches no cluster and no network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from ultramarine_contract.errors import InvalidSpec

from ultramarine.azureml.compute import Compute
from ultramarine.azureml.context import Asset, Context, Refused
from ultramarine.azureml.data import define_data
from ultramarine.azureml.endpoints import convert_group, grouped
from ultramarine.azureml.environments import define_environment
from ultramarine.azureml.jobs import convert_job
from ultramarine.azureml.models import define_model
from ultramarine.azureml.reading import Document, Unreadable, files_in, read
from ultramarine.azureml.recognition import (
    CONVERTED,
    DATA,
    DEPLOYMENT,
    ENDPOINT,
    ENVIRONMENT,
    JOB,
    MODEL,
    SWEEP,
    schema_of,
)
from ultramarine.azureml.report import Conversion, ConvertedFile, Loss, Place, shown
from ultramarine.azureml.sweeps import convert_sweep
from ultramarine.resources.base import URI_PATTERN

LOCATION = "s3://bucket/namespace"  # stands for the bucket and the namespace's folder in it
_ASSETS: dict[str, tuple[str, Callable[[Context, Asset], None]]] = {
    ENVIRONMENT: ("environments", define_environment),
    DATA: ("data", define_data),
    MODEL: ("models", define_model),
}


def convert(
    paths: Iterable[Path], location: str = LOCATION, computes: Mapping[str, Compute] | None = None
) -> Conversion:
    """Convert files and folders. Raises InvalidSpec for a missing path or a wrong location.

    Other faults are refusals of files.

    Uploads go below `location`, such as s3://ultramarine/team-a. `computes` has what stands for compute targets.
    """
    if not re.fullmatch(URI_PATTERN, f"{location.rstrip('/')}/"):
        raise InvalidSpec(f"location {location} is not a folder of a bucket. Write s3://BUCKET/FOLDER.")
    context = Context(location.rstrip("/"), computes or {})
    refusals: dict[int, str] = {}
    outcomes: list[ConvertedFile | tuple[Document, str]] = []
    for path, is_named in files_in(_existing(paths)):
        try:
            documents = read(path)
        except Unreadable as error:
            outcomes.append(ConvertedFile(shown(path), "", refusal=error.message))
            continue
        for document in documents:
            schema = schema_of(document.value)
            if is_named or path.suffix.lower() != ".json" or schema in CONVERTED:
                outcomes.append((document, schema))
    recognized = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
    for document, _ in recognized:
        for line, name in document.placeholders:
            problem = f"{{{{{name}}}}} is a placeholder, and became {name}"
            context.losses.append(Loss(Place(shown(document.file), line, name), problem, "Write its value"))
    _convert_all(context, recognized, refusals)
    files = [
        outcome if isinstance(outcome, ConvertedFile) else _file(context, *outcome, refusals) for outcome in outcomes
    ]
    return Conversion(context.manifests, context.uploads, context.losses, files)


def _existing(paths: Iterable[Path]) -> list[Path]:
    existing = list(paths)
    for path in existing:
        if not path.exists() and not path.is_symlink():
            raise InvalidSpec(f"{path} does not exist. Name a file or a folder with Azure ML files.")
    return existing


def _convert_all(context: Context, recognized: list[tuple[Document, str]], refusals: dict[int, str]) -> None:
    """Convert assets first, since jobs and deployments name them, and endpoints with their deployments."""
    of = {schema: [document for document, other in recognized if other == schema] for schema in CONVERTED}
    for schema, (area, define) in _ASSETS.items():
        for document in of[schema]:
            name = str(document.value.get("name") or document.file.stem)
            version = document.value.get("version")
            asset = Asset(document, name, "" if version is None else str(version))
            context.assets.setdefault(area, []).append(asset)
            _attempt(context, refusals, [document], partial(define, context, asset))
    for schema, make in ((JOB, convert_job), (SWEEP, convert_sweep)):
        for document in of[schema]:
            _attempt(context, refusals, [document], partial(make, context, context.fields(document)))
    for group in grouped(of[ENDPOINT], of[DEPLOYMENT]):
        members = [document for document in (group.endpoint, *group.deployments) if document is not None]
        _attempt(context, refusals, members, partial(convert_group, context, group))


def _attempt(context: Context, refusals: dict[int, str], documents: list[Document], make: Callable[[], None]) -> None:
    """Convert documents as a whole: a refusal leaves nothing of them."""
    marks = [(entries, len(entries)) for entries in (context.manifests, context.uploads, context.losses)]
    objects, imported = {key: list(names) for key, names in context.objects.items()}, dict(context.imported)
    try:
        make()
    except (Refused, OSError) as error:
        for entries, count in marks:
            del entries[count:]
        context.objects, context.imported = objects, imported
        reason = error.message if isinstance(error, Refused) else f"names a file that cannot be read: {error}"
        refusals.update({id(document): reason for document in documents})


def _file(context: Context, document: Document, schema: str, refusals: dict[int, str]) -> ConvertedFile:
    """Return the outcome of a document."""
    if schema not in CONVERTED:
        return ConvertedFile(shown(document.file), "", refusal=f"is {schema}")
    objects = tuple(context.objects.get(id(document), ()))
    return ConvertedFile(shown(document.file), schema, objects, "" if objects else refusals.get(id(document), ""))
