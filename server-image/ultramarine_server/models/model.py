"""Models and their signatures: the names, datatypes and shapes of inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from ultramarine_server.errors import BadRequest, LoadError
from ultramarine_server.protocol.tensors import BODY_LIMIT, DTYPES, Array, keeps_values


class TensorSpec(msgspec.Struct, frozen=True):
    """Tensor of a signature: -1 in `shape` means any size, an empty `datatype` any datatype."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Mapping[str, Any] = msgspec.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the tensor as model metadata shows it."""
        document = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        return document | ({"parameters": dict(self.parameters)} if self.parameters else {})

    def one_row(self) -> Array:
        """Return a row of the example, or of zeros and empty texts. Raises LoadError if a request cannot hold a row."""
        value = self.parameters.get("example", "" if self.datatype == "BYTES" else 0)
        sizes, dtype = [max(size, 1) for size in self.shape], DTYPES[self.datatype or "FP64"]
        if math.prod(sizes) * dtype.itemsize > BODY_LIMIT:
            message = f"a row of {self.name!r} with shape {list(self.shape)} is larger than a request may be"
            raise LoadError(f"{message} ({BODY_LIMIT} bytes); give it a smaller shape", "SignatureInvalid")
        return np.full(sizes, value, dtype)

    def take(self, array: Array, datatype: str) -> Array:
        """Return `array`, which came as `datatype`, in this tensor's type. Raises BadRequest if it does not fit."""
        target = self.datatype or datatype
        if datatype != target and not keeps_values(datatype, target):
            remedy = "; it is text: send its values as strings, or null for a missing one" if target == "BYTES" else ""
            raise BadRequest(f"input {self.name!r}: datatype {target} expected, {datatype} came{remedy}")
        if array.ndim == len(self.shape) + 1 and array.shape[-1] == 1 and self.shape == (-1,):
            array = array[:, 0]  # a matrix of one column
        shape = array.shape
        if len(shape) != len(self.shape) or any(
            [size not in (-1, actual) for size, actual in zip(self.shape, shape, strict=True)]
        ):
            raise BadRequest(f"input {self.name!r}: shape {list(self.shape)} expected, {list(array.shape)} came")
        dtype = DTYPES[target]
        return array if array.dtype is dtype else array.astype(dtype, copy=False)


class Signature(msgspec.Struct, frozen=True):
    """Inputs and outputs of a model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the signature as model metadata shows it."""
        return {"inputs": [i.to_dict() for i in self.inputs], "outputs": [o.to_dict() for o in self.outputs]}


def signature_from(document: Mapping[str, Any], where: str = "spec.signature") -> Signature:
    """Return the signature of a ModelVersion. Raises LoadError SignatureInvalid, which names the invalid field."""

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


def mismatch(side: str, given: TensorSpec, actual: str) -> LoadError:
    """Return the error of a registered signature that differs from the model's."""
    message = f"spec.signature says {side} {given.name!r} is {given.datatype} {list(given.shape)}, the model {actual}"
    return LoadError(message, "SignatureMismatch")


class Model(Protocol):
    """Model with a signature; multiple threads may call `predict` at once."""

    signature: Signature

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """Return the expected inputs of a request that has inputs of these names."""

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Return the named outputs for inputs that fit the specs."""


def _always() -> bool:
    return True


class Loaded(msgspec.Struct, eq=False):
    """Loaded model under its name; `platform` is the format's name in model metadata.

    The event loop's thread answers requests of at most `quick` numbers; `strikes` counts slow answers in a row.
    `alive` is false while a model's own process starts again.
    """

    name: str
    version: str
    platform: str
    model: Model
    quick: int = 0
    strikes: int = 0
    alive: Callable[[], bool] = _always
