"""Scoring script with the decorators of inference_schema."""

from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema, output_schema


def init():
    pass


@input_schema("age", StandardPythonParameterType(3))
@input_schema("plan", StandardPythonParameterType("basic"))
@output_schema(StandardPythonParameterType({"price": 1.0}))
def run(age, plan="basic"):
    return {"price": age * (2.0 if plan == "gold" else 1.0)}
