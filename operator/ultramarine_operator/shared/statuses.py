"""Statuses as models: read from an object as an earlier pass wrote it, cut to their limits, and dumped for the API."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ultramarine.resources.base import Status
from ultramarine_contract.meta import Manifest

from .plan import Obj

StatusT = TypeVar("StatusT", bound=Status)
Path = tuple[int | str, ...]  # keys and indices from the top of a document


def former(obj: Obj[Any], model: type[StatusT], without: Collection[str] = ()) -> StatusT:
    """Return the status of an earlier pass, without the fields named, by their names in the API.

    An entry of a list or of a mapping that does not validate is left out, and so is a field of the status: whoever may
    write a status may have damaged it.
    """
    document = {name: value for name, value in obj.status.items() if name not in without}
    while True:
        try:
            return model.model_validate(document)
        except ValidationError as error:
            faults = error.errors(include_url=False)
            sound = _pruned(document, {_entry(model, fault["loc"], fault["type"]) for fault in faults})
            if sound == document:
                sound = _pruned(document, {fault["loc"][:1] for fault in faults})
            document = sound if sound != document else {}


def _pruned(value: Any, faulty: Collection[Path], at: Path = ()) -> Any:
    """Return a document without the entries at these paths."""
    if isinstance(value, dict):
        return {name: _pruned(part, faulty, (*at, name)) for name, part in value.items() if (*at, name) not in faulty}
    if isinstance(value, list):
        return [_pruned(part, faulty, (*at, i)) for i, part in enumerate(value) if (*at, i) not in faulty]
    return value


def _entry(model: type[BaseModel], fault: Path, problem: str) -> Path:
    """Return the path of the innermost entry of a list or mapping with that fault; without one, of a field.

    A fault of a whole list or mapping, such as too many entries, is its own path.
    """
    entry, annotation = fault[:1], _plain(model)
    for place, name in enumerate(fault, 1):
        if get_origin(annotation) in (list, dict):
            entry, annotation = fault[:place], _plain(get_args(annotation)[-1])
        elif inspect.isclass(annotation) and issubclass(annotation, BaseModel):
            fields = annotation.model_fields.items()
            annotation = next((_plain(field.annotation) for own, field in fields if name in (own, field.alias)), None)
            if place == len(fault) and get_origin(annotation) in (list, dict) and problem != "missing":
                entry = fault
        else:
            break
    return entry


def _plain(annotation: Any) -> Any:
    """Return an annotation without its limits and without None."""
    while get_origin(annotation) in (Annotated, Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not NoneType)
    return annotation


def cut(model: type[BaseModel], **fields: Any) -> dict[str, Any]:
    """Return fields of a model with its texts and lists cut to the model's limits.

    Their sources are pods, gateways and users. A value that does not fit would keep the whole status from being
    written.
    """
    for name, value in fields.items():
        if isinstance(value, str | list):
            limits = (getattr(limit, "max_length", None) for limit in model.model_fields[name].metadata)
            fields[name] = value[: next(filter(None, limits), None)]
    return fields


def dumped(status: Status) -> Manifest:
    """Return a status as the API has it: the fields that were set, without those that are None."""
    return status.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)
