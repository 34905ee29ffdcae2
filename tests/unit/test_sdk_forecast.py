"""Forecast of a pipeline's run: what would run, what is reused and why, and the time."""

from __future__ import annotations

from typing import Any

import pytest
from ultramarine.resources.dataset import DatasetPin
from ultramarine.resources.dataset_versions import NotReady, look_up
from ultramarine.resources.pipeline import PipelineSpec
from ultramarine.resources.pipeline_keys import Parts
from ultramarine.runs.forecast import Forecaster, StepForecast, estimate, seconds_of
from ultramarine_contract.cache_lookup import CacheAnswer
from ultramarine_contract.cache_records import CacheRecord
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.errors import StorageError
from ultramarine_contract.meta import Manifest
from ultramarine_contract.partitions import Partition
from ultramarine_operator.shared.testing import stored

DIGEST = f"sha256:{'a' * 64}"
OUTPUT = OutputRecord(uri="s3://lake/team-a/trainingjobs/x/table/", digest=DIGEST, bytes=1, format="")
CLEAN: Manifest = {"name": "clean", "trainingJob": {"command": ["clean", "$(params.rate)"], "outputs": {"table": {}}}}
TRAIN: Manifest = {
    "name": "train",
    "trainingJob": {"command": ["train"], "inputs": {"table": {"uri": "$(steps.clean.outputs.table)"}}},
}


MONTHS = tuple(
    Partition(f"month=2026-0{month}", (("month", f"2026-0{month}"),), f"sha256:{str(month) * 64}") for month in (1, 2)
)


def version(number: int) -> Manifest:
    """A ready version of the Dataset orders."""
    spec = {"dataset": "orders", "version": str(number), "uri": f"s3://lake/orders/{number}/", "digest": DIGEST}
    conditions = [{"type": "Ready", "status": "True"}]
    return stored("DatasetVersion", f"orders-{number}", spec, {"state": "Ready", "conditions": conditions})


class Cache:
    """Records by step, the parts that were asked for, and the Dataset orders whose version 3 has two partitions."""

    def __init__(self, *steps: str) -> None:
        self.steps, self.asked = steps, dict[str, Parts]()
        self.latest = {"latestReadyVersion": "3"}

    def environment(self, name: str) -> str:
        """No environment is built."""
        return ""

    def image(self, step: str) -> str:
        """All steps have run in one image."""
        return "trainer:1"

    def version(self, reference: str) -> DatasetPin | NotReady:
        """Resolve as the operator does."""
        objects = {
            ("Dataset", "orders"): stored("Dataset", "orders", {"aliases": {"golden": "2"}}, self.latest),
            **{("DatasetVersion", f"orders-{number}"): version(number) for number in (2, 3)},
        }
        return look_up(reference, lambda kind, name: objects.get((kind, name)))

    def partitions(self, pin: DatasetPin) -> tuple[Partition, ...]:
        """Version 3 has two months; the storage has lost version 2."""
        if pin.version == "orders-3":
            return MONTHS
        raise StorageError(f"{pin.uri} does not exist", "ArtifactNotFound")

    def find(self, kind: str, name: str) -> Manifest | None:
        """The Model kept is the only one."""
        return stored(kind, name, {}) if (kind, name) == ("Model", "kept") else None

    def look_up(self, step: str, parts: Parts) -> CacheAnswer:
        """Return the record of a step that has one."""
        self.asked[step] = parts
        if step not in self.steps:
            return CacheAnswer("", (), miss="parameters.rate is 0.2, and was 0.1 in run first")
        record = CacheRecord(key="k", outputs={"table": OUTPUT}, metrics={"auc": 0.9}, run="first")
        return CacheAnswer("k", (), record)


def forecast(cache: Cache, *steps: Manifest, history: dict[str, float] | None = None) -> dict[str, StepForecast]:
    """The forecast of a run by step."""
    spec = PipelineSpec.model_validate({"parameters": {"rate": {"type": "number"}}, "steps": list(steps)})
    made = Forecaster(spec, {"rate": 0.2}, cache, history or {})
    return {step.name: step for step in made.steps()}


def test_finally_always_runs():
    """A record of equal work is not looked up."""
    job = {"trainingJob": {"command": ["true"]}}
    spec = PipelineSpec.model_validate({"steps": [{"name": "clean", **job}], "finally": [{"name": "mail", **job}]})
    steps = {step.name: step for step in Forecaster(spec, {}, Cache("clean", "mail"), {}).steps()}
    assert shown(steps)["clean"][0] == "reused"
    assert shown(steps)["mail"] == ("runs", "steps of finally always run")


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


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("kept", ("reused", "the results are those of run first")),
        ("gone", ("runs", "Model gone was deleted since run first")),
    ],
)
def test_a_step_whose_model_was_deleted_runs(model, expected):
    """The run says the same, since a reused step registers nothing."""
    job = {"command": ["clean"], "outputs": {"table": {"registerAs": model}}}
    assert shown(forecast(Cache("clean"), {"name": "clean", "trainingJob": job})) == {"clean": expected}


