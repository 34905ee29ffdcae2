"""Twin of the client for asyncio: the same calls in threads, and streams as asynchronous iterators."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from .client import Client
from .endpoints import Endpoint
from .results import Output
from .runs import Run, Update
from .runs.following import Follower
from .sweeps import SweepRun, Trial

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

    from .objects import Object

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
    """Return a method that awaits the same method of `self.sync`."""

    @wraps(method)
    async def call(self: Any, *args: P.args, **options: P.kwargs) -> T:
        return await in_thread(partial(method, self.sync, *args, **options))

    return cast(Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], call)


class AsyncRun(Generic[R]):
    """A run for asyncio; `sync` is the run itself. Cancelling a task ends its wait, not the run."""

    def __init__(self, sync: R) -> None:
        self.sync = sync

    @property
    def name(self) -> str:
        """Name of the object."""
        return self.sync.name

    async def status(self) -> dict[str, Any]:
        """Return the status of the object; empty if the operator has not seen it."""
        return await in_thread(lambda: self.sync.status)

    async def state(self) -> str:
        """Return Pending, Running, Suspended, Succeeded, Failed, Cancelled, Stopped or Invalid."""
        return await in_thread(lambda: self.sync.state)

    async def outputs(self) -> dict[str, Output]:
        """Return the uploaded outputs by name."""
        return await in_thread(lambda: self.sync.outputs)

    async def download(self, output: str, folder: str | Path = "") -> Path:
        """Fetch an output into a folder, by default ./NAME, and return it. Raises KeyError without the output."""
        return await in_thread(lambda: self.sync.outputs[output].download(folder))

    metrics = _twin(Run.metrics)
    suspend = _twin(Run.suspend)
    resume = _twin(Run.resume)
    cancel = _twin(Run.cancel)
    delete = _twin(Run.delete)

    async def wait(self, timeout: float | None = None) -> None:
        """Return after success. Raises RunFailed with the cause, or TimeoutError after `timeout` seconds."""
        stop = threading.Event()
        try:
            await in_thread(partial(self.sync._wait, timeout, stop))
        finally:
            stop.set()

    async def stream(self) -> AsyncIterator[Update]:
        """Yield states, log lines and metrics until the run ends, across lost connections; all from the start."""
        loop, follower = asyncio.get_running_loop(), Follower(self.sync)
        queue: asyncio.Queue[Update | None] = asyncio.Queue()

        def pump() -> None:
            try:
                for update in follower.updates():
                    loop.call_soon_threadsafe(queue.put_nowait, update)
            finally:
                loop.call_soon_threadsafe(queue.put_nowait, None)

        pumping = asyncio.ensure_future(in_thread(pump))
        try:
            while (update := await queue.get()) is not None:
                yield update
            await pumping
        finally:
            pumping.cancel()
            follower.end()


class AsyncSweepRun(AsyncRun[SweepRun]):
    """The run of a Sweep for asyncio."""

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

    predict = _twin(Endpoint.predict)
    infer = _twin(Endpoint.infer)
    set_traffic = _twin(Endpoint.set_traffic)

    async def wait(self, timeout: float | None = None) -> None:
        """Return once all deployments are ready. Raises NotReady with the cause, or TimeoutError."""
        await in_thread(lambda: self.sync.wait(timeout))


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

    get = _twin(Client.get)
    list = _twin(Client.list)
    apply = _twin(Client.apply)
    delete = _twin(Client.delete)

    async def submit(self, manifest: Manifest | Object, dry_run: bool = False) -> AsyncRun[Run]:
        """Create a TrainingJob, Sweep or another run, after the upload of the local paths that it names."""
        return _run(await in_thread(lambda: self.sync.submit(manifest, dry_run)))

    async def trigger(self, schedule: str) -> AsyncRun[Run]:
        """Start a run of a Schedule now, beside those at its times. Raises NotFound, Exists and Rejected."""
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


def _run(run: Run) -> AsyncRun[Run]:
    return AsyncSweepRun(run) if isinstance(run, SweepRun) else AsyncRun(run)
