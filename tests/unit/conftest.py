"""Real things for all unit tests: the embedded storage on loopback, with a folder behind it, and fitted models."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from ports import free_port as free_port
from ultramarine_cluster import build, programs
from ultramarine_contract.storage import Storage
from unit import rights
from unit.rendered import chart, helm, mode  # noqa: F401  the fixtures of the tests of the chart
from unit.tracking import Tracking

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline
    from unit.sweeping import Fleet


@dataclass(frozen=True)
class ObjectStore:
    """A running S3 server and the keys that open it."""

    endpoint: str
    folder: Path
    access_key: str = "root"
    secret_key: str = "test-secret"

    @property
    def credentials(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        try:
            urlopen(f"{address}/healthz", timeout=5, context=ssl._create_unverified_context()).close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"the storage does not answer at {address}")


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds; fail after a minute."""
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until, "it did not come to hold within a minute"
        time.sleep(0.01)


@contextmanager
def serving_store(folder: Path, tls: Path | None = None) -> Iterator[ObjectStore]:
    """The embedded storage over a folder, built where it is not yet; by https with a folder that has a certificate."""
    build.ensure(("ultramarine-storage",))
    store = ObjectStore(f"{'https' if tls else 'http'}://127.0.0.1:{free_port()}", folder)
    port = int(store.endpoint.rpartition(":")[2])
    accounts = folder.with_name(f"{folder.name}-accounts")
    accounts.mkdir(exist_ok=True)
    (accounts / store.access_key).write_text(store.secret_key)
    program = str(programs.path("ultramarine-storage"))
    command = [program, "-listen", f"127.0.0.1:{port}", "-data", str(folder), "-accounts", str(accounts)]
    command += ["-tls", str(tls)] if tls else []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(store.endpoint, process)
            yield store
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """One storage for all tests."""
    with serving_store(tmp_path_factory.mktemp("buckets")) as store:
        yield store


@pytest.fixture
def storage(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A client of the S3 server, with the right keys in the environment."""
    for name, value in object_store.credentials.items():
        monkeypatch.setenv(name, value)
    return Storage(object_store.endpoint)


@pytest.fixture
def storage_to_come(monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A client of a storage that is not there before the test serves it, by `serving_store`."""
    port = free_port()
    monkeypatch.setattr("unit.conftest.free_port", lambda: port)  # as tests import it: for pytest it is another module
    return Storage(f"http://127.0.0.1:{port}")


@pytest.fixture
def bucket_folder(object_store: ObjectStore) -> Path:
    """A fresh bucket, seen from behind: a folder."""
    folder = object_store.folder / f"bucket-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    return folder


@pytest.fixture
def bucket(bucket_folder: Path) -> str:
    """The name of a fresh bucket."""
    return bucket_folder.name


@pytest.fixture
def tracking() -> Iterator[Tracking]:
    """A tracking server without experiments."""
    with Tracking() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """The URI of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def fleet(tmp_path: Path, storage: Storage, bucket: str) -> Iterator[Fleet]:
    """A place for a sweep whose storage is the test's S3 server; what still runs at the end is killed."""
    from unit.sweeping import Fleet  # which imports this module

    fleet = Fleet(tmp_path, storage.name, bucket)
    yield fleet
    fleet.end()


@pytest.fixture(scope="session")
def estimator() -> Pipeline:
    """A classifier of the breast-cancer set."""
    import serving_process  # scikit-learn takes a second to import; only tests of serving pay for it.

    return serving_process.fitted()


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one key, that of `serving_process.KEY`."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "primary").write_text("first-key")
    return folder


@pytest.fixture(scope="session")
def models(estimator: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with that classifier in several formats."""
    import serving_process

    folder = tmp_path_factory.mktemp("models")
    serving_process.write_models(estimator, folder)
    return folder


RIGHTS = pytest.StashKey[list[str]]()
USED: set[rights.Right] = set()
rights.record(USED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the rights that a worker's plans needed."""
    USED.update((verb, kind) for verb, kind in getattr(node, "workeroutput", {}).get("rights", ()))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of all unit tests if the declared rights and those of its plans differ."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["rights"] = sorted(USED)
    elif "tests/unit" in session.config.args and not session.config.getoption("keyword"):
        session.config.stash[RIGHTS] = rights.faults(USED)
        if session.config.stash[RIGHTS]:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the rights that differ."""
    for fault in config.stash.get(RIGHTS, []):
        terminalreporter.write_line(f"rights: {fault}", red=True)
