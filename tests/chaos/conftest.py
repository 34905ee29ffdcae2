"""One bare cluster, one S3 server and one fork server for all runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from api.bare import install
from process import Zygote
from rig import Outcomes, Rig
from sample import ALL_RUNS, Sample, drawn
from ultramarine_cluster import cluster
from unit.conftest import ObjectStore, object_store  # noqa: F401  the fixture of the unit tests serves here too
from world import BUCKET

HERE = Path(__file__).parent

FEW = 3  # runs of each test in `make test`
sample = pytest.StashKey[Sample]()


def pytest_configure(config: pytest.Config) -> None:
    """Draw the sample where the slow tests are left out."""
    config.stash[sample] = drawn(FEW) if "not slow" in config.getoption("markexpr") else ALL_RUNS


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a test with many parameters, those are slow that the sample does not have."""
    cases: dict[str, list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.path.parent == HERE and not item.get_closest_marker("long"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for found in cases.values():
        taken = config.stash[sample].of(item.name for item in found)
        for item in found:
            if item.name not in taken:
                item.add_marker("slow")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how the same runs are made again."""
    terminalreporter.write_line(str(config.stash[sample]))


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
def undisturbed(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Outcomes:
    """The undisturbed runs, which all tests compare theirs with."""
    folder = tmp_path_factory.getbasetemp().parent / f"undisturbed-{testrun_uid}"
    folder.mkdir(exist_ok=True)
    return Outcomes(folder)


@pytest.fixture
async def rig(
    bare: cluster.Cluster,
    object_store: ObjectStore,  # noqa: F811
    zygote: Zygote,
    undisturbed: Outcomes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Rig]:
    """Yield the rig of a test's runs."""
    (object_store.folder / BUCKET).mkdir(exist_ok=True)
    for name, value in object_store.credentials.items():
        monkeypatch.setenv(name, value)
    mine = request.config.stash[sample]
    async with Rig(bare, object_store, zygote, tmp_path, undisturbed, request.node.name, mine).watching() as ready:
        yield ready
