"""The client for asyncio has all that the client has."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from ultramarine import aio
from ultramarine.client import Client
from ultramarine.datasets import Datasets
from ultramarine.endpoints import Endpoint
from ultramarine.models import Models
from ultramarine.runs import Run
from ultramarine.storage.data import Data
from ultramarine.sweeps import SweepRun

TWINS: dict[type, type] = {
    Client: aio.AsyncClient,
    Run: aio.AsyncRun,
    SweepRun: aio.AsyncSweepRun,
    Endpoint: aio.AsyncEndpoint,
    Models: aio.AsyncModels,
    Datasets: aio.AsyncDatasets,
    Data: aio.AsyncData,
}
# What sends nothing is the same in both, or returns a twin.
AT_ONCE = {"namespace", "name", "reference", "endpoint", "models", "datasets", "data"}
STREAMS = {"stream", "logs"}
SYNC_ONLY = {(Client, "storage")}  # a Storage blocks; callers take it from client.sync

MEMBERS = [
    (sync, name) for sync in TWINS for name in dir(sync) if not name.startswith("_") and (sync, name) not in SYNC_ONLY
]


@pytest.mark.parametrize(("sync", "name"), MEMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_each_public_member_has_its_twin(sync: type, name: str) -> None:
    """A method or a property that sends requests is awaited, with the same parameters; a stream is iterated."""
    twin: Any = inspect.getattr_static(TWINS[sync], name, None)
    assert twin is not None, f"{TWINS[sync].__name__} lacks {name}"
    member: Any = inspect.getattr_static(sync, name)

    if name not in AT_ONCE or (sync is Data and name == "name"):
        assert inspect.iscoroutinefunction(twin) is (name not in STREAMS)
    if inspect.isfunction(member):
        assert parameters(twin) == parameters(member)
    elif inspect.isfunction(twin):
        assert list(parameters(twin)) == ["self"]


def parameters(function: Any) -> dict[str, tuple[Any, bool]]:
    """Return kind of each parameter, and True if callers may leave it out."""
    return {
        name: (parameter.kind, parameter.default is not inspect.Parameter.empty)
        for name, parameter in inspect.signature(function).parameters.items()
    }
