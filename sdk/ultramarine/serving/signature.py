"""Signatures of served models, as their metadata describe them, and rows that fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ultramarine_contract.errors import UltramarineError, listed

from ..suggestions import suggest


class DataInvalid(UltramarineError):
    """The rows do not fit the model's signature."""

    reason = "DataInvalid"


class Input(NamedTuple):
    """Input of a model; -1 in `shape` means any size, an empty `datatype` any datatype."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    features: tuple[str, ...] = ()
    any_number: bool = False
    example: Any = None


class Output(NamedTuple):
    """Output of a model."""

    name: str
    datatype: str


class Signature(NamedTuple):
    """Name, inputs and outputs of the model that a deployment serves."""

    model: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of a row's values in their order; empty for a matrix without names and for other tensors."""
        first, *others = self.inputs
        if others or len(first.shape) == 1 or (len(first.shape) == 2 and first.shape[1] == 1):
            return tuple(spec.name for spec in self.inputs)
        return first.features

    def document(self) -> dict[str, Any]:
        """Return inputs and outputs as a ModelVersion's spec has them."""
        return {
            "inputs": [
                {"name": spec.name, "datatype": spec.datatype or "any", "shape": list(spec.shape)}
                | ({"features": list(spec.features)} if spec.features else {})
                for spec in self.inputs
            ],
            "outputs": [output._asdict() for output in self.outputs],
        }

    def example(self) -> dict[str, Any] | list[Any]:
        """Return one row of the training data's categories, zeros and empty texts: by name if the columns have names.

        A tensor of more dimensions is nested zeros.
        """
        first, *others = self.inputs
        if names := self.columns:
            specs = self.inputs if others or not first.features else [first] * len(names)
            return {name: _value(spec) for name, spec in zip(names, specs, strict=True)}
        value: Any = _value(first)
        for size in reversed(first.shape[1:]):
            value = [value] * max(size, 1)
        return value if isinstance(value, list) else [value]


def signature_of(metadata: Mapping[str, Any]) -> Signature:
    """Return the signature of a model's metadata, as GET /v2/models/MODEL answers."""
    inputs = [_input(entry) for entry in metadata.get("inputs") or []]
    outputs = [Output(str(entry["name"]), str(entry["datatype"])) for entry in metadata.get("outputs") or []]
    return Signature(str(metadata.get("name", "")), tuple(inputs), tuple(outputs))


def _input(entry: Mapping[str, Any]) -> Input:
    more = entry.get("parameters") or {}
    names = str(more.get("feature_names") or "")
    return Input(
        name=str(entry["name"]),
        datatype=str(entry.get("datatype") or ""),
        shape=tuple(int(size) for size in entry.get("shape") or ()),
        features=tuple(names.split(", ")) if names else (),
        any_number=bool(more.get("any_number")),
        example=more.get("example"),
    )


def _value(spec: Input) -> Any:
    empty: dict[str, Any] = {"BYTES": "", "BOOL": False, "": 0.0, "FP16": 0.0, "FP32": 0.0, "FP64": 0.0}
    return empty.get(spec.datatype, 0) if spec.example is None else spec.example


def check_columns(given: Iterable[str], expected: Iterable[str], model: str) -> None:
    """Raise DataInvalid for a column that the model does not take, with the nearest name, and for a missing one."""
    given, expected = list(given), list(expected)
    missing = [name for name in expected if name not in given]
    for name in given:
        if name not in expected:
            hint = suggest(name, missing, "Remove the column.", shown=repr)
            raise DataInvalid(f"column {name!r} is not an input of model {model}: {listed(expected, 20)}. {hint}")
    if missing:
        raise DataInvalid(f"column {missing[0]!r} is missing; model {model} takes {listed(expected, 20)}. Add it.")
