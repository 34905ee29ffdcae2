"""Lives of OnlineEndpoints before the fault harness: pods by load, and pools of models."""

from __future__ import annotations

from base64 import b64decode

from ultramarine_contract.catalogue import unpack
from ultramarine_contract.common import CATALOGUE_NAME
from ultramarine_contract.meta import Manifest

from ....shared.testing import Life, World, applied, until_message, until_true
from ...model.testing.samples import version

# Pods by load.


def scaled(name: str, metric: str, target: int, least: int) -> Manifest:
    """A deployment with as many pods as its load needs, and at least `least`."""
    limits = {"minReplicas": least, "maxReplicas": 4, "scaleDownAfterSeconds": 0}
    return {"name": name, "model": "churn@1", "autoscale": {"metric": metric, "target": target, **limits}}


def _autoscaled() -> Manifest:
    deployments = [scaled("blue", "concurrency", 2, 1), scaled("green", "requestRate", 5, 0)]
    return applied("OnlineEndpoint", "shop", {"traffic": {"blue": 50, "green": 50}, "deployments": deployments})


async def _follows_its_load(world: World) -> None:
    """Busy, busier, with no request for one of the deployments, and awake again."""
    await _scaled(world, blue=(1, 1), green=(5, 1))
    await _scaled(world, blue=(7, 4), green=(0, 0))
    await _scaled(world, blue=(3.5, 2), green=(12, 3))
    await until_true(world, "OnlineEndpoint", "shop")


async def _scaled(world: World, **loads: tuple[float, int]) -> None:
    """Set the load of each deployment, and wait until it has the pods for it."""
    for name, (load, pods) in loads.items():
        world.load(f"shop-{name}", load, pods)

    def look() -> bool:
        deployments = {d["name"]: d for d in world.status("OnlineEndpoint", "shop").get("deployments", [])}
        return all(
            deployments.get(name, {}).get("readyReplicas") == pods and deployments[name].get("state") == "Ready"
            for name, (_, pods) in loads.items()
        )

    await world.until(f"shop has pods for {loads}", look)


# A pool.


def _small(name: str, **aliases: str) -> Manifest:
    return applied("Model", name, {"aliases": aliases}, labels={"tier": "small"})


def _version_of(name: str, number: int) -> Manifest:
    made = version(1)
    spec = {"model": name, "version": str(number), "uri": f"s3://lake/NAMESPACE/{name}-{number}.onnx"}
    return applied("ModelVersion", f"{name}-{number}", {**made["spec"], **spec})


SMALL: Manifest = {"selector": {"matchLabels": {"tier": "small"}}}
POOL = {"name": "all", "pool": {**SMALL, "alias": "champion", "maxLoadedMebibytes": 64}, "replicas": 2}
POOLED = (
    _small("churn", champion="1"),
    _small("fraud", champion="1"),
    _version_of("churn", 1),
    _version_of("fraud", 1),
    applied("OnlineEndpoint", "shop", {"deployments": [POOL]}),
)


async def _changes_its_catalogue(world: World) -> None:
    """A Model comes, an alias moves to a version that comes later, a Model leaves; no pod restarts."""
    await _listed(world, churn="1", fraud="1")
    await world.until("both pods are there", lambda: len(world.all("Pod")) == POOL["replicas"])
    pods = {pod["metadata"]["uid"] for pod in world.all("Pod")}
    await world.apply(_small("spam", champion="1"), _version_of("spam", 1))
    await _listed(world, churn="1", fraud="1", spam="1")
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "2"}}})
    await until_message(world, "OnlineEndpoint", "shop", "Ready", "3 models, 1 without a ready version: churn")
    await world.apply(_version_of("churn", 2))
    await _listed(world, churn="2", fraud="1", spam="1")
    await world.edit("Model", "fraud", {"metadata": {"labels": {"tier": None}}})
    await _listed(world, churn="2", spam="1")
    assert {pod["metadata"]["uid"] for pod in world.all("Pod")} == pods, "another list restarted a pod"


async def _listed(world: World, **versions: str) -> None:
    """Wait until the list has these versions, and the endpoint says so."""

    def look() -> bool:
        packed = (world.get("ConfigMap", "shop-all-models") or {}).get("binaryData", {}).get(CATALOGUE_NAME)
        there = unpack(b64decode(packed)).values() if packed else ()
        return {entry.model: entry.version for entry in there} == versions

    await world.until(f"the pool has {versions}", look)
    await until_true(world, "OnlineEndpoint", "shop")
    await until_message(world, "OnlineEndpoint", "shop", "Ready", f"{len(versions)} models")


LOAD_LIVES = (
    Life(
        "follows its load",
        (version(1), _autoscaled()),
        _follows_its_load,
        ("1.onnx",),
        routed=True,
        loads=(("shop-blue", 1.0, 1), ("shop-green", 5.0, 1)),
        edits=tuple(
            {"deployments": [blue, scaled("green", "requestRate", 5, 0)]}
            for blue in (scaled("blue", "concurrency", 2, 2), {"name": "blue", "model": "churn@1", "replicas": 2})
        ),
        refused=(({"deployments": [scaled("blue", "cpu", 101, 1)]}, "percent"),),
    ),
    Life(
        "changes its catalogue",
        POOLED,
        _changes_its_catalogue,
        ("churn-1.onnx", "churn-2.onnx", "fraud-1.onnx", "spam-1.onnx"),
        edits=(
            {"deployments": [{**POOL, "pool": {**SMALL, "alias": "champion", "maxLoadedMebibytes": 128}}]},
            {"deployments": [{**POOL, "pool": SMALL}]},
        ),
        refused=(({"deployments": [{**POOL, "model": "churn@1"}]}, "pool"),),
    ),
)
