"""A gateway for each test, and a client."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from rig import NAMESPACE, Gateway, eventually, free_port, short_folder
from ultramarine_gateway.agent import Agent


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """Envoy and agent, of a namespace where nothing is yet."""
    ready_port = free_port()
    monkeypatch.setattr("ultramarine_gateway.listeners.GATEWAY_READY_PORT", ready_port)
    folder = short_folder("t")
    made = Gateway(Agent(NAMESPACE, folder, "127.0.0.1", ["127.0.0.0/8"]), folder, ready_port=ready_port)
    made.begin()
    made.see_nothing_yet()
    await made.start_envoy()
    await eventually("Envoy is there", lambda: made.agent.connected)
    yield made
    await made.stop_envoy()
    await made.end()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    """A client that keeps its connections."""
    async with ClientSession() as session:
        yield session
