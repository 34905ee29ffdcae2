"""Conversions of a native model to ONNX, the best first."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from onnx import ModelProto, TensorProto, helper
from skl2onnx import convert_sklearn, update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)

from ultramarine_server.compiling.gaps import Gaps
from ultramarine_server.compiling.tree_conversion import TREE_CONVERSIONS
from ultramarine_server.models.compiled import (
    FEATURES,
    GAPS,
    KNOWN_TEXTS,
    MISSING,
    MISSING_TEXTS,
    SIGNATURE,
    UNKNOWN,
)
from ultramarine_server.models.model import Model, TensorSpec
from ultramarine_server.models.table import INPUT

NAME = "model"  # of the graph, which gets a random name by default
_OPSETS = {"": 21, "ai.onnx.ml": 3}  # the latest ai.onnx.ml of onnxmltools
_TYPES = {"FP64": DoubleTensorType, "FP32": FloatTensorType, "INT64": Int64TensorType, "BYTES": StringTensorType}
_ELEMENTS = {"BYTES": TensorProto.STRING, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE}


@dataclass(frozen=True)
class Native:
    """Native model with its estimator, and the names and datatypes of its features.

    `columns` is empty unless the model takes a table of mixed columns. `gaps` are the columns that refuse missing
    values or infinity.
    """

    model: Model
    estimator: Any
    features: tuple[str, ...]
    columns: Mapping[str, str]
    gaps: Gaps = field(default_factory=dict)


def conversions(native: Native) -> Iterator[Callable[[], ModelProto]]:
    """Yield the conversions of the model, each of which may raise any exception of a converter."""
    kind = type(native.estimator).__module__.partition(".")[0]
    if hasattr(native.estimator, "get_params"):
        _register_boosters()
        # 64 bits come first, as in the native model: 32 bits move values over the thresholds of trees.
        for number in ("FP64", "FP32"):
            yield partial(_from_sklearn, native, number)
    elif kind == "xgboost":
        yield lambda: _named(_from_xgboost(native), native)
    elif kind == "lightgbm":
        yield lambda: _named(_from_lightgbm(native), native)


def _register_boosters() -> None:
    """Register the estimators of loaded libraries with skl2onnx; idempotent."""
    register = partial(update_registered_converter, overwrite=True)
    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    of_labels, of_numbers = calculate_linear_classifier_output_shapes, calculate_linear_regressor_output_shapes
    if (xgboost := sys.modules.get("xgboost")) is not None:
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

        convert = partial(_narrowly, convert_xgboost)
        register(xgboost.XGBClassifier, "XGBClassifier", of_labels, convert, options=options)
        register(xgboost.XGBRegressor, "XGBRegressor", of_numbers, convert)
    if (lightgbm := sys.modules.get("lightgbm")) is not None:
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

        register(lightgbm.LGBMClassifier, "LGBMClassifier", of_labels, convert_lightgbm, options=options)
        register(lightgbm.LGBMRegressor, "LGBMRegressor", of_numbers, convert_lightgbm, options={"split": None})


class _Narrowed:
    """Operator of skl2onnx with another input."""

    def __init__(self, operator: Any, narrow: Any) -> None:
        self._operator, self.inputs = operator, [narrow]
        self.input_full_names = [narrow.full_name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operator, name)


def _narrowly(convert: Callable[[Any, Any, Any], None], scope: Any, operator: Any, container: Any) -> None:
    """Convert with an input of 32 bits, as XGBoost has: values often equal its thresholds to the bit."""
    [wide] = operator.inputs
    narrow = scope.declare_local_variable("narrow", FloatTensorType([None, wide.type.shape[1]]))
    container.add_node("Cast", [wide.full_name], [narrow.full_name], to=TensorProto.FLOAT)
    convert(scope, _Narrowed(operator, narrow), container)


def _from_sklearn(native: Native, number: str) -> ModelProto:
    final = final_step(native.estimator)
    options = {id(final): {"zipmap": False}} if hasattr(final, "classes_") else None
    made = convert_sklearn(
        native.estimator,
        NAME,
        initial_types=_initial_types(native, number),
        options=options,
        target_opset=_OPSETS,
        custom_conversion_functions=TREE_CONVERSIONS if number == "FP64" else None,
    )
    return _named(made, native)


def _initial_types(native: Native, number: str) -> list[tuple[str, Any]]:
    if native.columns:
        typed = {name: number if datatype == "FP64" else datatype for name, datatype in native.columns.items()}
        return [(name, _TYPES[datatype]([None, 1])) for name, datatype in typed.items()]
    if (spec := native.model.signature.inputs[0]).datatype == "BYTES":
        return [(INPUT, StringTensorType([None, *(spec.shape[1:] or (1,))]))]
    return [(INPUT, _TYPES[number]([None, native.estimator.n_features_in_]))]


def _from_xgboost(native: Native) -> ModelProto:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType as Floats

    booster = native.estimator
    booster.feature_names = None  # the converter accepts only features without names
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
    """Give the outputs their names and shapes in the native model, and write the metadata of a CompiledModel."""
    there = list(made.graph.output)
    del made.graph.output[:]
    opsets = {"": 15, **{entry.domain: entry.version for entry in made.opset_import}}
    del made.opset_import[:]  # sorted, so that equal models become equal files
    made.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items()))
    specs = native.model.signature.outputs
    # A classifier without predict_proba returns labels; `predict` of a booster returns probabilities.
    of_values = len(specs) == 1 and not hasattr(final_step(native.estimator), "classes_")
    for spec in specs:
        source = there[-1] if spec.name == "predict_proba" or of_values else there[0]
        _add_output(made, source.name, spec, second=source is not there[0] and len(spec.shape) == 1)
    texts: dict[int, str] = getattr(native.model, "missing_texts", dict)()
    texts = {at: word for at, word in texts.items() if at not in native.gaps.get(MISSING, ())}
    learned: dict[int, tuple[str, ...]] = getattr(native.model, "known_texts", dict)()
    refusing = native.gaps.get(UNKNOWN, [])
    if not set(refusing) <= set(learned):
        raise ValueError("the model refuses unknown texts, and has no encoder with the known texts")
    accepted = {at: learned[at] for at in refusing}
    properties = {
        SIGNATURE: json.dumps(native.model.signature.to_dict()),
        **({FEATURES: json.dumps(native.features)} if native.features else {}),
        **({GAPS: json.dumps(native.gaps)} if native.gaps else {}),
        **({MISSING_TEXTS: json.dumps(texts)} if texts else {}),
        **({KNOWN_TEXTS: json.dumps(accepted)} if accepted else {}),
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
    # A converter may declare another type than it writes, so the output is cast.
    element = _ELEMENTS.get(spec.datatype, TensorProto.INT64)
    graph.node.append(helper.make_node("Cast", [source], [name], to=element))
    sizes = [size if size > 0 else None for size in spec.shape]
    graph.output.append(helper.make_tensor_value_info(name, element, sizes))


def final_step(estimator: Any) -> Any:
    """Return the last step of a pipeline, or the estimator itself."""
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
