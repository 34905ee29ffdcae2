"""What a model takes and gives: names, datatypes and shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from ultramarine_server.body import BODY_LIMIT
from ultramarine_server.errors import BadRequest, LoadError
from ultramarine_server.tensors import DTYPES, Array, keeps_values


class TensorSpec(msgspec.Struct, frozen=True):
    """One tensor: -1 in `shape` stands for any size, an empty `datatype` for any."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Mapping[str, Any] = msgspec.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as model metadata shows it."""
        document = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        return document | ({"parameters": dict(self.parameters)} if self.parameters else {})

    def one_row(self) -> Array:
        """Return a row of the example, or of zeros and empty texts. Raises LoadError if no request could bring one."""
        value = self.parameters.get("example", "" if self.datatype == "BYTES" else 0)
        sizes, dtype = [max(size, 1) for size in self.shape], DTYPES[self.datatype or "FP64"]
        if math.prod(sizes) * dtype.itemsize > BODY_LIMIT:
            message = f"a row of {self.name!r} with shape {list(self.shape)} is larger than a request may be"
            raise LoadError(f"{message} ({BODY_LIMIT} bytes); give it a smaller shape", "SignatureInvalid")
        return np.full(sizes, value, dtype)

    def take(self, array: Array, datatype: str) -> Array:
        """Return `array`, which came as `datatype`, in this tensor's type. Raises BadRequest when it does not fit."""
        wanted = self.datatype or datatype
        if datatype != wanted and not keeps_values(datatype, wanted):
            remedy = "; it is text: send its values as strings, or null for a missing one" if wanted == "BYTES" else ""
            raise BadRequest(f"input {self.name!r}: datatype {wanted} expected, {datatype} came{remedy}")
        if array.ndim == len(self.shape) + 1 and array.shape[-1] == 1 and self.shape == (-1,):
            array = array[:, 0]  # a column that came as a matrix of one column
        shape = array.shape
        if len(shape) != len(self.shape) or any(
            [want not in (-1, got) for want, got in zip(self.shape, shape, strict=True)]
        ):
            raise BadRequest(f"input {self.name!r}: shape {list(self.shape)} expected, {list(array.shape)} came")
        dtype = DTYPES[wanted]
        return array if array.dtype is dtype else array.astype(dtype, copy=False)


class Signature(msgspec.Struct, frozen=True):
    """All tensors of a model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as model metadata shows it."""
        return {"inputs": [i.to_dict() for i in self.inputs], "outputs": [o.to_dict() for o in self.outputs]}


def signature_from(document: Mapping[str, Any], where: str = "spec.signature") -> Signature:
    """Read a signature as ModelVersions have it. Raises LoadError SignatureInvalid with the field that is wrong."""

    def specs(part: str) -> Iterable[TensorSpec]:
        for index, entry in enumerate(document.get(part) or []):
            try:
                spec = TensorSpec(str(entry["name"]), str(entry["datatype"]), tuple(int(n) for n in entry["shape"]))
            except (KeyError, TypeError, ValueError) as error:
                message = f"{where}.{part}[{index}] needs name, datatype and shape ({error!r})"
                raise LoadError(message, "SignatureInvalid") from error
            if spec.datatype not in DTYPES:
                message = f"{where}.{part}[{index}].datatype is {spec.datatype!r}; known are {', '.join(DTYPES)}"
                raise LoadError(message, "SignatureInvalid")
            yield spec

    return Signature(tuple(specs("inputs")), tuple(specs("outputs")))


def mismatch(what: str, given: TensorSpec, found: str) -> LoadError:
    """The registered signature says one thing and the model another."""
    message = f"spec.signature says {what} {given.name!r} is {given.datatype} {list(given.shape)}, the model {found}"
    return LoadError(message, "SignatureMismatch")
