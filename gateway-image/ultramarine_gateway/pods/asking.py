"""Requests to a pod, with the credential of the endpoint that it accepts."""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import aiohttp

from ultramarine_gateway.config.clusters import Address

_MAX_BYTES = 1024 * 1024  # of an answer; servers keep half of that

# Raised by `ask`.
FAILURES = (OSError, aiohttp.ClientError, TimeoutError, ValueError, RecursionError)


class Peer(NamedTuple):
    """The identity of pods that speak TLS: the certificate authority and the name."""

    authority: str
    name: str


@lru_cache(maxsize=4)
def _context(authority: str) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority)


async def ask(
    session: aiohttp.ClientSession,
    pod: Address,
    peer: Peer | None,
    credentials: Sequence[dict[str, str]],
    method: str,
    path: str,
    body: Any = None,
) -> Any:
    """Return the JSON answer of a pod. Raises one of FAILURES if it gives none."""
    host, port = pod
    url = f"http{'s' if peer else ''}://{f'[{host}]' if ':' in host else host}:{port}{path}"
    by_tls: Any = {"ssl": _context(peer.authority), "server_hostname": peer.name} if peer else {}
    for headers in credentials or [{}]:  # A pod may not know a new key yet.
        request = session.request(method, url, json=body, headers=headers, allow_redirects=False, **by_tls)
        async with request as answer:
            if answer.status == 200:
                return json.loads(await _read(answer))
            if answer.status != 401:
                raise ValueError(f"it answers {answer.status}")
    raise ValueError("it accepts none of the endpoint's keys")


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _MAX_BYTES:
            raise ValueError(f"its answer has more than {_MAX_BYTES} bytes")
    return body
