"""Paths of a scoring script: POST and GET /score, /swagger.json and /openapi.json, as Azure's server has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

import numpy as np
from ultramarine_contract.common import GATEWAY_HEADER

from ultramarine_server.errors import Problem
from ultramarine_server.http.messages import BODILESS, JSON, Request, Response, json_response, problem_response
from ultramarine_server.http.routes import GET, Route
from ultramarine_server.inference.service import Service
from ultramarine_server.protocol.tensors import Tensor
from ultramarine_server.workers.scripts import Question, Script

FAILED = {"x-ms-run-function-failed": "True"}  # header of Azure's server for an error of run()
_SERVER_HEADERS = ("content-length", "date", "x-request-id")
_CONNECTION_HEADERS = ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
_PROXY_HEADERS = ("proxy-authenticate", "proxy-authorization")
_DROPPED = frozenset((*_SERVER_HEADERS, *_CONNECTION_HEADERS, *_PROXY_HEADERS))
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110
_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_ANY = {"type": "object", "example": {}}


def script_paths(service: Service, *, authenticated: bool) -> dict[str, Route]:
    """Return the routes of a script by path.

    If requests are `authenticated` by the platform, the script does not get their credentials.
    """
    withheld = frozenset((GATEWAY_HEADER, *(("authorization", "api-key") if authenticated else ())))
    script = service.sole().model
    assert isinstance(script, Script)
    methods = ("GET", "POST", "OPTIONS") if script.raw else ("GET", "POST")
    return {
        "/": Route(GET, _healthy, keyed=False),
        "/score": Route(methods, partial(_score, service, withheld), "score"),
        "/swagger.json": Route(GET, partial(_swagger, service), "metadata"),
        "/openapi.json": Route(GET, partial(_openapi, service), "metadata"),
    }


def _healthy(request: Request, name: str, version: str) -> Response:
    return Response(b"Healthy", content_type=b"text/html; charset=utf-8")


async def _score(service: Service, withheld: frozenset[str], request: Request, name: str, version: str) -> Response:
    script = _script(service)
    header = {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": {key: value for key, value in request.headers.items() if key not in withheld},
    }
    answer, body = (await service.compute(Question(script, header, request.body), request.id))[""]
    if "error" in answer:
        status = answer["status"] if answer.get("status") in (400, 415) else 500
        return problem_response(Problem(status, str(answer["error"])), FAILED if answer.get("failed") else None)
    response = _response(script, answer, bytes(body))
    if response.status == 200:
        text = response.body.decode(errors="replace")
        request.outputs = (Tensor("body", "BYTES", np.array([text], dtype=object)),)
    return response


def _response(script: Script, answer: Mapping[str, Any], body: bytes) -> Response:
    """Return the answer of the script. Its status and headers come from the user's code, so they are checked."""
    status, kind = answer.get("status"), JSON.decode()
    headers: dict[str, str] = {}
    cookies: list[str] = []
    if not isinstance(status, int) or status not in set(HTTPStatus) or status < 200:
        return problem_response(Problem(500, f"the script answered with status {status!r}, which HTTP does not have"))
    for name, value in answer.get("headers", ()):
        lower = str(name).lower()
        if lower in _DROPPED:
            continue
        if not _NAME.fullmatch(lower):
            message = f"the script answered with the header name {name!r}; use letters, digits and hyphens"
            return problem_response(Problem(500, message))
        if not _VALUE.fullmatch(str(value)):
            message = f"the script answered with a value of header {name!r} that HTTP does not have"
            return problem_response(Problem(500, f"{message}; send Latin-1 without control characters"))
        if lower == "content-type":
            kind = str(value)
        elif lower == "set-cookie":  # RFC 9110 forbids joining its values, since they may have commas.
            cookies.append(str(value))
        else:
            headers[lower] = f"{headers[lower]}, {value}" if lower in headers else str(value)
    content = b"" if status == 205 or status in BODILESS else body
    return Response(content, status, kind.encode("latin-1"), headers or None, tuple(cookies))


def _script(service: Service) -> Script:
    script = service.sole().model
    assert isinstance(script, Script)
    return script


def _swagger(service: Service, request: Request, name: str, version: str) -> Response:
    given = (parse_qs(request.query).get("version") or ["2"])[0]
    if given in ("2", "2.0"):
        return json_response(_swagger_2(service))
    if given in ("3", "3.0", "3.1"):
        return json_response(_document(service, "3.1.0" if given == "3.1" else "3.0.3"))
    raise Problem(404, f"version {given!r} of this document does not exist; ask for 2, 3 or 3.1")


def _openapi(service: Service, request: Request, name: str, version: str) -> Response:
    return json_response(_document(service, "3.1.0"))


def _swagger_2(service: Service) -> dict[str, Any]:
    answers = {"200": {"description": "The answer.", "schema": {"$ref": "#/definitions/ServiceOutput"}}}
    body = {"name": "serviceInputPayload", "in": "body", "schema": {"$ref": "#/definitions/ServiceInput"}}
    return {
        "swagger": "2.0",
        "info": _info(service),
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "paths": {"/score": {"post": {"operationId": "score", "parameters": [body], "responses": answers}}},
        "definitions": _schemas(service),
    }


def _document(service: Service, release: str) -> dict[str, Any]:
    def content(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    operation = {
        "operationId": "score",
        "requestBody": {"content": content("ServiceInput")},
        "responses": {"200": {"description": "The answer.", "content": content("ServiceOutput")}},
    }
    return {
        "openapi": release,
        "info": _info(service),
        "paths": {"/score": {"post": operation}},
        "components": {"schemas": _schemas(service)},
    }


def _info(service: Service) -> dict[str, str]:
    loaded = service.sole()
    return {"title": loaded.name, "version": loaded.version}


def _schemas(service: Service) -> dict[str, Any]:
    schema = _script(service).schema or {}
    return {"ServiceInput": schema.get("input", _ANY), "ServiceOutput": schema.get("output", _ANY)}
