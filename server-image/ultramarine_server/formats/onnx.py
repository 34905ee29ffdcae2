"""ONNX models, run by onnxruntime on the CPU; a compiled model answers as its native model does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ultramarine_server.errors import BadRequest, LoadError
from ultramarine_server.formats.loading import Options
from ultramarine_server.models.compiled import SIGNATURE, CompiledModel
from ultramarine_server.models.model import Model, Signature, TensorSpec, mismatch
from ultramarine_server.protocol.tensors import Array, nulls

PLATFORM = "onnx_onnxv1"

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
# Output of a ZipMap: for each row a map from class to probability. The server answers with a matrix.
_MAPS = {"seq(map(int64,tensor(float)))": "FP32", "seq(map(string,tensor(float)))": "FP32"}


def load(path: Path, options: Options) -> Model:
    """Return the session of a file, or the compiled model that the file's metadata describes."""
    session = OnnxModel(path, options.threads, options.signature, lean=options.lean)
    return CompiledModel(session) if SIGNATURE in session.metadata else session


class OnnxModel:
    """Session whose inputs and outputs are the signature."""

    steady = True  # It computes without Python's lock, and equal sizes take about equal times.

    def __init__(self, path: Path, threads: int, given: Signature | None = None, *, lean: bool = False) -> None:
        options = ort.SessionOptions()
        if lean:  # An arena of its own takes a small model half as much memory again.
            options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        inputs = tuple(_spec("input", node, _DATATYPES) for node in self._session.get_inputs())
        outputs = tuple(_spec("output", node, _DATATYPES | _MAPS) for node in self._session.get_outputs())
        self.signature = Signature(inputs, outputs)
        if given and SIGNATURE not in self.metadata:  # A compiled model was checked when it was native.
            _check("input", given.inputs, inputs)
            _check("output", given.outputs, outputs)

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """Inputs of the session, whatever the request has."""
        return self.signature.inputs

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the session for the named outputs only."""
        for name, array in inputs.items():
            if array.dtype == object and nulls(array).any():
                raise BadRequest(f"input {name!r}: null came, and ONNX has no missing text; send a text in its place")
        results = self._session.run(list(outputs), dict(inputs))
        return {name: _matrix(result) for name, result in zip(outputs, results, strict=True)}


def _spec(side: str, node: Any, datatypes: Mapping[str, str]) -> TensorSpec:
    if node.type not in datatypes:
        message = f"{side} {node.name!r} of the model has type {node.type}, which the protocol cannot carry"
        remedy = "export the model with plain tensors (for skl2onnx: zipmap=False)"
        raise LoadError(f"{message}; {remedy}", "ModelUnsupported")
    if node.type in _MAPS:
        return TensorSpec(node.name, datatypes[node.type], (-1, -1))
    # Unknown sizes come as names or None.
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in node.shape)
    return TensorSpec(node.name, datatypes[node.type], shape)


def _check(side: str, given: tuple[TensorSpec, ...], actual: tuple[TensorSpec, ...]) -> None:
    by_name = {spec.name: spec for spec in actual}
    for spec in given:
        if spec.name not in by_name:
            raise mismatch(side, spec, f"has {', '.join(by_name)}")
        own = by_name[spec.name]
        same_rank = len(own.shape) == len(spec.shape)
        sizes = zip(spec.shape, own.shape, strict=True) if same_rank else ()
        if spec.datatype != own.datatype or not same_rank or any(-1 not in pair and len({*pair}) > 1 for pair in sizes):
            raise mismatch(side, spec, f"says {own.datatype} {list(own.shape)}")


def _matrix(result: Any) -> Array:
    if isinstance(result, list):
        return np.array([list(row.values()) for row in result], dtype=np.float32)
    return np.asarray(result)
