"""Versions of datasets that a run is pinned to as it begins."""

from __future__ import annotations

from typing import Any

import pytest
from builders import NOW, kinds_of, seen
from ultramarine.resources.pipeline import MAX_DATASETS
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds.pipeline.plan import plan_run
from ultramarine_operator.kinds.pipeline.testing.samples import after, done, planned, run_of
from ultramarine_operator.shared.plan import Plan
from ultramarine_operator.shared.testing import DIGEST, child, stored


def version(name: str, number: int = 1, **aliases: str) -> tuple[Manifest, Manifest]:
    """A Dataset whose newest version, which is ready, has that number."""
    spec = {"dataset": name, "version": str(number), "uri": f"s3://lake/{name}/{number}/", "digest": DIGEST}
    status = {"state": "Ready", "conditions": [{"type": "Ready", "status": "True"}]}
    owner = stored("Dataset", name, {"aliases": aliases}, {"latestReadyVersion": str(number)})
    return owner, stored("DatasetVersion", f"{name}-{number}", spec, status)


def reading(name: str, reference: str, /, *, output: str = "", **fields: Any) -> Manifest:
    """A step that reads a dataset, and registers its output in one if `output` names it."""
    outputs = {"outputs": {"o": {"dataset": output}}} if output else {"outputs": {"o": {}}}
    inputs = {"inputs": {"d": {"dataset": reference}}} if reference else {}
    return {"name": name, "cache": False, "trainingJob": {"command": ["true"], **inputs, **outputs}, **fields}


def pins(plan: Plan) -> dict[str, str]:
    """The versions of a run by reference."""
    return {dataset["reference"]: dataset.get("version", "") for dataset in plan.status.get("datasets", [])}


def first(*steps: Manifest, related: tuple[Manifest, ...] = (), **spec: Any) -> dict[str, str]:
    """The versions of a run after its first pass, without jobs."""
    run = run_of([*steps])
    inner = {**run.manifest["spec"]["pipelineSpec"], "parameters": spec.pop("parameters", {})}
    run.manifest["spec"] = {"pipelineSpec": inner, **spec}
    run = type(run)(run.manifest, type(run.spec).model_validate(run.manifest["spec"]))
    plan = plan_run(run, seen(related=related), NOW)
    assert not [made for made in plan.apply if made["kind"] == "TrainingJob"] or "datasets" not in plan.status
    return pins(plan)


def reads(plan: Plan) -> str:
    """The reference in the only job that a pass makes."""
    (made,) = plan.apply
    return str(made["spec"]["inputs"]["d"]["dataset"])


def test_all_steps_read_the_version_of_the_start():
    """The versions are in the status before any job is made; neither a newer one nor another operator changes them."""
    run = run_of([reading("a", "raw@latest"), reading("b", "raw@latest", after=["a"])])
    keeping = plan_run(run, seen(related=version("raw", 3)), NOW)
    assert (keeping.apply, pins(keeping)) == ((), {"raw@latest": "raw-3"})
    assert "Beginning" in {condition["reason"] for condition in keeping.status["conditions"]}

    related = (*version("raw", 3), *version("raw", 4))
    begun = planned(after(run, keeping), related=related)
    assert reads(begun) == "raw@3"
    second = planned(after(run, begun), done(run, begun.apply[0]), related=related)
    assert (reads(second), pins(second)) == ("raw@3", {"raw@latest": "raw-3"})


def test_each_reference_that_is_known_is_resolved():
    """Constants, parameters and lists, of jobs, searches and partitions; not what a step's output decides."""
    trial = {"command": ["true"], "inputs": {"d": {"dataset": "searched@golden"}}}
    sweep = {"searchSpace": {"x": {"choice": [1, 2]}}, "trialTemplate": {"spec": trial}}
    steps = (
        reading("a", "$(params.data)"),
        reading("b", "list-$(item)@1", forEach={"items": ["x", "y"]}),
        reading("c", "$(item.of)", forEach={"items": "$(params.list)"}),
        {"name": "d", "sweep": sweep},
        {**reading("e", ""), "forEach": {"partitions": "parts@latest"}},
        {**reading("f", "$(item)@latest"), "forEach": {"items": "$(steps.a.outputs.o)"}},
    )
    parameters = {
        "data": {"type": "dataset", "default": "raw@latest"},
        "list": {"type": "list", "default": [{"of": "z@7"}]},
    }
    related = (*version("raw", 2), *version("searched", 5, golden="5"), *version("list-y"))
    assert first(*steps, related=related, parameters=parameters) == {
        "raw@latest": "raw-2",
        "searched@golden": "searched-5",
        "list-x@1": "",
        "list-y@1": "list-y-1",
        "z@7": "",
        "parts@latest": "",
    }


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([reading("a", "", output="raw"), reading("b", "raw@latest", after=["a"])], set()),
        ([reading("a", "", output="raw"), reading("b", "raw@1", after=["a"])], {"raw@1"}),
        ([reading("a", "", output="raw"), reading("b", "raw@latest")], {"raw@latest"}),
        ([reading("a", "", output="raw"), reading("b", "", after=["a"]), reading("c", "raw@x", after=["b"])], set()),
        ([reading("a", "", output="raw"), reading("b", "clean@latest", after=["a"])], {"clean@latest"}),
        ([reading("a", "raw@latest", output="raw")], {"raw@latest"}),
        ([reading("a", "raw@latest", output="raw", forEach={"items": [1, 2]})], set()),
        (
            [
                {"name": "a", "publish": {"dataset": "raw", "version": "1", "alias": "x"}},
                reading("b", "raw@x", after=["a"]),
            ],
            set(),
        ),
        (
            [
                reading("a", "", output="$(item)", forEach={"items": "$(steps.z.outputs.o)"}),
                reading("b", "raw@latest", after=["a"]),
                reading("z", ""),
            ],
            set(),
        ),
        ([{"name": "a", "pipeline": {"name": "inner"}}, reading("b", "raw@latest", after=["a"])], {"inside@latest"}),
        ([{"name": "a", "pipeline": {"name": "gone"}}, reading("b", "raw@latest", after=["a"])], set()),
    ],
)
def test_a_version_that_the_run_may_make_is_not_resolved(steps: list[Manifest], expected: set[str]):
    """A step after one that registers in the Dataset reads the newest version of then; a number is always one."""
    inner = {"steps": [reading("n", "inside@latest", output="raw")], "parameters": {}}
    related = (*version("raw"), *version("clean"), *version("inside"), stored("Pipeline", "inner", inner))
    assert set(first(*steps, related=related)) == expected


