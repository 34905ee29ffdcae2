"""Operator with many objects of each kind, sweeps, versions, active rollouts, autoscaled endpoints, and one pool.

A part of `make scale`. Each measurement makes its objects, gives the rows of a table, and leaves the objects to its
caller. The gateway is simulated: it confirms every route at once, and reports the loads that it is given.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import cast

from api.operator_process import BUCKET
from api.operator_process import Operator as Process
from chaos.gateway_hands import Gateway
from chaos.world import Api
from figures import MERGE, Row, Spent, made, patch_all, watched
from ground import Ground, asking, bare, played
from scale_mixed import mixed
from scale_sweeps import Store, names_of, sweeps
from sights import Bench, Memory, Operator, follow, percentiles, table
from ultramarine_cluster import target
from ultramarine_contract.meta import (
    CHILD_SELECTOR,
    CONFIG_MAP,
    MODEL,
    MODEL_VERSION,
    ONLINE_ENDPOINT,
    POD,
    SERVICE,
    Manifest,
)
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared.conditions import is_true

KEPT = 5  # versions of a Model
STEPS = [50, 100]
NAMESPACE = "scale"  # of a bare cluster
SMALL = {"tier": "small"}
OURS = f"{CHILD_SELECTOR},ultramarine.dev/kind=OnlineEndpoint"


@dataclass(frozen=True)
class Stored:
    """Object in the bucket, from which any number of versions can be made."""

    uri: str
    digest: str

    @property
    def bucket(self) -> str:
        """URI of the object."""
        return self.uri.split("/")[2]

    @property
    def artifact(self) -> Manifest:
        """Fields of a version."""
        return {"uri": self.uri, "digest": self.digest, "format": {"name": "onnx"}}

    def version(self, model: str, number: int) -> Manifest:
        """Return a version of that content."""
        spec = {"model": model, "version": str(number), **self.artifact}
        return made("ModelVersion", f"{model}-{number}", spec)


async def model_versions(bench: Bench, namespace: str, stored: Stored, models: int, versions: int) -> list[Row]:
    """Create `versions` versions of `models` Models with retention; wait until all are checked and old ones deleted.

    Version 1 of each Model has an alias, and stays.
    """
    per_model = versions // models
    names = [f"kept-{number:03}" for number in range(models)]
    spec = {"aliases": {"first": "1"}, "retention": {"versions": KEPT}}
    # Version by version, as they come to be: each Model has two before it has three.
    manifests = [stored.version(name, number) for number in range(1, per_model + 1) for name in names]
    spent, most = Spent(bench), Memory(bench.operator.metrics)
    async with watched(bench.api, MODEL, namespace) as seen, most.watching():
        await spent.begin()
        await bench.create(MODEL, [made("Model", name, spec) for name in names], namespace)
        await bench.create(MODEL_VERSION, manifests, namespace)
        applied = time.monotonic() - spent.began
        left = min(per_model, KEPT + 1)

        def settled() -> int:
            return seen.count(
                names,
                lambda status: (status.get("latestReadyVersion"), status.get("versions")) == (str(per_model), left),
            )

        await bench.until(lambda: f"{settled()} of {models} Models keep {left} versions", lambda: settled() >= models)
        took = time.monotonic() - spent.began
    title = f"{len(manifests):,} ModelVersions of {models} Models, retention {KEPT}"
    row = {"versions": title, "applied in": f"{applied:.0f} s", "rate": f"{len(manifests) / took:.1f}/s"}
    await bench.idle()
    return [{**row, **await spent.columns(len(manifests), took), "memory, most": f"{most.most / 2**20:.0f} MiB"}]


async def rollouts(bench: Bench, namespace: str, stored: Stored, count: int, seconds: float) -> list[Row]:
    """Run rollouts with gates that lack requests, for a while; then without gates, until all have ended."""
    await _two_versions(bench, namespace, stored, "rolled")
    names = [f"rolled-{number:03}" for number in range(count)]
    deployments = [{"name": "blue", "model": "rolled@1"}, {"name": "green", "model": "rolled@2"}]
    rollout = {"candidate": "green", "steps": STEPS, "stepSeconds": 5, "gates": {"errorRateIncrease": 0.01}}
    spec = {"traffic": {"blue": 100}, "deployments": deployments, "rollout": rollout}
    spent, rows = Spent(bench, seconds), []
    async with watched(bench.api, ONLINE_ENDPOINT, namespace) as seen:

        def at(weight: int, phase: str) -> int:
            return seen.count(
                names, lambda status: _rollout(status, "phase") == phase and _rollout(status, "weight") == weight
            )

        await spent.begin()
        await bench.create(ONLINE_ENDPOINT, [made("OnlineEndpoint", name, spec) for name in names], namespace)
        await bench.until(
            lambda: f"{at(STEPS[0], 'Progressing')} of {count} rollouts are in their first step",
            lambda: at(STEPS[0], "Progressing") >= count,
        )
        rows.append({"rollouts": f"{count} made, until all are in the first step", **await spent.columns(count)})
        rows.append({"rollouts": f"{count} under way, gates looked at", **await spent.over(count)})
        await spent.begin(idle=False)
        await patch_all(bench, ONLINE_ENDPOINT, namespace, names, {"spec": {"rollout": {"gates": None}}})
        await bench.until(
            lambda: f"{at(STEPS[-1], 'Promoted')} of {count} rollouts have ended",
            lambda: at(STEPS[-1], "Promoted") >= count,
        )
        rows.append(
            {"rollouts": f"{count} restarted without gates, until all are promoted", **await spent.columns(count)}
        )
    return rows


def _rollout(status: Manifest, name: str) -> object:
    return (status.get("rollout") or {}).get(name)


async def scaled(
    bench: Bench, namespace: str, stored: Stored, count: int, gateway: Gateway, seconds: float
) -> list[Row]:
    """Autoscale endpoints by their requests: from zero, up under load, and down to zero again."""
    await _two_versions(bench, namespace, stored, "scaled")
    names = [f"scaled-{number:03}" for number in range(count)]
    wish = {"metric": "requestRate", "target": 10, "minReplicas": 0, "maxReplicas": 3, "scaleDownAfterSeconds": 5}
    spec = {"deployments": [{"name": "blue", "model": "scaled@1", "autoscale": wish}]}
    spent, rows = Spent(bench, seconds), []

    def row(title: str, columns: Row) -> None:
        rows.append({"scaled by requests": f"{count} {title}", **columns})

    async with watched(bench.api, ONLINE_ENDPOINT, namespace) as seen:

        def have(pods: int) -> int:
            return seen.count(names, lambda status: status.get("replicas") == f"{pods}/{pods}")

        async def until(pods: int) -> dict[str, float]:
            """Wait until each endpoint has `pods` pods; return the moment of each."""
            firsts: dict[str, float] = {}

            def look() -> bool:
                for name in names:
                    if seen.status(name).get("replicas") == f"{pods}/{pods}":
                        firsts.setdefault(name, time.monotonic())
                return have(pods) >= count

            await bench.until(lambda: f"{have(pods)} of {count} endpoints have {pods} pods", look)
            return firsts

        await spent.begin()
        await bench.create(ONLINE_ENDPOINT, [made("OnlineEndpoint", name, spec) for name in names], namespace)
        await until(0)
        row("made, until all sleep", await spent.columns(count))
        row("asleep", await spent.over(count))
        for load, pods, asked in ((5.0, 1, "one pod's requests"), (25.0, 3, "three pods' requests")):
            await spent.begin(idle=False)
            gateway.loads.update({f"{name}-blue": load for name in names})
            p50, p99 = percentiles([at - spent.began for at in (await until(pods)).values()])
            row(f"get {asked}: asked → ready p50 / p99 {p50:.1f} / {p99:.1f} s", await spent.columns(count))
        row("busy", await spent.over(count))
        await spent.begin(idle=False)
        gateway.loads.clear()
        await until(0)
        row("without requests, until all are at zero", await spent.columns(count))
    return rows


async def pooled(bench: Bench, namespace: str, stored: Stored, count: int) -> list[Row]:
    """Serve a pool of `count` Models from one endpoint; then move the aliases of a tenth of them in turn."""
    names = [f"pooled-{number:03}" for number in range(count)]
    models = [made("Model", name, {"aliases": {"live": "1"}}, labels=SMALL) for name in names]
    pool = {"selector": {"matchLabels": SMALL}, "alias": "live"}
    endpoint = made("OnlineEndpoint", "pooled", {"deployments": [{"name": "all", "pool": pool}]})
    spent, rows = Spent(bench), []
    async with watched(bench.api, ONLINE_ENDPOINT, namespace) as seen:
        await spent.begin()
        await bench.create(MODEL, models, namespace)
        both = [stored.version(name, number) for number in (1, 2) for name in names]
        await bench.create(MODEL_VERSION, both, namespace)
        await bench.create(ONLINE_ENDPOINT, [endpoint], namespace)
        await bench.until(
            lambda: f"the pool says {seen.message('pooled')!r}",
            lambda: is_true(seen.status("pooled"), "Ready") and seen.message("pooled") == f"{count} models",
        )
        title = f"{count} Models with 2 versions each, until one pool has all; writes by Model"
        rows.append({"pool": title, **await spent.columns(count)})
        moved = names[: max(1, count // 10)]
        await spent.begin()
        for name in moved:
            await bench.api.ask("PATCH", MODEL.path(namespace, name), {"spec": {"aliases": {"live": "2"}}}, MERGE)
        took = time.monotonic() - spent.began
        await bench.idle()
        rows.append({"pool": f"{len(moved)} aliases moved, one after another", **await spent.columns(len(moved), took)})
    return rows


@asynccontextmanager
async def gateway_of(api: Api, namespace: str, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Gateway]:
    """Simulate the gateway of a namespace at that address until the end of the block."""
    objects: dict[tuple[str, str], Manifest] = {}
    gateway = Gateway(objects)

    def tell(type: str, object: Manifest) -> None:
        id = (object["kind"], object["metadata"]["name"])
        if type == "DELETED":
            objects.pop(id, None)
        else:
            objects[id] = object
        if object["kind"] == "ConfigMap":
            gateway.look()

    watches = [asyncio.create_task(follow(api, kind, namespace, OURS, tell)) for kind in (CONFIG_MAP, POD, SERVICE)]
    try:
        async with gateway.listening(address, port):
            yield gateway
        for watch in watches:
            if watch.done():
                watch.result()
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)


@dataclass(frozen=True)
class Sizes:
    """Number of objects of each measurement; 0 leaves it out."""

    mixed: int
    versions: int
    models: int
    rollouts: int
    scaled: int
    pooled: int
    sweeps: int
    seconds: int = 30  # of the observation of idle objects


async def measure(
    bench: Bench, namespace: str, stored: Stored, sizes: Sizes, gateway: Gateway, store: Store
) -> AsyncIterator[str]:
    """Run one measurement after another, each with its table."""
    if sizes.mixed:
        yield table(await mixed(bench, namespace, sizes.mixed, stored.artifact))
        await clear(bench, namespace)
    if sizes.sweeps:
        yield table(await sweeps(bench, namespace, sizes.sweeps, stored.bucket, store))
        await clear(bench, namespace)
    if sizes.versions:
        yield table(await model_versions(bench, namespace, stored, sizes.models, sizes.versions))
        await clear(bench, namespace)
    if sizes.pooled:
        yield table(await pooled(bench, namespace, stored, sizes.pooled))
        await clear(bench, namespace)
    if sizes.rollouts:
        yield table(await rollouts(bench, namespace, stored, sizes.rollouts, sizes.seconds))
        await clear(bench, namespace)
    if sizes.scaled:
        yield table(await scaled(bench, namespace, stored, sizes.scaled, gateway, sizes.seconds))
        await clear(bench, namespace)


async def clear(bench: Bench, namespace: str) -> None:
    """Delete the objects of all kinds, those that refer to others first, and wait until their pods are gone."""
    for kind in reversed(KINDS):
        await bench.api.ask("DELETE", kind.resource.path(namespace), {"propagationPolicy": "Background"})
    pods = f"{POD.path(namespace)}?labelSelector={CHILD_SELECTOR}&limit=1"
    while (await bench.api.ask("GET", pods))["items"]:
        await asyncio.sleep(1)
    await bench.idle()


async def _two_versions(bench: Bench, namespace: str, stored: Stored, model: str) -> None:
    """Create two versions of a Model and wait until they are ready."""
    async with watched(bench.api, MODEL, namespace) as seen:
        await bench.create(MODEL, [made("Model", model, {})], namespace)
        await bench.create(MODEL_VERSION, [stored.version(model, number) for number in (1, 2)], namespace)
        await bench.until(
            lambda: f"version 2 of {model} is not ready",
            lambda: seen.count([model], lambda status: status.get("latestReadyVersion") == "2"),
        )


async def on_a_bare_cluster(ground: Ground, operator: Process, sizes: Sizes) -> None:
    """Measure an operator before an API server alone; simulated controllers of tests/chaos complete the cluster."""
    digest = f"sha256:{sha256(b'weights').hexdigest()}"
    stored = Stored(f"s3://{BUCKET}/{NAMESPACE}/1.onnx", digest)
    await asyncio.to_thread(ground.storage.write, stored.uri, b"weights")
    async with (
        asking(ground.kube) as api,
        played(api, NAMESPACE, ground.storage) as (world, _),
        gateway_of(api, NAMESPACE) as gateway,
    ):
        world.fates.update({f"{name}-coordinator": ("succeeds",) for name in names_of(sizes.sweeps)})
        operator.gateway = f"127.0.0.1:{gateway.port}"
        await asyncio.to_thread(operator.start)
        to = cast(target.Target, None)  # there is no node here that pods could be kept from
        bench = Bench(ground.kube, to, "", api, Operator(f"http://127.0.0.1:{operator.port}", api.session))
        async for rows in measure(bench, NAMESPACE, stored, sizes, gateway, ground.storage.write):
            print("\n" + rows, flush=True)


def sizes_of(parser: argparse.ArgumentParser, defaults: Sizes) -> Callable[[argparse.Namespace], Sizes]:
    """Add the options to a command line; return a function that reads them."""
    helps = {
        "mixed": "number of objects of each kind",
        "versions": "number of ModelVersions with retention",
        "models": "number of Models that have them",
        "rollouts": "number of OnlineEndpoints with a rollout under way",
        "scaled": "number of OnlineEndpoints that are scaled by their requests",
        "pooled": "number of Models in a pool",
        "sweeps": "number of Sweeps",
    }
    for name, words in helps.items():
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), help=f"{words}, 0 for none")
    helps["seconds"] = "seconds of the observation of idle objects"
    parser.add_argument("--seconds", type=int, default=defaults.seconds, help=helps["seconds"])
    return lambda chosen: Sizes(**{name: getattr(chosen, name) for name in helps})


def main() -> None:
    """Run the command line: small numbers on a bare cluster, to try this file without another cluster."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read = sizes_of(parser, Sizes(mixed=4, versions=40, models=4, rollouts=4, scaled=4, pooled=12, sweeps=4))
    sizes = read(parser.parse_args())
    with bare(NAMESPACE) as ground, ground.operator() as operator:
        asyncio.run(on_a_bare_cluster(ground, operator, sizes))


if __name__ == "__main__":
    main()
