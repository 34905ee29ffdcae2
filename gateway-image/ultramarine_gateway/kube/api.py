"""The agent's reads of the Kubernetes API: follow a collection, and read a Secret by its name."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 60  # the server ends a watch by then, so a vanished server is noticed soon after
_PAGE = 500
_MAX_PAUSE = 5.0

Object = dict[str, Any]


class _Gone(Exception):
    """The server cannot continue from the resource version of the agent."""


@dataclass
class Api:
    """The API server, by the pod's service account, in the namespace of the pod."""

    url: str
    account: Path
    namespace: str
    session: aiohttp.ClientSession

    @classmethod
    def of_pod(cls, account: Path) -> Api:
        """Make one of the files and variables of a pod. Raises OSError or KeyError outside a pod."""
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        host = f"[{host}]" if ":" in host else host
        context = ssl.create_default_context(cafile=str(account / "ca.crt"))
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
        return cls(f"https://{host}:{port}", account, (account / "namespace").read_text().strip(), session)

    async def secret(self, name: str) -> Object | None:
        """Return the data of a Secret, or None if it does not exist. Raises OSError if the server does not answer."""
        async with self._get(f"/api/v1/namespaces/{self.namespace}/secrets/{name}", {}, 10) as answer:
            if answer.status == 404:
                return None
            _check(answer)
            data: Object = (await answer.json()).get("data") or {}
            return data

    async def follow(
        self, path: str, selector: str, listed: Callable[[list[Object]], None], changed: Callable[[str, Object], None]
    ) -> None:
        """List the selected objects and report each change, forever; after a gap list them again.

        `listed` gets all objects; `changed` gets ADDED, MODIFIED or DELETED, and one object.
        """
        version, pause = "", 0.0
        path = path.format(namespace=self.namespace)
        while True:
            try:
                if not version:
                    objects, version = await self._list(path, selector)
                    listed(objects)
                async for kind, item in self._watch(path, selector, version):
                    version, pause = item["metadata"]["resourceVersion"], 0.0
                    if kind != "BOOKMARK":
                        changed(kind, item)
            except _Gone:
                version = ""
            except (OSError, aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
                pause = min(_MAX_PAUSE, pause * 2 or 0.1)
                _log.warning("cannot follow %s, next attempt in %.1f s: %s", path, pause, error or type(error).__name__)
                await asyncio.sleep(pause * random.uniform(0.5, 1))

    async def _list(self, path: str, selector: str) -> tuple[list[Object], str]:
        objects: list[Object] = []
        query = {"labelSelector": selector, "limit": str(_PAGE)}
        while True:
            async with self._get(path, query, 30) as answer:
                _check(answer)
                page = await answer.json()
            objects += page["items"]
            if not page["metadata"].get("continue"):
                return objects, page["metadata"]["resourceVersion"]
            query["continue"] = page["metadata"]["continue"]

    async def _watch(self, path: str, selector: str, version: str) -> AsyncIterator[tuple[str, Object]]:
        query = {"labelSelector": selector, "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)}
        query |= {"watch": "true", "allowWatchBookmarks": "true"}
        async with self._get(path, query, _WATCH_SECONDS + 15) as answer:
            _check(answer)
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        if event["object"].get("code") == 410:
                            raise _Gone
                        raise OSError(event["object"].get("message"))
                    yield event["type"], event["object"]

    def _get(self, path: str, query: dict[str, str], seconds: float) -> Any:
        # The kubelet renews the token.
        headers = {"Authorization": f"Bearer {(self.account / 'token').read_text().strip()}"}
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=5)
        return self.session.get(self.url + path, params=query, headers=headers, timeout=timeout)


def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status == 410:
        raise _Gone
    if not answer.ok:
        raise OSError(f"the API server answers {answer.status} {answer.reason}")
