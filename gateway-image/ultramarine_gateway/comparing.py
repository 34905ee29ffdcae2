"""Asks the servers for the answers to requests that were copied, each second, and has them compared."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence

import aiohttp
from ultramarine.shared.contract import ANSWERS_PATH
from ultramarine.shared.routes import EndpointRoutes

from ultramarine_gateway.agent import Agent
from ultramarine_gateway.agreement import Pairs, Told, answers_in
from ultramarine_gateway.rendering import cluster_name, compared
from ultramarine_gateway.slices import Address

_log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
_TIMEOUT = aiohttp.ClientTimeout(total=3, sock_connect=1)
_LIMIT = 1024 * 1024  # bytes of an answer; servers keep half of that


async def compare(agent: Agent) -> None:
    """Compare as long as any endpoint's routes ask for it, until cancelled."""
    pairs: dict[tuple[str, str], Pairs] = {}
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        while True:
            asked = {
                (routes.endpoint, one.name): routes
                for routes in agent.all_routes()
                for one in compared(routes.deployments)
            }
            pairs = {key: pairs.get(key) or Pairs(agent.compared(*key)) for key in asked}
            turns = (_turn(session, agent, routes, key[1], pairs[key]) for key, routes in asked.items())
            await asyncio.gather(*turns)
            await asyncio.sleep(EVERY_SECONDS)


async def _turn(session: aiohttp.ClientSession, agent: Agent, routes: EndpointRoutes, name: str, pairs: Pairs) -> None:
    """Ask all pods of a candidate and of those that it is compared with."""
    names = [one.name for one in routes.deployments if one.name == name or one.weight]
    pods = [(each, pod) for each in names for pod in agent.pods(cluster_name(routes.endpoint, each, "http"))]
    keys, word = agent.keys(routes), agent.word
    told = await asyncio.gather(*(_ask(session, pod, word, keys) for _, pod in pods))
    for (each, _), answers in zip(pods, told, strict=True):
        pairs.take(answers, time.monotonic(), of_candidate=each == name)


async def _ask(session: aiohttp.ClientSession, pod: Address, word: str, keys: Sequence[str]) -> list[Told]:
    """What one pod has answered since it was asked last; nothing where it does not say."""
    host, port = pod
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{ANSWERS_PATH}"
    why = "none of the endpoint's keys opens it"
    try:
        for key in keys or [""]:  # A pod may not know a new key yet.
            headers = {"api-key": key} if key else {}
            async with session.post(url, json={"reader": word}, headers=headers, allow_redirects=False) as answer:
                if answer.status == 200:
                    return answers_in(json.loads(await _body(answer)))
                if answer.status != 401:
                    why = f"it answers {answer.status}"
                    break
    except (OSError, aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as error:
        why = str(error) or type(error).__name__
    _log.warning("the pod at %s:%s does not tell its answers, and they are not compared: %s", host, port, why)
    return []


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _LIMIT:
            raise ValueError(f"it tells more than {_LIMIT} bytes")
    return body
