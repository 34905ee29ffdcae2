"""Collection of the answers to copied requests from the servers, and their comparison, each second."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import aiohttp
from ultramarine_contract.common import ANSWERS_PATH
from ultramarine_contract.routes import EndpointRoutes

from ultramarine_gateway.agent import Agent
from ultramarine_gateway.config.clusters import Address
from ultramarine_gateway.pods.agreement import Answer, Pairs, answers_in
from ultramarine_gateway.pods.asking import FAILURES, Peer, ask
from ultramarine_gateway.xds.resources import cluster_name, compared

_log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
_TIMEOUT = aiohttp.ClientTimeout(total=3, sock_connect=1)

_Candidate = tuple[str, str]  # the names of the endpoint and of the deployment


async def compare(agent: Agent) -> None:
    """Compare answers for all endpoints whose routes need it, until cancelled."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        comparing = _Comparing(agent, session)
        while True:
            await comparing.turn()
            await asyncio.sleep(EVERY_SECONDS)


class _Comparing:
    def __init__(self, agent: Agent, session: aiohttp.ClientSession) -> None:
        self._agent, self._session = agent, session
        self._pairs: dict[_Candidate, Pairs] = {}
        self._complaints: dict[Address, str] = {}  # the last message on each pod, so that it is logged once

    async def turn(self) -> None:
        """Collect answers once, for all candidates."""
        candidates = {
            (routes.endpoint, deployment.name): routes
            for routes in self._agent.all_routes()
            for deployment in compared(routes.deployments)
        }
        self._pairs = {name: self._pairs.get(name) or Pairs(self._agent.agreement(*name)) for name in candidates}
        pods = await asyncio.gather(*(self._compare(candidate, routes) for candidate, routes in candidates.items()))
        asked = {pod for pods_of_one in pods for pod in pods_of_one}
        self._complaints = {pod: why for pod, why in self._complaints.items() if pod in asked}

    async def _compare(self, candidate: _Candidate, routes: EndpointRoutes) -> list[Address]:
        """Ask all pods of a candidate and of its champions; return these pods."""
        endpoint, name = candidate
        names = [d.name for d in routes.deployments if d.name == name or d.weight]
        pods = [(owner, pod) for owner in names for pod in self._agent.pods(cluster_name(endpoint, owner, "http"))]
        credentials = self._agent.credentials(routes)
        questions = [self._ask(pod, self._agent.peer(routes, owner), credentials) for owner, pod in pods]
        answered = await asyncio.gather(*questions)
        for (owner, _), answers in zip(pods, answered, strict=True):
            self._pairs[candidate].take(answers, time.monotonic(), of_candidate=owner == name)
        return [pod for _, pod in pods]

    async def _ask(self, pod: Address, peer: Peer | None, credentials: Sequence[dict[str, str]]) -> list[Answer]:
        """Return a pod's answers since the last question; empty if it does not report them."""
        try:
            reader = {"reader": self._agent.reader}
            answers = answers_in(await ask(self._session, pod, peer, credentials, "POST", ANSWERS_PATH, reader))
            self._complaints.pop(pod, None)
            return answers
        except FAILURES as error:
            why = str(error) or type(error).__name__
        if self._complaints.get(pod) != why:
            self._complaints[pod] = why
            _log.warning("cannot compare answers of the pod at %s:%s: %s", *pod, why)
        return []
