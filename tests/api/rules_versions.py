"""The rules of a ModelVersion; see rules.py."""

from __future__ import annotations

from typing import Any

from bare import DIGEST, merged
from rules import DIGESTS, DOTS, NAME, NUMBER, URI, VERSION, Rule, called, of_spec
from ultramarine_contract.meta import Manifest


def answer(**patch: Any) -> Manifest:
    """A signature with one output that is patched."""
    return {"signature": {"outputs": [merged({"name": "y", "datatype": "FP32", "shape": [-1]}, patch)]}}


RULES: list[Rule] = [
    # Names
    called(
        VERSION,
        "a name says model and version",
        "churn-7",
        "churn-8",
        "metadata.name must be MODEL-VERSION, from spec.model and spec.version",
    ),
    # What has to be there
    # What must not be empty
    # One of a few words
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
