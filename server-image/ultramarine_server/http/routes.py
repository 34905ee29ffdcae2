"""Paths of the server: methods, authentication, and the handler of each path."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

import msgspec
from ultramarine_contract.common import ANSWERS_PATH, COMPARED_HEADER, COPY_HEADER

from ultramarine_server.accesslog import AccessLog
from ultramarine_server.authentication import NO_PROOF, KeyRing
from ultramarine_server.errors import BadRequest, Problem
from ultramarine_server.http import score
from ultramarine_server.http.answers import KEPT_SECONDS, MAX_NAME, Answers
from ultramarine_server.http.messages import ENCODINGS, Request, Response, inflate, json_response, problem_response
from ultramarine_server.inference.service import Service, metadata
from ultramarine_server.models.model import Loaded
from ultramarine_server.protocol import binary, documents
from ultramarine_server.protocol.tensors import BODY_LIMIT, Inference, Outputs

if TYPE_CHECKING:
    from ultramarine_server.collecting.captures import Captures

Answer = Response | Coroutine[Any, Any, Response]
_LONG_BODY = 256 * 1024  # bytes; a thread inflates longer bodies
_MAX_CACHED, _MAX_CACHED_PATH = 1024, 512  # limits of the cache of paths, and of a path in it
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
INVOCATIONS = "/invocations"  # path of MLflow's scoring server; it answers predictions alone
_COPIED = ("infer", "score")  # routes of shadow traffic; others change state, or have nothing to compare
_NO_KEY = "a valid key is needed: send it as `Authorization: Bearer KEY` or `api-key: KEY`"
_NO_ROOM = "this is a copy, and there is no room for it now"
_TYPES = ("json", "octet-stream", "x-www-form-urlencoded", "text/plain")  # types that clients, such as curl, send

GET, POST = ("GET", "HEAD"), ("POST",)


class Route(msgspec.Struct, frozen=True):
    """Handler of a path; `label` is its name in the metrics, which leave out probes and scrapes."""

    methods: tuple[str, ...]
    answer: Callable[[Request, str, str], Answer]
    label: str = ""
    keyed: bool = True
    named: bool = False  # the path has a model's name, which is checked

    @property
    def allow(self) -> str:
        return ", ".join(dict.fromkeys((*self.methods, "OPTIONS")))


class Routes:
    """Application of all connections; `keys` is None if the server has no authentication."""

    def __init__(
        self,
        service: Service,
        keys: KeyRing | None,
        log: AccessLog,
        body_limit: int = BODY_LIMIT,
        captures: Captures | None = None,
    ) -> None:
        self.body_limit = body_limit
        self._answers = Answers()
        self._captures = captures
        self._service, self._keys, self._log = service, keys, log
        fixed = {
            "/v2/health/live": Route(GET, self._live, keyed=False),
            "/v2/health/ready": Route(GET, self._ready, keyed=False),
            "/metrics": Route(GET, self._metrics, keyed=False),
            "/v2": Route(GET, self._server_metadata, "metadata"),
            "/openapi.json": Route(GET, self._openapi, "metadata"),
            "/score": Route(POST, self._score, "score"),
            INVOCATIONS: Route(POST, self._score, "score"),
            "/v2/repository/index": Route(POST, self._index, "repository"),
            ANSWERS_PATH: Route(POST, self._read_answers),
        }
        if service.scripted:
            from ultramarine_server.http.scripting import script_paths  # Most servers have no script.

            del fixed[INVOCATIONS]
            fixed |= script_paths(service, authenticated=keys is not None)
        self._cache = {path: (route, "", "") for path, route in fixed.items()}
        self._of_model = {
            "": Route(GET, self._model_metadata, "metadata", named=True),
            "ready": Route(GET, self._model_ready, keyed=False, named=True),
            "infer": Route(POST, self._infer, "infer", named=True),
        }
        self._of_repository = {
            "load": Route(POST, self._load, "repository", named=True),
            "unload": Route(POST, self._unload, "repository", named=True),
        }

    # Called by connections

    def refuse(self, request: Request) -> Response | None:
        """Return the answer to a head that is not acceptable, so that no body is kept for it."""
        if COPY_HEADER in request.headers and not self._service.has_room:
            return self._no_room(request)
        target = self._find(request.path)
        if target is None:
            message = f"{request.path} is not a path of this server; {_paths_near(request.path)}"
            return problem_response(Problem(404, message))
        route, name, version = target
        request.label, request.target = route.label, target
        if request.method not in route.methods:
            if request.method == "OPTIONS":
                return Response(headers={"allow": route.allow})
            problem = Problem(405, f"{request.method} is not allowed on {request.path}")
            return problem_response(problem, {"allow": route.allow})
        if route.keyed and self._keys is not None and not self._keys.opens(request.headers):
            problem = Problem(401, NO_PROOF if self._keys.holder == "gateway" else _NO_KEY)
            return problem_response(problem, {"www-authenticate": 'Bearer realm="ultramarine"'})
        encoding = request.headers.get("content-encoding", "")
        if encoding and encoding not in ENCODINGS and encoding != "identity":
            message = f"content-encoding {encoding} is not supported; send gzip, deflate or plain JSON"
            return problem_response(Problem(415, message), {"accept-encoding": ", ".join(ENCODINGS)})
        if COPY_HEADER in request.headers and route.label not in _COPIED:
            return problem_response(Problem(403, f"{request.path} takes no copies of requests"))
        if route.named:
            try:
                self._service.check_name(name, version)
            except Problem as problem:
                return problem_response(problem)
        return None

    def answer(self, request: Request) -> Answer:
        """Answer an acceptable request."""
        route, name, version = request.target
        if COPY_HEADER in request.headers and not self._service.has_room:  # Others may have come since its head.
            return self._no_room(request)
        try:
            if encoding := request.headers.get("content-encoding", ""):
                if encoding != "identity" and len(request.body) > _LONG_BODY:
                    return self._guarded(request, self._inflated(request, encoding, route, name, version))
                if encoding != "identity":
                    request.body = inflate(request.body, encoding, self.body_limit)
            answer = route.answer(request, name, version)
        except Exception as error:
            return _failure(request, error)
        return answer if isinstance(answer, Response) else self._guarded(request, answer)

    def record(self, request: Request, response: Response, seconds: float) -> None:
        """Count and log an answer."""
        if response.status in (403, 503) and COPY_HEADER in request.headers:  # A rejected copy has no client.
            return
        if request.label:
            self._service.telemetry.count(request.label, response.status, seconds)
        self._log.record(request, response, seconds)
        if self._answers.readers and COMPARED_HEADER in request.headers and request.label in _COPIED:
            self._answers.take(request.headers[COMPARED_HEADER], response.status, request.outputs)
        kept = self._captures
        if kept is not None and request.method == "POST" and kept.wants(request.label, response.status):
            kept.take_answer(self._service, request, response, seconds)

    # Steps of these

    def _no_room(self, request: Request) -> Response:
        """Reject a copy, so that no client waits because of it."""
        self._service.telemetry.reject("copy")
        return problem_response(Problem(503, _NO_ROOM))

    def _find(self, path: str) -> tuple[Route, str, str] | None:
        cached = self._cache.get(path)
        if cached is not None:
            return cached
        parts = path.split("/")
        if parts[1:3] == ["v2", "models"] and len(parts) > 3:
            name, rest = parts[3], parts[4:]
            version = ""
            if len(rest) > 1 and rest[0] == "versions":
                version, rest = unquote(rest[1]), rest[2:]
            route = self._of_model.get("/".join(rest)) if rest != [""] else None
        elif parts[1:4] == ["v2", "repository", "models"] and len(parts) == 6:
            name, version, route = parts[4], "", self._of_repository.get(parts[5])
        else:
            return None
        if route is None:
            return None
        target = route, unquote(name), version
        if len(self._cache) < _MAX_CACHED and len(path) <= _MAX_CACHED_PATH:
            self._cache[path] = target
        return target

    async def _guarded(self, request: Request, answer: Coroutine[Any, Any, Response]) -> Response:
        try:
            return await answer
        except Exception as error:
            return _failure(request, error)

    async def _inflated(self, request: Request, encoding: str, route: Route, name: str, version: str) -> Response:
        request.body = await asyncio.to_thread(inflate, request.body, encoding, self.body_limit)
        answer = route.answer(request, name, version)
        return answer if isinstance(answer, Response) else await answer

    # Handlers

    def _live(self, request: Request, name: str, version: str) -> Response:
        return json_response({"live": self._service.live()})

    def _ready(self, request: Request, name: str, version: str) -> Response:
        ready = self._service.ready()
        return json_response({"ready": ready}, 200 if ready else 503)

    def _metrics(self, request: Request, name: str, version: str) -> Response:
        return Response(self._service.telemetry.exposition(), content_type=_TEXT)

    def _server_metadata(self, request: Request, name: str, version: str) -> Response:
        return json_response(self._service.server_metadata())

    async def _openapi(self, request: Request, name: str, version: str) -> Response:
        from ultramarine_server.http.openapi import document  # Most servers never need it.

        loaded = await self._service.loaded(self._named(request))
        keyed = self._keys is not None and self._keys.holder == "client"
        return json_response(document(loaded, keyed=keyed, alone=bool(self._service.only)))

    async def _model_metadata(self, request: Request, name: str, version: str) -> Response:
        return json_response(metadata(await self._service.loaded(name, version)))

    def _model_ready(self, request: Request, name: str, version: str) -> Response:
        ready = self._service.model_ready(name, version)
        status = 200 if ready else 503 if self._service.telemetry.draining else 400
        return json_response({"name": name, "ready": ready}, status)

    def _infer(self, request: Request, name: str, version: str) -> Answer:
        header_length = request.headers.get(binary.HEADER, "")
        try:
            inference, form = documents.read(name, version, request.body, header_length)
        except BadRequest as error:
            raise _by_type(request, error) from error
        outputs = self._service.ask(inference, request.id)
        if isinstance(outputs, tuple):
            return self._inferred(request, inference, form, outputs)
        return self._infer_later(request, inference, form, outputs)

    async def _infer_later(
        self, request: Request, inference: Inference, form: documents.Form, outputs: Awaitable[Outputs]
    ) -> Response:
        return self._inferred(request, inference, form, await outputs)

    def _inferred(self, request: Request, inference: Inference, form: documents.Form, outputs: Outputs) -> Response:
        request.outputs = outputs
        body, length = documents.write(inference.model, inference.version, inference.id, outputs, form)
        if not length:
            return Response(body)
        return Response(body, 200, b"application/octet-stream", {binary.HEADER: str(length)})

    def _score(self, request: Request, name: str, version: str) -> Answer:
        loaded = self._service.find(self._named(request))
        return self._score_by(request, loaded) if isinstance(loaded, Loaded) else self._score_when(request, loaded)

    async def _score_when(self, request: Request, loading: Awaitable[Loaded]) -> Response:
        answer = self._score_by(request, await loading)
        return answer if isinstance(answer, Response) else await answer

    def _score_by(self, request: Request, loaded: Loaded) -> Answer:
        try:
            rows = score.parse(request.body)
            inference = score.read(loaded.model, loaded.name, rows, first=request.path == INVOCATIONS)
        except BadRequest as error:
            raise _by_type(request, error) from error
        outputs = self._service.ask(inference, request.id)
        return _scored(request, outputs) if isinstance(outputs, tuple) else self._score_later(request, outputs)

    def _named(self, request: Request) -> str:
        """Return the model of a path without a name: the server's only model, or that of `?model=`."""
        only = self._service.only
        name = (parse_qs(request.query).get("model") or [only])[0] if request.query else only
        if not name:
            raise BadRequest(f"this server has many models; say which one by {request.path}?model=NAME")
        return name

    async def _score_later(self, request: Request, outputs: Awaitable[Outputs]) -> Response:
        return _scored(request, await outputs)

    def _index(self, request: Request, name: str, version: str) -> Response:
        filters = _object(request)
        return json_response(self._service.index(ready=filters.get("ready") is True))

    async def _load(self, request: Request, name: str, version: str) -> Response:
        if _object(request).get("parameters"):
            raise BadRequest("parameters of a load are not supported; the model is loaded as it is registered")
        await self._service.load(name)
        return Response()

    async def _unload(self, request: Request, name: str, version: str) -> Response:
        _object(request)
        await self._service.unload(name)
        return Response()

    def _read_answers(self, request: Request, name: str, version: str) -> Response:
        reader = _object(request).get("reader")
        if not isinstance(reader, str) or not 0 < len(reader) <= MAX_NAME:
            raise BadRequest("reader must be the name that the requests were sent with")
        answers = self._answers.read(reader)
        asyncio.get_running_loop().call_later(KEPT_SECONDS + 1, self._answers.lapse)
        return Response(answers)


def _paths_near(path: str) -> str:
    prefix, _, rest = path.partition("/v2/models/")
    name = rest.partition("/")[0]
    if prefix or not name:
        return "the protocol begins at /v2"
    return f"a model has /v2/models/{name}, /v2/models/{name}/ready and /v2/models/{name}/infer"


def _scored(request: Request, outputs: Outputs) -> Response:
    request.outputs = outputs
    return json_response(score.write(outputs))


def _by_type(request: Request, error: BadRequest) -> Problem:
    """Return the problem of an unreadable body: 415 if its type is not that of JSON."""
    kind = request.headers.get("content-type", "")
    if kind and not any(word in kind.lower() for word in _TYPES):
        return Problem(415, f"content-type {kind} is not supported; send application/json ({error})")
    return error


def _object(request: Request) -> dict[str, Any]:
    document = documents.parse(request.body) if request.body.strip() else {}
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object, or empty")
    return document


def _failure(request: Request, error: Exception) -> Response:
    if isinstance(error, Problem):
        return problem_response(error)
    print(f"ultramarine-server: request {request.id} failed", file=sys.stderr)
    traceback.print_exception(error)
    message = f"the server failed; its log has the reason under request {request.id}"
    return problem_response(Problem(500, message))
