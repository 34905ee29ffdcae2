"""Routes, addresses and Secrets that the agent follows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultramarine_contract.routes import LABEL_ROUTES
from ultramarine_contract.tls import AUTHORITY

from ultramarine_gateway.agent import Agent
from ultramarine_gateway.kube.api import Api
from ultramarine_gateway.state import LABEL_SERVICE

_log = logging.getLogger(__name__)

CONFIG_MAPS = "/api/v1/namespaces/{namespace}/configmaps"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
# Secrets are read by name, one after another: the right to watch or list Secrets would open all of them.
SECRET_SECONDS = 5.0
SECRETS_PER_SECOND = 10.0


async def follow(agent: Agent, api: Api, certificates: Path | None = None) -> None:
    """Keep the agent's view of the namespace current, until cancelled; without the API server it stays as it was.

    `certificates` is the folder with the certificate authority of pods that speak TLS.
    """
    seen = agent.seen

    def ringing(update: Callable[..., None]) -> Callable[..., None]:
        def updated(*changes: Any) -> None:
            update(*changes)
            agent.ring()

        return updated

    async with asyncio.TaskGroup() as group:
        routes = (ringing(seen.list_config_maps), ringing(seen.change_config_map))
        group.create_task(api.follow(CONFIG_MAPS, LABEL_ROUTES, *routes))
        group.create_task(api.follow(SLICES, LABEL_SERVICE, ringing(seen.list_slices), ringing(seen.change_slice)))
        group.create_task(_read_secrets(agent, api))
        if certificates is not None:
            group.create_task(_read_authority(agent, certificates / AUTHORITY))


async def _read_authority(agent: Agent, file: Path) -> None:
    while True:
        try:
            if (authority := file.read_text()) != agent.seen.authority:
                agent.seen.authority = authority
                agent.ring()
        except (OSError, ValueError) as error:
            _log.warning("cannot read %s: %s", file, error)
        await asyncio.sleep(SECRET_SECONDS)


async def _read_secrets(agent: Agent, api: Api) -> None:
    secrets, turn = agent.seen.secrets, 0
    while True:
        needed = agent.needed_secrets()
        for name in set(secrets) - needed:
            del secrets[name]
        names, pause = sorted(needed), max(1 / SECRETS_PER_SECOND, SECRET_SECONDS / max(1, len(needed)))
        unread = [name for name in names if name not in secrets]
        if names:
            turn += 1
            name = unread[0] if unread else names[turn % len(names)]
            try:
                data = await api.secret(name)
                if name in unread or data != secrets[name]:
                    secrets[name] = data
                    agent.ring()
                if len(unread) > 1:
                    continue
            except (OSError, TimeoutError, ValueError) as error:
                _log.warning("cannot read Secret %s: %s", name, error or type(error).__name__)
                await asyncio.sleep(1)
        await _wait_for_others(agent, needed, pause)


async def _wait_for_others(agent: Agent, needed: set[str], seconds: float) -> None:
    """Wait, but end when routes need another Secret."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not agent.needed_secrets() - needed:
        agent.secrets_changed.clear()
        try:
            async with asyncio.timeout(left):
                await agent.secrets_changed.wait()
        except TimeoutError:
            return
