"""A gateway for each test, and a client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from gateway_rig import Gateway, running


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """Envoy and agent, of an empty namespace."""
    async with running() as made:
        yield made


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    """A client that keeps its connections."""
    async with ClientSession() as session:
        yield session
