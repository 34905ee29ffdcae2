"""Twin of the client for asyncio: the same calls in threads, and streams as asynchronous iterators."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import cached_property, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from ultramarine_contract.meta import Manifest

from .client import Client
from .datasets import Datasets
from .endpoints import Endpoint
from .models import Models
from .results import Output
from .runs import Run, Update
from .runs.following import Follower
from .storage.data import Data
from .sweeps import SweepRun, Trial

if TYPE_CHECKING:
    from .objects import Object, Sweep
    from .runs.parts import Part
    from .serving.route import Note

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound=Run, covariant=True)


async def in_thread(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own; neither a cancelled task nor the end of asyncio.run waits for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set: Callable[[Any], None], value: object) -> None:
        if not future.done():
            set(value)

    def work() -> None:
        try:
            report = partial(settle, future.set_result, function())
        except BaseException as error:
            report = partial(settle, future.set_exception, error)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(report)

    threading.Thread(target=work, daemon=True).start()
    return await future


def _twin(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return a method that awaits the method of this name of `self.sync`."""

    @wraps(method)
    async def call(self: Any, *args: P.args, **options: P.kwargs) -> T:
        return cast(T, await in_thread(partial(getattr(self.sync, method.__name__), *args, **options)))

    return cast(Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], call)


def _reading(reading: Any, type: type[T]) -> Callable[[Any], Coroutine[Any, Any, T]]:
    """Return a method that awaits a property of `self.sync`, whose value has this type."""

    @wraps(reading.fget)
    async def read(self: Any) -> T:
        return cast(T, await in_thread(lambda: getattr(self.sync, reading.fget.__name__)))

    return read


async def _items(iterator: Iterator[T], end: Callable[[], None] = lambda: None) -> AsyncIterator[T]:
    """Yield the items of an iterator, which a thread reads.

    If the caller stops early, `end` unblocks the thread; by default it ends at the next item.
    """
    loop, stopped = asyncio.get_running_loop(), threading.Event()
    queue: asyncio.Queue[tuple[T] | None] = asyncio.Queue()

    def pump() -> None:
        try:
            for item in iterator:
                if stopped.is_set():
                    return
                loop.call_soon_threadsafe(queue.put_nowait, (item,))
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, None)

    pumping = asyncio.ensure_future(in_thread(pump))
    try:
        while (held := await queue.get()) is not None:
            yield held[0]
        await pumping
    finally:
        stopped.set()
        pumping.cancel()
        end()


class AsyncRun(Generic[R]):
    """A run for asyncio; `sync` is the run itself. Cancelling a task ends its wait, not the run."""

    def __init__(self, sync: R) -> None:
        self.sync = sync

    @property
    def name(self) -> str:
        """Name of the object."""
        return self.sync.name

    @property
    def reference(self) -> str:
        """The run as commands name it, such as churn or sweep/churn."""
        return self.sync.reference

    object = _reading(Run.object, Manifest)
    status = _reading(Run.status, dict[str, Any])
    state = _reading(Run.state, str)
    model_version = _reading(Run.model_version, str)
    outputs = _reading(Run.outputs, dict[str, Output])
    latest_metrics = _reading(Run.latest_metrics, dict[str, float])
    metrics = _twin(Run.metrics)
    suspend = _twin(Run.suspend)
    resume = _twin(Run.resume)
    cancel = _twin(Run.cancel)
    delete = _twin(Run.delete)

    async def duration(self) -> timedelta | None:
        """Return the time from the start to the end, or until now; None before the start."""
        return await in_thread(lambda: self.sync.duration)

    async def mlflow_runs(self) -> Output | None:
        """Return the files that mlflow logged without a tracking server; None without any."""
        return await in_thread(lambda: self.sync.mlflow_runs)

    async def download(self, output: str, folder: str | Path = "") -> Path:
        """Fetch an output into a folder, by default ./NAME, and return it. Raises OutputNotFound."""
        return await in_thread(lambda: self.sync.outputs[output].download(folder))

    async def wait(self, timeout: float | None = None) -> Self:
        """Return after success. Raises RunFailed with the cause, or TimeoutError after `timeout` seconds."""
        stop = threading.Event()
        try:
            await in_thread(partial(self.sync._wait, timeout, stop))
        finally:
            stop.set()
        return self

    def stream(self, part: Part | None = None) -> AsyncIterator[Update]:
        """Yield states, log lines and metrics until the run ends, across lost connections; all from the start."""
        follower = Follower(self.sync, part)
        return _items(follower.updates(), follower.end)

    def logs(self, part: Part | None = None) -> AsyncIterator[Update]:
        """Yield the log lines that exist: those of living pods, and stored ones of others."""
        return _items(self.sync.logs(part))


class AsyncSweepRun(AsyncRun[SweepRun]):
    """The run of a Sweep for asyncio."""

    objectives = _reading(SweepRun.objectives, list[tuple[str, bool]])
    trials = _twin(SweepRun.trials)
    trial_list = _twin(SweepRun.trial_list)
    report = _twin(SweepRun.report)

    async def best(self) -> Trial | None:
        """Return the best trial so far; None before a success."""
        return await in_thread(lambda: self.sync.best)


