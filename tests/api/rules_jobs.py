"""The rules of what a TrainingJob needs and makes: inputs, outputs, resources, limits; see rules.py."""

from __future__ import annotations

from rules import DOTS, LONG, NAME, QUANTITY, TJ, URI, Rule, called, of_spec

FOLDER = "each key must be lower-case letters, digits and '-', at most 40 characters; it becomes a folder's name"

RULES: list[Rule] = [
    # Names
    called(
        TJ, "a name fits into the names of its pods", LONG, LONG + "a", "metadata.name must have at most 40 characters"
    ),
    called(TJ, "a name has no dot", "a-b", "a.b", "metadata.name must not contain a dot: it becomes a host name"),
    # What has to be there
    # Numbers
    # Quantities
    *(
        rule
        for part in ("requests", "limits")
        for rule in (
            of_spec(
                TJ,
                f"{part} are quantities",
                {"resources": {part: {"cpu": "0.5", "memory": "1Gi", "nvidia.com/gpu": 1}}},
                {"resources": {part: {"memory": "1 GB"}}},
                f"spec.resources.{part}",
                "memory",
                QUANTITY,
            ),
            of_spec(
                TJ,
                f"{part} are not negative",
                {"resources": {part: {"cpu": 0}}},
                {"resources": {part: {"cpu": -1}}},
                f"spec.resources.{part}.cpu in body should be greater than or equal to 0",
            ),
            of_spec(
                TJ,
                f"{part} are not negative in words either",
                {"resources": {part: {"cpu": "1"}}},
                {"resources": {part: {"cpu": "-1"}}},
                f"spec.resources.{part}",
                QUANTITY,
            ),
        )
    ),
    of_spec(
        TJ,
        "a fraction is a string",
        {"resources": {"requests": {"cpu": "0.5"}}},
        {"resources": {"requests": {"cpu": 0.5}}},
        "spec.resources.requests.cpu in body must be of type integer,string",
    ),
    # One of a few words
    # Words with a form
    of_spec(
        TJ,
        "an input is an s3 URI",
        {"inputs": {"data": {"uri": "s3://lake/a"}}},
        {"inputs": {"data": {"uri": "https://lake/a"}}},
        "spec.inputs[data].uri: ",
        URI,
    ),
    of_spec(
        TJ,
        "an input has no encoded tricks",
        {"inputs": {"data": {"uri": "s3://lake/"}}},
        {"inputs": {"data": {"uri": "s3://lake/%2e%2e/a"}}},
        "spec.inputs[data].uri: ",
        URI,
    ),
    of_spec(
        TJ,
        "an input leads nowhere else",
        {"inputs": {"data": {"uri": "s3://lake/a..b/.c/"}}},
        {"inputs": {"data": {"uri": "s3://lake/a/../b"}}},
        "spec.inputs[data].uri: ",
        DOTS,
    ),
    of_spec(
        TJ,
        "a Model's name is one",
        {"outputs": {"model": {"registerAs": "a-1"}}},
        {"outputs": {"model": {"registerAs": "Churn"}}},
        "spec.outputs[model].registerAs: ",
        NAME,
    ),
    of_spec(
        TJ,
        "an input's name can be a folder",
        {"inputs": {"a-1": {"uri": "s3://lake/a"}}},
        {"inputs": {"A_1": {"uri": "s3://lake/a"}}},
        "spec.inputs: ",
        FOLDER,
    ),
    of_spec(
        TJ,
        "an output's name can be a folder",
        {"outputs": {LONG: {}}},
        {"outputs": {LONG + "a": {}}},
        "spec.outputs: ",
        FOLDER,
    ),
    # Fields together
    of_spec(
        TJ,
        "a format is of a model",
        {"outputs": {"report": {"registerAs": "a", "format": "onnx"}}},
        {"outputs": {"report": {"format": "onnx"}}},
        "spec.outputs[report]: ",
        "format applies to a model; set registerAs too, or leave it out",
    ),
    # Unknown fields and wrong types
    of_spec(
        TJ,
        "unknown fields below are refused",
        {},
        {"outputs": {"model": {"register": "a"}}},
        'unknown field "spec.outputs.model.register"',
    ),
    of_spec(
        TJ,
        "suspend is true or false",
        {"suspend": True},
        {"suspend": "yes"},
        "spec.suspend in body must be of type boolean",
    ),
    of_spec(
        TJ,
        "a count is a whole number",
        {"backoffLimit": 2},
        {"backoffLimit": 2.5},
        "spec.backoffLimit in body must be of type integer",
    ),
]
