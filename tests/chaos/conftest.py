"""One bare cluster, one S3 server and one fork server for all runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from api.bare import install
from process import Zygote
from rig import Outcome, Rig
from ultramarine_cluster import cluster
from unit.conftest import ObjectStore, object_store  # noqa: F401  the fixture of the unit tests serves here too
from world import BUCKET


def pytest_configure(config: pytest.Config) -> None:
    """What only `make chaos` runs is marked."""
    config.addinivalue_line("markers", "long: minutes of faults, for `make chaos`; `make test` leaves it out")


@pytest.fixture(scope="session")
def bare() -> Iterator[cluster.Cluster]:
    """One bare cluster, with a name of its own so that two runs do not meet."""
    with cluster.up("bare", name=f"chaos-{os.getpid()}") as running:
        install(running)
        yield running


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """The fork server."""
    server = Zygote()
    yield server
    server.end()


@pytest.fixture(scope="session")
def known() -> dict[str, Outcome]:
    """The undisturbed runs, which all tests compare theirs with."""
    return {}


@pytest.fixture
async def rig(
    bare: cluster.Cluster,
    object_store: ObjectStore,  # noqa: F811
    zygote: Zygote,
    known: dict[str, Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Rig]:
    """What a test makes its runs with."""
    (object_store.folder / BUCKET).mkdir(exist_ok=True)
    for name, value in object_store.credentials.items():
        monkeypatch.setenv(name, value)
    async with Rig(bare, object_store, zygote, tmp_path, known).watching() as ready:
        yield ready
