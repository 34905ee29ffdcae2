"""ONNX models, run by onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ultramarine_server.errors import BadRequest, LoadError
from ultramarine_server.signature import Signature, TensorSpec, mismatch
from ultramarine_server.tensors import Array, nulls

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
# What a ZipMap gives: for each row a map from class to probability. It is served as a matrix.
_MAPS = {"seq(map(int64,tensor(float)))": "FP32", "seq(map(string,tensor(float)))": "FP32"}

# Metadata of a compiled model's file: how its native model shows itself, the names of that one's features, if any, and
# which of them refuse missing values or infinity, which word its converter has put in place of a missing text, and
# which texts alone a column takes.
SIGNATURE = "ultramarine.signature"
FEATURES = "ultramarine.features"
GAPS = "ultramarine.gaps"
MISSING_TEXTS = "ultramarine.missing-texts"
KNOWN_TEXTS = "ultramarine.known-texts"


class OnnxModel:
    """A session whose inputs and outputs are the signature."""

    steady = True  # It computes without Python's lock, and equal sizes take about equal times.

    def __init__(self, path: Path, threads: int, given: Signature | None = None, *, lean: bool = False) -> None:
        options = ort.SessionOptions()
        if lean:  # An arena of its own takes a small model half as much memory again.
            options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        inputs = tuple(_spec("input", node, _DATATYPES) for node in self._session.get_inputs())
        outputs = tuple(_spec("output", node, _DATATYPES | _MAPS) for node in self._session.get_outputs())
        self.signature = Signature(inputs, outputs)
        if given and SIGNATURE not in self.metadata:  # else it was checked on the native model
            _check("input", given.inputs, inputs)
            _check("output", given.outputs, outputs)

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """The session's inputs, always."""
        return self.signature.inputs

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run the session for the named outputs only."""
        for name, array in inputs.items():
            if array.dtype == object and nulls(array).any():
                raise BadRequest(f"input {name!r}: null came, and ONNX has no missing text; send a text in its place")
        results = self._session.run(list(outputs), dict(inputs))
        return {name: _matrix(result) for name, result in zip(outputs, results, strict=True)}


def _spec(what: str, node: Any, known: Mapping[str, str]) -> TensorSpec:
    if node.type not in known:
        message = f"{what} {node.name!r} of the model has type {node.type}, which the protocol cannot carry"
        raise LoadError(
            f"{message}; export the model with plain tensors (for skl2onnx: zipmap=False)", "ModelUnsupported"
        )
    if node.type in _MAPS:
        return TensorSpec(node.name, known[node.type], (-1, -1))
    # Unknown sizes come as names or None.
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in node.shape)
    return TensorSpec(node.name, known[node.type], shape)


def _check(what: str, given: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...]) -> None:
    by_name = {spec.name: spec for spec in found}
    for spec in given:
        if spec.name not in by_name:
            raise mismatch(what, spec, f"has {', '.join(by_name)}")
        have = by_name[spec.name]
        same_rank = len(have.shape) == len(spec.shape)
        if (
            spec.datatype != have.datatype
            or not same_rank
            or any(-1 not in (want, is_) and want != is_ for want, is_ in zip(spec.shape, have.shape, strict=True))
        ):
            raise mismatch(what, spec, f"says {have.datatype} {list(have.shape)}")


def _matrix(result: Any) -> Array:
    if isinstance(result, list):
        return np.array([list(row.values()) for row in result], dtype=np.float32)
    return np.asarray(result)
