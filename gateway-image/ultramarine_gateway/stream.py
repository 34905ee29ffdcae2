"""The wire to Envoy: a gRPC server at a socket in the folder that the two share, with one stream for everything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc.aio
from envoy.service.auth.v3 import external_auth_pb2_grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2

from ultramarine_gateway.conversation import Conversation, Heard, Told, Wanted
from ultramarine_gateway.waiting import Doorman, WaitingRoom

_TICK = 1.0  # seconds; clusters that nothing leads to any more go by time

_GATHER = 0.002


class Stream:
    """Tells the Envoy that is connected what is wanted, as soon as that changes."""

    def __init__(self, wanted: Callable[[], Wanted], heard: Callable[[], None], room: WaitingRoom) -> None:
        self._wanted, self._heard, self._room = wanted, heard, room
        self._changed = asyncio.Event()
        self._server: Any = None
        self.conversation: Conversation | None = None

    async def start(self, socket: Path) -> None:
        """Listen at the socket; another process' that is left there is taken away."""
        socket.unlink(missing_ok=True)
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(_Service(self), self._server)
        external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Doorman(self._room), self._server)
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()
        socket.chmod(0o600)

    async def stop(self) -> None:
        """Hang up."""
        await self._server.stop(None)

    def changed(self) -> None:
        """Say what is wanted anew, where it differs from what was said."""
        self._changed.set()

    async def talk(self, context: Any) -> None:
        """Hold one conversation, until Envoy ends it or begins another one."""
        conversation = self.conversation = Conversation()
        hearing = asyncio.create_task(self._listen(context, conversation))
        self._changed.set()
        try:
            while not hearing.done() and self.conversation is conversation:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TICK):
                        await self._changed.wait()
                # Each word to Envoy is answered: what comes at once is taken together.
                await asyncio.sleep(_GATHER)
                self._changed.clear()
                for told in conversation.say(self._wanted(), time.monotonic()):
                    await context.write(_response(told))
        finally:
            hearing.cancel()
            if self.conversation is conversation:
                self.conversation = None
                self._heard()

    async def _listen(self, context: Any, conversation: Conversation) -> None:
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                conversation.hear(_heard(request))
                self._heard()
                self._changed.set()
        finally:
            self._changed.set()


class _Service(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def DeltaAggregatedResources(self, request_iterator: Any, context: Any) -> None:
        await self._stream.talk(context)


def _heard(request: Any) -> Heard:
    return Heard(
        request.type_url,
        tuple(request.resource_names_subscribe),
        tuple(request.resource_names_unsubscribe),
        dict(request.initial_resource_versions),
        request.response_nonce,
        request.error_detail.message if request.HasField("error_detail") else "",
    )


def _response(told: Told) -> Any:
    resources = [
        discovery_pb2.Resource(name=one.name, version=one.version, resource=any_pb2.Any.FromString(one.value))
        for one in told.resources
    ]
    return discovery_pb2.DeltaDiscoveryResponse(
        type_url=told.type, nonce=told.nonce, resources=resources, removed_resources=told.removed
    )
