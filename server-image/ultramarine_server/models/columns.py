"""Columns of a fitted estimator's table: which are text, and how a missing value was encoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from ultramarine_contract.errors import listed

from ultramarine_server.errors import BadRequest, unfit_values
from ultramarine_server.models.model import TensorSpec
from ultramarine_server.protocol.tensors import Array, nulls

ANY_NUMBER = "any_number"  # parameter of an input in the metadata: the input takes numbers of other datatypes too


class Column(msgspec.Struct, frozen=True):
    """Column with its datatype, an accepted value, and the missing value that the model was fitted with.

    `texts` are those of an encoder. `converted` is true if a function, which may read text, comes first.
    """

    datatype: str
    example: Any
    missing: float | None = np.nan
    texts: tuple[str, ...] = ()
    converted: bool = False

    @property
    def is_number(self) -> bool:
        """True if the model takes no text in this column."""
        return self.datatype != "BYTES" and not self.texts and not self.converted


def learned(estimator: Any, count: int) -> dict[int, Column]:
    """Return the columns of an estimator with `count` columns, by position, as its parts describe them."""
    try:
        return _Reader().read(estimator, count)
    except Exception:  # A user's class may have any value under these names.
        return {}


class _Reader:
    """Reader that reads each part once: a forged file may have cycles."""

    def __init__(self) -> None:
        self._columns: dict[tuple[int, int], dict[int, Column]] = {}

    def read(self, part: Any, count: int) -> dict[int, Column]:
        part, place = getattr(part, "best_estimator_", part), (id(part), count)
        if isinstance(part, str) or int(getattr(part, "n_features_in_", count)) != count:
            return {}
        if place not in self._columns:
            self._columns[place] = {}
            self._columns[place] = self._read(part, count)
        return self._columns[place]

    def _read(self, part: Any, count: int) -> dict[int, Column]:
        if hasattr(part, "steps"):
            return self._of_steps([step for _, step in part.steps], count)
        if hasattr(part, "transformers_"):
            indices = part._transformer_to_input_indices
            choices = [(list(indices.get(name, ())), transformer) for name, transformer, _ in part.transformers_]
            return _merged({at[n]: c for n, c in self.read(inside, len(at)).items()} for at, inside in choices)
        if hasattr(part, "transformer_list"):
            return _merged(self.read(transformer, count) for _, transformer in part.transformer_list)
        if isinstance(categories := getattr(part, "categories_", None), list):
            return dict(enumerate(map(_of_categories, categories)))
        if hasattr(part, "build_analyzer"):
            return {0: Column("BYTES", next(iter(getattr(part, "vocabulary_", ())), "text"))}
        if isinstance(filled := getattr(part, "statistics_", None), np.ndarray):
            missing = None if getattr(part, "missing_values", np.nan) is None else np.nan
            return {at: Column("BYTES", value, missing) for at, value in enumerate(filled) if isinstance(value, str)}
        return _merged(self.read(estimator, count) for estimator in inner(part))

    def _of_steps(self, steps: Sequence[Any], count: int) -> dict[int, Column]:
        columns: dict[int, Column] = {}
        converted = False
        for step in steps:
            for at, column in self.read(step, count).items():
                last = column.converted or converted
                columns[at] = msgspec.structs.replace(columns.get(at, column), texts=column.texts, converted=last)
            if not leaves_columns(step):
                break
            converted = converted or getattr(step, "func", None) is not None
        return columns


def leaves_columns(step: Any) -> bool:
    """True if a step returns the columns that it takes: it fills gaps, or is a function."""
    return isinstance(step, str) or hasattr(step, "statistics_") or type(step).__name__ == "FunctionTransformer"


def inner(part: Any) -> list[Any]:
    """Return the estimators that get the whole table of a meta-estimator."""
    if hasattr(part, "estimators_features_"):  # Each estimator of a bagging has its own columns.
        return []
    calibrated = getattr(part, "calibrated_classifiers_", None)
    several = [member.estimator for member in calibrated] if calibrated else getattr(part, "estimators_", None)
    single = [getattr(part, name) for name in ("estimator_", "regressor_") if hasattr(part, name)]
    return single + (several if isinstance(several, list) else [])


def _merged(parts: Iterable[dict[int, Column]]) -> dict[int, Column]:
    merged: dict[int, Column] = {}
    for part in parts:
        for at, column in part.items():
            if at not in merged or column.datatype == "BYTES" != merged[at].datatype:
                merged[at] = column
    return merged


def _of_categories(categories: Array) -> Column:
    values = categories.tolist()
    present = [value for value in values if value is not None and value == value]
    example = present[0] if present else 0.0
    example = example.item() if isinstance(example, np.generic) else example
    datatype = {str: "BYTES", bool: "BOOL", int: "INT64"}.get(type(example), "FP64")
    texts = tuple(value for value in present if isinstance(value, str))
    return Column(datatype, example, None if None in values else np.nan, texts)


def column_inputs(names: Sequence[str], columns: Mapping[int, Column]) -> tuple[TensorSpec, ...]:
    """Return an input for each column, with an example of its values."""
    alone = {"feature_names": names[0]} if len(names) == 1 else {}
    inputs = []
    for at, name in enumerate(names):
        column = columns.get(at, Column("FP64", 0.0))
        numbers = {} if column.datatype == "BYTES" else {ANY_NUMBER: True}
        inputs.append(TensorSpec(name, column.datatype, (-1,), {**alone, "example": column.example, **numbers}))
    return tuple(inputs)


def with_examples(given: Sequence[TensorSpec], columns: Mapping[str, Column]) -> tuple[TensorSpec, ...]:
    """Return the inputs of a registered signature, one for each column, with examples of their values."""
    inputs = []
    for spec in given:
        column, empty = columns.get(spec.name), {"BYTES": "", "BOOL": False}.get(spec.datatype, 0)
        fits = column is not None and isinstance(column.example, str) == isinstance(empty, str)
        example = column.example if column is not None and fits else empty
        example = bool(example) if spec.datatype == "BOOL" else example
        inputs.append(TensorSpec(spec.name, spec.datatype, spec.shape, {**spec.parameters, "example": example}))
    return tuple(inputs)


def numbers_of_any_kind(inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Return the inputs with any datatype for those that take any number, as the estimator does."""
    return tuple(TensorSpec(spec.name, "", spec.shape) if ANY_NUMBER in spec.parameters else spec for spec in inputs)


