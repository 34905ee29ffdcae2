"""Statuses as models: read from an object as an earlier pass wrote it, and dumped as the API has it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

from pydantic import ValidationError
from ultramarine.resources.base import Status
from ultramarine_contract.meta import Manifest

from .plan import Obj

StatusT = TypeVar("StatusT", bound=Status)


def former(obj: Obj[Any], model: type[StatusT], without: Collection[str] = ()) -> StatusT:
    """Return the status of an earlier pass, without the fields named, by their names in the API.

    A field that does not validate is left out: whoever may write a status may have damaged it.
    """
    document = {name: value for name, value in obj.status.items() if name not in without}
    while True:
        try:
            return model.model_validate(document)
        except ValidationError as error:
            damaged = {str(fault["loc"][0]) for fault in error.errors(include_url=False) if fault["loc"]}
            sound = {name: value for name, value in document.items() if name not in damaged}
            document = sound if len(sound) < len(document) else {}


def dumped(status: Status) -> Manifest:
    """Return a status as the API has it: the fields that were set, without those that are None."""
    return status.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)
