"""Calls of the Open Inference Protocol V2 and of gRPC's health protocol, answered by the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from ultramarine_server.accesslog import AccessLog
from ultramarine_server.authentication import KeyRing
from ultramarine_server.errors import BadRequest, Problem
from ultramarine_server.grpc.calls import Call, Calls
from ultramarine_server.grpc.stubs import health_pb2 as health
from ultramarine_server.grpc.stubs import open_inference_pb2 as v2
from ultramarine_server.grpc.tensors import answer, question
from ultramarine_server.inference.service import Service, metadata

if TYPE_CHECKING:
    from ultramarine_server.collecting.captures import Captures

NAME = "inference.GRPCInferenceService"
_LOOK_SECONDS = 0.5  # between two looks at a watched status


def calls(service: Service, keys: KeyRing | None, log: AccessLog, captures: Captures | None = None) -> Calls:
    """Return the handlers of both gRPC services, the protocol's and health. Health calls need no key."""
    answered, inference, status = Calls(service.telemetry, keys, log, captures), _Inference(service), _Health(service)
    unary: tuple[tuple[str, Call[Any, Any], Any, str], ...] = (
        ("ServerLive", inference.server_live, v2.ServerLiveRequest, ""),
        ("ServerReady", inference.server_ready, v2.ServerReadyRequest, ""),
        ("ModelReady", inference.model_ready, v2.ModelReadyRequest, ""),
        ("ServerMetadata", inference.server_metadata, v2.ServerMetadataRequest, "grpc_metadata"),
        ("ModelMetadata", inference.model_metadata, v2.ModelMetadataRequest, "grpc_metadata"),
        ("ModelInfer", inference.infer, v2.ModelInferRequest, "grpc_infer"),
        ("RepositoryIndex", inference.index, v2.RepositoryIndexRequest, "grpc_repository"),
        ("RepositoryModelLoad", inference.load, v2.RepositoryModelLoadRequest, "grpc_repository"),
        ("RepositoryModelUnload", inference.unload, v2.RepositoryModelUnloadRequest, "grpc_repository"),
    )
    for name, call, asked, route in unary:
        answered.unary(f"/{NAME}/{name}", call, asked, route)
    stream = f"/{NAME}/ModelStreamInfer"
    answered.stream(stream, inference.infer_in_stream, v2.ModelInferRequest, "grpc_stream", _refusal)
    answered.unary("/grpc.health.v1.Health/Check", status.check, health.HealthCheckRequest)
    watch = grpc.unary_stream_rpc_method_handler(
        status.watch, health.HealthCheckRequest.FromString, health.HealthCheckResponse.SerializeToString
    )
    answered.add("/grpc.health.v1.Health/Watch", watch)
    return answered


class _Inference:
    """Calls of GRPCInferenceService."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def server_live(self, request: v2.ServerLiveRequest, request_id: str) -> v2.ServerLiveResponse:
        return v2.ServerLiveResponse(live=self._service.live())

    async def server_ready(self, request: v2.ServerReadyRequest, request_id: str) -> v2.ServerReadyResponse:
        return v2.ServerReadyResponse(ready=self._service.ready())

    async def model_ready(self, request: v2.ModelReadyRequest, request_id: str) -> v2.ModelReadyResponse:
        return v2.ModelReadyResponse(ready=self._service.model_ready(request.name, request.version))

    async def server_metadata(self, request: v2.ServerMetadataRequest, request_id: str) -> v2.ServerMetadataResponse:
        return v2.ServerMetadataResponse(**self._service.server_metadata())

    async def model_metadata(self, request: v2.ModelMetadataRequest, request_id: str) -> v2.ModelMetadataResponse:
        facts = metadata(await self._service.loaded(request.name, request.version))
        response = v2.ModelMetadataResponse(name=facts["name"], versions=facts["versions"], platform=facts["platform"])
        for part, tensors in (("inputs", response.inputs), ("outputs", response.outputs)):
            for spec in facts[part]:
                tensors.add(name=spec["name"], datatype=spec["datatype"], shape=spec["shape"])
        return response

    async def infer(self, request: v2.ModelInferRequest, request_id: str) -> v2.ModelInferResponse:
        inference = question(request)
        outputs = await self._service.infer(inference, request_id)
        return answer(request, inference.version, outputs)

    async def infer_in_stream(self, request: v2.ModelInferRequest, request_id: str) -> v2.ModelStreamInferResponse:
        response = v2.ModelStreamInferResponse(infer_response=await self.infer(request, request_id))
        # Triton's clients may wait for it, because a model in Triton can answer a request more than once.
        response.infer_response.parameters["triton_final_response"].bool_param = True
        return response

    async def index(self, request: v2.RepositoryIndexRequest, request_id: str) -> v2.RepositoryIndexResponse:
        response = v2.RepositoryIndexResponse()
        for entry in self._service.index(ready=request.ready):
            response.models.add(**entry)
        return response

    async def load(self, request: v2.RepositoryModelLoadRequest, request_id: str) -> v2.RepositoryModelLoadResponse:
        if request.parameters:
            raise BadRequest(f"{next(iter(request.parameters))} is not taken; the model is loaded as it was registered")
        name = request.model_name or request.repository_name
        await self._service.load(name)
        return v2.RepositoryModelLoadResponse(model_name=name, is_loaded=True)

    async def unload(
        self, request: v2.RepositoryModelUnloadRequest, request_id: str
    ) -> v2.RepositoryModelUnloadResponse:
        name = request.model_name or request.repository_name
        await self._service.unload(name)
        return v2.RepositoryModelUnloadResponse(model_name=name, is_unloaded=True)


def _refusal(request: v2.ModelInferRequest, problem: Problem) -> v2.ModelStreamInferResponse:
    """Return the answer of a problem under the request's id; the stream goes on."""
    response = v2.ModelStreamInferResponse(error_message=str(problem))
    response.infer_response.id = request.id
    return response


class _Health:
    """Calls of grpc.health.v1.Health; the process and the protocol's service have the same status."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def check(self, request: health.HealthCheckRequest, request_id: str) -> health.HealthCheckResponse:
        status = self._status(request.service)
        if status == health.HealthCheckResponse.SERVICE_UNKNOWN:
            raise Problem(404, f"service {request.service!r} is unknown; this server has {NAME}")
        return health.HealthCheckResponse(status=status)

    async def watch(
        self, request: health.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health.HealthCheckResponse]:
        reported = None
        while True:
            draining = self._service.telemetry.draining
            if (status := self._status(request.service)) != reported:
                reported = status
                yield health.HealthCheckResponse(status=status)
            if draining:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _status(self, service: str) -> health.HealthCheckResponse.ServingStatus:
        if service not in ("", NAME):
            return health.HealthCheckResponse.SERVICE_UNKNOWN
        serving = self._service.ready()
        return health.HealthCheckResponse.SERVING if serving else health.HealthCheckResponse.NOT_SERVING
