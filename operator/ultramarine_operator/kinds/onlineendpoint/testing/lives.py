"""Lives of OnlineEndpoints before the fault harness."""

from __future__ import annotations

import json

from ultramarine_contract.meta import Manifest

from ....shared.testing import Life, World, applied, until_message, until_true
from ...model.testing.lives import SKOPS, until_served
from ...model.testing.samples import compiled, model, native, version
from .load_lives import LOAD_LIVES
from .samples import serving


async def _is_served_compiled(world: World) -> None:
    world.decide("churn-1-compile", "fails", "succeeds")
    await until_served(world, "churn-1", pods=4)
    world.decide("churn-2-compile", "differs")
    await world.apply(compiled(2))
    await until_served(world, "churn-2", pods=5)
    await until_message(world, "ModelVersion", "churn-2", "Compiled", "the native model is served")


async def _is_compiled_behind_its_back(world: World) -> None:
    await until_true(world, "ModelVersion", "churn-1")
    world.decide("churn-1-compile", "fails", "succeeds")
    await until_message(world, "ModelVersion", "churn-1", "Compiled", "compared 1000 rows")
    await until_served(world, "churn-1", pods=4)

    def looks_for_it() -> bool:
        return "/compiled/" in json.dumps(world.get("Deployment", "shop-blue"))

    await world.until("shop serves what was compiled", looks_for_it)
    await until_served(world, "churn-1", pods=4)


async def _follows_its_alias(world: World) -> None:
    await until_served(world, "churn-1")
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "2"}}})
    await until_served(world, "churn-2")


async def _turns_its_traffic(world: World) -> None:
    await until_served(world, "churn-1", "blue", pods=3)
    await world.edit("OnlineEndpoint", "shop", {"spec": {"traffic": {"blue": 0, "green": 100}}})
    await until_served(world, "churn-2", "green", pods=3)


async def _exchanges_its_deployment(world: World) -> None:
    await until_served(world, "churn-1")
    await world.edit("OnlineEndpoint", "shop", {"spec": {"deployments": [_deployment("green", "churn@2", 2)]}})
    await until_served(world, "churn-2", "green")


async def _splits_its_traffic(world: World) -> None:
    await until_served(world, "churn-1", "blue", pods=3)
    await world.edit("OnlineEndpoint", "shop", {"spec": {"traffic": {"blue": 50, "green": 50}}})
    await world.until(
        "shop answers with both",
        lambda: world.status("OnlineEndpoint", "shop").get("traffic") == {"blue": 50, "green": 50},
    )
    copies: Manifest = {"traffic": {"blue": 0, "green": 100}, "mirrorTraffic": {"blue": 10}}
    await world.edit("OnlineEndpoint", "shop", {"spec": copies})
    await until_served(world, "churn-2", "green", pods=3)
    await until_true(world, "OnlineEndpoint", "shop", "RoutesReady")


async def _rolls_out(world: World) -> None:
    def phase() -> str:
        return str((world.status("OnlineEndpoint", "shop").get("rollout") or {}).get("phase"))

    await until_served(world, "churn-1", "blue", pods=3)
    rollout = {"candidate": "green", "steps": [50, 100], "stepSeconds": 1}
    await world.edit("OnlineEndpoint", "shop", {"spec": {"rollout": rollout}})
    await world.until("green is promoted", lambda: phase() == "Promoted")
    await until_served(world, "churn-2", "green", pods=3)
    await world.edit("OnlineEndpoint", "shop", {"spec": {"traffic": {"blue": 0, "green": 100}, "rollout": None}})
    await world.until("the rollout is forgotten", lambda: "rollout" not in world.status("OnlineEndpoint", "shop"))
    await until_served(world, "churn-2", "green", pods=3)
    await until_true(world, "OnlineEndpoint", "shop", "RoutesReady")


async def _exchanges_its_deployment_behind_the_gateway(world: World) -> None:
    await _exchanges_its_deployment(world)
    await world.until("blue is gone", lambda: world.get("Deployment", "shop-blue") is None)
    await until_true(world, "OnlineEndpoint", "shop", "RoutesReady")


async def _is_scaled(world: World) -> None:
    await until_served(world, "churn-1")
    for pods in (4, 0, 1):
        await world.edit("OnlineEndpoint", "shop", {"spec": {"deployments": [_deployment("blue", "churn@1", pods)]}})
        await world.until(f"{pods} pods", lambda pods=pods: len(world.all("Pod")) == pods)  # type: ignore[misc]
    await until_served(world, "churn-1", pods=1)


async def _gets_its_image(world: World) -> None:
    world.decide("shop-blue", "no-image")
    await until_message(world, "OnlineEndpoint", "shop", "Ready", "cannot pull image")
    world.decide("shop-blue", "runs")
    await until_served(world, "churn-1")


async def _answers_without_one(world: World) -> None:
    def shares() -> Manifest | None:
        return world.status("OnlineEndpoint", "shop").get("traffic")

    world.decide("shop-blue", "no-image")
    await until_message(world, "OnlineEndpoint", "shop", "Ready", "blue has no ready pod and gets none of its 60 %")
    await world.until("green answers all", lambda: shares() == {"green": 100})
    world.decide("shop-blue", "runs")
    await world.until("blue has its share", lambda: shares() == {"blue": 60, "green": 40})
    await until_true(world, "OnlineEndpoint", "shop")
    await until_true(world, "OnlineEndpoint", "shop", "RoutesReady")


