"""Models that are folders of Python code: model.py with a class `Model`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ultramarine_contract.errors import listed

from ultramarine_server.errors import BadRequest, LoadError, UnfitAnswer
from ultramarine_server.formats.loading import Options
from ultramarine_server.models.columns import with_gaps
from ultramarine_server.models.model import Signature, TensorSpec, signature_from
from ultramarine_server.models.outputs import described, fit_output
from ultramarine_server.protocol.tensors import Array

PLATFORM = "python_code"
_MODULE = "model"


def load(path: Path, options: Options) -> PythonModel:
    """Return the model in a folder, whose code runs now."""
    return PythonModel(path, options.signature)


class PythonModel:
    """`Model` of model.py: `predict(inputs)` takes arrays by name and returns all outputs.

    The server calls `load(folder)` first, if `Model` has it. The signature is the ModelVersion's or `Model.signature`.
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
        """Inputs of the signature, whatever the request has."""
        return self.signature.inputs

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Call `Model.predict`; its ValueError means that the model cannot take the values."""
        try:
            results = self._model.predict(dict(inputs))
        except Exception as error:
            refused = isinstance(error, ValueError)
            empty = with_gaps({name: array for name, array in inputs.items() if refused or array.dtype == object})
            if not (refused or empty):
                raise
            message = f"the model cannot take these values: {'' if refused else f'{type(error).__name__}: '}{error}"
            note = f"; {listed(map(repr, empty))} had a missing value" if empty else ""
            raise BadRequest(message + note) from error
        specs = {spec.name: spec for spec in self.signature.outputs}
        return {name: _array(specs[name], results) for name in outputs}


def _array(spec: TensorSpec, results: Any) -> Array:
    if not isinstance(results, Mapping) or spec.name not in results:
        message = f"Model.predict has to return {spec.name} in a dict, and returned {described(results)}"
        raise UnfitAnswer(f"{message}; return {{{spec.name!r}: ...}}, with all outputs of the signature")
    return fit_output(spec, results[spec.name], "Model.predict")


def _signature(document: Any) -> Signature:
    if not isinstance(document, Mapping):
        return Signature((), ())
    return signature_from(document, "Model.signature")


def _module(folder: Path) -> Any:
    """Import model.py, with its folder first in sys.path for the other modules of that folder."""
    loaded = sys.modules.get(_MODULE)
    if loaded is not None and getattr(loaded, "__file__", None) != str(folder / "model.py"):
        # Python would take a module of the same name from the other folder.
        raise LoadError(f"a pod serves one model of format python, and has {loaded}", "ModelUnsupported")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(_MODULE)
    except BaseException:
        sys.path.remove(str(folder))
        raise
