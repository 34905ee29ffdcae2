"""The gateway's own answers: a sentence for each failure, as JSON for HTTP and as the message of a gRPC status."""

from __future__ import annotations

from ultramarine_contract.routes import EndpointRoutes

from ultramarine_gateway.config.tokens import refusals
from ultramarine_gateway.xds.resources import ABSENCE_SECONDS, Document

OVERLOAD_SECONDS = 1  # Retry-After of requests beyond the endpoint's limit
REPLIES = "ultramarine"  # in a route's metadata, `late` is the sentence for its timeout
_LATE = f"%METADATA(ROUTE:{REPLIES}:late)%"
_GRPC: Document = {
    "header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}
}
_UPGRADE: Document = {"header_filter": {"header": {"name": "upgrade", "present_match": True}}}


def local_replies(routes: EndpointRoutes) -> Document:
    """Return the formats of the answers that the listener makes itself. The first mapper that matches applies."""
    endpoint, most = routes.endpoint, routes.limits.max_requests
    audiences = ", ".join(routes.auth.audiences).replace("%", "%%")
    foreign = [(_code(403), f"the token is for another audience; get one for {audiences}", 0)] if audiences else []
    causes: list[tuple[Document, str, int]] = [
        (_flags("UO"), f"endpoint {endpoint} has {most} requests in progress, its limit; try again", OVERLOAD_SECONDS),
        # A pod may have received these, so that the client must decide if it repeats them.
        (_flags("UC", "UR", "LR"), f"a pod of endpoint {endpoint} closed the connection before its answer", 0),
        (_flags("UPE"), f"a pod of endpoint {endpoint} gave an answer that is not valid HTTP; see its log", 0),
        (_flags("UT"), _LATE, 0),
        (_flags("SI"), "no data came for too long; send the request without pauses", 0),
        (_flags("UF"), f"cannot connect to a pod of endpoint {endpoint}; try again", ABSENCE_SECONDS),
        (_flags("UH"), f"endpoint {endpoint} has no ready pod; try again", ABSENCE_SECONDS),
        (_flags("NR"), "the gateway has no route for this method; use GET or POST", 0),
        (_code(400), "the request is malformed; correct its path and its headers", 0),
        (_both(_code(403), _UPGRADE), "this deployment takes no WebSockets; send a request without Upgrade", 0),
        *foreign,
    ]
    mappers = [
        mapper
        for cause, sentence, seconds in causes
        for mapper in (
            {"filter": _both(cause, _GRPC), **_plain(sentence)},
            {"filter": cause, "body_format_override": _json(sentence), **_retry_after(seconds)},
        )
    ]
    plain = {"filter": _GRPC, **_plain("%LOCAL_REPLY_BODY%")}
    return {"mappers": [*refusals(routes), *mappers, plain], "body_format": _json("%LOCAL_REPLY_BODY%")}


def _flags(*flags: str) -> Document:
    return {"response_flag_filter": {"flags": list(flags)}}


def _code(status: int) -> Document:
    value = {"default_value": status, "runtime_key": f"replies.{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _both(first: Document, second: Document) -> Document:
    return {"and_filter": {"filters": [first, second]}}


def _json(sentence: str) -> Document:
    return {"json_format": {"error": sentence}}


def _plain(sentence: str) -> Document:
    return {"body_format_override": {"text_format_source": {"inline_string": sentence}}}


def _retry_after(seconds: int) -> Document:
    return {"headers_to_add": [{"header": {"key": "retry-after", "value": str(seconds)}}]} if seconds else {}
