"""Forecast of a pipeline's run: what would run, what is reused and why, and the time."""

from __future__ import annotations

from typing import Any

from ultramarine.resources.pipeline import PipelineSpec
from ultramarine.resources.pipeline_keys import Parts
from ultramarine.runs.forecast import Forecaster, StepForecast, estimate, seconds_of
from ultramarine_contract.cache_lookup import CacheAnswer
from ultramarine_contract.cache_records import CacheRecord
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.meta import Manifest

DIGEST = f"sha256:{'a' * 64}"
OUTPUT = OutputRecord(uri="s3://lake/team-a/trainingjobs/x/table/", digest=DIGEST, bytes=1, format="")
CLEAN: Manifest = {"name": "clean", "trainingJob": {"command": ["clean", "$(params.rate)"], "outputs": {"table": {}}}}
TRAIN: Manifest = {
    "name": "train",
    "trainingJob": {"command": ["train"], "inputs": {"table": {"uri": "$(steps.clean.outputs.table)"}}},
}


class Cache:
    """Records by step, and the parts that were asked for."""

    def __init__(self, *steps: str) -> None:
        self.steps, self.asked = steps, dict[str, Parts]()

    def __call__(self, step: str, parts: Parts) -> CacheAnswer:
        self.asked[step] = parts
        if step not in self.steps:
            return CacheAnswer("", (), miss="parameters.rate is 0.2, and was 0.1 in run first")
        record = CacheRecord(key="k", outputs={"table": OUTPUT}, metrics={"auc": 0.9}, run="first")
        return CacheAnswer("k", (), record)


def forecast(cache: Cache, *steps: Manifest, history: dict[str, float] | None = None) -> dict[str, StepForecast]:
    """The forecast of a run by step."""
    spec = PipelineSpec.model_validate({"parameters": {"rate": {"type": "number"}}, "steps": list(steps)})
    made = Forecaster(spec, {"rate": 0.2}, cache, lambda _: "", lambda _: "trainer:1", history or {})
    return {step.name: step for step in made.steps()}


def shown(steps: dict[str, StepForecast]) -> dict[str, tuple[str, str]]:
    """What is expected of each step."""
    return {name: (step.action, step.reason) for name, step in steps.items()}


def test_a_step_behind_a_reused_one_is_looked_up_by_content():
    """The reused step gives the digest of its output, so the next step's key is known."""
    cache = Cache("clean")
    steps = forecast(cache, CLEAN, TRAIN)
    assert shown(steps) == {
        "clean": ("reused", "the results are those of run first"),
        "train": ("runs", "parameters.rate is 0.2, and was 0.1 in run first"),
    }
    assert cache.asked["train"].values["inputs.table"] == DIGEST
    assert cache.asked["clean"].values["image"] == "trainer:1"
    assert cache.asked["clean"].values["command"] == '["clean", "0.2"]'
    assert steps["clean"].document["command"] == ["clean", "0.2"]


def test_a_step_behind_one_that_runs_is_open():
    """Its key follows from results that do not exist yet, and the cache is not asked."""
    cache = Cache()
    steps = forecast(cache, CLEAN, TRAIN)
    assert shown(steps)["train"] == ("runs", "step clean runs; the cache is asked with its results")
    assert "train" not in cache.asked


def test_a_step_that_reads_a_dataset_is_open():
    """The version is resolved by the run."""
    reads: Manifest = {"command": ["x"], "inputs": {"rows": {"dataset": "churn@latest"}}}
    step = forecast(Cache("reads"), {"name": "reads", "trainingJob": reads})["reads"]
    words = "inputs.rows is a dataset; the cache is asked with the version that the run resolves"
    assert (step.action, step.reason) == ("runs", words)


def test_conditions_are_decided_as_far_as_their_steps_are_reused():
    """A condition over reused metrics is decided now, and a step behind a skipped one is skipped."""
    job: Manifest = {"command": ["x"], "outputs": {"o": {}}}
    steps = forecast(
        Cache("clean"),
        CLEAN,
        {"name": "good", "when": "steps.clean.metrics.auc > 0.5", "trainingJob": job},
        {"name": "bad", "when": "steps.clean.metrics.auc > 0.95", "trainingJob": job},
        {"name": "after", "trainingJob": {"command": ["$(steps.bad.outputs.o)"]}},
        {"name": "open", "when": "steps.good.metrics.auc > 0.5", "trainingJob": job},
        {"name": "never", "cache": False, "trainingJob": job},
        {"name": "publish", "publish": {"model": "churn", "version": "1", "alias": "champion"}},
    )
    assert shown(steps) == {
        "clean": ("reused", "the results are those of run first"),
        "good": ("runs", "parameters.rate is 0.2, and was 0.1 in run first"),
        "bad": ("skipped", "steps.clean.metrics.auc > 0.95 is false"),
        "after": ("skipped", "step bad is skipped"),
        "open": ("runs", "if steps.good.metrics.auc > 0.5"),
        "never": ("runs", "cache is false"),
        "publish": ("runs", "it publishes a version"),
    }


def test_the_time_is_that_of_the_longest_way_through_what_runs():
    """Steps beside each other do not add up, reused ones take no time, and unknown times are named."""
    other: Manifest = {"name": "other", "trainingJob": {"command": ["x"]}}
    new: Manifest = {"name": "new", "trainingJob": {"command": ["x"]}}
    steps = forecast(Cache(), CLEAN, TRAIN, other, new, history={"clean": 10, "train": 20, "other": 25})
    assert estimate(steps.values()) == (30, ["new"])
    reused = forecast(Cache("clean"), CLEAN, TRAIN, history={"clean": 10, "train": 20})
    assert estimate(reused.values()) == (20, [])


def test_the_history_has_the_latest_time_that_a_step_ran():
    """Reused and failed steps show no time."""

    def run(**steps: Any) -> Manifest:
        times = {"startTime": "2030-01-01T00:00:00Z"}
        return {"status": {"steps": [{"name": name, **times, **fields} for name, fields in steps.items()]}}

    def took(seconds: int, state: str = "Succeeded", **fields: Any) -> Manifest:
        return {"state": state, "completionTime": f"2030-01-01T00:00:{seconds:02}Z", **fields}

    runs = [run(a=took(1, cached={"run": "x"}), b=took(2)), run(a=took(30), b=took(40), c=took(5, "Failed"))]
    assert seconds_of(runs) == {"a": 30, "b": 2}
