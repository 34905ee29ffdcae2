"""Envoy's filters for tokens of OpenAI-style answers: a script counts them, and the rate limit filter asks the agent.

The rate limit filter asks before a request, if its key has a limit, and reports the tokens after its answer.
"""

from __future__ import annotations

from importlib.resources import files

from ultramarine_contract.routes import EndpointRoutes, RouteDeployment

from ultramarine_gateway.xds.resources import LUA_PER_ROUTE, TYPES, Document

_HTTP = TYPES + "envoy.extensions.filters.http."
_COUNT_FILTER, _LIMIT_FILTER = "count-tokens", "limit-tokens"
_SCRIPT = (files("ultramarine_gateway.config") / "tokens.lua").read_text()
_METADATA = "ultramarine"  # what the scripts write: the key's name, and the tokens by direction
CLAIMS = "claims"  # where the token filter stores the claims of a JWT
DIRECTIONS = ("prompt", "completion")
# A slow agent must not hold requests back: without an answer in time they go on.
_TIMEOUT = "0.5s"


def token_filters(routes: EndpointRoutes) -> list[Document]:
    """Return the filters of an endpoint that counts tokens; its routes enable them."""
    if not routes.tokens.counted:
        return []
    limit = {
        "@type": _HTTP + "ratelimit.v3.RateLimit",
        "domain": "tokens",
        "timeout": _TIMEOUT,
        "disable_x_envoy_ratelimited_header": True,
        "rate_limit_service": {
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "agent"}, "timeout": _TIMEOUT},
        },
    }
    count = {"@type": _HTTP + "lua.v3.Lua", "default_source_code": {"inline_string": _SCRIPT}}
    # The script comes first, since the other filter reports its zeros for a request that is refused.
    return [
        {"name": _COUNT_FILTER, "typed_config": count, "disabled": True},
        {"name": _LIMIT_FILTER, "typed_config": limit, "disabled": True},
    ]


def token_settings(routes: EndpointRoutes, deployment: RouteDeployment, protocol: str) -> Document:
    """Return the settings of these filters for the routes of a deployment; empty if its answers are not counted."""
    if protocol != "http" or deployment.name not in routes.tokens.counted:
        return {}
    holder = [_entry("endpoint", routes.endpoint), _key(routes)]
    reports: list[Document] = [
        {
            "actions": [*holder, _entry("deployment", deployment.name), _entry("direction", direction)],
            "hits_addend": {"format": f"%DYNAMIC_METADATA({_METADATA}:{direction})%"},
            "apply_on_stream_done": True,
        }
        for direction in DIRECTIONS
    ]
    question: list[Document] = [{"actions": holder}] if routes.tokens.per_minute else []
    return {
        _LIMIT_FILTER: {"@type": _HTTP + "ratelimit.v3.RateLimitPerRoute", "rate_limits": [*question, *reports]},
        _COUNT_FILTER: {"@type": LUA_PER_ROUTE, "filter_context": {}},
    }


def refusals(routes: EndpointRoutes) -> list[Document]:
    """Return how the gateway writes refusals for a limit of tokens: the agent's body, as clients of OpenAI read it."""
    if not routes.tokens.per_minute:
        return []
    words = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}, "content_type": "application/json"}
    return [{"filter": {"response_flag_filter": {"flags": ["RL"]}}, "body_format_override": words}]


def _entry(name: str, value: str) -> Document:
    return {"generic_key": {"descriptor_key": name, "descriptor_value": value}}


def _key(routes: EndpointRoutes) -> Document:
    """Name the holder of tokens: the name of the key, the subject of a JWT, or `none`."""
    places = {
        "key": (_METADATA, ["key"]),
        "token": ("envoy.filters.http.jwt_authn", [CLAIMS, "sub"]),
    }
    if routes.auth.mode not in places:
        return _entry("key", "none")
    namespace, path = places[routes.auth.mode]
    place = {"key": namespace, "path": [{"key": name} for name in path]}
    return {"metadata": {"descriptor_key": "key", "metadata_key": place, "default_value": "none"}}
