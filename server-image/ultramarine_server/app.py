"""The HTTP side of the Open Inference Protocol V2."""

from __future__ import annotations

import asyncio
import re
import sys
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus

import orjson
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import ultramarine_server
from ultramarine_server.body import BODY_LIMIT, TooLarge, read_body
from ultramarine_server.errors import BadRequest
from ultramarine_server.keys import KeyRing
from ultramarine_server.model import Model
from ultramarine_server.protocol import infer
from ultramarine_server.telemetry import Telemetry

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Serving:
    """One loaded model and how it is offered; `keys` is None where no key is wanted."""

    model: Model
    name: str
    version: str
    platform: str
    keys: KeyRing | None = None
    threads: int = 2
    body_limit: int = BODY_LIMIT


def application(serving: Serving, telemetry: Telemetry) -> ASGIApp:
    """Return the whole application."""
    routes = _Routes(serving, telemetry)
    model = "/v2/models/{name}"
    app = Starlette(
        routes=[
            Route("/v2/health/live", routes.live),
            Route("/v2/health/ready", routes.ready),
            Route("/metrics", routes.metrics),
            Route("/v2", routes.keyed(routes.server_metadata)),
            *(
                route
                for path in (model, model + "/versions/{version}")
                for route in (
                    Route(path, routes.keyed(routes.named(routes.model_metadata))),
                    Route(path + "/ready", routes.named(routes.model_ready)),
                    Route(path + "/infer", routes.keyed(routes.named(routes.infer)), methods=["POST"]),
                )
            ),
        ],
        exception_handlers={HTTPException: _http_problem, Exception: _unexpected},
    )
    app.router.redirect_slashes = False
    return Observed(app, telemetry)


def _json(document: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, "application/json")


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": message}, status, headers)


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND and message == "Not Found":
        message = f"{request.url.path} is not a path of this server; the protocol begins at /v2"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.method} is not allowed on {request.url.path}"
    return _problem(error.status_code, message, dict(error.headers or {}))


async def _unexpected(request: Request, error: Exception) -> Response:
    return _problem(500, f"the server failed; its log has the reason under request {request.state.request_id}")


class _Routes:
    def __init__(self, serving: Serving, telemetry: Telemetry) -> None:
        self._serving, self._telemetry = serving, telemetry
        # Its own threads, so that probes and metrics are answered while the model computes.
        self._pool = ThreadPoolExecutor(serving.threads, "predict")

    def keyed(self, endpoint: Endpoint) -> Endpoint:
        """Let only requests with a key through, where keys are wanted."""

        async def guarded(request: Request) -> Response:
            if self._serving.keys is not None and not self._serving.keys.opens(request.headers):
                message = "a valid key is needed: send it as `Authorization: Bearer KEY` or `api-key: KEY`"
                return _problem(401, message, {"www-authenticate": 'Bearer realm="ultramarine"'})
            return await endpoint(request)

        return guarded

    def named(self, endpoint: Endpoint) -> Endpoint:
        """Let only requests for the one model and version through."""

        async def found(request: Request) -> Response:
            name, version = request.path_params["name"], request.path_params.get("version", self._serving.version)
            if name != self._serving.name:
                return _problem(404, f"model {name!r} is unknown; this server has {self._serving.name!r}")
            if version != self._serving.version:
                return _problem(404, f"version {version!r} of {name!r} is not here; this is {self._serving.version!r}")
            return await endpoint(request)

        return found

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        return _json({"ready": not self._telemetry.draining}, 503 if self._telemetry.draining else 200)

    async def metrics(self, request: Request) -> Response:
        return Response(self._telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def server_metadata(self, request: Request) -> Response:
        return _json({"name": "ultramarine", "version": ultramarine_server.__version__, "extensions": []})

    async def model_metadata(self, request: Request) -> Response:
        head = {"name": self._serving.name, "versions": [self._serving.version], "platform": self._serving.platform}
        return _json(head | self._serving.model.signature.to_dict())

    async def model_ready(self, request: Request) -> Response:
        draining = self._telemetry.draining
        return _json({"name": self._serving.name, "ready": not draining}, 503 if draining else 200)

    async def infer(self, request: Request) -> Response:
        serving = self._serving
        try:
            if "inference-header-content-length" in request.headers:
                raise BadRequest("binary tensors are not supported; send JSON only")
            if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
                return _problem(415, f"content-encoding {encoding} is not supported; send plain JSON")
            body = await read_body(request, serving.body_limit)
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._pool, infer, serving.model, serving.name, serving.version, body)
        except BadRequest as error:
            return _problem(400, str(error))
        except TooLarge as error:
            return _problem(413, str(error), {"connection": "close"} if error.cut_off else None)
        except ClientDisconnect:
            return Response(status_code=400)  # Nobody is there to read it.
        except Exception:  # The model is the user's code: whatever it raises is its failure, not the server's.
            request_id = request.state.request_id
            print(f"ultramarine-server: request {request_id} failed", file=sys.stderr)
            traceback.print_exc()
            return _problem(500, f"the model failed; its log has the reason under request {request_id}")
        return Response(answer, media_type="application/json")


_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def _route(path: str) -> str:
    """Return a label with few values; nothing for probes and scrapes, which would drown the rest."""
    if path.startswith("/v2/health/") or path == "/metrics" or path.endswith("/ready"):
        return ""
    return "infer" if path.endswith("/infer") else "metadata"


class Observed:
    """The application, counted; every answer carries a request id and, while draining, asks to close the connection."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app, self._telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started, code = time.perf_counter(), 500

        async def send_observed(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if self._telemetry.draining:
                    headers["connection"] = "close"
            await send(message)

        self._telemetry.in_flight += 1
        try:
            await self._app(scope, receive, send_observed)
        finally:
            self._telemetry.in_flight -= 1
            if route := _route(scope["path"]):
                self._telemetry.count(route, code, time.perf_counter() - started)
