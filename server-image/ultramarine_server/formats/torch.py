"""PyTorch programs: files of torch.export.save (.pt2) and TorchScript (.pt). The server image has no torch."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ultramarine_server.errors import BadRequest, LoadError
from ultramarine_server.formats.loading import Options
from ultramarine_server.models.model import Signature, TensorSpec, mismatch
from ultramarine_server.protocol.tensors import DTYPES, Array, datatype_of

PLATFORM = "pytorch_program"
_EXPORTED = re.compile(r"(^|/)models/[^/]+\.json$|^serialized_exported_program\.json$")
_SCRIPT = re.compile(r"(^|/)code/")


def load(path: Path, options: Options) -> TorchModel:
    """Return the program in a file. Raises LoadError for weights without a program, and if torch is missing."""
    given = options.signature
    names = zipfile.ZipFile(path).namelist()
    exported = any(_EXPORTED.search(name) for name in names)
    if not exported and not any(_SCRIPT.search(name) for name in names):
        message = f"{path.name} holds weights or a pickled module, and no program"
        raise LoadError(f"{message}; store the model with torch.export.save as .pt2", "ModelUnsupported")
    try:
        import torch
    except ImportError as error:
        message = f"{path.name} needs torch, which the server image lacks ({error})"
        remedy = "build an image FROM it with torch, and name that in images.server of the chart (docs/formats.md)"
        raise LoadError(f"{message}; {remedy}, or export the model as ONNX", "DependencyMissing") from error
    torch.set_num_threads(options.threads)
    if exported:
        program = torch.export.load(path)
        return TorchModel(torch, program.module(), _exported_inputs(program), given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, and still in use.
        script = torch.jit.load(path, map_location="cpu").eval()
    arguments = [argument.name for argument in script.forward.schema.arguments[1:]]
    if given is None:
        message = "a TorchScript file does not tell datatypes"
        remedy = f"set spec.signature with inputs for {', '.join(arguments)}"
        raise LoadError(f"{message}; {remedy}", "SignatureInvalid")
    if len(given.inputs) != len(arguments):
        raise mismatch("input", given.inputs[-1], f"takes {len(arguments)}: {', '.join(arguments)}")
    if {spec.name for spec in given.inputs} == set(arguments):
        by_name = {spec.name: spec for spec in given.inputs}
        return TorchModel(torch, script, tuple(by_name[name] for name in arguments), given)
    return TorchModel(torch, script, given.inputs, given)


class TorchModel:
    """Program whose inputs are its arguments, in their order; a dict of tensors keeps its names."""

    def __init__(self, torch: Any, call: Callable[..., Any], inputs: tuple[TensorSpec, ...], given: Signature | None):
        self._torch, self._call = torch, call
        if given and given.inputs:
            inputs = _checked(given.inputs, inputs)
        self._order = tuple(spec.name for spec in inputs)
        self._names = tuple(spec.name for spec in given.outputs) if given else ()
        for spec in inputs:
            if spec.datatype == "BYTES":
                raise mismatch("input", spec, "takes numbers")
        zeros = {spec.name: np.zeros([max(n, 1) for n in spec.shape], DTYPES[spec.datatype]) for spec in inputs}
        try:
            results = self._results(zeros)
        except Exception as error:  # A program may refuse its input by any exception.
            takes = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in inputs)
            message = f"the program cannot take {takes}: {_reason(error)}"
            raise LoadError(f"{message}; set spec.signature to what it takes", "SignatureMismatch") from error
        datatypes = {name: datatype_of(array) for name, array in results.items()}
        outputs = tuple(TensorSpec(name, datatypes[name], _open(array)) for name, array in results.items())
        for spec in given.outputs if given else ():
            if spec.datatype != datatypes.get(spec.name) or len(spec.shape) != results[spec.name].ndim:
                gives = ", ".join(f"{output.name} {output.datatype} {list(output.shape)}" for output in outputs)
                raise mismatch("output", spec, f"gives {gives}")
        self.signature = Signature(inputs, (given.outputs if given else ()) or outputs)

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """Arguments of the program, whatever the request has."""
        return self.signature.inputs

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the program once for all outputs."""
        try:
            results = self._results(inputs)
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:  # raised by torch for unfit shapes
            raise BadRequest(f"the model cannot take these values: {_reason(error)}") from error
        return {name: results[name] for name in outputs}

    def _results(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        # A copy, because a program may write into its input.
        tensors = [self._torch.from_numpy(np.array(inputs[name])) for name in self._order]
        with self._torch.inference_mode():
            result = self._call(*tensors)
        if isinstance(result, Mapping):
            return {str(name): tensor.numpy() for name, tensor in result.items()}
        several = list(result) if isinstance(result, tuple | list) else [result]
        names = self._names or (["output"] if len(several) == 1 else [f"output_{n}" for n in range(len(several))])
        return {name: tensor.numpy() for name, tensor in zip(names, several, strict=False)}


def _exported_inputs(program: Any) -> tuple[TensorSpec, ...]:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}

    def spec(name: str) -> TensorSpec:
        value = values[name]
        datatype = str(value.dtype).removeprefix("torch.")
        shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
        return TensorSpec(name, datatype_of(np.zeros(0, np.dtype(datatype))), shape)

    return tuple(spec(name) for name in program.graph_signature.user_inputs)


def _checked(given: tuple[TensorSpec, ...], arguments: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Return the registered inputs, which may have other names than the program's arguments."""
    if len(given) != len(arguments):
        raise mismatch("input", given[-1], f"takes {len(arguments)}")
    for spec, own in zip(given, arguments, strict=True):
        if spec.datatype != own.datatype or len(spec.shape) != len(own.shape):
            raise mismatch("input", spec, f"takes {own.datatype} {list(own.shape)}")
    return given


def _reason(error: Exception) -> str:
    """Return the line with the reason: the last line for TorchScript, which writes a traceback above it."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in reversed(lines) if line.startswith("RuntimeError: ")), lines[0])[:300]


def _open(array: Array) -> tuple[int, ...]:
    """Return the shape with an open first size, the batch."""
    return (-1, *array.shape[1:]) if array.ndim else ()
