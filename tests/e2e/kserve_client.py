"""Requests of a KServe client to an endpoint, in a virtualenv of its own: URL HOST:PORT MODEL KEY.

The model adds 1 to its input `x`. What was answered is printed as one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(model: str, binary: bool = False) -> InferRequest:
    """Two rows; as bytes or as JSON where it goes by HTTP."""
    given = InferInput(name="x", shape=[2, 1], datatype="FP32")
    given.set_data_from_numpy(np.array([[1.0], [2.0]], np.float32), binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[given], request_id="7")


async def by_rest(url: str, model: str, key: str) -> dict[str, object]:
    """Health, inference both ways, and a refusal."""
    said: dict[str, object] = {}
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        said["live"] = await client.is_server_live(url)
        said["ready"] = await client.is_server_ready(url)
        said["model"] = await client.is_model_ready(url, model)
        for binary in (False, True):
            headers = {"authorization": f"Bearer {key}"}
            answer = await client.infer(url, request(model, binary), model_name=model, headers=headers)
            said["bytes" if binary else "json"] = [answer.id, answer.outputs[0].as_numpy().tolist()]
        try:
            await client.infer(url, request(model), model_name=model)
        except httpx.HTTPStatusError as error:
            said["refused"] = error.response.status_code
    return said


async def by_grpc(address: str, model: str, key: str) -> dict[str, object]:
    """The same by gRPC."""
    said: dict[str, object] = {}
    async with InferenceGRPCClient(address) as client:
        said["live"] = await client.is_server_live()
        said["ready"] = await client.is_server_ready()
        said["model"] = await client.is_model_ready(model)
        answer = await client.infer(request(model), headers=(("authorization", f"Bearer {key}"),))
        said["answer"] = [answer.id, answer.outputs[0].as_numpy().tolist()]
        try:
            await client.infer(request(model))
        except grpc.RpcError as error:
            said["refused"] = error.code().name
    return said


async def main(url: str, address: str, model: str, key: str) -> None:
    """Ask both ways."""
    print(json.dumps({"rest": await by_rest(url, model, key), "grpc": await by_grpc(address, model, key)}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
