"""Rules of the API of Model and ModelVersion, with examples."""

from ....shared.testing import NAME_OF_40, clash, named, rule

MODEL_RULES = (
    named("metadata.name must have at most 40", NAME_OF_40, NAME_OF_40 + "a"),
    named("metadata.name must not contain a dot", "a-b", "a.b"),
    rule("each alias must be a lower-case name", {"aliases": {"next-1": "8"}}, {"aliases": {"7": "7"}}),
    clash("the alias latest always means", {"aliases": {"newest": "7"}}, {"aliases": {"latest": "7"}}),
)
VERSION_RULES = (
    named("metadata.name must be MODEL-VERSION", "churn-7", "churn-8"),
    clash(
        "a model of format onnx needs no compilation",
        {"compile": {"to": "none"}, "format": {"name": "onnx"}},
        {"compile": {"to": "onnx"}, "format": {"name": "onnx"}},
    ),
    rule("spec.version in body must be of type string", {"version": "7"}, {"version": 7}),
)
