"""Asks the servers for the answers to requests that were copied, each second, and has them compared."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import aiohttp
from ultramarine_contract.common import ANSWERS_PATH
from ultramarine_contract.routes import EndpointRoutes

from ultramarine_gateway.agent import Agent
from ultramarine_gateway.agreement import Pairs, Told, answers_in
from ultramarine_gateway.asking import FAILURES, Peer, ask
from ultramarine_gateway.rendering import cluster_name, compared
from ultramarine_gateway.slices import Address

_log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
_TIMEOUT = aiohttp.ClientTimeout(total=3, sock_connect=1)

_Candidate = tuple[str, str]  # the names of the endpoint and of the deployment


async def compare(agent: Agent) -> None:
    """Compare as long as any endpoint's routes ask for it, until cancelled."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        comparing = _Comparing(agent, session)
        while True:
            await comparing.turn()
            await asyncio.sleep(EVERY_SECONDS)


class _Comparing:
    def __init__(self, agent: Agent, session: aiohttp.ClientSession) -> None:
        self._agent, self._session = agent, session
        self._pairs: dict[_Candidate, Pairs] = {}
        self._complaints: dict[Address, str] = {}  # what was said of a pod last, so that it is said once

    async def turn(self) -> None:
        """Ask once, for all candidates."""
        asked = {
            (routes.endpoint, one.name): routes
            for routes in self._agent.all_routes()
            for one in compared(routes.deployments)
        }
        self._pairs = {each: self._pairs.get(each) or Pairs(self._agent.compared(*each)) for each in asked}
        pods = await asyncio.gather(*(self._compare(candidate, routes) for candidate, routes in asked.items()))
        there = {pod for each in pods for pod in each}
        self._complaints = {pod: why for pod, why in self._complaints.items() if pod in there}

    async def _compare(self, candidate: _Candidate, routes: EndpointRoutes) -> list[Address]:
        """Ask all pods of a candidate and of those that it is compared with; returned is who was asked."""
        endpoint, name = candidate
        names = [one.name for one in routes.deployments if one.name == name or one.weight]
        pods = [(each, pod) for each in names for pod in self._agent.pods(cluster_name(endpoint, each, "http"))]
        credentials = self._agent.credentials(routes)
        asked = [self._ask(pod, self._agent.peer(routes, each), credentials) for each, pod in pods]
        told = await asyncio.gather(*asked)
        for (each, _), answers in zip(pods, told, strict=True):
            self._pairs[candidate].take(answers, time.monotonic(), of_candidate=each == name)
        return [pod for _, pod in pods]

    async def _ask(self, pod: Address, peer: Peer | None, credentials: Sequence[dict[str, str]]) -> list[Told]:
        """What one pod has answered since it was asked last; nothing where it does not say."""
        try:
            reader = {"reader": self._agent.word}
            told = answers_in(await ask(self._session, pod, peer, credentials, "POST", ANSWERS_PATH, reader))
            self._complaints.pop(pod, None)
            return told
        except FAILURES as error:
            why = str(error) or type(error).__name__
        if self._complaints.get(pod) != why:
            self._complaints[pod] = why
            _log.warning("the pod at %s:%s does not tell its answers, and they are not compared: %s", *pod, why)
        return []
