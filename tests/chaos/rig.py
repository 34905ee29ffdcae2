"""One life before one operator: what every test of promises is made of."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import pickle
import socket
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import oracle
from api.bare import access, free_lease
from process import SPEED, Operator, Zygote
from proxy import LINE, Call, Fault, Proxy, of_kubernetes, of_storage, reserved
from sample import ALL_RUNS, Sample
from ultramarine.resources.base import NOT_OBSERVED
from ultramarine_cluster.cluster import Cluster
from ultramarine_contract.meta import LEASE, Manifest, Resource
from ultramarine_contract.storage import Storage
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared.testing import Life
from unit.conftest import ObjectStore
from world import BUCKET, OTHERS, Api, Id, World, selectors

PATIENCE = 120.0  # seconds until a disturbed run must have come to the end of the undisturbed one
CALM = 0.6  # seconds without any change, after which an undisturbed run has come to its end
QUIET = 0.3  # seconds for which the end must last, or nothing be written
# Seconds of the operator's clock, which runs SPEED times as fast as ours.
CONSTANTS = {
    "ultramarine_operator.engine.engine:RELIST_SECONDS": 2 * SPEED,
    "ultramarine_operator.kinds.model.plan:LOOK_AGAIN": 0.5 * SPEED,
    "ultramarine_operator.kinds.dataset.version:LOOK_AGAIN": 0.5 * SPEED,
    "ultramarine_operator.kinds.dataset.plan:LOOK_AGAIN": 0.5 * SPEED,
    "ultramarine_operator.kinds.dataset.profiling:LOOK_AGAIN": 0.5 * SPEED,
    "ultramarine_operator.kinds.dataset.refreshing:LOOK_AGAIN": 0.5 * SPEED,
    "ultramarine_operator.kinds.model.compiling:HEAD_START": 0.1 * SPEED,
    "ultramarine_operator.runs.deleting:LOOK_AGAIN": 0.5 * SPEED,
    "ultramarine_operator.kinds.sweep.plan:STORING": 5.0,  # of the time that objects carry, which is ours
    "ultramarine_operator.kinds.onlineendpoint.deployment.autoscale:PASS": 0.3 * SPEED,
    "ultramarine_operator.kinds.onlineendpoint.deployment.autoscale:ASLEEP_PASS": 0.3 * SPEED,
    # Long enough that a machine that is busy with other things costs no lease.
    "ultramarine_operator.engine.lease:DURATION": 60.0,
}
OURS = frozenset(kind.name for kind in KINDS)
RESOURCES = {resource.kind: resource for resource in (*(kind.resource for kind in KINDS), *OTHERS)}
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run, and everything that was observed."""

    end: oracle.End
    writes: int
    counted: Counter[str]
    deletes: frozenset[Id]
    made: Counter[Id]
    fired: int
    history: str