class AsyncEndpoint:
    """An endpoint for asyncio; `sync` is the endpoint itself."""

    def __init__(self, sync: Endpoint) -> None:
        self.sync = sync

    @property
    def name(self) -> str:
        """Name of the object."""
        return self.sync.name

    object = _reading(Endpoint.object, Manifest)
    status = _reading(Endpoint.status, dict[str, Any])
    ready = _reading(Endpoint.ready, bool)
    url = _reading(Endpoint.url, str)
    traffic = _reading(Endpoint.traffic, dict[str, int])
    set_traffic = _twin(Endpoint.set_traffic)
    change = _twin(Endpoint.change)
    keys = _reading(Endpoint.keys, dict[str, str])
    rotate_keys = _twin(Endpoint.rotate_keys)
    predict = _twin(Endpoint.predict)
    infer = _twin(Endpoint.infer)
    answer = _twin(Endpoint.answer)
    request = _twin(Endpoint.request)
    signature = _twin(Endpoint.signature)
    close = _twin(Endpoint.close)

    async def wait(self, timeout: float | None = None, progress: Note = lambda text: None) -> Self:
        """Return once all deployments of the newest spec are ready. Raises NotReady with the cause, or TimeoutError.

        `progress` gets each state, in another thread.
        """
        await in_thread(lambda: self.sync.wait(timeout, progress))
        return self

    def logs(self, deployment: str = "", follow: bool = False) -> AsyncIterator[Update]:
        """Yield the log lines of the endpoint's pods; with `follow` also those to come, until the caller stops."""
        return _items(self.sync.logs(deployment, follow))


class AsyncModels:
    """The models of a namespace for asyncio; `sync` are the Models themselves."""

    def __init__(self, sync: Models) -> None:
        self.sync = sync

    versions = _twin(Models.versions)
    version = _twin(Models.version)
    aliases = _twin(Models.aliases)
    users = _twin(Models.users)
    promote = _twin(Models.promote)
    add = _twin(Models.add)
    trust = _twin(Models.trust)
    lacks_trust = _twin(Models.lacks_trust)
    files = _twin(Models.files)
    signature = _twin(Models.signature)
    wait = _twin(Models.wait)
    download = _twin(Models.download)
    check_unused = _twin(Models.check_unused)
    delete = _twin(Models.delete)


class AsyncDatasets:
    """The datasets of a namespace for asyncio; `sync` are the Datasets themselves. `progress` is called in a thread."""

    def __init__(self, sync: Datasets) -> None:
        self.sync = sync

    versions = _twin(Datasets.versions)
    version = _twin(Datasets.version)
    aliases = _twin(Datasets.aliases)
    promote = _twin(Datasets.promote)
    add = _twin(Datasets.add)
    wait = _twin(Datasets.wait)
    download = _twin(Datasets.download)
    profile = _twin(Datasets.profile)
    violations = _twin(Datasets.violations)
    files = _twin(Datasets.files)


class AsyncData:
    """Files of the namespace for asyncio; `sync` is the Data itself. `progress` is called in many threads."""

    def __init__(self, sync: Data) -> None:
        self.sync = sync

    uri = _twin(Data.uri)
    name = _twin(Data.name)
    put = _twin(Data.put)
    get = _twin(Data.get)
    ls = _twin(Data.ls)
    rm = _twin(Data.rm)
    tree = _twin(Data.tree)


class AsyncClient:
    """A Client for asyncio; `sync` is the client itself.

    A cancelled call ends at once, but what it has sent may still take effect.
    """

    def __init__(self, context: str = "", namespace: str = "", kubeconfig: str = "") -> None:
        self.sync = Client(context, namespace, kubeconfig)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.sync.close()

    @property
    def namespace(self) -> str:
        """Namespace of the objects."""
        return self.sync.namespace

    close = _twin(Client.close)
    get = _twin(Client.get)
    list = _twin(Client.list)
    apply = _twin(Client.apply)
    create = _twin(Client.create)
    delete = _twin(Client.delete)
    kind_of = _twin(Client.kind_of)
    lineage = _twin(Client.lineage)

    @overload
    async def submit(self, manifest: Sweep, dry_run: bool = False) -> AsyncSweepRun: ...

    @overload
    async def submit(self, manifest: Manifest | Object, dry_run: bool = False) -> AsyncRun[Run]: ...

    async def submit(self, manifest: Manifest | Object, dry_run: bool = False) -> AsyncRun[Run]:
        """Create a TrainingJob, Sweep or another run, after the upload of the local paths that it names."""
        return _run(await in_thread(lambda: self.sync.submit(manifest, dry_run)))

    async def trigger(self, schedule: str) -> AsyncRun[Run]:
        """Start a run of a Schedule now, beside those at its times. Raises NotFound, and what submit() raises."""
        return _run(await in_thread(lambda: self.sync.trigger(schedule)))

    async def run(self, name: str, kind: str = "trainingjob") -> AsyncRun[Run]:
        """Return a run that exists. Raises NotFound."""
        return _run(await in_thread(lambda: self.sync.run(name, kind)))

    async def sweep(self, name: str) -> AsyncSweepRun:
        """Return the run of a Sweep that exists. Raises NotFound."""
        return AsyncSweepRun(await in_thread(lambda: self.sync.sweep(name)))

    def endpoint(self, name: str, key: str = "", ca: str = "") -> AsyncEndpoint:
        """Return an endpoint, which asks the cluster when it is used, with a key or token, as Client.endpoint()."""
        return AsyncEndpoint(self.sync.endpoint(name, key, ca))

    @cached_property
    def models(self) -> AsyncModels:
        """The models of the namespace."""
        return AsyncModels(self.sync.models)

    @cached_property
    def datasets(self) -> AsyncDatasets:
        """The datasets of the namespace."""
        return AsyncDatasets(self.sync.datasets)

    @cached_property
    def data(self) -> AsyncData:
        """Files of the namespace in the object storage: put, get, ls, rm."""
        return AsyncData(self.sync.data)


def _run(run: Run) -> AsyncRun[Run]:
    return AsyncSweepRun(run) if isinstance(run, SweepRun) else AsyncRun(run)
