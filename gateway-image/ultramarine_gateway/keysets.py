"""Fetch of key sets for Envoy; the author of an endpoint names the URI, which must not lead into the cluster."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiohttp import abc, web
from ultramarine_contract.routes import KEY_SET_URI

_log = logging.getLogger(__name__)

_MAX_BYTES = 1024 * 1024  # of a key set
_TIMEOUT = aiohttp.ClientTimeout(total=4)  # Envoy waits five seconds
# IPv6 networks whose last 32 bits are an IPv4 address, by translation or in old notations.
_TRANSLATED = tuple(IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96"))
_MAX_FAILURES = 1000  # to remember, by URI


class KeySets:
    """Answers Envoy at a socket; `issuers` are names, `.suffixes` of names and networks inside that are allowed.

    `failures` are messages by URI.
    """

    def __init__(self, issuers: Iterable[str] = ()) -> None:
        self.failures: dict[str, str] = {}
        networks = {issuer.lower(): _network(issuer) for issuer in issuers}
        self._names = [name for name, network in networks.items() if network is None]
        self._networks = [network for network in networks.values() if network is not None]
        self._runner: web.AppRunner | None = None

    async def start(self, path: Path) -> None:
        """Listen at a socket, and replace one that another process has left."""
        application = web.Application()
        application.add_routes([web.get("/", self._answer)])
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        path.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(path)).start()
        path.chmod(0o600)

    async def stop(self) -> None:
        """End all connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        uri = request.query.get("uri", "")
        try:
            body = await self._fetch(uri)
        except (OSError, aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as error:
            why = str(error) or type(error).__name__
            if self.failures.get(uri) != why:
                _log.warning("cannot fetch the key set at %s: %s", uri, why)
            self.failures = dict([*self.failures.items(), (uri, why)][-_MAX_FAILURES:])
            return web.Response(status=502, text=why)
        self.failures.pop(uri, None)
        return web.Response(body=body, content_type="application/json")

    async def _fetch(self, uri: str) -> bytes:
        if not re.fullmatch(KEY_SET_URI, uri):
            raise ValueError("not an http or https URL with a host name")
        host = urlsplit(uri).hostname or ""
        if _network(host) is not None:  # an address needs no resolver
            self.refuse_inside(host, [host])
        connector = aiohttp.TCPConnector(resolver=_Resolver(self), force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session,
            session.get(uri, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"it answers {answer.status}")
            body = b""
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"it has more than {_MAX_BYTES} bytes")
        document = json.loads(body)
        if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
            raise ValueError("it is not a JSON Web Key Set")
        return body

    def refuse_inside(self, host: str, addresses: Sequence[str]) -> None:
        """Raise ValueError if a host has an address that is neither public nor allowed."""
        name = host.lower()
        if any(name == own or (own.startswith(".") and name.endswith(own)) for own in self._names):
            return
        for address in addresses:
            parsed = ip_address(address.partition("%")[0])
            if not _is_public(parsed) and not any(parsed in network for network in self._networks):
                remedy = "an administrator can add it to gateway.issuers of the chart"
                raise ValueError(f"{host} does not have a public address ({address}); {remedy}")


class _Resolver(abc.AbstractResolver):
    """Resolves names and refuses addresses inside, so that the connection uses the checked addresses."""

    def __init__(self, sets: KeySets) -> None:
        self._sets, self._resolver = sets, aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[abc.ResolveResult]:
        resolved = await self._resolver.resolve(host, port, family)
        self._sets.refuse_inside(host, [result["host"] for result in resolved])
        return resolved

    async def close(self) -> None:
        await self._resolver.close()


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    """True if an address is public, and any address inside it too."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if any(address in network for network in _TRANSLATED):
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast


def _network(text: str) -> IPv4Network | IPv6Network | None:
    """Parse a network; None for a name."""
    try:
        return ip_network(text)
    except ValueError:
        return None
