"""The least that serves a model: Starlette, msgspec, orjson and ONNX Runtime. `bare.py FOLDER PORT`."""

import sys
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Tensor(msgspec.Struct):
    """One tensor of the Open Inference Protocol, row by row."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Inference(msgspec.Struct):
    """A request of the Open Inference Protocol."""

    inputs: list[Tensor]


OPTIONS = onnxruntime.SessionOptions()
OPTIONS.intra_op_num_threads = 1
SESSION = onnxruntime.InferenceSession(f"{sys.argv[1]}/model.onnx", OPTIONS, providers=["CPUExecutionProvider"])
DECODER = msgspec.json.Decoder(Inference)


async def infer(request: Request) -> Response:
    """Answer with the labels of the rows."""
    tensor = DECODER.decode(await request.body()).inputs[0]
    rows = np.array(tensor.data, dtype=np.float32).reshape(tensor.shape)
    (labels,) = SESSION.run(["label"], {"X": rows})
    output: dict[str, Any] = {"name": "label", "shape": labels.shape, "datatype": "INT64", "data": labels}
    answer = orjson.dumps({"model_name": "cancer", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(answer, media_type="application/json")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/v2/models/cancer/infer", infer, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="warning")
