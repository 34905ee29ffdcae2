"""How a kind joins: a life names the manifests that begin it, and tells what happens to them until it has ended."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import sweep_stories
import trial_stories
from awaited import compiled, gone, model, native, ready, routed, served, state, told, version
from builders import searching, serving, training
from serving_lives import (
    LOADS,
    POOLED,
    RETIRING,
    SCALED,
    SMALL_ONES,
    STORED,
    changes_its_catalogue,
    deletes_its_artifacts,
    follows_its_load,
)
from ultramarine_contract.meta import Manifest
from ultramarine_operator.runs.queues import LABEL_QUEUE
from world import World


@dataclass(frozen=True)
class Life:
    """One way in which objects of a kind live.

    `story` does what people and the world do to them, and returns when nothing more is going to happen. It waits for
    states, not for moments: it must be able to go on after the operator was away, whatever was missed.
    `artifacts` are in the storage from the beginning. The word NAMESPACE in a manifest becomes the run's own. With
    `routed` the namespace has a gateway. `loads` are asked of Deployments from the beginning, with the pods they need.
    With `heard` the operator listens to what pods post.
    """

    kind: str
    name: str
    manifests: tuple[Manifest, ...]
    story: Callable[[World], Awaitable[None]]
    artifacts: tuple[str, ...] = ()
    routed: bool = False
    loads: tuple[tuple[str, float, int], ...] = ()
    heard: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


# The stories.


async def _succeeds(world: World) -> None:
    await state(world, "churn", "Running")
    world.decide("churn", "succeeds")
    await state(world, "churn", "Succeeded")
    await ready(world, "ModelVersion", "churn-1")


async def _fails(world: World) -> None:
    await state(world, "churn", "Running")
    world.decide("churn", "fails")
    await state(world, "churn", "Failed")


async def _is_retried(world: World) -> None:
    world.decide("churn", "fails", "succeeds")
    await state(world, "churn", "Succeeded")
    await ready(world, "ModelVersion", "churn-1")


async def _is_suspended(world: World) -> None:
    await state(world, "churn", "Suspended")
    await world.edit("TrainingJob", "churn", {"spec": {"suspend": False}})
    await state(world, "churn", "Running")
    await world.edit("TrainingJob", "churn", {"spec": {"suspend": True}})
    await state(world, "churn", "Suspended")
    await gone(world, "Pod")
    await world.edit("TrainingJob", "churn", {"spec": {"suspend": False}})
    await _succeeds(world)


async def _works_together(world: World) -> None:
    await told(world, "TrainingJob", "churn", "Running", "2 of 2 pods run")
    world.decide("churn", "fails", "succeeds")
    await state(world, "churn", "Succeeded")


async def _waits_in_a_queue(world: World) -> None:
    world.make_room(True)
    await state(world, "churn", "Running")
    world.make_room(False)  # somebody more important needs it
    await told(world, "TrainingJob", "churn", "Running", "queue night holds it")
    await gone(world, "Pod")
    await world.edit("TrainingJob", "churn", {"spec": {"suspend": True}})
    await state(world, "churn", "Suspended")
    await gone(world, "Job", "Pod")
    world.decide("churn", "succeeds")
    world.make_room(True)
    await world.edit("TrainingJob", "churn", {"spec": {"suspend": False}})
    await state(world, "churn", "Succeeded")


async def _gets_more_memory(world: World) -> None:
    await state(world, "churn", "Running")
    world.decide("churn", "is-hungry")
    await state(world, "churn", "Succeeded")


async def _finds_no_place(world: World) -> None:
    world.decide("churn", "no-node")
    await world.edit("TrainingJob", "churn", {"spec": {"suspend": False}})
    await state(world, "churn", "Failed")
    await gone(world, "Job", "Pod")


async def _expires(world: World) -> None:
    world.decide("churn", "succeeds")
    await world.until("it is there", lambda: world.get("ModelVersion", "churn-1"))
    await world.until("it is gone", lambda: not world.get("TrainingJob", "churn") and not world.all("Pod"))
    await ready(world, "ModelVersion", "churn-1")


async def _is_mended(world: World) -> None:
    for trouble, words in (
        ("no-image", "cannot pull image"),
        ("no-node", "no node takes"),
        ("no-secret", "Secret hub"),
    ):
        world.decide("churn", trouble)  # type: ignore[arg-type]
        await told(world, "TrainingJob", "churn", "Running", words)
    world.decide("churn", "succeeds")
    await state(world, "churn", "Succeeded")
    await ready(world, "ModelVersion", "churn-1")


async def _moves_aliases(world: World) -> None:
    await ready(world, "Model", "churn")
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "3"}}})
    await told(world, "Model", "churn", "Ready", "do not exist: champion -> 3")
    await world.apply(version(2))
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "2", "old": "1"}}})
    await ready(world, "Model", "churn")
    await ready(world, "ModelVersion", "churn-2")


async def _waits_for_its_artifact(world: World) -> None:
    await told(world, "ModelVersion", "churn-1", "Ready", "1.onnx")
    await world.store("1.onnx")
    await ready(world, "ModelVersion", "churn-1")


async def _is_compiled(world: World) -> None:
    await told(world, "ModelVersion", "churn-1", "Compiled", "Job churn-1-compile")
    world.decide("churn-1-compile", "no-image")
    await told(world, "ModelVersion", "churn-1", "Compiled", "cannot pull image")
    world.decide("churn-1-compile", "succeeds")
    await ready(world, "ModelVersion", "churn-1")


async def _is_served_compiled(world: World) -> None:
    world.decide("churn-1-compile", "fails", "succeeds")
    await served(world, "churn-1", pods=4)
    world.decide("churn-2-compile", "differs")
    await world.apply(compiled(2))
    await served(world, "churn-2", pods=5)
    await told(world, "ModelVersion", "churn-2", "Compiled", "the native model is served")


async def _is_not_compiled(world: World) -> None:
    world.decide("churn-1-compile", "differs")
    await told(world, "ModelVersion", "churn-1", "Compiled", "half of the labels differ")
    await ready(world, "ModelVersion", "churn-1")


async def _is_compiled_behind_its_back(world: World) -> None:
    await ready(world, "ModelVersion", "churn-1")
    world.decide("churn-1-compile", "fails", "succeeds")
    await told(world, "ModelVersion", "churn-1", "Compiled", "1000 rows were compared")
    await served(world, "churn-1", pods=4)

    def looks_for_it() -> bool:
        return "/compiled/" in json.dumps(world.get("Deployment", "shop-blue"))

    await world.until("shop serves what was compiled", looks_for_it)
    await served(world, "churn-1", pods=4)


async def _follows_its_alias(world: World) -> None:
    await served(world, "churn-1")
    await world.edit("Model", "churn", {"spec": {"aliases": {"champion": "2"}}})
    await served(world, "churn-2")


async def _turns_its_traffic(world: World) -> None:
    await served(world, "churn-1", "blue", pods=3)
    await world.edit("OnlineEndpoint", "shop", {"spec": {"traffic": {"blue": 0, "green": 100}}})
    await served(world, "churn-2", "green", pods=3)


async def _exchanges_its_deployment(world: World) -> None:
    await served(world, "churn-1")
    await world.edit("OnlineEndpoint", "shop", {"spec": {"deployments": [_deployment("green", "churn@2", 2)]}})
    await served(world, "churn-2", "green")


async def _splits_its_traffic(world: World) -> None:
    await served(world, "churn-1", "blue", pods=3)
    await world.edit("OnlineEndpoint", "shop", {"spec": {"traffic": {"blue": 50, "green": 50}}})
    await world.until(
        "shop answers with both",
        lambda: world.status("OnlineEndpoint", "shop").get("traffic") == {"blue": 50, "green": 50},
    )
    copies = {"traffic": {"blue": 0, "green": 100}, "mirrorTraffic": {"blue": 10}}
    await world.edit("OnlineEndpoint", "shop", {"spec": copies})
    await served(world, "churn-2", "green", pods=3)
    await routed(world)


async def _rolls_out(world: World) -> None:
    def phase() -> str:
        return str((world.status("OnlineEndpoint", "shop").get("rollout") or {}).get("phase"))

    await served(world, "churn-1", "blue", pods=3)
    rollout = {"candidate": "green", "steps": [50, 100], "stepSeconds": 1}
    await world.edit("OnlineEndpoint", "shop", {"spec": {"rollout": rollout}})
    await world.until("green is promoted", lambda: phase() == "Promoted")
    await served(world, "churn-2", "green", pods=3)
    await world.edit("OnlineEndpoint", "shop", {"spec": {"traffic": {"blue": 0, "green": 100}, "rollout": None}})
    await world.until("the rollout is forgotten", lambda: "rollout" not in world.status("OnlineEndpoint", "shop"))
    await served(world, "churn-2", "green", pods=3)
    await routed(world)


async def _exchanges_its_deployment_behind_the_gateway(world: World) -> None:
    await _exchanges_its_deployment(world)
    await world.until("blue is gone", lambda: world.get("Deployment", "shop-blue") is None)
    await routed(world)


async def _is_scaled(world: World) -> None:
    await served(world, "churn-1")
    for pods in (4, 0, 1):
        await world.edit("OnlineEndpoint", "shop", {"spec": {"deployments": [_deployment("blue", "churn@1", pods)]}})
        await world.until(f"{pods} pods", lambda pods=pods: len(world.all("Pod")) == pods)  # type: ignore[misc]
    await served(world, "churn-1", pods=1)


async def _gets_its_image(world: World) -> None:
    world.decide("shop-blue", "no-image")
    await told(world, "OnlineEndpoint", "shop", "Ready", "cannot pull image")
    world.decide("shop-blue", "runs")
    await served(world, "churn-1")


async def _answers_without_one(world: World) -> None:
    def shares() -> Manifest | None:
        return world.status("OnlineEndpoint", "shop").get("traffic")

    world.decide("shop-blue", "no-image")
    await told(world, "OnlineEndpoint", "shop", "Ready", "blue has no ready pod and gets none of its 60 %")
    await world.until("green answers all", lambda: shares() == {"green": 100})
    world.decide("shop-blue", "runs")
    await world.until("blue has its share", lambda: shares() == {"blue": 60, "green": 40})
    await ready(world, "OnlineEndpoint", "shop")
    await routed(world)


def _deployment(name: str, reference: str, replicas: int) -> Manifest:
    return {"name": name, "model": reference, "replicas": replicas}


def _queued() -> Manifest:
    job = training("churn", outputs={})
    return {**job, "metadata": {**job["metadata"], "labels": {LABEL_QUEUE: "night"}}}


def _both(**traffic: int) -> Manifest:
    endpoint = serving("shop", "churn@1")
    deployments = [_deployment("blue", "churn@1", 2), _deployment("green", "churn@2", 1)]
    endpoint["spec"] = {"traffic": traffic or {"blue": 100}, "deployments": deployments}
    return endpoint


ONE, TWO = ("1.onnx",), ("1.onnx", "2.onnx")
SKOPS = ("1.skops", "2.skops")
SOME, MORE = {"limits": {"memory": "1Gi"}}, {"factor": 1.5, "maxMemory": "4Gi"}
LIVES = (
    Life("TrainingJob", "succeeds", (training("churn"),), _succeeds),
    Life("TrainingJob", "fails", (training("churn", backoffLimit=0),), _fails),
    Life("TrainingJob", "is retried", (training("churn", backoffLimit=1),), _is_retried),
    Life("TrainingJob", "is suspended and resumed", (training("churn", suspend=True),), _is_suspended),
    Life("TrainingJob", "expires", (training("churn", ttlSecondsAfterFinished=0),), _expires),
    Life("TrainingJob", "is mended", (training("churn"),), _is_mended),
    Life(
        "TrainingJob",
        "works together",
        (training("churn", nodes=2, framework="none", backoffLimit=1, outputs={}),),
        _works_together,
    ),
    Life("TrainingJob", "waits in a queue", (_queued(),), _waits_in_a_queue),
    Life(
        "TrainingJob",
        "gets more memory",
        (training("churn", backoffLimit=0, resources=SOME, onOutOfMemory=MORE, outputs={}),),
        _gets_more_memory,
    ),
    Life(
        "TrainingJob",
        "finds no place",
        (training("churn", suspend=True, pendingDeadlineSeconds=2),),
        _finds_no_place,
    ),
    Life("Model", "moves its aliases", (model(champion="1"), version(1)), _moves_aliases, TWO),
    Life("Model", "deletes its artifacts", RETIRING, deletes_its_artifacts, STORED),
    Life("ModelVersion", "waits for its artifact", (version(1),), _waits_for_its_artifact),
    Life("ModelVersion", "is compiled", (compiled(1),), _is_compiled, SKOPS),
    Life("ModelVersion", "is not compiled", (compiled(1),), _is_not_compiled, SKOPS),
    Life(
        "OnlineEndpoint",
        "serves what was compiled",
        (model(), compiled(1), serving("shop", "churn@latest")),
        _is_served_compiled,
        SKOPS,
    ),
    Life(
        "OnlineEndpoint",
        "moves to what was compiled",
        (model(), native(1), serving("shop", "churn@latest")),
        _is_compiled_behind_its_back,
        SKOPS,
    ),
    Life(
        "OnlineEndpoint",
        "follows its alias",
        (model(champion="1"), version(1), version(2), serving("shop", "churn@champion")),
        _follows_its_alias,
        TWO,
    ),
    Life("OnlineEndpoint", "turns its traffic", (version(1), version(2), _both()), _turns_its_traffic, TWO),
    Life(
        "OnlineEndpoint",
        "exchanges its deployment",
        (version(1), version(2), serving("shop", "churn@1")),
        _exchanges_its_deployment,
        TWO,
    ),
    Life("OnlineEndpoint", "splits its traffic", (version(1), version(2), _both()), _splits_its_traffic, TWO, True),
    Life(
        "OnlineEndpoint",
        "exchanges its deployment behind the gateway",
        (version(1), version(2), serving("shop", "churn@1")),
        _exchanges_its_deployment_behind_the_gateway,
        TWO,
        True,
    ),
    Life("OnlineEndpoint", "rolls out by steps", (version(1), version(2), _both()), _rolls_out, TWO, True),
    Life(
        "OnlineEndpoint",
        "answers without a deployment",
        (version(1), version(2), _both(blue=60, green=40)),
        _answers_without_one,
        TWO,
        True,
    ),
    Life("OnlineEndpoint", "follows its load", SCALED, follows_its_load, ONE, True, LOADS),
    Life("OnlineEndpoint", "changes its catalogue", POOLED, changes_its_catalogue, SMALL_ONES),
    Life("OnlineEndpoint", "is scaled", (version(1), serving("shop", "churn@1")), _is_scaled, ONE),
    Life("OnlineEndpoint", "gets its image", (version(1), serving("shop", "churn@1")), _gets_its_image, ONE),
    Life("Sweep", "finds the best", (sweep_stories.registering(),), sweep_stories.finds_the_best),
    Life("Sweep", "is steered", (searching("hpo"),), sweep_stories.is_steered),
    Life("Sweep", "waits with its workers", (sweep_stories.queued(),), sweep_stories.waits_in_a_queue),
    Life("Sweep", "loses its pods", (searching("hpo"),), sweep_stories.loses_its_pods),
    Life("Sweep", "loses its token", (searching("hpo"),), sweep_stories.loses_its_token),
    Life("Sweep", "is given up", (searching("hpo"),), sweep_stories.is_given_up),
    *(
        Life("Sweep", name, (manifest,), story, heard=True)
        for name, manifest, story in (
            ("has a job for each trial", trial_stories.registering(), trial_stories.has_a_job_for_each_trial),
            ("loses jobs of trials", trial_stories.trying_twice(), trial_stories.loses_jobs_of_trials),
            ("loses the token of trials", trial_stories.one_by_one(), trial_stories.loses_the_token_of_trials),
            ("pauses a trial", trial_stories.pausing(), trial_stories.pauses_a_trial),
            ("holds its trials and is deleted", trial_stories.steered(), trial_stories.holds_its_trials_and_is_deleted),
        )
    ),
)
# A change of the spec that each kind allows: promise 4 makes it and takes it back.
EDITS: dict[str, Manifest] = {
    "TrainingJob": {"backoffLimit": 7},
    "Model": {"description": "another one"},
    "ModelVersion": {"allowCodeExecution": True},
    "OnlineEndpoint": {"authMode": "none"},
    "Sweep": {"ttlSecondsAfterFinished": 86400},
}
