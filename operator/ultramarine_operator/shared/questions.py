"""Questions to what is outside the mirror, as values: a plan names them, and each asks its source by given clients."""

from __future__ import annotations

import asyncio
import contextvars
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

from prometheus_client import Counter
from ultramarine_contract import cache_lookup
from ultramarine_contract.cache_lookup import CacheAnswer as CacheAnswer
from ultramarine_contract.common import ArtifactManifest
from ultramarine_contract.dataset_records import table_format
from ultramarine_contract.errors import GatewayError, StorageError, UltramarineError
from ultramarine_contract.meta import Manifest
from ultramarine_contract.mlflow_folders import needed_requirements
from ultramarine_contract.partitions import Partition, read_partitions
from ultramarine_contract.routes import RouteState

from .metrics import GATEWAY_QUESTIONS, STORAGE_QUESTION_SECONDS, STORAGE_QUESTIONS

MAX_HASHED = 32 * 1024 * 1024  # bytes of a single object that is read for its digest

Answer = Any
T = TypeVar("T")


class Storage(Protocol):
    """Object storage for questions; its methods block, and raise StorageError."""

    def read(self, uri: str) -> bytes: ...

    def artifact_digest(self, uri: str) -> tuple[str, int, str]: ...

    def manifest(self, uri: str) -> ArtifactManifest: ...

    def mark(self, uri: str) -> str: ...

    def object_digest(self, uri: str, limit: int) -> str: ...

    def content_digest(self, uri: str) -> str: ...


@dataclass(frozen=True)
class Clients:
    """Clients by which questions are asked, and the threads for those that block."""

    storage: Storage
    routes_of: Callable[..., tuple[RouteState, ...]]  # of outside.gateway
    refusal: Callable[[str, str], Awaitable[Refusal]]  # by the namespace and uid of a Job
    objection: Callable[[Manifest], Awaitable[str]]  # of the API server to an object
    threads: Executor | None = None

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run a blocking function beside the event loop; its log lines name the object of the caller."""
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self.threads, partial(run, function))


class Question(ABC):
    """Base of questions; a question is a frozen dataclass, so that it is the key of its answer."""

    failure: ClassVar[type[UltramarineError]] = UltramarineError

    @property
    @abstractmethod
    def source(self) -> str:
        """Name of what answers, as KIND or KIND/ADDRESS: its absence answers all questions to it for a while."""

    @property
    def subject(self) -> str:
        """Part of an error's message that names this question among others to the same source."""
        return ""

    @abstractmethod
    async def ask(self, clients: Clients) -> Any:
        """Return the answer. Raises an UltramarineError, which is the answer then."""

    def is_away(self, error: UltramarineError) -> bool:
        """True if the error says that the source does not answer at all."""
        return error.reason == "Unreachable"


class _StorageQuestion(Question):
    failure = StorageError
    uri: str

    @property
    def source(self) -> str:
        return "storage"

    @property
    def subject(self) -> str:
        return self.uri


@dataclass(frozen=True)
class ReadText(_StorageQuestion):
    """Text of an object in the object storage."""

    uri: str

    async def ask(self, clients: Clients) -> str:
        def read() -> str:
            with _counted(STORAGE_QUESTIONS), STORAGE_QUESTION_SECONDS.time():
                return clients.storage.read(self.uri).decode("utf-8", "replace")

        return await clients.in_thread(read)


@dataclass(frozen=True)
class ReadMark(_StorageQuestion):
    """Text that changes with an object, or with the objects below a prefix."""

    uri: str

    async def ask(self, clients: Clients) -> str:
        def read() -> str:
            with _counted(STORAGE_QUESTIONS), STORAGE_QUESTION_SECONDS.time():
                return clients.storage.mark(self.uri)

        return await clients.in_thread(read)


@dataclass(frozen=True)
class ArtifactFacts:
    """Digest of an artifact's list of files, or of a single object that was read, and its size in bytes.

    The files of a list are not read; the digest of an object that was not read is empty.
    """

    digest: str
    bytes: int


@dataclass(frozen=True)
class CheckArtifact(_StorageQuestion):
    """Facts of an artifact. With `hashes` a single object of at most MAX_HASHED bytes is read for its digest."""

    uri: str
    hashes: bool = False

    async def ask(self, clients: Clients) -> ArtifactFacts:
        def check() -> ArtifactFacts:
            with _counted(STORAGE_QUESTIONS), STORAGE_QUESTION_SECONDS.time():
                digest, size, _ = clients.storage.artifact_digest(self.uri)
                if self.hashes and not digest and size <= MAX_HASHED:
                    digest = clients.storage.object_digest(self.uri, MAX_HASHED)
                return ArtifactFacts(digest, size)

        return await clients.in_thread(check)


@dataclass(frozen=True)
class MlflowFacts(ArtifactFacts):
    """Facts of an MLflow folder, with the lines of its requirements.txt if only MLflow loads the model."""

    requirements: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckMlflow(CheckArtifact):
    """Facts of an MLflow folder that the namespace may read."""

    async def ask(self, clients: Clients) -> MlflowFacts:
        def check() -> MlflowFacts:
            with _counted(STORAGE_QUESTIONS), STORAGE_QUESTION_SECONDS.time():
                manifest = clients.storage.manifest(self.uri)
                lines = needed_requirements(manifest, lambda path: clients.storage.read(self.uri + path))
                return MlflowFacts(manifest.digest, manifest.bytes, lines)

        return await clients.in_thread(check)


