"""Asks one pod for something, with whichever of the endpoint's credentials it takes."""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import aiohttp

from ultramarine_gateway.slices import Address

_LIMIT = 1024 * 1024  # bytes of an answer; servers keep half of that

# What `ask` raises.
FAILURES = (OSError, aiohttp.ClientError, TimeoutError, ValueError, RecursionError)


class Peer(NamedTuple):
    """What a pod that speaks TLS has to show: a certificate of that authority, for that name."""

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
    """Return the JSON that a pod answers. Raises one of FAILURES, in words, if it does not."""
    host, port = pod
    url = f"http{'s' if peer else ''}://{f'[{host}]' if ':' in host else host}:{port}{path}"
    by_tls: Any = {"ssl": _context(peer.authority), "server_hostname": peer.name} if peer else {}
    for headers in credentials or [{}]:  # A pod may not know a new key yet.
        asked = session.request(method, url, json=body, headers=headers, allow_redirects=False, **by_tls)
        async with asked as answer:
            if answer.status == 200:
                return json.loads(await _read(answer))
            if answer.status != 401:
                raise ValueError(f"it answers {answer.status}")
    raise ValueError("none of the endpoint's keys opens it")


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _LIMIT:
            raise ValueError(f"it tells more than {_LIMIT} bytes")
    return body
