"""The rules of a ModelVersion; see rules.py."""

from __future__ import annotations

from typing import Any

from bare import DIGEST, merged
from rules import DIGESTS, DOTS, NAME, NUMBER, URI, VERSION, Rule, called, of_spec
from ultramarine.shared.formats import FORMATS
from ultramarine.shared.meta import Manifest


def tensor(**patch: Any) -> Manifest:
    """A signature with one input."""
    return {"signature": {"inputs": [merged({"name": "x", "datatype": "FP32", "shape": [-1]}, patch)]}}


def answer(**patch: Any) -> Manifest:
    """A signature with one output that is patched."""
    return {"signature": {"outputs": [merged({"name": "y", "datatype": "FP32", "shape": [-1]}, patch)]}}


RULES: list[Rule] = [
    of_spec(
        VERSION,
        "a trial has a number",
        {"lineage": {"trial": 0}},
        {"lineage": {"trial": -1}},
        "spec.lineage.trial in body should be greater than or equal to 0",
    ),
    # Names
    called(
        VERSION,
        "a name says model and version",
        "churn-7",
        "churn-8",
        "metadata.name must be MODEL-VERSION, from spec.model and spec.version",
    ),
    # What has to be there
    *(
        of_spec(VERSION, f"a {name} is there", {}, {name: None}, f"spec.{name}: Required value")
        for name in ("model", "version", "uri", "digest", "format")
    ),
    of_spec(VERSION, "a format has a name", {}, {"format": {"name": None}}, "spec.format.name: Required value"),
    of_spec(
        VERSION,
        "a signature has inputs",
        {"signature": None},
        {"signature": {"inputs": None}},
        "spec.signature.inputs: Required value",
    ),
    *(
        of_spec(
            VERSION,
            f"an input has a {name}",
            tensor(),
            tensor(**{name: None}),
            f"spec.signature.inputs[0].{name}: Required value",
        )
        for name in ("name", "datatype", "shape")
    ),
    *(
        of_spec(
            VERSION,
            f"an output has a {name}",
            answer(),
            answer(**{name: None}),
            f"spec.signature.outputs[0].{name}: Required value",
        )
        for name in ("name", "datatype", "shape")
    ),
    # What must not be empty
    of_spec(
        VERSION,
        "a signature has inputs",
        tensor(),
        {"signature": {"inputs": []}},
        "spec.signature.inputs in body should have at least 1 items",
    ),
    of_spec(
        VERSION,
        "an input's name is not empty",
        tensor(),
        tensor(name=""),
        "spec.signature.inputs[0].name in body should be at least 1 chars long",
    ),
    of_spec(
        VERSION,
        "an output's name is not empty",
        answer(),
        answer(name=""),
        "spec.signature.outputs[0].name in body should be at least 1 chars long",
    ),
    # One of a few words
    of_spec(
        VERSION,
        "a format is known",
        {"format": {"name": "onnx"}, "compile": None},
        {"format": {"name": "auto"}},
        "spec.format.name: Unsupported value",
        '"sklearn", "onnx", "xgboost", "lightgbm", "mlflow", "torch", "python", "pickle", "joblib"',
    ),
    *(
        of_spec(
            VERSION,
            f"{format} is a format",
            {"format": {"name": format}, "compile": None},
            {"format": {"name": format.upper()}},
            "spec.format.name: Unsupported value",
            f'"{format}"',
        )
        for format in FORMATS
    ),
    of_spec(
        VERSION,
        "an input's datatype is the protocol's",
        tensor(datatype="BYTES"),
        tensor(datatype="float"),
        "spec.signature.inputs[0].datatype: Unsupported value",
        '"FP32"',
    ),
    of_spec(
        VERSION,
        "an output's datatype is the protocol's",
        answer(datatype="BYTES"),
        answer(datatype="float"),
        "spec.signature.outputs[0].datatype: Unsupported value",
        '"FP32"',
    ),
    # Words with a form
    of_spec(VERSION, "a model's name is one", {}, {"model": "Churn"}, "spec.model: ", NAME),
    of_spec(VERSION, "a version is a number", {}, {"version": "07"}, "spec.version: ", NUMBER),
    of_spec(
        VERSION, "a version is at an s3 URI", {"uri": "s3://a.b-c/m.onnx"}, {"uri": "s3://A/m.onnx"}, "spec.uri: ", URI
    ),
    of_spec(
        VERSION,
        "a version's URI leads nowhere else",
        {"uri": "s3://lake/a/"},
        {"uri": "s3://lake/a//b"},
        "spec.uri: ",
        DOTS,
    ),
    of_spec(VERSION, "a digest is SHA-256", {"digest": DIGEST}, {"digest": DIGEST.upper()}, "spec.digest: ", DIGESTS),
    # Unknown fields and wrong types
    of_spec(
        VERSION,
        "a version is a string",
        {"version": "7"},
        {"version": 7},
        "spec.version in body must be of type string",
    ),
    # Where it comes from
    of_spec(
        VERSION,
        "a version's metrics are as many as a job's",
        {"lineage": {"metrics": {f"m{n}": 1.5 for n in range(19)}}},
        {"lineage": {"metrics": {f"m{n}": 1.5 for n in range(20)}}},
        "spec.lineage.metrics: Too many: 21: must have at most 20 items",
    ),
    of_spec(
        VERSION,
        "a metric is a number",
        {"lineage": {"metrics": {"loss": 0.5}}},
        {"lineage": {"metrics": {"loss": "0.5"}}},
        "spec.lineage.metrics.loss in body must be of type number",
    ),
    of_spec(
        VERSION,
        "a commit is an id",
        {"lineage": {"gitCommit": "a" * 64}},
        {"lineage": {"gitCommit": "a" * 65}},
        "spec.lineage.gitCommit: Too long: may not be more than 64",
    ),
]
