"""Lives of pipelines and their runs before the fault harness."""

from __future__ import annotations

from ultramarine_contract.meta import Manifest

from ....shared.testing import Life, World, applied, until_message, until_state, until_true
from ...model.testing.samples import model, version
from .samples import applied_run, pipeline

KIND, NAME = "PipelineRun", "nightly"


def _job(step: str) -> Manifest:
    return {"command": [step], "outputs": {"model": {}}}


def _chain(count: int) -> list[Manifest]:
    """Steps each of which reads the output of the one before."""
    steps = [{"name": "s0", "trainingJob": _job("s0")}]
    for number in range(1, count):
        inputs = {"before": {"uri": f"$(steps.s{number - 1}.outputs.model)"}}
        steps.append({"name": f"s{number}", "trainingJob": {**_job(f"s{number}"), "inputs": inputs}})
    return steps


def _layers(layers: int, width: int) -> list[Manifest]:
    """Layers of steps, each of which begins after all of the layer before."""
    names = [[f"l{layer}-{number}" for number in range(width)] for layer in range(layers)]
    return [
        {"name": name, "after": names[layer - 1] if layer else [], "trainingJob": _job(name)}
        for layer in range(layers)
        for name in names[layer]
    ]


def _uncached(steps: list[Manifest]) -> list[Manifest]:
    return [{**step, "cache": False} for step in steps]


async def _is_checked(world: World) -> None:
    await until_true(world, "Pipeline", "churn")


async def _succeeds(world: World) -> None:
    for step in ("s0", "s1", "s2"):
        world.decide(f"{NAME}-{step}", "succeeds")
    await until_state(world, KIND, NAME, "Succeeded")


async def _runs_twenty_steps(world: World) -> None:
    for step in _layers(4, 5):
        world.decide(f"{NAME}-{step['name']}", "succeeds")
    await until_state(world, KIND, NAME, "Succeeded")


async def _fails(world: World) -> None:
    world.decide(f"{NAME}-s0", "succeeds")
    world.decide(f"{NAME}-s1", "fails")
    world.decide(f"{NAME}-last", "succeeds")
    await until_state(world, KIND, NAME, "Failed")


async def _is_suspended(world: World) -> None:
    await until_state(world, "TrainingJob", f"{NAME}-s0", "Running")
    await world.edit(KIND, NAME, {"spec": {"suspend": True}})
    await until_state(world, "TrainingJob", f"{NAME}-s0", "Suspended")
    await world.edit(KIND, NAME, {"spec": {"suspend": False}})
    await _succeeds(world)


async def _is_cancelled(world: World) -> None:
    await until_state(world, "TrainingJob", f"{NAME}-s0", "Running")
    await world.edit(KIND, NAME, {"spec": {"cancel": True}})
    await until_state(world, KIND, NAME, "Cancelled")


async def _follows_a_pipeline(world: World) -> None:
    await _succeeds(world)


async def _publishes(world: World) -> None:
    """The alias waits for the files of the new version, moves to it, and does not move back."""
    world.decide(f"{NAME}-s0", "succeeds")
    await until_message(world, "ModelVersion", "churn-2", "Ready", "2.onnx")
    await world.store("2.onnx")
    await until_state(world, KIND, NAME, "Succeeded")
    aliases = (world.get("Model", "churn") or {}).get("spec", {}).get("aliases")
    assert aliases == {"champion": "2"}, f"the alias does not lead to the published version: {aliases}"
    states = {step["name"]: step["state"] for step in world.status(KIND, NAME)["steps"]}
    assert states == {"s0": "Succeeded", "publish": "Succeeded", "back": "Skipped"}


def _alias(version: str) -> Manifest:
    return {"model": "churn", "version": version, "alias": "champion"}


_FAILING = {
    "steps": _uncached([{**step, "trainingJob": {**step["trainingJob"], "backoffLimit": 0}} for step in _chain(3)]),
    "finally": [{"name": "last", "cache": False, "trainingJob": _job("last")}],
}
_PUBLISHING = [
    *_uncached(_chain(1)),
    {"name": "publish", "after": ["s0"], "publish": _alias("2")},
    {"name": "back", "after": ["publish"], "publish": _alias("1")},
]
PIPELINE_LIVES = (
    Life(
        "is checked",
        (applied("Pipeline", "churn", pipeline()),),
        _is_checked,
        edits=({"description": "edited"},),
        refused=(({"steps": []}, "steps"),),
    ),
)
LIVES = (
    Life(
        "succeeds",
        (applied_run(NAME, _uncached(_chain(3))),),
        _succeeds,
        edits=({"ttlSecondsAfterFinished": 3600},),
        refused=(({"parameters": {"rate": 0.5}}, "cannot be changed"),),
    ),
    Life("fails", (applied_run(NAME, _FAILING["steps"], **{"finally": _FAILING["finally"]}),), _fails),
    Life("is suspended", (applied_run(NAME, _uncached(_chain(1))),), _is_suspended),
    Life("is cancelled", (applied_run(NAME, _uncached(_chain(2))),), _is_cancelled),
    Life("runs twenty steps", (applied_run(NAME, _uncached(_layers(4, 5))),), _runs_twenty_steps),
    Life(
        "follows a pipeline",
        (applied("Pipeline", "churn", {"steps": _uncached(_chain(3))}), applied(KIND, NAME, {"pipeline": "churn"})),
        _follows_a_pipeline,
    ),
    Life(
        "publishes",
        (model(champion="1"), version(1), version(2), applied_run(NAME, _PUBLISHING)),
        _publishes,
        ("1.onnx",),
    ),
)
