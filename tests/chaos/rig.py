"""One life before one operator: what every test of promises is made of."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import oracle
from api.bare import access
from lives import Life
from process import Operator, Zygote
from proxy import LINE, Fault, Proxy, of_kubernetes, of_storage
from ultramarine.kinds import KINDS
from ultramarine.outside.storage import Storage
from ultramarine.shared.meta import Manifest, Resource
from ultramarine_cluster.cluster import Cluster
from unit.conftest import ObjectStore
from world import OTHERS, Api, Id, World, selectors

BUCKET = "lake"
PATIENCE = 40.0  # seconds until a disturbed run must have come to the end of the undisturbed one
CALM = 0.6  # seconds without any change, after which an undisturbed run has come to its end
QUIET = 0.3  # seconds in which a run that has come to its end must not write any more
RELIST = {"ultramarine.engine.engine:RELIST_SECONDS": 20.0}  # two seconds of ours
RESOURCES = {resource.kind: resource for resource in (*(kind.resource for kind in KINDS), *OTHERS)}
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and everything that was seen of it."""

    end: oracle.End
    writes: int
    counted: Counter[str]
    deletes: frozenset[Id]
    fired: int
    history: str


@dataclass
class Run:
    """A run that is under way."""

    rig: Rig
    world: World
    api: Proxy
    storage: Proxy
    folder: Path
    constants: dict[str, Any]
    breaks: str
    operator: Operator | None = None
    starts: int = 0
    held: bool = False  # whether a dead operator stays dead
    killed: bool = False  # whether it was us
    crashes: int = 0

    def start(self, identity: str = "operator-0") -> None:
        """Start the operator, as a kubelet does with a container that has died."""
        config = self.folder / ".kube/config"
        config.parent.mkdir(exist_ok=True)
        config.write_text(json.dumps(_kubeconfig(self.api.url, self.world.namespace)))
        environment = {
            "PATH": os.environ["PATH"],
            **self.rig.store.credentials,
            "HOME": str(self.folder),
            "HOSTNAME": identity,
            "ULTRAMARINE_NAMESPACES": self.world.namespace,
            "ULTRAMARINE_TRAINER_IMAGE": "ultramarine/trainer:1",
            "ULTRAMARINE_SERVER_IMAGE": "ultramarine/server:1",
            "ULTRAMARINE_STORAGE_ENDPOINT": self.storage.url,
            "ULTRAMARINE_STORAGE_BUCKET": BUCKET,
            "ULTRAMARINE_STORAGE_SECRET": "ultramarine-storage",
            "ULTRAMARINE_PORT": "0",
        }
        constants = {**RELIST, **self.constants}
        self.operator = self.rig.zygote.start(environment, self.folder / "log", constants, self.breaks)
        self.starts += 1
        self.api.note(f"operator started, process {self.operator.pid}")

    def kill(self) -> None:
        """SIGKILL; unless it is held, the operator comes back."""
        if self.operator is not None:
            self.killed = True
            self.operator.kill()
            self.api.note("operator killed")

    async def keep(self) -> None:
        """Start the operator again whenever it has died, for ever."""
        while True:
            if not self.held and (self.operator is None or not self.operator.alive):
                if self.operator is not None and not self.killed:
                    self.crashes += 1
                    self.api.note("the operator has ended by itself")
                self.killed = False
                self.start()
            await asyncio.sleep(0.02 + self.crashes)

    def end(self) -> oracle.End:
        """The state as it is now."""
        return oracle.end_state(self.world.objects.values(), self.world.namespace)

    async def quiet(self, seconds: float = CALM) -> None:
        """Wait until nothing has changed for a while."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            before = len(self.world.sights), len(self.api.writes)
            await asyncio.sleep(seconds)
            if before == (len(self.world.sights), len(self.api.writes)):
                return
        raise AssertionError("it does not come to rest")

    @property
    def history(self) -> str:
        """What happened, for a test that has failed."""
        log = (self.folder / "log").read_text().splitlines() if (self.folder / "log").exists() else []
        lines = [*self.api.history, "object storage:", *self.storage.history, "the operator's log:", *log[-30:]]
        return "\n".join(lines)


Disturbance = Callable[[Run], Awaitable[None]]


async def _nothing(_: Run) -> None:
    """The disturbance of an undisturbed run."""


@dataclass
class Rig:
    """What all runs share: the cluster, the object storage, the fork server, and direct watches of everything."""

    cluster: Cluster
    store: ObjectStore
    zygote: Zygote
    folder: Path
    known: dict[str, Outcome]  # undisturbed runs by life
    api: Api = field(init=False)
    session: aiohttp.ClientSession = field(init=False)
    worlds: dict[str, World] = field(default_factory=dict)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Rig]:
        """Watch until the end of the block."""
        url, tls = access(self.cluster)
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, read_bufsize=LINE, auto_decompress=False
        ) as self.session:
            self.api = Api(url, self.session, tls)
            self.storage = Storage(self.store.endpoint)
            ours = tuple(kind.resource for kind in KINDS)
            watches = [asyncio.create_task(self._watch(*each)) for each in selectors(ours).items()]
            try:
                yield self
            finally:
                for watch in watches:
                    watch.cancel()
                await asyncio.gather(*watches, return_exceptions=True)

    async def _watch(self, resource: Resource, selector: str) -> None:
        query = f"?labelSelector={selector}" if selector else "?"
        listed = await self.api.ask("GET", f"{resource.path(None)}{query}&limit=1&resourceVersion=0")
        version = listed["metadata"]["resourceVersion"]
        url = f"{self.api.url}{resource.path(None)}{query}&watch=true&resourceVersion={version}&timeoutSeconds=3600"
        async with self.session.get(url, ssl=self.api.tls) as answer:  # type: ignore[arg-type]
            async for line in answer.content:
                event = json.loads(line)
                found = event["object"]
                world = self.worlds.get((found.get("metadata") or {}).get("namespace", ""))
                if world is not None:
                    world.see(event["type"], found)

    async def run(
        self,
        life: Life,
        faults: Iterable[Fault] = (),
        *,
        storage: Iterable[Fault] = (),
        disturb: Disturbance = _nothing,
        constants: dict[str, Any] | None = None,
        breaks: str = "",
        calm: Outcome | None = None,
        patience: float = PATIENCE,
        meant: Iterable[Id] = (),
    ) -> Outcome:
        """Live one life under faults to the end that `calm` had, and check all that must hold on the way.

        `disturb` is called between the life's manifests and its story; `meant` are children that it takes away.
        """
        number = next(_numbers)
        namespace = f"chaos-{os.getpid()}-{number}"
        folder = self.folder / namespace
        folder.mkdir()
        await self.api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        world = self.worlds[namespace] = World(self.api, namespace, self.storage, RESOURCES)
        front = Proxy(self.api.url, of_kubernetes, self.session, self.api.tls, tuple(faults))  # type: ignore[arg-type]
        back = Proxy(self.store.endpoint, of_storage, self.session, None, tuple(storage))
        async with front.listening(), back.listening():
            run = Run(self, world, front, back, folder, constants or {}, breaks)
            front.kill = run.kill
            tasks = [asyncio.create_task(world.play()), asyncio.create_task(run.keep())]
            try:
                await world.apply(*life.manifests)
                await disturb(run)
                await life.story(world)
                if calm is None:
                    await run.quiet()
                else:
                    await self._arrive(run, calm.end, patience)
                await self._check(run, calm, frozenset(meant))
                deletes = frozenset(
                    (kind, call.name)
                    for call in front.writes
                    if call.verb == "delete"
                    for kind in RESOURCES
                    if RESOURCES[kind].plural == call.resource
                )
                counted = Counter(f"{call.verb} {call.resource} {call.name}" for call in front.writes)
                fired = len(front.fired) + len(back.fired)
                return Outcome(run.end(), len(front.writes), counted, deletes, fired, run.history)
            except (AssertionError, Exception) as error:
                trouble = "".join(f"\nthe hands: {line}" for line in world.trouble)
                raise AssertionError(f"life {life.name} in {namespace}: {error}{trouble}\n{run.history}") from error
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if run.operator is not None:
                    run.operator.kill()
                del self.worlds[namespace]
                for service in world.all("Service"):  # their addresses are few
                    await world.delete("Service", service["metadata"]["name"])

    async def _arrive(self, run: Run, wanted: oracle.End, patience: float) -> None:
        end = time.monotonic() + patience
        while difference := oracle.difference(run.end(), wanted):
            if time.monotonic() > end:
                raise AssertionError(f"after {patience:.0f} s the end is another one:\n{difference}")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await run.world.until("something changes", _news(run.world))
        before = len(run.api.writes)
        await asyncio.sleep(QUIET)
        if len(run.api.writes) != before and (difference := oracle.difference(run.end(), wanted)):
            raise AssertionError(f"the end was left again:\n{difference}")

    async def _check(self, run: Run, calm: Outcome | None, meant: frozenset[Id]) -> None:
        deletes = [call for call in run.api.writes if call.verb == "delete"]
        meant |= calm.deletes if calm is not None else frozenset(_meant(deletes))
        wrong = oracle.violations(run.world.sights, deletes, meant)
        if calm is not None:
            wrong += oracle.storm(run.api.writes, calm.counted, run.starts)
        if run.crashes:
            wrong.append(f"the operator ended by itself {run.crashes} times")
        if wrong:
            raise AssertionError("\n".join(wrong))

    async def calm(self, life: Life) -> Outcome:
        """The undisturbed run of a life; it is made once."""
        if life.name not in self.known:
            self.known[life.name] = await self.run(life)
        return self.known[life.name]


def _meant(deletes: Iterable[Any]) -> Iterable[Id]:
    return ((kind, call.name) for call in deletes for kind in RESOURCES if RESOURCES[kind].plural == call.resource)


def _news(world: World) -> Callable[[], bool]:
    before = len(world.sights)
    return lambda: len(world.sights) != before


def _kubeconfig(url: str, namespace: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "chaos",
        "clusters": [{"name": "chaos", "cluster": {"server": url}}],
        "users": [{"name": "chaos", "user": {}}],
        "contexts": [{"name": "chaos", "context": {"cluster": "chaos", "user": "chaos", "namespace": namespace}}],
    }


async def together(runs: Iterable[Callable[[], Awaitable[Any]]], at_once: int = 6) -> list[Any]:
    """Do several runs side by side, a few at once; the first failure ends the others."""
    gate = asyncio.Semaphore(at_once)

    async def one(run: Callable[[], Awaitable[Any]]) -> Any:
        async with gate:
            return await run()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(run)) for run in runs]
    return [task.result() for task in tasks]
