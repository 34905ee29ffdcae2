"""Fetches key sets for Envoy: who writes an endpoint says from where, and that must be no address of the inside."""

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

_LIMIT = 1024 * 1024  # bytes of a key set
_TIMEOUT = aiohttp.ClientTimeout(total=4)  # Envoy waits five seconds
# What a translator makes IPv4 of, and old notations of it: the last 32 bits.
_TRANSLATED = tuple(IPv6Network(each) for each in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96"))
_MOST = 1000  # failures that are remembered: endpoints come and go


class KeySets:
    """Answers Envoy at a socket; `issuers` are names, `.suffixes` of names and networks that may be of the inside.

    `failures` say in words, by URI, why there is no key set.
    """

    def __init__(self, issuers: Iterable[str] = ()) -> None:
        self.failures: dict[str, str] = {}
        found = {each.lower(): _network(each) for each in issuers}
        self._names = [name for name, network in found.items() if network is None]
        self._networks = [network for network in found.values() if network is not None]
        self._runner: web.AppRunner | None = None

    async def start(self, path: Path) -> None:
        """Listen at a socket; another process' that is left there is taken away."""
        application = web.Application()
        application.add_routes([web.get("/", self._answer)])
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        path.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(path)).start()
        path.chmod(0o600)

    async def stop(self) -> None:
        """Hang up."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        uri = request.query.get("uri", "")
        try:
            found = await self._fetch(uri)
        except (OSError, aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as error:
            why = str(error) or type(error).__name__
            if self.failures.get(uri) != why:
                _log.warning("the key set at %s cannot be had: %s", uri, why)
            self.failures = dict([*self.failures.items(), (uri, why)][-_MOST:])
            return web.Response(status=502, text=why)
        self.failures.pop(uri, None)
        return web.Response(body=found, content_type="application/json")

    async def _fetch(self, uri: str) -> bytes:
        if not re.fullmatch(KEY_SET_URI, uri):
            raise ValueError("not an http or https URL with a host name")
        host = urlsplit(uri).hostname or ""
        if _network(host) is not None:  # nobody has to resolve it
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
                if len(body) > _LIMIT:
                    raise ValueError(f"it has more than {_LIMIT} bytes")
        document = json.loads(body)
        if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
            raise ValueError("it is no JSON Web Key Set")
        return body

    def refuse_inside(self, host: str, addresses: Sequence[str]) -> None:
        """Raise ValueError where a host has an address that is not of the internet, and was not listed."""
        name = host.lower()
        if any(name == each or (each.startswith(".") and name.endswith(each)) for each in self._names):
            return
        for address in addresses:
            found = ip_address(address.partition("%")[0])
            if not _of_internet(found) and not any(found in network for network in self._networks):
                remedy = "an administrator can add it to gateway.issuers of the chart"
                raise ValueError(f"{host} is not of the internet ({address}); {remedy}")


class _Resolver(abc.AbstractResolver):
    """Finds addresses as always, and refuses those that are not open: what is checked is what is connected to."""

    def __init__(self, sets: KeySets) -> None:
        self._sets, self._resolver = sets, aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[abc.ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        self._sets.refuse_inside(host, [each["host"] for each in found])
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _of_internet(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the internet, and stands for no other address that is none."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if any(address in network for network in _TRANSLATED):
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _of_internet(inner)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast


def _network(text: str) -> IPv4Network | IPv6Network | None:
    """The network that a text is, or nothing where it is a name."""
    try:
        return ip_network(text)
    except ValueError:
        return None
