"""What the stories of lives are made of: the Model churn with its versions, and the states that they wait for."""

from __future__ import annotations

from builders import WEIGHTS_DIGEST
from ultramarine_contract.meta import API_VERSION, Manifest
from ultramarine_operator.shared.conditions import find, is_true
from world import World


def model(**aliases: str) -> Manifest:
    """The Model churn."""
    return ours("Model", "churn", {"aliases": aliases})


def version(number: int) -> Manifest:
    """A version of it, made by hand."""
    spec = {
        "model": "churn",
        "version": str(number),
        "uri": f"s3://lake/NAMESPACE/{number}.onnx",
        "digest": WEIGHTS_DIGEST,
    }
    return ours("ModelVersion", f"churn-{number}", {**spec, "format": {"name": "onnx"}})


def native(number: int, **spec: object) -> Manifest:
    """A version that is compiled while it is served."""
    made = version(number)
    changes = {"uri": f"s3://lake/NAMESPACE/{number}.skops", "format": {"name": "sklearn"}, **spec}
    return {**made, "spec": {**made["spec"], **changes}}


def compiled(number: int) -> Manifest:
    """A version that is compiled before it is served."""
    return native(number, compile={"to": "onnx"})


def ours(kind: str, name: str, spec: Manifest, **meta: object) -> Manifest:
    """An object as a person applies it."""
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, **meta}, "spec": spec}


async def state(world: World, name: str, word: str) -> None:
    """Wait until a TrainingJob says that word."""
    await world.until(f"TrainingJob {name} is {word}", lambda: world.status("TrainingJob", name).get("state") == word)


async def ready(world: World, kind: str, name: str) -> None:
    """Wait until an object is Ready."""
    await world.until(f"{kind} {name} is ready", lambda: is_true(world.status(kind, name), "Ready"))


async def told(world: World, kind: str, name: str, condition: str, words: str) -> None:
    """Wait until a condition's message has these words."""

    def look() -> bool:
        return words in (find(world.status(kind, name), condition) or {}).get("message", "")

    await world.until(f"{condition} of {kind} {name} says {words!r}", look)


async def served(world: World, version: str, deployment: str = "blue", pods: int = 2) -> None:
    """Wait until the endpoint answers with one version only, from one deployment."""

    def look() -> bool:
        status = world.status("OnlineEndpoint", "shop")
        rightly = status.get("modelVersion") == version and status.get("traffic") == {deployment: 100}
        return rightly and is_true(status, "Ready") and len(world.all("Pod")) == pods

    await world.until(f"shop answers with {version} from {deployment}", look)


async def routed(world: World) -> None:
    """Wait until the endpoint says that every gateway pod has its routes."""
    await world.until("shop has its routes", lambda: is_true(world.status("OnlineEndpoint", "shop"), "RoutesReady"))


async def gone(world: World, *kinds: str) -> None:
    """Wait until nothing of these kinds is left."""
    await world.until(f"no {' and no '.join(kinds)} is left", lambda: not any(map(world.all, kinds)))