@dataclass(frozen=True)
class LookUpStep(_StorageQuestion):
    """Earlier outcome of a step's work, whose outputs still exist.

    `contents` are parts of the cache key that follow from what is stored at a URI. With `reuses` False only the key is
    of interest.
    """

    bucket: str
    namespace: str
    pipeline: str
    step: str
    parts: tuple[tuple[str, str], ...]
    contents: tuple[tuple[str, str], ...] = ()
    reuses: bool = True

    @property
    def subject(self) -> str:
        return f"step {self.step}"

    async def ask(self, clients: Clients) -> CacheAnswer:
        def look_up() -> CacheAnswer:
            with _counted(STORAGE_QUESTIONS), STORAGE_QUESTION_SECONDS.time():
                place = cache_lookup.Place(self.bucket, self.namespace, self.pipeline, self.step)
                return cache_lookup.look_up(
                    clients.storage, place, dict(self.parts), dict(self.contents), reuses=self.reuses
                )

        return await clients.in_thread(look_up)


@dataclass(frozen=True)
class DataFacts(ArtifactFacts):
    """Facts of an artifact that is a version of a dataset: the number of files, and True for a table by their names."""

    files: int = 1
    is_table: bool = False


@dataclass(frozen=True)
class CheckData(CheckArtifact):
    """Facts of a version of a dataset."""

    async def ask(self, clients: Clients) -> DataFacts:
        if not self.uri.endswith("/"):
            facts = await super().ask(clients)
            return DataFacts(facts.digest, facts.bytes, 1, bool(table_format([self.uri])))

        def check() -> DataFacts:
            with _counted(STORAGE_QUESTIONS), STORAGE_QUESTION_SECONDS.time():
                manifest = clients.storage.manifest(self.uri)
                paths = [entry.path for entry in manifest.files]
                return DataFacts(manifest.digest, manifest.bytes, len(paths), bool(table_format(paths)))

        return await clients.in_thread(check)


@dataclass(frozen=True)
class ReadPartitions(_StorageQuestion):
    """Partitions of a dataset's version. The error DataChanged says that its list of files has another digest."""

    uri: str
    digest: str

    async def ask(self, clients: Clients) -> tuple[Partition, ...]:
        def read() -> tuple[Partition, ...]:
            with _counted(STORAGE_QUESTIONS), STORAGE_QUESTION_SECONDS.time():
                return read_partitions(clients.storage, self.uri, self.digest)

        return await clients.in_thread(read)


@dataclass(frozen=True)
class GatewayFacts:
    """State of one endpoint in each gateway pod, in the order of their addresses; at least one pod exists."""

    proxies: tuple[RouteState, ...]


@dataclass(frozen=True)
class AskGateway(Question):
    """Routing of one endpoint by all gateway pods behind HOST:PORT.

    With `figures` the pods add what was counted, for which each Envoy looks through all of its statistics. With
    `signatures` they add the signature of each deployment's model, for which they ask a pod of each.
    """

    failure = GatewayError
    address: str
    endpoint: str
    figures: bool = True
    signatures: bool = False

    @property
    def source(self) -> str:
        return f"gateway/{self.address}"

    async def ask(self, clients: Clients) -> GatewayFacts:
        def routes() -> GatewayFacts:
            with _counted(GATEWAY_QUESTIONS):
                options = {"figures": self.figures, "signatures": self.signatures}
                return GatewayFacts(clients.routes_of(self.address, self.endpoint, **options))

        return await clients.in_thread(routes)

    def is_away(self, error: UltramarineError) -> bool:
        # A gateway whose answer cannot be read is not away: its answers for other endpoints may be right.
        return error.reason != "BadAnswer"


@dataclass(frozen=True)
class Refusal:
    """Message of the Job controller about a pod that was refused, and its time; both empty if none was refused."""

    message: str = ""
    time: str = ""


@dataclass(frozen=True)
class AskRefusal(Question):
    """Reason why Kubernetes makes no pod for a Job: its newest Refusal."""

    namespace: str
    uid: str

    @property
    def source(self) -> str:
        return "events"  # the API server looks through all events of the namespace each time

    async def ask(self, clients: Clients) -> Refusal:
        return await clients.refusal(self.namespace, self.uid)


@dataclass(frozen=True)
class AskAdmission(Question):
    """Objection of the API server to an object that would be created, given as JSON; empty if it has none."""

    text: str

    @property
    def source(self) -> str:
        return "admission"

    async def ask(self, clients: Clients) -> str:
        return await clients.objection(json.loads(self.text))


@contextmanager
def _counted(counter: Counter) -> Iterator[None]:
    """Count a question by its outcome: ok, the reason of its error, or bug."""
    outcome = "bug"
    try:
        yield
        outcome = "ok"
    except UltramarineError as error:
        outcome = error.reason
        raise
    finally:
        counter.labels(outcome=outcome).inc()
