"""Signatures of the models, from one pod of each deployment, for the operator that compares versions."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from urllib.parse import quote

import aiohttp
from ultramarine_contract.routes import EndpointRoutes

from ultramarine_gateway.agent import Agent
from ultramarine_gateway.config.clusters import Address
from ultramarine_gateway.pods.asking import FAILURES, Peer, ask
from ultramarine_gateway.xds.resources import cluster_name

_log = logging.getLogger(__name__)

KEPT_SECONDS, FAILED_SECONDS = 30.0, 3.0  # between two questions to a pod, after an answer and after a failure
MAX_COMPLAINTS = 1000  # to remember, by pod.
ASKING_SECONDS = 1.0  # For all questions to a pod; the operator waits 2 s for the gateway pod.
_TIMEOUT = aiohttp.ClientTimeout(sock_connect=0.5)

Signature = dict[str, Any]  # a model's name, version and inputs, as its metadata has them


class Signatures:
    """Inputs of the models behind the endpoints, each from one pod."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._kept: dict[Address, tuple[float, Signature | None]] = {}
        self._complaints: dict[Address, str] = {}  # the last message on each pod, so that it is logged once

    async def of(self, routes: EndpointRoutes) -> dict[str, Signature]:
        """Return the signatures by deployment, without pools, other containers, and pods that do not report one."""
        now = time.monotonic()
        self._kept = {pod: kept for pod, kept in self._kept.items() if now < kept[0]}
        names = [
            deployment.name
            for deployment in routes.deployments
            if (deployment.v2 or not deployment.own) and "http" in deployment.protocols
        ]
        pods = {name: self._agent.pods(cluster_name(routes.endpoint, name, "http"))[:1] for name in names}
        unknown = {pod: name for name, first in pods.items() for pod in first if pod not in self._kept}
        if unknown:
            async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
                own = {deployment.name for deployment in routes.deployments if deployment.own}
                credentials = self._agent.credentials(routes)
                questions = (
                    self._ask(session, pod, self._agent.peer(routes, name), [] if name in own else credentials)
                    for pod, name in unknown.items()
                )
                await asyncio.gather(*questions)
        # Another question may have dropped an entry meanwhile.
        read = {name: self._kept.get(pod, (now, None))[1] for name, first in pods.items() for pod in first}
        return {name: signature for name, signature in read.items() if signature is not None}

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
                    metadata = await ask(session, pod, peer, credentials, "GET", f"/v2/models/{quote(name, safe='')}")
                    signature = {
                        "name": name,
                        # MLServer has no versions unless its settings list them.
                        "version": str((metadata.get("versions") or [""])[0]),
                        "inputs": list(metadata["inputs"]),
                    }
            self._complaints.pop(pod, None)
        except (*FAILURES, KeyError, TypeError, IndexError, AttributeError) as error:
            why, kept_seconds = str(error) or type(error).__name__, FAILED_SECONDS
            if self._complaints.get(pod) != why:
                _log.warning("cannot read the signature of the pod at %s:%s: %s", *pod, why)
            self._complaints = dict([*self._complaints.items(), (pod, why)][-MAX_COMPLAINTS:])
        self._kept[pod] = (time.monotonic() + kept_seconds, signature)
