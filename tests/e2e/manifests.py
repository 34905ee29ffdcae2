"""Small objects for the stories."""

from __future__ import annotations

import hashlib
from typing import Any

Manifest = dict[str, Any]

# Trains in a second: what matters in most stories is what happens around it.
TRAIN = """
import sys
import skops.io
from sklearn.linear_model import LogisticRegression

model = LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
print(f"accuracy={model.score([[0.0], [3.0]], [0, 1])}")
skops.io.dump(model, sys.argv[1] + "/model.skops")
"""

# Prints how far its parameter is from 3; the loss of the best of twenty random ones is well below 1.
TRIAL = ["sh", "-c", "sleep 0.2; awk -v x=$(params.x) 'BEGIN { print \"loss=\" (x - 3) * (x - 3) }'"]


def training_job(name: str, script: str = TRAIN, model: str = "", **spec: Any) -> Manifest:
    """A TrainingJob that runs `script` with its output folder `model` as argument, and registers that as it is."""
    outputs = {"model": {"registerAs": model, "compile": {"to": "none"}}} if model else {"model": {}}
    return {
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "source": {"inline": {"train.py": script}},
            "command": ["python", "train.py", "$(outputs.model)"],
            "outputs": outputs,
            "backoffLimit": 0,
            **spec,
        },
    }


def sweep(name: str, command: list[str] | None = None, **spec: Any) -> Manifest:
    """A sweep over x in 0..10 by chance, two trials at once."""
    limits = {"maxTrials": 20, "parallelTrials": 2, **spec.pop("limits", {})}
    template = {"command": command or TRIAL, **spec.pop("template", {})}
    return {
        "kind": "Sweep",
        "metadata": {"name": name},
        "spec": {
            "objective": {"metric": "loss", "goal": "minimize"},
            "algorithm": {"type": "random", "seed": 7},
            "searchSpace": {"x": {"uniform": {"min": 0, "max": 10}}},
            "limits": limits,
            "trialTemplate": {"spec": template},
            **spec,
        },
    }


def endpoint(name: str, model: str, **spec: Any) -> Manifest:
    """An OnlineEndpoint with one deployment, blue."""
    return {
        "kind": "OnlineEndpoint",
        "metadata": {"name": name},
        "spec": {"deployments": [{"name": "blue", "model": model}], **spec},
    }


def model_version(model: str, number: int, uri: str, content: bytes, format: str = "onnx", **spec: Any) -> Manifest:
    """A ModelVersion made by hand of one object in the bucket."""
    return {
        "kind": "ModelVersion",
        "metadata": {"name": f"{model}-{number}"},
        "spec": {
            "model": model,
            "version": str(number),
            "uri": uri,
            "digest": "sha256:" + hashlib.sha256(content).hexdigest(),
            "format": {"name": format},
            **spec,
        },
    }


def onnx_model(answer: int, input: str = "x") -> bytes:
    """An ONNX model that adds `answer` to its one input, so that the answers tell which version gave them."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Add", [input, "c"], ["y"])],
        "adder",
        [helper.make_tensor_value_info(input, TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("c", TensorProto.FLOAT, [1], [float(answer)])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return made.SerializeToString()


def large_onnx_model(factor: int, numbers: int = 2**19) -> bytes:
    """An ONNX model of 4 bytes for each of its numbers, which gives its one input times `factor`."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weights = np.full((1, numbers), factor, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["wide"]),
            helper.make_node("ReduceMax", ["wide", "axis"], ["y"], keepdims=1),
        ],
        "multiplier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([1]), "axis")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return made.SerializeToString()


def infer(rows: list[list[float]], name: str = "x", datatype: str = "FP32") -> Manifest:
    """The body of an inference request."""
    shape = [len(rows), len(rows[0])]
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": [v for row in rows for v in row]}]}
