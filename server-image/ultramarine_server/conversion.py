"""From a native model to ONNX: the same model in one or more ways, best first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from onnx import ModelProto, TensorProto, helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType

from ultramarine_server.model import Model
from ultramarine_server.onnx_model import FEATURES, SIGNATURE
from ultramarine_server.signature import TensorSpec
from ultramarine_server.table import INPUT
from ultramarine_server.tree_conversion import TREE_CONVERSIONS

NAME = "model"  # of the graph: by itself each would get another
_OPSET = 15  # of the operators that are added to a model of trees alone
_TYPES = {"FP64": DoubleTensorType, "FP32": FloatTensorType, "INT64": Int64TensorType, "BYTES": StringTensorType}
_ELEMENTS = {"BYTES": TensorProto.STRING, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE}


@dataclass(frozen=True)
class Native:
    """What is converted: the model as it is served, what it was made of, and its features' names and datatypes.

    `columns` is empty where the model takes one matrix, or one text, and not a table of mixed columns.
    """

    model: Model
    estimator: Any
    features: tuple[str, ...]
    columns: Mapping[str, str]


def conversions(native: Native) -> Iterator[Callable[[], ModelProto]]:
    """Yield the ways to convert the model, each of which may raise anything that a converter stumbles over."""
    kind = type(native.estimator).__module__.partition(".")[0]
    if kind == "xgboost":
        yield lambda: _named(_from_xgboost(native), native)
    elif kind == "lightgbm":
        yield lambda: _named(_from_lightgbm(native), native)
    else:
        # Numbers of 64 bits first, as the native model has them: 32 bits move values over the thresholds of trees.
        for number in ("FP64", "FP32"):
            yield partial(_from_sklearn, native, number)


def _from_sklearn(native: Native, number: str) -> ModelProto:
    final = final_step(native.estimator)
    options = {id(final): {"zipmap": False}} if hasattr(final, "classes_") else None
    made = convert_sklearn(
        native.estimator,
        NAME,
        initial_types=_initial_types(native, number),
        options=options,
        custom_conversion_functions=TREE_CONVERSIONS if number == "FP64" else None,
    )
    return _named(made, native)


def _initial_types(native: Native, number: str) -> list[tuple[str, Any]]:
    if native.columns:
        typed = {name: number if datatype == "FP64" else datatype for name, datatype in native.columns.items()}
        return [(name, _TYPES[datatype]([None, 1])) for name, datatype in typed.items()]
    if native.model.signature.inputs[0].datatype == "BYTES":
        return [(INPUT, StringTensorType([None, 1]))]
    return [(INPUT, _TYPES[number]([None, native.estimator.n_features_in_]))]


def _from_xgboost(native: Native) -> ModelProto:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType as Floats

    booster = native.estimator
    booster.feature_names = None  # the converter knows its features by their numbers only
    made: ModelProto = convert_xgboost(booster, NAME, initial_types=[(INPUT, Floats([None, booster.num_features()]))])
    return made


def _from_lightgbm(native: Native) -> ModelProto:
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType as Floats

    booster = native.estimator
    types = [(INPUT, Floats([None, booster.num_feature()]))]
    made: ModelProto = convert_lightgbm(booster, NAME, initial_types=types, zipmap=False)
    return made


def _named(made: ModelProto, native: Native) -> ModelProto:
    """Give the outputs the names and shapes of the native model's, and note how that one shows itself."""
    there = list(made.graph.output)
    del made.graph.output[:]
    opsets = {"": _OPSET, **{entry.domain: entry.version for entry in made.opset_import}}
    del made.opset_import[:]  # which come in no order: equal models shall be equal files
    made.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items()))
    specs = native.model.signature.outputs
    # Without predict_proba a classifier gives labels; what a booster calls predict are its probabilities.
    of_values = len(specs) == 1 and not hasattr(final_step(native.estimator), "classes_")
    for spec in specs:
        found = there[-1] if spec.name == "predict_proba" or of_values else there[0]
        _add_output(made, found.name, spec, second=found is not there[0] and len(spec.shape) == 1)
    properties = {
        SIGNATURE: json.dumps(native.model.signature.to_dict()),
        **({FEATURES: json.dumps(native.features)} if native.features else {}),
    }
    helper.set_model_props(made, properties)
    return made


def _add_output(made: ModelProto, source: str, spec: TensorSpec, *, second: bool) -> None:
    graph, name = made.graph, spec.name
    if second:
        graph.initializer.append(helper.make_tensor(f"{name}_class", TensorProto.INT64, [], [1]))
        graph.node.append(helper.make_node("Gather", [source, f"{name}_class"], [f"{name}_chosen"], axis=1))
        source = f"{name}_chosen"
    if -1 not in spec.shape[1:]:
        graph.initializer.append(helper.make_tensor(f"{name}_to", TensorProto.INT64, [len(spec.shape)], spec.shape))
        graph.node.append(helper.make_node("Reshape", [source, f"{name}_to"], [f"{name}_shaped"]))
        source = f"{name}_shaped"
    # What the converters declare is not always what comes; a cast makes it so.
    element = _ELEMENTS.get(spec.datatype, TensorProto.INT64)
    graph.node.append(helper.make_node("Cast", [source], [name], to=element))
    sizes = [size if size > 0 else None for size in spec.shape]
    graph.output.append(helper.make_tensor_value_info(name, element, sizes))


def final_step(estimator: Any) -> Any:
    """Return what predicts: the last step of a pipeline, or the estimator itself."""
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