@dataclass
class Outcomes:
    """Outcomes of undisturbed runs by life; the workers of a run of pytest share them by a folder."""

    folder: Path
    kept: dict[str, Outcome] = field(default_factory=dict)

    async def of(self, life: str, run: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Return the outcome of a life, which one worker lives while the others wait for it."""
        if life not in self.kept:
            with (self.folder / sha256(life.encode()).hexdigest()).open("a+b") as file:
                await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
                file.seek(0)
                if not (content := file.read()):
                    content = pickle.dumps(await run())
                    file.write(content)
            self.kept[life] = pickle.loads(content)
        return self.kept[life]


@dataclass
class Run:
    """A run that is under way; with two operators there are two of it in one world."""

    rig: Rig
    life: Life
    world: World
    api: Proxy
    storage: Proxy
    folder: Path
    constants: dict[str, Any]
    breaks: str
    identity: str
    all: list[Run]
    held_port: socket.socket = field(default_factory=reserved)
    operator: Operator | None = None
    starts: int = 0
    held: bool = False  # whether a dead operator stays dead
    killed: bool = False  # whether it was us
    crashes: int = 0
    meant: set[Id] = field(default_factory=set)  # children that the test itself takes away

    @property
    def port(self) -> int:
        """Return the port at which pods reach the operator, also after a restart."""
        return int(self.held_port.getsockname()[1])

    def start(self) -> None:
        """Start the operator, as a kubelet does with a container that has died."""
        config = self.folder / ".kube/config"
        config.parent.mkdir(exist_ok=True)
        config.write_text(json.dumps(_kubeconfig(self.api.url, self.world.namespace)))
        environment = {
            "PATH": os.environ["PATH"],
            **self.rig.store.credentials,
            "HOME": str(self.folder),
            "HOSTNAME": self.identity,
        }
        settings: dict[str, Any] = {
            "namespaces": [self.world.namespace],
            "port": self.port if self.life.heard else 0,
            "images": {"trainer": "ultramarine/trainer:1", "server": "ultramarine/server:1"},
            "storage": {"endpoint": self.storage.url, "bucket": BUCKET, "secretName": "ultramarine-storage"},
        }
        if self.life.heard:
            settings["progress"] = {"url": "http://ultramarine-operator"}
        if self.life.routed:
            address = f"127.0.0.1:{self.world.gateway.port}"
            settings["gateway"] = {"address": address, "namespaces": [self.world.namespace]}
        (self.folder / "settings.yaml").write_text(json.dumps(settings))
        constants = {**CONSTANTS, **self.constants}
        self.operator = self.rig.zygote.start(environment, self.folder, constants, self.breaks)
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

    async def down(self) -> None:
        """Kill the operator, and keep it down."""
        self.held = True
        self.kill()

    def up(self) -> None:
        """Let it come back."""
        self.held = False

    async def quiet(self, seconds: float = CALM) -> None:
        """Wait until nothing has changed for a while, and every object of ours has been looked at."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            before = len(self.world.sights), len(self.writes)
            await asyncio.sleep(seconds)
            looked_at = all(
                found.get("status", {}).get("observedGeneration", NOT_OBSERVED) != NOT_OBSERVED
                for found in self.world.objects.values()
                if found["kind"] in OURS
            )
            if before == (len(self.world.sights), len(self.writes)) and self.writes and looked_at:
                return
        raise AssertionError("it does not come to rest")

    @property
    def writes(self) -> list[Call]:
        """The writes of all operators that reached the server, but for the Lease."""
        return [call for each in self.all for call in each.api.writes]

    @property
    def history(self) -> str:
        """Return the events of the run, for the message of a failed test."""
        lines = []
        for each in self.all:
            log = (each.folder / "log").read_text().splitlines() if each.starts else []
            lines += [f"{each.identity}:", *each.api.history, "its log:", *log[-30:]]
        return "\n".join([*lines, "object storage:", *self.storage.history])


Disturbance = Callable[[Run], Awaitable[None]]


async def _nothing(_: Run) -> None:
    """The disturbance of an undisturbed run."""


@dataclass
class Rig:
    """Rig of all runs: the cluster, the object storage, the fork server, and direct watches of everything."""

    cluster: Cluster
    store: ObjectStore
    zygote: Zygote
    folder: Path
    undisturbed: Outcomes
    test: str = ""
    sample: Sample = ALL_RUNS
    api: Api = field(init=False)
    session: aiohttp.ClientSession = field(init=False)
    worlds: dict[str, World] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)  # what went wrong with the direct watches
    patience: float = PATIENCE
    gates: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

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
            watches = []
            for resource, selector in selectors(ours).items():
                query = f"?labelSelector={selector}"
                watch = self._watch(resource, query, await self._version(resource, query))
                watches.append(asyncio.create_task(watch))
            try:
                yield self
            finally:
                for watch in watches:
                    watch.cancel()
                await asyncio.gather(*watches, return_exceptions=True)

    async def _version(self, resource: Resource, query: str) -> str:
        """The version from which a watch shows everything that is still to come."""
        listed = await self.api.ask("GET", f"{resource.path(None)}{query}&limit=1")
        return str(listed["metadata"]["resourceVersion"])

    async def _watch(self, resource: Resource, query: str, version: str) -> None:
        url = f"{self.api.url}{resource.path(None)}{query}&watch=true&resourceVersion={version}&timeoutSeconds=7200"
        try:
            while True:  # the API server takes up new types a moment after they are established
                answer = await self.session.get(url, ssl=self.api.tls)  # type: ignore[arg-type]
                if answer.status == 200:
                    break
                answer.close()
                await asyncio.sleep(0.2)
            async with answer:
                async for line in answer.content:
                    event = json.loads(line)
                    found = event["object"]
                    if event["type"] == "ERROR":
                        raise RuntimeError(f"{found}")
                    world = self.worlds.get((found.get("metadata") or {}).get("namespace", ""))
                    if world is not None:
                        world.see(event["type"], found)
            raise RuntimeError("the direct watch has ended")
        except Exception as error:
            self.trouble.append(f"watch of {resource.plural}: {error!r}")
            raise

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
        but: Iterable[str] = (),
        operators: int = 1,
        patience: float | None = None,
    ) -> Outcome:
        """Live one life under faults to the end that `calm` had, and check all that must hold on the way.

        `disturb` is called between the life's manifests and its story; differences with words of `but` are none.
        """
        namespace = f"chaos-{os.getpid()}-{next(_numbers)}"
        await self.api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        await self.api.ask("POST", LEASE.path(namespace), free_lease(namespace))
        patience = patience or self.patience
        world = self.worlds[namespace] = World(self.api, namespace, self.storage, RESOURCES, patience)
        back = Proxy(self.store.endpoint, of_storage, self.session, None, tuple(storage))
        fronts = [
            Proxy(self.api.url, of_kubernetes, self.session, self.api.tls, tuple(faults)) for _ in range(operators)
        ]  # type: ignore[arg-type]
        runs = []
        for place, front in enumerate(fronts):
            folder = self.folder / f"{namespace}-{place}"
            folder.mkdir()
            runs.append(Run(self, life, world, front, back, folder, constants or {}, breaks, f"operator-{place}", runs))
            front.kill = runs[-1].kill
        run = runs[0]
        async with AsyncExitStack() as stack:
            for server in (back, *fronts, world.gateway):
                await stack.enter_async_context(server.listening())
            for each in runs:
                stack.enter_context(each.held_port)
            tasks = [asyncio.create_task(world.play()), *(asyncio.create_task(each.keep()) for each in runs)]
            if life.heard:
                world.coordinators.ports = [each.port for each in runs]
                tasks.append(asyncio.create_task(world.coordinators.speak()))
            try:
                for artifact in life.artifacts:
                    await world.store(artifact)
                for load in life.loads:
                    world.load(*load)
                await world.apply(*life.manifests)
                await disturb(run)
                await life.story(world)
                if calm is None:  # what all runs of this life are compared with
                    await run.quiet(2.5 * CALM)
                else:
                    await self._arrive(run, calm.end, set(but))
                self._check(run, calm)
                counted = Counter(f"{call.verb} {call.resource} {call.name}" for call in run.writes)
                deletes = frozenset(_ids(call for call in run.writes if call.verb == "delete"))
                fired = sum(len(proxy.fired) for proxy in (back, *fronts))
                made = oracle.made(world.sights)
                return Outcome(run.end(), len(run.writes), counted, deletes, made, fired, run.history)
            except Exception as error:
                trouble = "".join(f"\nthe test itself: {line}" for line in (*self.trouble, *world.trouble))
                raise AssertionError(f"{life} in {namespace}: {error}{trouble}\n{run.history}") from error
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for each in runs:
                    if each.operator is not None:
                        each.operator.kill()
                del self.worlds[namespace]
                for service in world.all("Service"):  # their addresses are few
                    await world.delete("Service", service["metadata"]["name"])

    async def _arrive(self, run: Run, wanted: oracle.End, but: set[str]) -> None:
        def difference() -> str:
            lines = oracle.difference(run.end(), wanted)
            return "\n".join(line for line in lines if not any(words in line for words in but))

        end = time.monotonic() + self.patience
        while True:
            left = difference()
            if not left:
                before = len(run.writes)
                await asyncio.sleep(QUIET)
                if len(run.writes) == before or not (left := difference()):
                    return
            if time.monotonic() > end:
                raise AssertionError(f"after {self.patience:.0f} s the end is another one:\n{left}")
            await asyncio.sleep(0.05)

    def _check(self, run: Run, calm: Outcome | None) -> None:
        deletes = [call for call in run.writes if call.verb == "delete"]
        meant = run.meant | (calm.deletes if calm is not None else set(_ids(deletes)))
        # A life that is undisturbed tells itself how often it makes what.
        allowed = calm.made if calm is not None else oracle.made(run.world.sights)
        wrong = oracle.violations(run.world.sights, deletes, frozenset(meant), allowed, run.meant)
        if calm is not None:
            wrong += oracle.storm(run.writes, calm.counted, sum(each.starts for each in run.all))
        wrong += [*dict.fromkeys(run.world.faults), *oracle.gaps(run.world.sights)]
        cut_off = set(run.world.cut_off) - run.meant
        wrong += [f"{' '.join(id)} went while the gateway sent requests to its pods" for id in cut_off]
        if crashes := sum(each.crashes for each in run.all):
            wrong.append(f"the operator ended by itself {crashes} times")
        if wrong:
            raise AssertionError("\n".join(wrong))

    def some(self, lives: Iterable[Life]) -> list[Life]:
        """The lives of the sample; each test has others."""
        return self.sample.of(lives, self.test, lambda life: life.kind)

    async def calm(self, life: Life) -> Outcome:
        """The undisturbed run of a life; it is made once."""
        async with self.gates[str(life)]:
            return await self.undisturbed.of(str(life), lambda: self.run(life, patience=PATIENCE))


def _ids(calls: Iterable[Call]) -> Iterable[Id]:
    """Which objects calls were about."""
    return ((kind, call.name) for call in calls for kind in RESOURCES if RESOURCES[kind].plural == call.resource)


def _kubeconfig(url: str, namespace: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "chaos",
        "clusters": [{"name": "chaos", "cluster": {"server": url}}],
        "users": [{"name": "chaos", "user": {}}],
        "contexts": [{"name": "chaos", "context": {"cluster": "chaos", "user": "chaos", "namespace": namespace}}],
    }


async def together(runs: Iterable[Callable[[], Awaitable[Any]]], at_once: int = 4) -> list[Any]:
    """Do several runs side by side, a few at once; the first failure ends the others."""
    gate = asyncio.Semaphore(at_once)

    async def one(run: Callable[[], Awaitable[Any]]) -> Any:
        async with gate:
            return await run()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(run)) for run in runs]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # one history is enough to read
    return [task.result() for task in tasks]
