"""Asks a pod of each deployment what its model takes, for an operator that compares it with other versions."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from urllib.parse import quote

import aiohttp
from ultramarine_contract.routes import EndpointRoutes

from ultramarine_gateway.agent import Agent
from ultramarine_gateway.asking import FAILURES, Peer, ask
from ultramarine_gateway.rendering import cluster_name
from ultramarine_gateway.slices import Address

_log = logging.getLogger(__name__)

KEPT_SECONDS = 30.0  # the model of a pod changes only if it is loaded again
FAILED_SECONDS = 3.0  # that long a pod that does not tell is not asked again
MOST_COMPLAINTS = 1000  # that are remembered: pods come and go
ASKING_SECONDS = 1.0  # for all that one pod is asked: the operator waits 2 s for the gateway pod's whole answer
_TIMEOUT = aiohttp.ClientTimeout(sock_connect=0.5)

Signature = dict[str, Any]  # a model's name, version and inputs, as its metadata has them


class Signatures:
    """Inputs of the models behind the endpoints, each asked of one pod."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._kept: dict[Address, tuple[float, Signature | None]] = {}
        self._complaints: dict[Address, str] = {}  # what was said of a pod last, so that it is said once

    async def of(self, routes: EndpointRoutes) -> dict[str, Signature]:
        """Return the signatures by deployment; without those of pools, and of pods that do not tell theirs."""
        now = time.monotonic()
        self._kept = {pod: kept for pod, kept in self._kept.items() if now < kept[0]}
        names = [deployment.name for deployment in routes.deployments if "http" in deployment.protocols]
        pods = {name: self._agent.pods(cluster_name(routes.endpoint, name, "http"))[:1] for name in names}
        asked = {pod: name for name, them in pods.items() for pod in them if pod not in self._kept}
        if asked:
            async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
                credentials = self._agent.credentials(routes)
                peers = {pod: self._agent.peer(routes, name) for pod, name in asked.items()}
                await asyncio.gather(*(self._ask(session, pod, peer, credentials) for pod, peer in peers.items()))
        # Another question may have dropped meanwhile what was kept when this one began.
        found = {name: self._kept.get(pod, (now, None))[1] for name, them in pods.items() for pod in them}
        return {name: signature for name, signature in found.items() if signature is not None}

    async def _ask(
        self, session: aiohttp.ClientSession, pod: Address, peer: Peer | None, credentials: list[dict[str, str]]
    ) -> None:
        signature: Signature | None = None
        kept_seconds = KEPT_SECONDS
        try:
            async with asyncio.timeout(ASKING_SECONDS):
                models = await ask(session, pod, peer, credentials, "POST", "/v2/repository/index", {})
                if len(models) == 1:
                    name = str(models[0]["name"])
                    told = await ask(session, pod, peer, credentials, "GET", f"/v2/models/{quote(name, safe='')}")
                    signature = {"name": name, "version": str(told["versions"][0]), "inputs": list(told["inputs"])}
            self._complaints.pop(pod, None)
        except (*FAILURES, KeyError, TypeError, IndexError, AttributeError) as error:
            why, kept_seconds = str(error) or type(error).__name__, FAILED_SECONDS
            if self._complaints.get(pod) != why:
                _log.warning("the pod at %s:%s does not tell what its model takes: %s", *pod, why)
            self._complaints = dict([*self._complaints.items(), (pod, why)][-MOST_COMPLAINTS:])
        self._kept[pod] = (time.monotonic() + kept_seconds, signature)
