"""Models that were compiled to ONNX: they take and answer requests as their native models do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from ultramarine_contract.errors import listed

from ultramarine_server.errors import BadRequest, LoadError, unfit_values
from ultramarine_server.models.columns import numbers_of_any_kind, refuse_text
from ultramarine_server.models.model import Model, Signature, TensorSpec
from ultramarine_server.models.table import check_rows
from ultramarine_server.protocol.tensors import DTYPES, Array, nulls

# Metadata of a compiled model's file, each a JSON document.
SIGNATURE = "ultramarine.signature"  # of the native model
FEATURES = "ultramarine.features"  # names of the native model's features, if it has any
GAPS = "ultramarine.gaps"  # by kind of value: the columns that refuse it
MISSING_TEXTS = "ultramarine.missing-texts"  # by column: the converter's word for a missing text
KNOWN_TEXTS = "ultramarine.known-texts"  # by column: the only texts that it takes

MISSING, INFINITY, UNKNOWN = "a missing value", "infinity", "an unknown text"  # kinds of values that a column refuses


class Session(Model, Protocol):
    """ONNX session with the metadata of its file."""

    metadata: Mapping[str, str]


class CompiledModel:
    """ONNX session behind the signature of the native model."""

    steady = True  # As an OnnxModel is.

    def __init__(self, session: Session) -> None:
        metadata, read = session.metadata, msgspec.json.decode
        try:
            self.signature = read(metadata[SIGNATURE], type=Signature)
            self._features = read(metadata.get(FEATURES, "[]"), type=list[str])
            self._missing_texts = read(metadata.get(MISSING_TEXTS, "{}"), type=dict[int, str])
            self._known_texts = read(metadata.get(KNOWN_TEXTS, "{}"), type=dict[int, frozenset[str]])
            self._gaps = read(metadata.get(GAPS, "{}"), type=dict[str, list[int]])
        except (msgspec.MsgspecError, KeyError) as error:
            raise LoadError(f"the metadata {SIGNATURE} of the model is unusable: {error!r}", "ModelCorrupt") from error
        self._session = session
        self._takes = {spec.name: spec for spec in session.signature.inputs}
        self._is_matrix = len(self._takes) == 1 and not set(self._takes) <= set(self._features)
        self._columns = tuple(
            TensorSpec(name, "BYTES" if name in self._takes and self._takes[name].datatype == "BYTES" else "", (-1,))
            for name in self._features
        )
        self._inputs = numbers_of_any_kind(self.signature.inputs)
        if self._is_unlike_its_columns():
            datatypes = {"FP32": "FP64"}
            columns = (TensorSpec(n, datatypes.get(s.datatype, s.datatype), (-1,)) for n, s in self._takes.items())
            self.signature, self._inputs = Signature(tuple(columns), self.signature.outputs), self._columns
        self._by_column = len(self.signature.inputs) > 1

    def _is_unlike_its_columns(self) -> bool:
        """True if an earlier release compiled the model, and wrote a matrix of numbers for columns of text too."""
        texts = any(spec.datatype == "BYTES" for spec in self._takes.values())
        return texts and not self._is_matrix and "feature_names" in self.signature.inputs[0].parameters

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """Columns, if the request names a column; otherwise the signature's inputs. The native model does the same."""
        own = [spec.name for spec in self.signature.inputs]
        if not self._by_column and set(names) & set(self._features) and own != list(names):
            return self._columns
        return self._inputs

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Convert the inputs to those of the session, and run it for the named outputs only."""
        check_rows(inputs)
        prepared = self._matrix(inputs) if self._is_matrix else self._by_name(inputs)
        prepared = self._with_words(prepared)
        arrays = list(prepared.values())
        if self._gaps and not all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
            self._refuse_gaps(arrays)
        try:
            return self._session.predict(prepared, outputs)
        except Exception as error:  # The shapes fit, so the values are wrong, such as an unknown category.
            raise unfit_values(error) from error

    def _with_words(self, prepared: dict[str, Array]) -> dict[str, Array]:
        """Put the converter's word in place of a missing text, and another word in place of an equal text."""
        for number, (name, array) in enumerate(prepared.items()):
            if array.dtype != object:
                continue
            prepared[name] = array = array.copy()
            for column in range(array.shape[1]):
                position, texts = column if self._is_matrix else number, array[:, column]
                missing, word = nulls(texts), self._missing_texts.get(position)
                categories = self._known_texts.get(position)
                if categories is not None and (unknown := {*texts[~missing].tolist()} - categories):
                    raise self._unfit(position, f"unknown categories {listed(map(repr, sorted(unknown)))}")
                if word is not None:
                    texts[texts == word] = f"{word}?"
                    texts[missing] = word
                elif missing.any():
                    raise self._unfit(position, MISSING)
        return prepared

    def _unfit(self, position: int, kind: str) -> BadRequest:
        named = f"feature {self._features[position]!r}" if self._features else f"column {position}"
        return BadRequest(f"the model cannot take these values: {named} has {kind}")

    def _refuse_gaps(self, arrays: Sequence[Array]) -> None:
        """Raise BadRequest for a value that the native model refuses in its column."""
        for kind, positions in self._gaps.items():
            test = np.isnan if kind == MISSING else np.isinf
            for position in positions:
                number, column = (0, position) if self._is_matrix else (position, 0)
                array = arrays[number]
                if array.dtype.kind == "f" and column < array.shape[1] and test(array[:, column]).any():
                    raise self._unfit(position, kind)

    def _matrix(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        [(name, spec)] = self._takes.items()
        arrays = list(inputs.values())
        if len(arrays) > 1 or next(iter(inputs)) in self._features:
            order = self._features or [spec.name for spec in self.signature.inputs]
            if spec.datatype != "BYTES":  # The matrix does not have the columns' names.
                inputs = {column: _numbers(array, column) for column, array in inputs.items()}
            arrays = [inputs[column].reshape(-1, 1) for column in order]
        whole = arrays[0] if len(arrays) == 1 else np.column_stack(arrays)
        if whole.ndim == 1:
            whole = whole.reshape(-1, 1)
        return {name: _typed(whole, spec, name)}

    def _by_name(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if len(inputs) == 1 and next(iter(inputs)) not in self._features:
            [matrix] = inputs.values()
            inputs = {name: matrix[:, index] for index, name in enumerate(self._features)}
        return {name: _typed(inputs[name].reshape(-1, 1), spec, name) for name, spec in self._takes.items()}


def _numbers(array: Array, name: str) -> Array:
    refuse_text(array, repr(name))
    return array.astype(np.float64) if array.dtype == object else array  # Nulls become NaN.


def _typed(array: Array, spec: TensorSpec, name: str) -> Array:
    if spec.datatype != "BYTES":
        array = _numbers(array, name)
    try:
        if spec.datatype == "BYTES" and array.dtype != object:
            raise BadRequest(f"column {name!r} is text, and numbers came: send its values as strings (BYTES), or null")
        with np.errstate(invalid="ignore"):  # A missing integer is refused below.
            typed = np.ascontiguousarray(array, dtype=DTYPES[spec.datatype])
    except (ValueError, TypeError, OverflowError) as error:
        raise BadRequest(f"input {name!r}: {spec.datatype} expected ({error})") from error
    if typed.dtype.kind in "iu" and not np.array_equal(typed, array):
        came = "a missing value" if np.isnan(array).any() else "numbers with a fraction"
        raise BadRequest(f"input {name!r}: {spec.datatype} expected, {came} came")
    return typed