def test_a_nested_run_reads_the_versions_of_its_owner():
    """Its references are resolved as the outer run begins, with the parameters that the step gives it."""
    inner = {"parameters": {"d": {"type": "dataset"}}, "steps": [reading("n", "$(params.d)"), reading("m", "raw@x")]}
    pipeline = stored("Pipeline", "inner", inner)
    call = {"name": "inner", "parameters": {"d": "raw@latest"}}
    related = (pipeline, *version("raw", 3, x="3"))
    assert first({"name": "a", "pipeline": call}, related=related) == {"raw@latest": "raw-3", "raw@x": "raw-3"}

    outer = run_of(status={"datasets": [{"reference": "raw@latest", "version": "raw-3"}, {"reference": "raw@x"}]})
    nested = run_of([reading("n", "raw@latest"), reading("m", "raw@x")])
    nested.manifest["metadata"]["ownerReferences"] = [{"kind": "PipelineRun", "name": "outer"}]
    owner = {**outer.manifest, "metadata": {**outer.manifest["metadata"], "name": "outer"}}
    newer = (owner, *version("raw", 3), *version("raw", 4, x="4"))
    assert pins(plan_run(nested, seen(related=newer), NOW)) == {"raw@latest": "raw-3", "raw@x": "raw-4"}


def test_a_dataset_that_does_not_exist_yet_is_awaited_by_the_job():
    """The version that the job finds is that of the later steps, too, though a newer one is there by then."""
    run = run_of([reading("a", "raw@latest"), reading("b", "raw@latest", after=["a"])])
    begun = planned(run)
    assert (reads(begun), pins(begun)) == ("raw@latest", {"raw@latest": ""})
    waiting = child("TrainingJob", "nightly-a", run, begun.apply[0]["spec"], {"state": "Pending"})
    related = version("raw", 2)
    assert pins(planned(after(run, begun), waiting, related=related)) == {"raw@latest": ""}

    found = {**waiting, "status": {"state": "Running", "datasets": {"d": {"version": "raw-1"}}}}
    taken = planned(after(run, begun), found, related=related)
    assert pins(taken) == {"raw@latest": "raw-1"}
    second = planned(after(run, taken), done(run, found), related=related)
    assert reads(second) == "raw@1"


def test_a_version_that_becomes_ready_before_a_step_needs_it_is_kept():
    """The run does not wait for it at its start."""
    run = run_of([reading("a", ""), reading("b", "raw@latest", after=["a"])])
    begun = planned(run)
    assert (kinds_of(begun.apply), pins(begun)) == (["TrainingJob/nightly-a"], {"raw@latest": ""})
    later = planned(after(run, begun), *begun.apply, related=version("raw", 2))
    assert pins(later) == {"raw@latest": "raw-2"}


def test_a_version_that_was_deleted_is_not_replaced():
    """The job waits for the version of the run, and says that it does not exist."""
    run = run_of([reading("a", ""), reading("b", "raw@latest", after=["a"])])
    begun = planned(run, related=version("raw", 2))
    gone = planned(after(run, begun), done(run, begun.apply[0]), related=version("raw", 3))
    assert reads(gone) == "raw@2"


def test_steps_that_are_taken_over_pin_nothing():
    """A resumed run reads the versions of its own start, for the steps that run."""
    steps = [reading("a", "raw@latest"), reading("b", "clean@latest", after=["a"])]
    over = {"completionTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Failed", "status": "True"}]}
    earlier = run_of(steps, {**over, "state": "Failed", "steps": [{"name": "a", "state": "Succeeded"}]}).manifest
    earlier["metadata"] = {**earlier["metadata"], "name": "earlier"}
    run = run_of(steps, rerun={"of": "earlier"})
    related = (earlier, *version("raw"), *version("clean", 2))
    assert pins(plan_run(run, seen(related=related), NOW)) == {"clean@latest": "clean-2"}


def test_a_run_with_very_many_datasets_keeps_the_first():
    """The others are resolved when their steps begin."""
    items = [f"d{number}" for number in range(MAX_DATASETS + 1)]
    assert len(first(reading("a", "$(item)@1", forEach={"items": items}))) == MAX_DATASETS


def test_pipelines_that_run_each_other_are_searched_for_a_while_only():
    """A pipeline that runs itself many times has many paths; the run goes on all the same."""
    calls = [{"name": f"s{number}", "pipeline": {"name": "inner"}} for number in range(100)]
    inner = stored("Pipeline", "inner", {"steps": [reading("n", "raw@latest"), *calls], "parameters": {}})
    assert set(first(*calls, related=(inner, *version("raw")))) == {"raw@latest"}
