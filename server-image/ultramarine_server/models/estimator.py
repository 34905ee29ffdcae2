"""Estimators of scikit-learn, from any format of file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ultramarine_server.errors import BadRequest, LoadError
from ultramarine_server.models.categories import refuse_estimators_of_categories
from ultramarine_server.models.columns import (
    column_inputs,
    learned,
    numbers_of_any_kind,
    refuse_text,
    refused_values,
    with_examples,
    with_missing,
)
from ultramarine_server.models.model import Signature, TensorSpec
from ultramarine_server.models.table import (
    INPUT,
    check_rows,
    checked_inputs,
    checked_outputs,
    columns_or_inputs,
    lightgbm_names,
    matrix_input,
)
from ultramarine_server.protocol.tensors import Array, datatype_of

OUTPUTS = ("predict", "predict_proba")


class SklearnModel:
    """Estimator with `predict`; it takes a matrix `input` or, if it has names of features, a tensor for each."""

    def __init__(self, estimator: Any, given: Signature | None = None) -> None:
        if not callable(getattr(estimator, "predict", None)):
            kind = type(estimator).__name__
            raise LoadError(f"the file holds a {kind}, which has no predict; store a fitted estimator")
        refuse_estimators_of_categories(estimator)
        self.estimator = estimator
        self._features = [str(name) for name in getattr(estimator, "feature_names_in_", [])]
        if type(estimator).__module__.startswith("lightgbm."):
            self._features = lightgbm_names(self._features, given)
        if self._features:
            import pandas as pd  # Only models that were fitted on a data frame need it.

            self._frame: Any = pd.DataFrame
            self._series: Any = pd.Series
        count = int(getattr(estimator, "n_features_in_", -1))
        self._learned = learned(estimator, count)
        self._keeps_none = any(column.missing is None for column in self._learned.values())
        self._has_text = any(column.datatype == "BYTES" for column in self._learned.values())
        self._columns = tuple(TensorSpec(name, self._any_but_text(at), (-1,)) for at, name in enumerate(self._features))
        inputs = self._inferred_inputs(count)
        if given and given.inputs:
            inputs = checked_inputs(given.inputs, self._features, count)
        self._names = self._features or ([spec.name for spec in inputs] if len(inputs) > 1 else [])
        self._positions = {name: at for at, name in enumerate(self._names)}
        if self._has_text and given and {spec.name for spec in given.inputs} == {*self._names}:
            inputs = with_examples(inputs, {self._names[at]: column for at, column in self._learned.items()})
        self._taken = numbers_of_any_kind(inputs)
        outputs = checked_outputs(given.outputs if given else (), self._tried_outputs(inputs))
        self.signature = Signature(inputs, outputs)

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """Columns, if the request names a column; otherwise the signature's inputs."""
        return columns_or_inputs(self._taken, self._columns, names)

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Call the estimator once for each output."""
        inputs = self._checked(inputs)
        table = self._table(inputs)
        try:
            return {name: np.asarray(getattr(self.estimator, name)(table)) for name in outputs}
        except Exception as error:
            if (problem := refused_values(error, inputs, self._features)) is None:
                raise
            raise problem from error

    def missing_texts(self) -> dict[int, str]:
        """Return the converters' word for a missing text, by the position of its column."""
        return {at: str(column.missing) for at, column in self._learned.items() if column.datatype == "BYTES"}

    def known_texts(self) -> dict[int, tuple[str, ...]]:
        """Return the texts of encoders, by the position of their column."""
        return {at: column.texts for at, column in self._learned.items() if column.texts}

    def _any_but_text(self, at: int) -> str:
        return "BYTES" if at in self._learned and self._learned[at].datatype == "BYTES" else ""

    def _checked(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Replace None by the missing value that the model was fitted with.

        Raises BadRequest for numbers in columns of text, and for text in columns of numbers.
        """
        checked: dict[str, Array] = {}
        for name, array in inputs.items():
            at = self._positions.get(name, -1)
            apart = "; send each column as an input of its name" if at < 0 else ""
            if array.dtype == object:
                self._refuse_text(array, at, apart)
                array = with_missing(array, self._learned, max(at, 0))
            elif texts := [column for column in ([at] if at >= 0 else self._learned) if self._any_but_text(column)]:
                message = f"column {self._named(texts[0])} is text, and numbers came"
                raise BadRequest(f"{message}: send its values as strings (BYTES), or null{apart}")
            checked[name] = array
        return checked

    def _refuse_text(self, array: Array, at: int, apart: str) -> None:
        """Raise BadRequest for text in a column of numbers; `at` is -1 for a matrix, which may also hold numbers."""
        numbers = [position for position, column in self._learned.items() if column.is_number]
        if at in numbers:
            refuse_text(array, self._named(at))
        table = np.atleast_2d(array.T).T
        for column in numbers if at < 0 else ():
            if column < table.shape[1] and any(isinstance(value, str) for value in table[:, column]):
                refuse_text(table[:, column], self._named(column), apart)

    def _named(self, at: int) -> str:
        return repr(self._names[at]) if self._names else str(at)

    def _table(self, inputs: Mapping[str, Array]) -> Any:
        """Return the table as the estimator was fitted on it: a data frame if it has names, otherwise an array."""
        check_rows(inputs)
        if len(inputs) == 1 and not self._features:
            return next(iter(inputs.values()))
        if len(inputs) > 1 or next(iter(inputs)) in self._features:  # columns, of any shape
            inputs = {
                name: array.reshape(array.shape[0]) if _is_column(array) else array for name, array in inputs.items()
            }
        if not self._features:
            return np.column_stack([inputs[spec.name] for spec in self.signature.inputs])
        if len(inputs) == 1 and next(iter(inputs)) not in self._features:
            return self._frame(next(iter(inputs.values())), columns=self._features)
        table = self._frame({name: inputs[name] for name in self._features})
        if self._keeps_none:  # pandas would replace it by NaN
            for name, array in inputs.items():
                if array.dtype == object:
                    table[name] = self._series(array, dtype=object)
        return table

    def _inferred_inputs(self, count: int) -> tuple[TensorSpec, ...]:
        if hasattr(_first_step(self.estimator), "build_analyzer"):  # a text vectorizer takes a string for each row
            return (TensorSpec(INPUT, "BYTES", (-1,)),)
        if self._has_text and count == 1 and not self._features:
            return (TensorSpec(INPUT, "BYTES", (-1, 1), {"example": self._learned[0].example}),)
        if self._has_text:
            return column_inputs(self._features or [f"x{at}" for at in range(count)], self._learned)
        return (matrix_input(self._features, count),)

    def _tried_outputs(self, inputs: tuple[TensorSpec, ...]) -> list[TensorSpec]:
        """Predict a row, which also warms the estimator up; return outputs by its classes if it refuses the row."""
        names = [name for name in OUTPUTS if hasattr(self.estimator, name)]
        zeros = {spec.name: spec.one_row() for spec in inputs}
        try:
            results = {name: getattr(self.estimator, name)(self._table(zeros)) for name in names}
        except Exception:  # An estimator, such as an encoder of words, may refuse zeros by any exception.
            return self._declared_outputs(names)
        arrays = {name: result for name, result in results.items() if isinstance(result, np.ndarray)}
        return [TensorSpec(name, datatype_of(array), (-1, *array.shape[1:])) for name, array in arrays.items()]

    def _declared_outputs(self, names: Sequence[str]) -> list[TensorSpec]:
        classes = getattr(self.estimator, "classes_", np.zeros(0))
        if isinstance(classes, list):  # multiple targets, each with its own classes
            return [TensorSpec("predict", datatype_of(np.asarray(classes[0])), (-1, len(classes)))]
        specs = [TensorSpec("predict", datatype_of(np.asarray(classes)), (-1,))]
        return specs + [TensorSpec(name, "FP64", (-1, len(classes) or -1)) for name in names[1:]]


def _is_column(array: Array) -> bool:
    return array.ndim == 2 and array.shape[1] == 1


def _first_step(estimator: Any) -> Any:
    estimator = getattr(estimator, "best_estimator_", estimator)  # of a search
    return estimator.steps[0][1] if hasattr(estimator, "steps") else estimator
