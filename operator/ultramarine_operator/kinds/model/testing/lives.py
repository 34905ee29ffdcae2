"""Lives of Models and their versions before the fault harness."""

from __future__ import annotations

from ultramarine_contract.meta import Manifest

from ....shared.testing import Life, World, applied, artifact_digest, until_message, until_true
from .samples import compiled, model, version


async def until_served(world: World, version: str, deployment: str = "blue", pods: int = 2) -> None:
    """Wait until the endpoint shop answers with one version only, from one deployment."""

    def look() -> bool:
        status = world.status("OnlineEndpoint", "shop")
        served = status.get("modelVersion") == version and status.get("traffic") == {deployment: 100}
        return served and len(world.all("Pod")) == pods

    await world.until(f"shop answers with {version} from {deployment}", look)
    await until_true(world, "OnlineEndpoint", "shop")


async def _moves_aliases(world: World) -> None:
    await until_true(world, "Model", "churn")
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "3"}}})
    await until_message(world, "Model", "churn", "Ready", "do not exist: champion -> 3")
    await world.apply(version(2))
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "2", "old": "1"}}})
    await until_true(world, "Model", "churn")
    await until_true(world, "ModelVersion", "churn-2")


async def _waits_for_its_artifact(world: World) -> None:
    await until_message(world, "ModelVersion", "churn-1", "Ready", "1.onnx")
    await world.store("1.onnx")
    await until_true(world, "ModelVersion", "churn-1")


async def _is_compiled(world: World) -> None:
    await until_message(world, "ModelVersion", "churn-1", "Compiled", "Job churn-1-compile")
    world.decide("churn-1-compile", "no-image")
    await until_message(world, "ModelVersion", "churn-1", "Compiled", "cannot pull image")
    world.decide("churn-1-compile", "succeeds")
    await until_true(world, "ModelVersion", "churn-1")


async def _is_not_compiled(world: World) -> None:
    world.decide("churn-1-compile", "differs")
    await until_message(world, "ModelVersion", "churn-1", "Compiled", "half of the labels differ")
    await until_true(world, "ModelVersion", "churn-1")


# Artifacts that are deleted.


def _place(number: int) -> str:
    """Folder in which a TrainingJob would have stored a version."""
    return f"trainingjobs/churn/job-{number}/model/"


def _stored(number: int) -> Manifest:
    made, place = version(number), _place(number)
    digest = artifact_digest(place)
    uri = f"s3://lake/NAMESPACE/{place}{digest.removeprefix('sha256:')[:16]}/"
    native = {"format": {"name": "sklearn"}, "compile": {"to": "none"}}
    return {**made, "spec": {**made["spec"], "uri": uri, "digest": digest, **native}}


PLACES = tuple(_place(number) for number in (1, 2, 3))
SHOP = applied("OnlineEndpoint", "shop", {"deployments": [{"name": "blue", "model": "churn@champion", "replicas": 2}]})


def _retiring() -> Manifest:
    made = model(champion="1")
    return {**made, "spec": {**made["spec"], "retention": {"versions": 1}, "deletionPolicy": "Delete"}}


async def _deletes_its_artifacts(world: World) -> None:
    """A served version is deleted by hand, and the next one by retention once its alias has moved on."""
    await until_served(world, "churn-1")
    world.decide("churn-1-delete", "succeeds")
    world.decide("churn-2-delete", "fails", "succeeds")
    await world.delete("ModelVersion", "churn-1")
    kept = "churn-1 is still served by OnlineEndpoint shop"
    await until_message(world, "Model", "churn", "ArtifactsDeleted", kept)
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "2"}}})
    await until_served(world, "churn-2")
    await _until_deleted(world, 1)
    await world.apply(_stored(3))
    await until_true(world, "ModelVersion", "churn-3")
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "3"}}})
    await until_served(world, "churn-3")
    await _until_deleted(world, 1, 2)
    kept = "1 artifacts are deleted when their versions are"
    await until_message(world, "Model", "churn", "ArtifactsDeleted", kept)


async def _until_deleted(world: World, *numbers: int) -> None:
    """Wait until the artifacts of these versions, and no others, are gone."""
    expected = {f"/{_place(number)}" for number in numbers}

    def look() -> bool:
        places = map("/{}".format, PLACES)
        return expected == {place for place in places if any(place in uri for uri in world.deleted)}

    await world.until(f"the artifacts of versions {numbers} are deleted", look)


SKOPS = ("1.skops", "2.skops")
MODEL_LIVES = (
    Life(
        "moves its aliases",
        (model(champion="1"), version(1)),
        _moves_aliases,
        ("1.onnx", "2.onnx"),
        edits=({"description": "another"}, {"aliases": {"champion": "1", "other": "9"}}),
        refused=(({"aliases": {"latest": "1"}}, "latest"),),
    ),
    Life(
        "deletes its artifacts",
        (_retiring(), _stored(1), _stored(2), SHOP),
        _deletes_its_artifacts,
        PLACES,
        edits=({"deletionPolicy": "Retain"}, {"retention": {"versions": 2}}),
        refused=(({"deletionPolicy": "Perhaps"}, "deletionPolicy"),),
    ),
)
VERSION_LIVES = (
    Life(
        "waits for its artifact",
        (version(1),),
        _waits_for_its_artifact,
        edits=({"allowCodeExecution": True},),
        refused=(({"digest": "sha256:" + "0" * 64}, "cannot be changed"),),
    ),
    Life("is compiled", (compiled(1),), _is_compiled, SKOPS),
    Life("is not compiled", (compiled(1),), _is_not_compiled, SKOPS),
)
