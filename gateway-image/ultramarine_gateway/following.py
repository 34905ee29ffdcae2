"""What the agent follows: the routes, the addresses, and the Secrets that the routes name."""

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
from ultramarine_gateway.kubernetes import Api
from ultramarine_gateway.state import LABEL_SERVICE

_log = logging.getLogger(__name__)

CONFIG_MAPS = "/api/v1/namespaces/{namespace}/configmaps"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
# Secrets are read by their names, one after another: whoever may watch or list Secrets may read them all.
SECRET_SECONDS = 5.0
SECRETS_PER_SECOND = 10.0


async def follow(agent: Agent, api: Api, certificates: Path | None = None) -> None:
    """Keep the agent told of all that concerns it, until cancelled; without the API server all stays as it was.

    `certificates` is the folder with the authority of pods that speak TLS.
    """
    seen = agent.seen

    def rings(take: Callable[..., None]) -> Callable[..., None]:
        def taken(*news: Any) -> None:
            take(*news)
            agent.ring()

        return taken

    async with asyncio.TaskGroup() as group:
        routes = (rings(seen.list_config_maps), rings(seen.tell_config_map))
        group.create_task(api.follow(CONFIG_MAPS, LABEL_ROUTES, *routes))
        group.create_task(api.follow(SLICES, LABEL_SERVICE, rings(seen.list_slices), rings(seen.tell_slice)))
        group.create_task(_read_secrets(agent, api))
        if certificates is not None:
            group.create_task(_read_authority(agent, certificates / AUTHORITY))


async def _read_authority(agent: Agent, file: Path) -> None:
    while True:
        try:
            if (found := file.read_text()) != agent.seen.authority:
                agent.seen.authority = found
                agent.ring()
        except (OSError, ValueError) as error:
            _log.warning("%s cannot be read: %s", file, error)
        await asyncio.sleep(SECRET_SECONDS)


async def _read_secrets(agent: Agent, api: Api) -> None:
    secrets, turn = agent.seen.secrets, 0
    while True:
        asked = agent.secrets_asked()
        for name in set(secrets) - asked:
            del secrets[name]
        names, pause = sorted(asked), max(1 / SECRETS_PER_SECOND, SECRET_SECONDS / max(1, len(asked)))
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
                _log.warning("Secret %s cannot be read: %s", name, error or type(error).__name__)
                await asyncio.sleep(1)
        await _wait_for_others(agent, asked, pause)


async def _wait_for_others(agent: Agent, known: set[str], seconds: float) -> None:
    """Wait, but not when a Secret is asked for that nobody has asked for before."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not agent.secrets_asked() - known:
        agent.asked.clear()
        try:
            async with asyncio.timeout(left):
                await agent.asked.wait()
        except TimeoutError:
            return