async def _changes_its_script(world: World) -> None:
    await until_served(world, "churn-1")

    def scripts() -> list[str]:
        return [made["data"]["score.py"] for made in world.all("ConfigMap") if "score.py" in made.get("data", {})]

    second, third = "def run(data): return 2", "def run(data): return 3"
    await world.edit("OnlineEndpoint", "shop", {"spec": {"deployments": [_scored(second)]}})
    await world.until("the second script is there", lambda: second in scripts())
    await world.edit("OnlineEndpoint", "shop", {"spec": {"deployments": [_scored(third)]}})
    await world.until("the newest script is the only one", lambda: scripts() == [third])
    await until_served(world, "churn-1")


def _scored(text: str) -> Manifest:
    return {"name": "blue", "model": "churn@1", "replicas": 2, "scoring": {"source": {"inline": {"score.py": text}}}}


def _deployment(name: str, reference: str, replicas: int) -> Manifest:
    return {"name": name, "model": reference, "replicas": replicas}


def _both(**traffic: int) -> Manifest:
    endpoint = serving("shop", "churn@1")
    deployments = [_deployment("blue", "churn@1", 2), _deployment("green", "churn@2", 1)]
    endpoint["spec"] = {"traffic": traffic or {"blue": 100}, "deployments": deployments}
    return endpoint


ONE, TWO = ("1.onnx",), ("1.onnx", "2.onnx")
VERSIONS = (version(1), version(2))
ALONE = (version(1), serving("shop", "churn@1"))


def _with(*deployments: Manifest) -> Manifest:
    return {"deployments": list(deployments)}


def _blue(**fields: object) -> Manifest:
    return _with({"name": "blue", "model": "churn@1", **fields})


LIVES = (
    Life(
        "serves what was compiled", (model(), compiled(1), serving("shop", "churn@latest")), _is_served_compiled, SKOPS
    ),
    Life(
        "moves to what was compiled",
        (model(), native(1), serving("shop", "churn@latest")),
        _is_compiled_behind_its_back,
        SKOPS,
    ),
    Life(
        "follows its alias",
        (model(champion="1"), *VERSIONS, serving("shop", "churn@champion")),
        _follows_its_alias,
        TWO,
    ),
    Life(
        "turns its traffic",
        (*VERSIONS, _both()),
        _turns_its_traffic,
        TWO,
        refused=(({"traffic": {"blue": 50, "green": 20}}, "100"), ({"traffic": {"red": 100}}, "does not have")),
    ),
    Life("exchanges its deployment", (*VERSIONS, serving("shop", "churn@1")), _exchanges_its_deployment, TWO),
    Life(
        "splits its traffic",
        (*VERSIONS, _both()),
        _splits_its_traffic,
        TWO,
        routed=True,
        edits=({"traffic": {"blue": 50, "green": 50}}, {"mirrorTraffic": {"green": 10}}),
    ),
    Life(
        "exchanges its deployment behind the gateway",
        (*VERSIONS, serving("shop", "churn@1")),
        _exchanges_its_deployment_behind_the_gateway,
        TWO,
        routed=True,
    ),
    Life(
        "rolls out by steps",
        (*VERSIONS, _both()),
        _rolls_out,
        TWO,
        routed=True,
        refused=(({"rollout": {"candidate": "blue", "steps": [100]}}, "candidate"),),
    ),
    Life(
        "answers without a deployment",
        (*VERSIONS, _both(blue=60, green=40)),
        _answers_without_one,
        TWO,
        routed=True,
    ),
    *LOAD_LIVES,
    Life(
        "is scaled",
        ALONE,
        _is_scaled,
        ONE,
        edits=(
            {"authMode": "none"},
            {"keysSecretRef": {"name": "mine"}},
            {"traffic": {"blue": 100}},
            {"dataCollector": {"samplingRate": 0.5, "uri": "s3://lake/team-a/"}},
            _blue(replicas=3),
            _blue(replicas=0),
            _blue(model="churn@latest"),
            _blue(resources={"limits": {"memory": "1Gi"}}),
            _blue(name="green"),
            _blue(requestSettings={"timeoutSeconds": 5}),
            _blue(batching={"maxBatchSize": 8}),
            _blue(warmup={"request": "{}"}),
            _blue(scoring={"source": {"configMap": {"name": "mine"}}}, env=[{"name": "LEVEL", "value": "3"}]),
            _blue(scoring={"source": {"git": {"url": "https://git.example.com/churn.git"}}}),
            _blue(podTemplate={"sharedMemory": "1Gi", "serviceAccountName": "reader"}),
        ),
        refused=((_blue(replicas=-1), "replicas"), (_blue(replicas=10**6), "replicas")),
    ),
    Life(
        "changes its script",
        (version(1), applied("OnlineEndpoint", "shop", _with(_scored("def run(data): return 1")))),
        _changes_its_script,
        ONE,
    ),
    Life("gets its image", ALONE, _gets_its_image, ONE),
)
