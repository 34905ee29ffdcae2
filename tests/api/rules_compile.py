"""Rules about compiling, like those of rules.py: of a ModelVersion, and of a TrainingJob's output that asks for it."""

from __future__ import annotations

from typing import Any

from rules import TJ, VERSION, Rule, of_spec
from ultramarine_contract.meta import Manifest


def version(**compile: Any) -> Manifest:
    """A version that is compiled."""
    return {"compile": {"to": "onnx", **compile}}


def output(**compile: Any) -> Manifest:
    """An output whose version is compiled."""
    return {"outputs": {"model": {"registerAs": "a", "compile": {"to": "onnx", **compile}}}}


PLACES = ((VERSION, version, "spec.compile"), (TJ, output, "spec.outputs.model.compile"))
RULES: list[Rule] = [
    of_spec(
        VERSION,
        "what is ONNX is not compiled",
        {**version(), "format": {"name": "sklearn"}},
        {**version(), "format": {"name": "onnx"}},
        "spec: ",
        "a model of format onnx needs no compilation; leave compile out",
    ),
    of_spec(
        VERSION,
        "what is ONNX can say so",
        {**version(to="none"), "format": {"name": "onnx"}},
        {**version(to="onnx"), "format": {"name": "onnx"}},
        "spec: ",
        "a model of format onnx needs no compilation; leave compile out",
    ),
    of_spec(
        TJ,
        "what is compiled is a model",
        {"outputs": {"report": {"registerAs": "a", "compile": {"to": "onnx"}}}},
        {"outputs": {"report": {"compile": {"to": "onnx"}}}},
        "spec.outputs[report]: ",
        "compile applies to a model; set registerAs too, or leave it out",
    ),
    of_spec(
        TJ,
        "what may run code is a model",
        {"outputs": {"report": {"registerAs": "a", "allowCodeExecution": True}}},
        {"outputs": {"report": {"allowCodeExecution": True}}},
        "spec.outputs[report]: ",
        "allowCodeExecution applies to a model; set registerAs too, or leave it out",
    ),
    *(
        rule
        for kind, compiled, path in PLACES
        for rule in (
            of_spec(
                kind, "or nowhere", compiled(to="none"), compiled(to=""), f"{path}.to: Unsupported value", '"none"'
            ),
            of_spec(kind, "compiling leads somewhere", compiled(), compiled(to=None), f"{path}.to: Required value"),
            of_spec(
                kind, "it leads to ONNX", compiled(), compiled(to="wasm"), f"{path}.to: Unsupported value", '"onnx"'
            ),
            of_spec(
                kind,
                "a failure has a known end",
                compiled(onFailure="Fail"),
                compiled(onFailure="Retry"),
                f"{path}.onFailure: Unsupported value",
                '"ServeNative", "Fail"',
            ),
            *(
                of_spec(
                    kind,
                    f"{name} is {bound}",
                    compiled(parity={name: good}),
                    compiled(parity={name: bad}),
                    f"{path}.parity.{name} in body should be {words} {good}",
                )
                for name in ("rtol", "labelAgreement")
                for good, bad, bound, words in (
                    (0, -0.01, "not below 0", "greater than or equal to"),
                    (1, 1.01, "not above 1", "less than or equal to"),
                )
            ),
            *(
                of_spec(
                    kind,
                    f"{name} is a number",
                    compiled(parity={name: 1e-05}),
                    compiled(parity={name: "1e-5"}),
                    f"{path}.parity.{name} in body must be of type number",
                )
                for name in ("rtol", "labelAgreement")
            ),
        )
    ),
]