def test_a_step_behind_one_that_runs_is_open():
    """Its key follows from results that do not exist yet, and the cache is not asked."""
    cache = Cache()
    steps = forecast(cache, CLEAN, TRAIN)
    assert shown(steps)["train"] == ("runs", "step clean runs; the cache is asked with its results")
    assert "train" not in cache.asked


@pytest.mark.parametrize("reference", ["orders@latest", "orders@golden", "orders@2"])
def test_a_step_that_reads_a_dataset_is_looked_up_by_the_version(reference: str):
    """The cache is asked with the digest of the version, in a job and in the trials of a sweep."""
    reads: Manifest = {"command": ["x"], "inputs": {"rows": {"dataset": reference}}}
    sweep: Manifest = {"trialTemplate": {"spec": reads}, "searchSpace": {"x": {"type": "float", "min": 0, "max": 1}}}
    cache = Cache("job", "sweep")
    steps = forecast(cache, {"name": "job", "trainingJob": reads}, {"name": "sweep", "sweep": sweep})
    assert {step.action for step in steps.values()} == {"reused"}
    assert {cache.asked[name].values["inputs.rows"] for name in ("job", "sweep")} == {DIGEST}


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("orders@newest", "inputs.rows: Dataset orders has no alias newest (it has: golden)"),
        ("orders@9", "inputs.rows: DatasetVersion orders-9 does not exist"),
        ("clean@latest", "inputs.rows: Dataset clean has no version yet"),
    ],
)
def test_a_step_that_waits_for_a_version_says_so(reference: str, words: str):
    """The cache is not asked, and a step behind it is open."""
    reads: Manifest = {"command": ["x"], "inputs": {"rows": {"dataset": reference}}, "outputs": {"table": {}}}
    cache = Cache("clean", "train")
    steps = forecast(cache, {"name": "clean", "trainingJob": reads}, TRAIN)
    assert (steps["clean"].action, cache.asked) == ("runs", {})
    assert steps["clean"].reason.startswith(words)
    assert shown(steps)["train"] == ("runs", "step clean runs; the cache is asked with its results")


MONTHLY: Manifest = {
    "command": ["month", "$(item.values.month)"],
    "inputs": {"orders": {"uri": "$(item.uri)", "digest": "$(item.digest)"}},
    "outputs": {"table": {}},
}
JOIN: Manifest = {
    "name": "join",
    "trainingJob": {"command": ["join"], "inputs": {"tables": {"uri": "$(steps.months.outputs.table)"}}},
}


def months(partitions: str) -> Manifest:
    """A step for each partition of a dataset."""
    return {"name": "months", "forEach": {"partitions": partitions}, "trainingJob": MONTHLY}


def test_a_step_for_each_partition_is_looked_up_for_each():
    """It is reused if each partition is; the step behind it gets the outputs of all, as in a run."""
    cache = Cache("months-0", "months-1", "join")
    steps = forecast(cache, months("orders@latest"), JOIN)
    assert shown(steps) == {
        "months": ("reused", "the results of 2 repetitions are those of earlier runs"),
        "join": ("reused", "the results are those of run first"),
    }
    assert cache.asked["months-1"].values["inputs.orders"] == MONTHS[1].digest
    assert cache.asked["months-1"].values["command"] == '["month", "2026-02"]'
    assert {"inputs.tables-0", "inputs.tables-1"} < cache.asked["join"].values.keys()


def test_a_new_partition_alone_runs():
    """The others are not counted, and the step behind is open."""
    steps = forecast(Cache("months-0", "join"), months("orders@3"), JOIN)
    words = "1 of 2 repetitions; months-1: parameters.rate is 0.2, and was 0.1 in run first"
    assert shown(steps)["months"] == ("runs", words)
    assert shown(steps)["join"] == ("runs", "step months runs; the cache is asked with its results")


@pytest.mark.parametrize(
    ("partitions", "words"),
    [
        ("orders@9", "forEach.partitions: DatasetVersion orders-9 does not exist (there are: none)"),
        ("orders@golden", "s3://lake/orders/2/ does not exist"),
    ],
)
def test_partitions_that_cannot_be_listed_leave_the_step_open(partitions: str, words: str):
    """The reason is that of the run."""
    step = forecast(Cache(), months(partitions))["months"]
    assert (step.action, step.reason) == ("runs", words)


def test_a_list_of_a_step_is_read_by_the_run():
    """A list in the pipeline is looked up entry by entry; one in an output is open."""
    own = {"name": "own", "forEach": {"items": ["n", "s"]}, "trainingJob": {"command": ["$(item)"]}}
    listed = {**own, "name": "listed", "forEach": {"items": "$(steps.clean.outputs.table)"}}
    steps = forecast(Cache("clean", "own-0", "own-1"), CLEAN, own, listed)
    assert steps["own"].action == "reused"
    words = "for each entry of a list that the run reads; the cache is asked for each"
    assert shown(steps)["listed"] == ("runs", words)


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