def refuse_text(array: Array, name: str, remedy: str = "") -> None:
    """Raise BadRequest for text in a column of numbers. A column of nulls passes, as missing numbers."""
    if array.dtype == object and not nulls(array).all():
        message = f"column {name} holds numbers, and text came: send its values as numbers (such as INT64 or FP64)"
        raise BadRequest(message + remedy)


def with_missing(array: Array, columns: Mapping[int, Column], first: int = 0) -> Array:
    """Replace None by the missing value of its column; the columns of `array` count from `first`."""
    gaps = nulls(array)
    if not gaps.any():
        return array
    array = array.copy()
    for at in range(array.shape[1] if array.ndim > 1 else 1):
        column, empty = (array[:, at], gaps[:, at]) if array.ndim > 1 else (array, gaps)
        column[empty] = columns[first + at].missing if first + at in columns else np.nan
    return array


def refused_values(error: Exception, inputs: Mapping[str, Array], names: Sequence[str] = ()) -> BadRequest | None:
    """Return the error for values that made a model fail; None if another cause is possible.

    `names` are those of a matrix' columns. The error names columns with a missing value if the model's message does.
    """
    empty = with_gaps(inputs, names)
    lacks_method = bool(empty) and isinstance(error, AttributeError)  # such as a method of str
    if not lacks_method and not isinstance(error, ValueError | TypeError):  # what estimators raise for unfit values
        return None
    problem, message = unfit_values(error), str(error).lower()
    if not empty or not (lacks_method or any(word in message for word in ("nan", "none", "missing"))):
        return problem
    return BadRequest(f"{str(problem).rstrip('.')}; {listed(map(repr, empty))} had a missing value")


def with_gaps(inputs: Mapping[str, Array], names: Sequence[str] = ()) -> list[str]:
    """Return the columns with a missing value, None or NaN."""
    return [name for key, array in inputs.items() for name in _with_gaps(key, array, names)]


def _with_gaps(key: str, array: Array, names: Sequence[str]) -> list[str]:
    gaps = nulls(array) | (array != array)
    if not gaps.any():
        return []
    if gaps.ndim == 2 and gaps.shape[1] > 1:
        return [names[at] if names else f"column {at}" for at in np.flatnonzero(gaps.any(axis=0)).tolist()]
    return [key]
