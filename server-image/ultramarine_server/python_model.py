"""A model that is a folder of Python code: model.py with a class `Model`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ultramarine_server.errors import BadRequest, LoadError, Problem
from ultramarine_server.signature import Signature, TensorSpec, signature_from
from ultramarine_server.tensors import Array

_MODULE = "model"


class PythonModel:
    """What `Model` in model.py makes of arrays by name: `predict(inputs)` returns all outputs.

    `load(folder)` is called first, if there is one. The signature is the ModelVersion's or `Model.signature`.
    """

    def __init__(self, folder: Path, given: Signature | None) -> None:
        model_class: Any = getattr(_module(folder), "Model", None)
        if not callable(getattr(model_class, "predict", None)):
            message = "model.py has no class Model with a method predict(inputs); define one"
            raise LoadError(message, "ModelUnsupported")
        self.signature = given or _signature(getattr(model_class, "signature", None))
        if not self.signature.inputs or not self.signature.outputs:
            message = "nothing says what Model takes and gives; set spec.signature of the ModelVersion with inputs and "
            raise LoadError(f"{message}outputs, or Model.signature in model.py", "SignatureInvalid")
        self._model = model_class()
        if callable(getattr(self._model, "load", None)):
            self._model.load(folder)

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """The signature's inputs, always."""
        return self.signature.inputs

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Call `Model.predict`; a ValueError of its own says that it cannot take the values."""
        try:
            results = self._model.predict(dict(inputs))
        except ValueError as error:
            raise BadRequest(f"the model cannot take these values: {error}") from error
        missing = [name for name in outputs if not isinstance(results, Mapping) or name not in results]
        if missing:
            raise Problem(500, f"Model.predict has to return {', '.join(missing)} in a dict, and does not")
        return {name: np.asarray(results[name]) for name in outputs}


def _signature(document: Any) -> Signature:
    if not isinstance(document, Mapping):
        return Signature((), ())
    return signature_from(document, "Model.signature")


def _module(folder: Path) -> Any:
    """Import model.py, with its folder first in sys.path for the modules beside it."""
    taken = sys.modules.get(_MODULE)
    if taken is not None and getattr(taken, "__file__", None) != str(folder / "model.py"):
        # Modules of the same name would be taken from one another without a word.
        raise LoadError(f"a pod serves one model of format python, and has {taken}", "ModelUnsupported")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(_MODULE)
    except BaseException:
        sys.path.remove(str(folder))
        raise
