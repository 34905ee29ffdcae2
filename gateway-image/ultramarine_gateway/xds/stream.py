"""The wire to Envoy: a gRPC server at a Unix socket, with one xDS stream."""

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
from envoy.service.ratelimit.v3 import rls_pb2_grpc
from google.protobuf import any_pb2

from ultramarine_gateway.xds.conversation import Conversation, DiscoveryRequest, DiscoveryResponse, Snapshot
from ultramarine_gateway.xds.holding import HeldRequests, HoldService
from ultramarine_gateway.xds.tokens import TokenService, TokenUsage

_TICK = 1.0  # seconds, since unused clusters are removed after a time
_GATHER = 0.002


class Stream:
    """Sends the snapshot to the connected Envoy whenever it changes."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], received: Callable[[], None], held: HeldRequests, tokens: TokenUsage
    ) -> None:
        self._snapshot, self._received, self._held, self._tokens = snapshot, received, held, tokens
        self._changed = asyncio.Event()
        self._server: Any = None
        self.conversation: Conversation | None = None

    async def start(self, socket: Path) -> None:
        """Listen at the socket, and replace one that another process has left."""
        socket.unlink(missing_ok=True)
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(_Service(self), self._server)
        external_auth_pb2_grpc.add_AuthorizationServicer_to_server(HoldService(self._held), self._server)
        rls_pb2_grpc.add_RateLimitServiceServicer_to_server(TokenService(self._tokens), self._server)
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()
        socket.chmod(0o600)

    async def stop(self) -> None:
        """End all connections."""
        await self._server.stop(None)

    def changed(self) -> None:
        """Send the differences from what was sent before."""
        self._changed.set()

    async def talk(self, context: Any) -> None:
        """Hold one conversation, until Envoy ends it or begins another."""
        conversation = self.conversation = Conversation()
        listening = asyncio.create_task(self._listen(context, conversation))
        self._changed.set()
        try:
            while not listening.done() and self.conversation is conversation:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TICK):
                        await self._changed.wait()
                # Envoy answers each message, so changes of the same moment go together.
                await asyncio.sleep(_GATHER)
                self._changed.clear()
                for response in conversation.responses(self._snapshot(), time.monotonic()):
                    await context.write(_encoded(response))
        finally:
            listening.cancel()
            if self.conversation is conversation:
                self.conversation = None
                self._received()

    async def _listen(self, context: Any, conversation: Conversation) -> None:
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                conversation.receive(_decoded(request))
                self._received()
                self._changed.set()
        finally:
            self._changed.set()


class _Service(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def DeltaAggregatedResources(self, request_iterator: Any, context: Any) -> None:
        await self._stream.talk(context)


def _decoded(request: Any) -> DiscoveryRequest:
    return DiscoveryRequest(
        request.type_url,
        tuple(request.resource_names_subscribe),
        tuple(request.resource_names_unsubscribe),
        dict(request.initial_resource_versions),
        request.response_nonce,
        request.error_detail.message if request.HasField("error_detail") else "",
    )


def _encoded(response: DiscoveryResponse) -> Any:
    resources = [
        discovery_pb2.Resource(name=r.name, version=r.version, resource=any_pb2.Any.FromString(r.value))
        for r in response.resources
    ]
    return discovery_pb2.DeltaDiscoveryResponse(
        type_url=response.type, nonce=response.nonce, resources=resources, removed_resources=response.removed
    )
