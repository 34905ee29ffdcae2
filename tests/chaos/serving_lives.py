"""Lives of what endpoints serve and of what becomes of it: pods by load, artifacts that are deleted, a pool."""

from __future__ import annotations

from base64 import b64decode

import hands
from awaited import model, ours, ready, served, told, version
from builders import serving
from ultramarine_contract.catalogue import unpack
from ultramarine_contract.common import CATALOGUE_NAME
from ultramarine_contract.meta import Manifest
from world import World

# Pods by load.


def scaled(name: str, metric: str, target: int, least: int) -> Manifest:
    """A deployment with so many pods as its load needs, `least` of them at least."""
    limits = {"minReplicas": least, "maxReplicas": 4, "scaleDownAfterSeconds": 0}
    return {"name": name, "model": "churn@1", "autoscale": {"metric": metric, "target": target, **limits}}


def _autoscaled() -> Manifest:
    deployments = [scaled("blue", "concurrency", 2, 1), scaled("green", "requestRate", 5, 0)]
    return ours("OnlineEndpoint", "shop", {"traffic": {"blue": 50, "green": 50}, "deployments": deployments})


SCALED = (version(1), _autoscaled())
LOADS = (("shop-blue", 1.0, 1), ("shop-green", 5.0, 1))


async def follows_its_load(world: World) -> None:
    """Busy, busier, with nobody who asks one of the deployments, and awake again."""
    await _scaled(world, blue=(1, 1), green=(5, 1))
    await _scaled(world, blue=(7, 4), green=(0, 0))
    await _scaled(world, blue=(3.5, 2), green=(12, 3))
    await ready(world, "OnlineEndpoint", "shop")


async def _scaled(world: World, **loads: tuple[float, int]) -> None:
    """Ask so much of each deployment, and wait until it has so many pods."""
    for name, (load, pods) in loads.items():
        world.load(f"shop-{name}", load, pods)

    def look() -> bool:
        told = {d["name"]: d for d in world.status("OnlineEndpoint", "shop").get("deployments", [])}
        return all(
            told.get(name, {}).get("readyReplicas") == pods and told[name].get("state") == "Ready"
            for name, (_, pods) in loads.items()
        )

    await world.until(f"shop has pods for {loads}", look)


# Artifacts that are deleted.


def _place(number: int) -> str:
    """Where a TrainingJob would have stored a version."""
    return f"trainingjobs/churn/job-{number}/model/"


def _stored(number: int) -> Manifest:
    made, place = version(number), _place(number)
    digest = hands.digest_of(place)
    uri = f"s3://lake/NAMESPACE/{place}{digest.removeprefix('sha256:')[:16]}/"
    format = {"format": {"name": "sklearn"}, "compile": {"to": "none"}}
    return {**made, "spec": {**made["spec"], "uri": uri, "digest": digest, **format}}


def _retiring() -> Manifest:
    made = model(champion="1")
    return {**made, "spec": {**made["spec"], "retention": {"versions": 1}, "deletionPolicy": "Delete"}}


STORED = tuple(_place(number) for number in (1, 2, 3))
RETIRING = (_retiring(), _stored(1), _stored(2), serving("shop", "churn@champion"))


async def deletes_its_artifacts(world: World) -> None:
    """A version that is served is deleted by hand, and the next one by retention when its alias has moved on."""
    await served(world, "churn-1")
    world.decide("churn-1-delete", "succeeds")
    world.decide("churn-2-delete", "fails", "succeeds")
    await world.delete("ModelVersion", "churn-1")
    await told(world, "Model", "churn", "ArtifactsDeleted", "churn-1 is still served by OnlineEndpoint shop")
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "2"}}})
    await served(world, "churn-2")
    await _deleted(world, 1)
    await world.apply(_stored(3))
    await ready(world, "ModelVersion", "churn-3")
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "3"}}})
    await served(world, "churn-3")
    await _deleted(world, 1, 2)
    await told(world, "Model", "churn", "ArtifactsDeleted", "1 artifacts are deleted when their versions are")


async def _deleted(world: World, *numbers: int) -> None:
    """Wait until the artifacts of these versions, and no others, are gone."""
    wanted = {f"/{_place(number)}" for number in numbers}

    def look() -> bool:
        return wanted == {place for place in map("/{}".format, STORED) if any(place in uri for uri in world.deleted)}

    await world.until(f"the artifacts of versions {numbers} are deleted", look)


# A pool.


def _small(name: str, **aliases: str) -> Manifest:
    return ours("Model", name, {"aliases": aliases}, labels={"tier": "small"})


def _version_of(name: str, number: int) -> Manifest:
    made = version(1)
    spec = {"model": name, "version": str(number), "uri": f"s3://lake/NAMESPACE/{name}-{number}.onnx"}
    return ours("ModelVersion", f"{name}-{number}", {**made["spec"], **spec})


SMALL: Manifest = {"selector": {"matchLabels": {"tier": "small"}}}
POOL = {"name": "all", "pool": {**SMALL, "alias": "champion", "maxLoadedMebibytes": 64}, "replicas": 2}
SMALL_ONES = ("churn-1.onnx", "churn-2.onnx", "fraud-1.onnx", "spam-1.onnx")
POOLED = (
    _small("churn", champion="1"),
    _small("fraud", champion="1"),
    _version_of("churn", 1),
    _version_of("fraud", 1),
    ours("OnlineEndpoint", "shop", {"deployments": [POOL]}),
)


async def changes_its_catalogue(world: World) -> None:
    """A Model comes, an alias moves to a version that comes later, a Model leaves; no pod restarts."""
    await _listed(world, churn="1", fraud="1")
    await world.until("both pods are there", lambda: len(world.all("Pod")) == POOL["replicas"])
    pods = {pod["metadata"]["uid"] for pod in world.all("Pod")}
    await world.apply(_small("spam", champion="1"), _version_of("spam", 1))
    await _listed(world, churn="1", fraud="1", spam="1")
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "2"}}})
    await told(world, "OnlineEndpoint", "shop", "Ready", "3 models, 1 without a ready version: churn")
    await world.apply(_version_of("churn", 2))
    await _listed(world, churn="2", fraud="1", spam="1")
    await world.edit("Model", "fraud", {"metadata": {"labels": {"tier": None}}})
    await _listed(world, churn="2", spam="1")
    assert {pod["metadata"]["uid"] for pod in world.all("Pod")} == pods, "another list is no reason for other pods"


async def _listed(world: World, **versions: str) -> None:
    """Wait until the list has these versions, and the endpoint says so."""

    def look() -> bool:
        packed = (world.get("ConfigMap", "shop-all-models") or {}).get("binaryData", {}).get(CATALOGUE_NAME)
        there = unpack(b64decode(packed)).values() if packed else ()
        return {entry.model: entry.version for entry in there} == versions

    await world.until(f"the pool has {versions}", look)
    await ready(world, "OnlineEndpoint", "shop")
    await told(world, "OnlineEndpoint", "shop", "Ready", f"{len(versions)} models")
