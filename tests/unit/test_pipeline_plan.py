"""Plans of pipelines and their runs."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from builders import NOW, condition, kinds_of, seen
from ultramarine.resources.pipeline import MAX_STEPS
from ultramarine_contract.cache_records import ANNOTATION_CACHE, CacheRecord, CacheTask
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.errors import InvalidSpec, StorageError
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds.pipeline.plan import plan_pipeline, plan_run, questions_run
from ultramarine_operator.kinds.pipeline.room import MAX_BYTES
from ultramarine_operator.kinds.pipeline.testing.samples import (
    STEPS,
    after,
    answer,
    done,
    pipeline,
    planned,
    read_pipeline,
    run_of,
)
from ultramarine_operator.shared.plan import Obj, Plan
from ultramarine_operator.shared.questions import CacheAnswer, LookUpStep, ReadText
from ultramarine_operator.shared.testing import DIGEST, child, stored

OUT = "s3://lake/team-a/trainingjobs/old/uid/table/0123456789abcdef/"


def step(name: str, /, *, job: Manifest | None = None, **fields: Any) -> Manifest:
    """A step without the cache, unless it says otherwise."""
    return {"name": name, "cache": False, "trainingJob": {"command": ["true"], **(job or {})}, **fields}


def states(plan: Plan) -> dict[str, str]:
    """The state of each step."""
    return {state["name"]: state["state"] for state in plan.status["steps"]}


def state(plan: Plan, name: str) -> Manifest:
    """The status of one step."""
    return next(entry for entry in plan.status["steps"] if entry["name"] == name)


class Story:
    """A run whose passes follow each other; objects that it makes are there at the next pass."""

    def __init__(self, run: Obj[Any], *others: Manifest, **more: Any) -> None:
        self.run, self.others, self.more = run, others, more
        self.children: dict[str, Manifest] = {}

    def look(self, **more: Any) -> Plan:
        """One pass."""
        plan = planned(self.run, *self.children.values(), related=self.others, **{**self.more, **more})
        for made in plan.apply:
            name, known = made["metadata"]["name"], self.children.get(made["metadata"]["name"], {})
            self.children[name] = child(made["kind"], name, self.run, made.get("spec"), known.get("status"))
            self.children[name] |= {"data": made["data"]} if "data" in made else {}
        for gone in plan.delete:
            del self.children[gone.name]
        self.run = after(self.run, plan)
        return plan

    def end(self, name: str, state: str = "Succeeded", **status: Any) -> None:
        """Let an object end."""
        self.children[name] = done(self.run, self.children[name], state, **status)

    def edit(self, **spec: Any) -> None:
        """Change the run's spec."""
        self.run = run_read({**self.run.manifest, "spec": {**self.run.manifest["spec"], **spec}})


def run_read(manifest: Manifest) -> Obj[Any]:
    """A run with its spec read."""
    return Obj(manifest, type(run_of().spec).model_validate(manifest["spec"]))


def test_a_linear_run_passes_outputs_on():
    """Each step begins when the one before has ended, with its output as input; the outputs are the run's."""
    story = Story(run_of([{**s, "cache": False} for s in STEPS], outputs={"model": "$(steps.train.outputs.model)"}))
    first = story.look()
    assert kinds_of(first.apply) == ["TrainingJob/nightly-clean"]
    assert first.apply[0]["spec"]["command"] == ["clean", "--rate=0.1"]
    assert states(first) == {"clean": "Running", "train": "Waiting"}

    assert not story.look().apply
    story.end("nightly-clean")
    second = story.look()
    assert kinds_of(second.apply) == ["TrainingJob/nightly-train"]
    uri = second.apply[0]["spec"]["inputs"]["table"]["uri"]
    assert uri == state(second, "clean")["outputs"]["table"]["uri"]
    assert second.apply[0]["spec"]["command"] == ["train", "$(inputs.table)"]

    story.end("nightly-train")
    last = story.look()
    assert last.status["state"] == "Succeeded"
    assert last.status["progress"] == "2/2"
    assert last.status["outputs"]["model"] == state(last, "train")["outputs"]["model"]


def test_the_defaults_of_a_pipeline_complete_jobs_and_trials():
    """A job and the trials of a sweep have the image and the resources that they do not set themselves."""
    resources = {"requests": {"cpu": "2"}}
    steps = [step("a"), step("b", job={"image": "own:1"}), {"name": "tune", "cache": False, "sweep": SWEEP}]
    plan = planned(run_of(steps, defaults={"image": "ours:1", "resources": resources}))
    a, b, tune = (made["spec"] for made in plan.apply)
    assert (a["image"], a["resources"]) == ("ours:1", resources)
    assert (b["image"], b["resources"]) == ("own:1", resources)
    trial = tune["trialTemplate"]["spec"]
    assert (trial["image"], trial["resources"]) == ("ours:1", resources)
    assert "image" not in tune


def test_an_object_deleted_by_hand_is_made_again():
    """The object of a running step comes back under its name; that of an ended step is not missed."""
    story = Story(run_of([step("a"), step("b", after=["a"])]))
    story.look()
    story.children.clear()
    assert kinds_of(story.look().apply) == ["TrainingJob/nightly-a"]
    story.end("nightly-a")
    story.look()
    del story.children["nightly-a"]
    assert not story.look().apply
    assert states(story.look()) == {"a": "Succeeded", "b": "Running"}


def test_a_pass_without_news_changes_nothing():
    """A second look at the same world is the same status, and no write."""
    story = Story(run_of())
    first = story.look()
    second = story.look()
    assert (second.apply, second.status) == ((), first.status)


def test_a_failure_skips_what_depends_on_it_and_begins_no_other_step():
    """By default no step begins after a failure; with continueOnStepFailure only its dependents are skipped."""
    steps = [step("a"), step("b", after=["a"]), step("x"), step("y", after=["x"])]
    for goes_on, y in ((False, "Skipped"), (True, "Running")):
        story = Story(run_of(steps, continueOnStepFailure=goes_on))
        story.look()
        story.end("nightly-a", "Failed", failure={"message": "exit 1", "hint": "read its log"})
        story.end("nightly-x")
        last = story.look()
        assert states(last) == {"a": "Failed", "b": "Skipped", "x": "Succeeded", "y": y}
        assert state(last, "a")["message"] == "TrainingJob nightly-a: exit 1; read its log"
        if not goes_on:
            assert last.status["state"] == "Failed"
            assert condition(last, "Failed")["reason"] == "StepFailed"
            assert "step a failed: TrainingJob nightly-a: exit 1" in last.status["failure"]["message"]


def test_a_condition_decides_about_a_step():
    """`when` reads metrics, states and parameters; a metric that was not printed fails the step, with its name."""
    job = {"command": ["true"]}
    steps = [
        step("check"),
        step("good", when="steps.check.metrics.auc > 0.5 && params.rate < 1.0", job=job),
        step("bad", when="steps.check.metrics.auc > 0.95", job=job),
        step("odd", when="steps.check.metrics.loss > 0.5", job=job),
        step("rescue", when="steps.odd.state == 'Failed'", job=job),
    ]
    story = Story(run_of(steps))
    story.look()
    story.end("nightly-check")
    plan = story.look()
    assert states(plan) == {
        "check": "Succeeded",
        "good": "Running",
        "bad": "Skipped",
        "odd": "Failed",
        "rescue": "Running",
    }
    lacks = "when: step check printed no metric loss (it printed: auc)"
    remedy = "print loss=0.9 there, or ask has(steps.check.metrics.loss) first"
    assert state(plan, "odd")["message"] == f"{lacks}; {remedy}"
    assert state(plan, "bad")["message"] == "steps.check.metrics.auc > 0.95 is false"


@pytest.mark.parametrize(
    "when", ["steps.a.metrics.auc > 0.5", "has(steps.b.metrics.auc) || steps['a'].metrics['auc'] > 0.5"]
)
def test_a_condition_on_a_metric_of_a_failed_step_names_the_failure(when):
    """The metric is missing because the step failed; to print it would not help."""
    story = Story(run_of([step("a"), step("b"), step("gate", when=when)], continueOnStepFailure=True))
    story.look()
    story.end("nightly-a", "Failed", metrics={})
    story.end("nightly-b", metrics={})
    remedy = 'ask steps.a.state == "Succeeded" first, with &&'
    assert state(story.look(), "gate")["message"] == f"when: step a has no metric auc: it failed; {remedy}"


def test_finally_runs_after_all_whatever_happened():
    """Steps of finally begin when no other step goes on, and see states."""
    mail = step("mail", job={"command": ["mail", "$(steps.a.state)"]})
    story = Story(run_of([step("a"), step("b", after=["a"])], **{"finally": [mail]}))
    story.look()
    story.end("nightly-a", "Failed")
    plan = story.look()
    assert plan.apply[0]["spec"]["command"] == ["mail", "Failed"]
    assert plan.status["state"] == "Running"
    story.end("nightly-mail")
    assert story.look().status["state"] == "Failed"


def test_a_retry_is_a_new_object():
    """A step with retries makes another object after one that failed, as often as it may."""
    story = Story(run_of([step("a", retries=1)]))
    story.look()
    story.end("nightly-a", "Failed")
    story.look()
    again = story.look()
    assert kinds_of(again.apply) == ["TrainingJob/nightly-a-2"] or "nightly-a-2" in story.children
    story.end("nightly-a-2", "Failed")
    last = story.look()
    assert states(last) == {"a": "Failed"}
    assert state(last, "a")["attempt"] == 1


def test_a_step_that_exceeds_its_time_is_ended():
    """timeoutSeconds counts from the start of the step; its object is deleted, and the run looks in time."""
    run = run_of([step("a", timeoutSeconds=60)])
    first = planned(run)
    run, job = after(run, first), child("TrainingJob", "nightly-a", run, {"command": ["true"]}, {"state": "Running"})
    assert plan_run(run, seen(job), NOW + timedelta(seconds=20)).after == timedelta(seconds=40)
    late = plan_run(run, seen(job), NOW + timedelta(seconds=60))
    assert [gone.name for gone in late.delete] == ["nightly-a"]
    assert "timeoutSeconds=60" in state(late, "a")["message"]


def test_suspension_holds_objects_and_begins_none():
    """A suspended run sets spec.suspend of what runs, and takes it back."""
    story = Story(run_of([step("a"), step("b")]))
    story.look()
    story.end("nightly-b")
    story.edit(suspend=True)
    held = story.look()
    assert [made["spec"]["suspend"] for made in held.apply] == [True]
    assert held.status["state"] == "Suspended"
    story.edit(suspend=False)
    assert [made["spec"]["suspend"] for made in story.look().apply] == [False]


def test_a_cancelled_run_deletes_what_runs_and_ends():
    """Running steps are deleted, waiting ones skipped, finally runs."""
    story = Story(run_of([step("a"), step("b", after=["a"])], **{"finally": [step("mail")]}))
    story.look()
    story.edit(cancel=True)
    plan = story.look()
    assert [gone.name for gone in plan.delete] == ["nightly-a"]
    assert states(plan) == {"a": "Failed", "b": "Skipped", "mail": "Running"}
    story.end("nightly-mail")
    ended = story.look()
    assert (ended.status["state"], condition(ended, "Failed")["reason"]) == ("Cancelled", "Cancelled")


# ---- Repetitions


def test_a_step_runs_for_each_entry_some_at_a_time():
    """forEach makes an object for each entry, `parallel` at a time; results are lists, and inputs fan in."""
    each = step(
        "r", forEach={"items": "$(params.names)", "parallel": 2}, job={"command": ["$(item)"], "outputs": {"o": {}}}
    )
    merge = step(
        "m", job={"command": ["m", "$(steps.r.metrics.auc)"], "inputs": {"p": {"uri": "$(steps.r.outputs.o)"}}}
    )
    run = run_of([each, merge])
    spec = run.manifest["spec"]
    spec["pipelineSpec"]["parameters"] = {"names": {"type": "list", "default": ["n", "s", "w"]}}
    story = Story(run_read(run.manifest))
    first = story.look()
    assert kinds_of(first.apply) == ["TrainingJob/nightly-r-0", "TrainingJob/nightly-r-1"]
    assert [made["spec"]["command"] for made in first.apply] == [["n"], ["s"]]
    story.end("nightly-r-0")
    assert kinds_of(story.look().apply) == ["TrainingJob/nightly-r-2"]
    story.end("nightly-r-1")
    story.end("nightly-r-2")
    story.look()
    merged = story.children["nightly-m"]["spec"]
    assert sorted(merged["inputs"]) == ["p-0", "p-1", "p-2"]
    assert merged["command"] == ["m", "[0.9, 0.9, 0.9]"]


def test_entries_come_from_the_output_of_a_step():
    """forEach over a step's output reads items.json in its folder; anything but a list fails the step."""
    split = step("split", job={"outputs": {"parts": {}}})
    run = run_of(
        [split, step("r", forEach={"items": "$(steps.split.outputs.parts)"}, job={"command": ["$(item.name)"]})]
    )
    story = Story(run)
    story.look()
    story.end("nightly-split")
    waiting = story.look()
    assert (states(waiting)["r"], waiting.after) == ("Waiting", timedelta())
    folder = state(waiting, "split")["outputs"]["parts"]["uri"]
    for text, outcome in (('[{"name": "n"}]', "Running"), ("{}", "Failed"), (json.dumps([1] * 1001), "Failed")):
        view = seen(*story.children.values(), answers={ReadText(f"{folder}items.json"): text})
        assert states(plan_run(story.run, view, NOW))["r"] == outcome


def test_the_list_of_entries_is_read_only_when_one_may_begin():
    """While as many entries run as may, a pass asks the storage nothing; an end, or a lost object, asks again."""
    split = step("split", job={"outputs": {"parts": {}}})
    entries = {"items": "$(steps.split.outputs.parts)", "parallel": 2}
    story = Story(run_of([split, step("r", forEach=entries, job={"command": ["$(item)"]})]))
    story.look()
    story.end("nightly-split")
    folder = state(story.look(), "split")["outputs"]["parts"]["uri"]
    question = ReadText(f"{folder}items.json")

    def asks() -> bool:
        return question in questions_run(story.run, seen(*story.children.values()))

    def look() -> Plan:
        plan = plan_run(story.run, seen(*story.children.values(), answers={question: "[1, 2, 3]"}), NOW)
        for made in plan.apply:
            story.children[made["metadata"]["name"]] = child(
                made["kind"], made["metadata"]["name"], story.run, made["spec"]
            )
        story.run = after(story.run, plan)
        return plan

    assert asks()
    look()
    assert not asks()
    assert states(plan_run(story.run, seen(*story.children.values()), NOW)) == states(look())
    lost = story.children.pop("nightly-r-0")
    assert asks()
    story.children["nightly-r-0"] = lost
    story.end("nightly-r-0")
    assert asks()
    assert kinds_of(look().apply) == ["TrainingJob/nightly-r-2"]
    assert not asks()
    for name in ("nightly-r-1", "nightly-r-2"):
        story.end(name)
    assert states(look())["r"] == "Succeeded"


def test_an_entry_that_exceeds_its_time_makes_room_for_the_next():
    """The pass that ends it does not know the list; it begins no entry, and asks for the pass that does."""
    split = step("split", job={"outputs": {"parts": {}}})
    entries = {"items": "$(steps.split.outputs.parts)", "parallel": 1}
    timed = step("r", forEach=entries, timeoutSeconds=60, job={"command": ["$(item)"]})
    story = Story(run_of([split, timed], continueOnStepFailure=True))
    story.look()
    story.end("nightly-split")
    answers = {ReadText(f"{state(story.look(), 'split')['outputs']['parts']['uri']}items.json"): "[1, 2]"}
    begun = plan_run(story.run, seen(*story.children.values(), answers=answers), NOW)
    (made,) = begun.apply
    job = child("TrainingJob", made["metadata"]["name"], story.run, made["spec"])
    story.run = after(story.run, begun)
    late = NOW + timedelta(seconds=61)
    ended = plan_run(story.run, seen(*story.children.values(), job), late)
    assert ([gone.name for gone in ended.delete], ended.apply, ended.after) == (["nightly-r-0"], (), timedelta())
    story.run = after(story.run, ended)
    following = plan_run(story.run, seen(*story.children.values(), answers=answers), late)
    assert following.apply[0]["spec"]["command"] == ["2"]


def test_a_step_repeats_while_its_condition_holds():
    """while makes a round after another, up to maxIterations; the results are those of the last round."""
    loop = {"condition": "steps.r.metrics.loss > 0.1", "maxIterations": 3}
    for losses, rounds in (((0.5, 0.05), 2), ((0.5, 0.5, 0.5), 3)):
        story = Story(run_of([step("r", **{"while": loop})]))
        story.look()
        for number, loss in enumerate(losses):
            story.end(f"nightly-r-{number}", metrics={"latest": {"loss": loss}})
            last = story.look()
        assert last.status["state"] == "Succeeded"
        assert (state(last, "r")["items"], state(last, "r")["metrics"]) == (rounds, {"loss": losses[-1]})


# ---- Cache


def record(task: CacheTask) -> CacheRecord:
    """The record of a job with that task."""
    outputs = {"table": OutputRecord(OUT, DIGEST, 1)}
    return CacheRecord(task.key, task.parts, outputs, {"auc": 0.9}, task.pipeline, task.step, "earlier", "old")


def task_of(manifest: Manifest) -> CacheTask:
    """The cache task of a step's job."""
    return CacheTask.from_json(manifest["metadata"]["annotations"][ANNOTATION_CACHE])


def test_a_step_in_the_cache_starts_nothing():
    """A hit gives outputs, metrics and origin, and the next step reads the outputs; a job has its key."""
    run = run_of()
    task = task_of(planned(run).apply[0])
    reply = {"clean": answer(LookUpStep("lake", "team-a", "nightly", "clean", ()), record=record(task), miss="")}
    hit = planned(run, answers=reply)
    assert not hit.apply
    assert state(hit, "clean")["cached"] == {"run": "earlier", "job": "old"}
    assert state(hit, "clean")["outputs"]["table"]["uri"] == OUT
    assert hit.after == timedelta()  # to ask about the next step

    follow = planned(after(run, hit), answers=reply)
    assert follow.apply[0]["spec"]["inputs"]["table"]["uri"] == OUT
    assert task_of(follow.apply[0]).parts["inputs.table"] == DIGEST


@pytest.mark.parametrize("reference", ["churn@latest", "churn@golden", "churn@2"])
def test_the_content_of_a_dataset_decides_about_the_key(reference):
    """Its step reads the version that the key is about; versions of equal content have one key."""
    other = f"sha256:{'b' * 64}"
    run = run_of([{"name": "clean", "trainingJob": {"command": ["true"], "inputs": {"raw": {"dataset": reference}}}}])

    def made(number: int, digest: str) -> Manifest:
        """The job of the step while the reference leads to a version."""
        spec = {"dataset": "churn", "version": str(number), "uri": f"s3://lake/churn/{number}/", "digest": digest}
        status = {"state": "Ready", "conditions": [{"type": "Ready", "status": "True"}]}
        version = stored("DatasetVersion", f"churn-{number}", spec, status)
        aliases = {"aliases": {"golden": str(number)}}
        owner = stored("Dataset", "churn", aliases, {"latestReadyVersion": str(number)})
        (job,) = planned(run, related=(owner, version)).apply
        return job

    job = made(2, DIGEST)
    assert job["spec"]["inputs"] == {"raw": {"dataset": "churn@2"}}
    assert task_of(job).parts["inputs.raw"] == DIGEST
    assert task_of(made(2, other)).key != task_of(job).key
    if reference != "churn@2":
        newer = made(3, DIGEST)
        assert newer["spec"]["inputs"] == {"raw": {"dataset": "churn@3"}}
        assert task_of(newer).key == task_of(job).key


def test_a_step_whose_version_is_not_ready_has_no_key():
    """Its job waits for the version, and the step says why nothing is reused."""
    inputs = {"raw": {"dataset": "churn@latest"}}
    got = planned(run_of([{"name": "clean", "trainingJob": {"command": ["true"], "inputs": inputs}}]))
    (job,) = got.apply
    assert job["spec"]["inputs"] == inputs
    assert ANNOTATION_CACHE not in job["metadata"].get("annotations", {})
    assert state(got, "clean")["missReason"] == "inputs.raw: churn@latest is not resolved to a version"


def test_a_thousand_repetitions_fit_into_a_run():
    """The state of an ended repetition takes at most 380 bytes: 1,000 of them stay below 512 KiB."""
    entries = {"items": ["a"], "parallel": 1}
    run = run_of([{"name": "part-of-a-thousand", "forEach": entries, "trainingJob": {**STEPS[0]["trainingJob"]}}])
    first = planned(run)
    ended = planned(after(run, first), done(run, first.apply[0]))
    part = state(ended, "part-of-a-thousand-0")
    assert (part["state"], part["missReason"]) == ("Succeeded", "no earlier run did this work")
    assert len(json.dumps(part, separators=(",", ":"))) <= 380
    assert "digest" not in part["outputs"]["table"]


def fan(count: int, outputs: int, **fields: Any) -> Manifest:
    """A step for each of so many entries, each of which has so many outputs."""
    places = {f"table-{number}": {} for number in range(outputs)}
    entries = {"items": list(range(count)), "parallel": 100}
    return step("part", forEach=entries, job={"command": ["$(item)"], "outputs": places}, **fields)


def test_a_fan_out_with_three_outputs_fits_into_etcd():
    """A run with 1,000 ended entries of three outputs stays below MAX_BYTES, which etcd's limit exceeds by half."""
    story = Story(run_of([fan(1000, 3)]))
    for _ in range(11):
        plan = story.look()
        for name, made in list(story.children.items()):
            if made.get("status", {}).get("state") != "Succeeded":
                story.end(name)
    assert plan.status["state"] == "Succeeded"
    assert len(json.dumps(story.run.manifest, separators=(",", ":"))) < MAX_BYTES


def test_a_fan_out_that_does_not_fit_is_refused_before_it_starts():
    """The message has the step, the number of entries and the remedy; fewer entries run."""
    refused = planned(run_of([fan(1000, 16)]))
    assert (refused.apply, states(refused)) == ((), {"part": "Failed"})
    message = refused.status["failure"]["message"]
    assert message.startswith("step part failed: forEach: 1000 entries of about ")
    most = int(re.search(r"use at most (\d+) entries, or fewer outputs or metrics$", message)[1])
    assert len(planned(run_of([fan(most, 16)])).apply) == 100
    assert states(planned(run_of([fan(most + 100, 16)]))) == {"part": "Failed"}


def test_a_fan_out_that_grows_by_its_metrics_begins_no_more_entries():
    """The first entry that ends shows the size of all; those that run end, and then the step fails."""
    story = Story(run_of([fan(1000, 1)]))
    story.look()
    story.end("nightly-part-0", metrics={"latest": {f"a-long-name-of-a-metric-{n}": n / 7 for n in range(20)}})
    stopped = story.look()
    assert (stopped.apply, state(stopped, "part")["state"]) == ((), "Running")
    for name in story.children:
        story.end(name)
    assert "1000 entries of about" in state(story.look(), "part")["message"]


def test_rounds_that_do_not_fit_are_refused():
    """maxIterations counts, since the number of rounds shows at their end."""
    rounds = {"condition": "steps.a.metrics.auc > 0.1", "maxIterations": 1000}
    job = {"outputs": {f"table-{number}": {} for number in range(16)}}
    refused = planned(run_of([step("a", job=job, **{"while": rounds})]))
    assert "while: 1000 rounds of about" in refused.status["failure"]["message"]


@pytest.mark.parametrize(
    ("output", "owner"), [({"registerAs": "churn"}, ("Model", "churn")), ({"dataset": "rows"}, ("Dataset", "rows"))]
)
def test_a_step_whose_model_or_dataset_was_deleted_is_not_reused(output, owner):
    """A hit registers nothing, so that what the deleted object had would be missing; with the object it is a hit."""
    run = run_of([step("clean", job={"outputs": {"table": output}}, cache=True)])
    task = task_of(planned(run).apply[0])
    reply = {"clean": CacheAnswer(task.key, tuple(task.parts.items()), record(task))}
    missed = planned(run, answers=reply)
    assert [manifest["kind"] for manifest in missed.apply] == ["TrainingJob"]
    assert state(missed, "clean")["missReason"] == f"{' '.join(owner)} was deleted since run earlier"
    assert not planned(run, answers=reply, related=(stored(*owner, {}),)).apply


def test_an_own_job_is_not_taken_for_a_reused_one():
    """A job that ended before the run's status had its name is the step's own, though the cache has its record."""
    run = run_of()
    first = planned(run)
    made = done(run, first.apply[0])
    task = task_of(first.apply[0])
    reply = CacheAnswer(task.key, tuple(task.parts.items()), record(task))
    again = planned(run, made, answers={"clean": reply})
    assert "cached" not in state(again, "clean")
    assert state(again, "clean")["child"] == made["metadata"]["name"]
    assert [manifest["metadata"]["name"] for manifest in again.apply] == [made["metadata"]["name"]]


def test_the_key_has_content_and_not_places():
    """An output at another place with the same content gives the same key; another parameter gives another."""

    def key(digest: str, uri: str, rate: float) -> str:
        run = run_of(parameters={"rate": rate})
        first = planned(run)
        made = done(run, first.apply[0], outputs={"table": {"uri": uri, "digest": digest}})
        return task_of(planned(after(run, first), made).apply[0]).key

    assert key(DIGEST, OUT, 0.1) == key(DIGEST, OUT.replace("old", "new"), 0.1)
    assert key(DIGEST, OUT, 0.1) != key(DIGEST.replace("a", "b"), OUT, 0.1)
    one, other = planned(run_of()), planned(run_of(parameters={"rate": 0.2}))
    assert task_of(one.apply[0]).key != task_of(other.apply[0]).key


@pytest.mark.parametrize(
    "change",
    [
        {"command": ["other"]},
        {"image": "other:1"},
        {"parameters": {"a": 1}},
        {"env": [{"name": "A", "value": "1"}]},
        {"outputs": {"table": {}, "more": {}}},
        {"source": {"inline": {"a.py": "1"}}},
        {"source": {"uri": "s3://lake/code.tar.gz"}},
        {"environment": {"requirements": ["lightgbm"]}},
        {"inputs": {"x": {"uri": "s3://lake/x"}}},
        {"nodes": 2, "framework": "none"},
    ],
)
def test_each_part_of_the_work_is_in_its_key(change):
    """Code, image, environment, command, parameters, inputs, variables and outputs decide about the key."""
    before = planned(run_of([{"name": "clean", "trainingJob": {"command": ["true"]}}]))
    changed = planned(run_of([{"name": "clean", "trainingJob": {"command": ["true"], **change}}]))
    assert task_of(before.apply[0]).key != task_of(changed.apply[0]).key
    salted = planned(run_of([{"name": "clean", "cacheSalt": "1", "trainingJob": {"command": ["true"]}}]))
    assert task_of(before.apply[0]).key != task_of(salted.apply[0]).key


def test_a_step_that_cannot_be_reused_says_why():
    """A branch of a repository and a ConfigMap may change without a trace: the step runs, and says so."""
    git = {"url": "https://git.example.com/a.git", "ref": "main"}
    variable = {"name": "RATE", "valueFrom": {"configMapKeyRef": {"name": "rates", "key": "a"}}}
    for part, words in (
        ({"source": {"git": git}}, "not a commit"),
        ({"source": {"configMap": {"name": "a"}}}, "source.configMap"),
        ({"env": [variable]}, "the content of ConfigMap rates is not seen"),
        ({"envFrom": [{"configMapRef": {"name": "all"}}]}, "the content of ConfigMap all is not seen"),
    ):
        plan = planned(run_of([{"name": "a", "trainingJob": {"command": ["true"], **part}}]))
        assert kinds_of(plan.apply) == ["TrainingJob/nightly-a"]
        assert words in state(plan, "a")["missReason"]


def test_two_runs_of_the_same_work_do_it_once():
    """The second run waits for the job of the first, whatever the order, and then reads the cache."""
    run = run_of()
    (made,) = planned(run).apply
    other = stored("TrainingJob", made["metadata"]["name"], made["spec"], {"state": "Running"}, uid="x")
    other["metadata"]["ownerReferences"] = [{"kind": "PipelineRun", "name": "first", "uid": "u", "controller": True}]
    waiting = planned(run, related=(other,))
    assert not waiting.apply
    assert state(waiting, "clean")["message"] == f"run first does the same work in {made['metadata']['name']}"
    assert state(waiting, "clean")["key"] == task_of(made).key

    other["status"] = {"state": "Failed"}
    again = planned(after(run, waiting), related=(other,))
    assert kinds_of(again.apply) == [f"TrainingJob/{made['metadata']['name']}-2"]


def test_a_forced_rerun_runs_and_fills_the_cache():
    """With forceRerun nothing is reused, also not the job of another run, and the job has the same key."""
    (made,) = planned(run_of()).apply
    other = stored("TrainingJob", made["metadata"]["name"], made["spec"], {"state": "Running"}, uid="x")
    forced = planned(run_of(forceRerun=True), related=(other,))
    assert kinds_of(forced.apply) == [f"TrainingJob/{made['metadata']['name']}-2"]
    assert task_of(forced.apply[0]).key == task_of(made).key


def test_a_storage_that_does_not_answer_is_waited_for():
    """While the cache cannot be read, the step waits and says so; a permanent refusal lets it run without."""
    run = run_of()
    away = StorageError("the object storage does not answer", "Unreachable", transient=True)
    waiting = planned(run, answers={"clean": away})
    assert not waiting.apply
    assert "does not answer" in state(waiting, "clean")["message"]
    assert waiting.after == timedelta(seconds=5)
    gone = planned(run, answers={"clean": StorageError("nothing is stored under s3://x", "InputNotFound")})
    assert kinds_of(gone.apply) == ["TrainingJob/nightly-clean"]


# ---- Pipelines


def test_a_pipeline_is_checked():
    """A sound pipeline is Ready; a faulty one says step, field, expected and got."""
    plan = plan_pipeline(read_pipeline(pipeline()), seen(), NOW)
    assert (condition(plan, "Ready")["status"], plan.status["steps"]) == ("True", 2)
    faulty = pipeline([{"name": "clean", "trainingJob": {"command": ["a"], "nodes": "$(params.rate)"}}])
    with pytest.raises(InvalidSpec, match="step clean: nodes: expected integer, got number"):
        plan_pipeline(read_pipeline(faulty), seen(), NOW)


def test_a_run_keeps_the_pipeline_that_it_began_with():
    """The spec of the Pipeline is kept in a ControllerRevision; an edit of the Pipeline changes no run."""
    churn = stored("Pipeline", "churn", pipeline([step("a")]), generation=3)
    run = run_read(stored("PipelineRun", "nightly", {"pipeline": "churn"}))
    absent = planned(run)
    assert condition(absent, "Running")["reason"] == "PipelineMissing"

    story = Story(run, churn)
    first = story.look()
    assert kinds_of(first.apply) == ["ControllerRevision/nightly-pipeline"]
    assert first.status["pipeline"]["generation"] == 3
    spec, churn["spec"] = churn["spec"], pipeline([step("other")])
    assert kinds_of(story.look().apply) == ["ControllerRevision/nightly-pipeline", "TrainingJob/nightly-a"]

    del story.children["nightly-pipeline"]
    with pytest.raises(InvalidSpec, match="Pipeline churn has another spec by now; start a new run"):
        story.look()
    churn["spec"] = spec
    assert kinds_of(story.look().apply) == ["ControllerRevision/nightly-pipeline"]
    assert states(story.look()) == {"a": "Running"}


def test_a_run_says_that_it_waits_for_a_better_pipeline():
    """A mistake in the Pipeline is named with it, and corrected it starts the run."""
    run = run_read(stored("PipelineRun", "nightly", {"pipeline": "churn"}))
    faulty = stored("Pipeline", "churn", pipeline([step("a", job={"nodess": 2})]))
    with pytest.raises(
        InvalidSpec, match=r"Pipeline churn: step a: nodess: .*; correct the Pipeline, and the run begins"
    ):
        planned(run, related=[faulty])
    assert kinds_of(planned(run, related=[stored("Pipeline", "churn", pipeline([step("a")]))]).apply)


def test_an_ended_run_goes_after_its_time():
    """ttlSecondsAfterFinished deletes an ended run, whose jobs go with it."""
    story = Story(run_of([step("a")], ttlSecondsAfterFinished=0))
    story.look()
    story.end("nightly-a")
    assert story.look().after == timedelta()
    assert [gone.name for gone in planned(story.run).delete] == ["nightly"]


def test_a_parameter_of_the_wrong_type_starts_nothing():
    """A run's parameters are checked before any object is made."""
    with pytest.raises(InvalidSpec, match=r"parameters\.rate: expected number, got string"):
        planned(run_of(parameters={"rate": "many"}))


def test_a_nested_pipeline_is_a_run_of_its_own():
    """A step may run another Pipeline with parameters of its own; pipelines that run each other end."""
    run = run_of([{"name": "n", "pipeline": {"name": "other", "parameters": {"rate": "$(params.rate)"}}}])
    (made,) = planned(run).apply
    assert (made["kind"], made["spec"]) == ("PipelineRun", {"pipeline": "other", "parameters": {"rate": 0.1}})
    inner = [{"kind": "PipelineRun", "name": "nightly", "uid": "x", "controller": True}]
    circle = stored("PipelineRun", "nightly", run.manifest["spec"], ownerReferences=inner)
    with pytest.raises(InvalidSpec, match="more than 5 deep"):
        planned(run_read(circle), related=(circle,))


SWEEP: Manifest = {
    "objective": {"metric": "auc", "goal": "maximize"},
    "searchSpace": {"lr": {"uniform": {"min": 0, "max": 1}}},
    "limits": {"maxTrials": 2},
    "trialTemplate": {"spec": {"command": ["tune", "$(params.lr)", "$(params.rate)"], "outputs": {"model": {}}}},
}
FOUND = "s3://lake/team-a/sweeps/x/uid/trials/1/model/0123456789abcdef/"
FIT = {"name": "fit", "trainingJob": {"command": ["fit"], "inputs": {"m": {"uri": "$(steps.tune.outputs.model)"}}}}


def tuned(**changes: Any) -> Manifest:
    """The Sweep of a step with these changes of its spec."""
    (made,) = planned(run_of([{"name": "tune", "sweep": {**SWEEP, **changes}}])).apply
    return made


def test_a_sweep_is_a_step():
    """The best trial of a Sweep gives outputs and metrics."""
    story = Story(run_of([{"name": "tune", "sweep": SWEEP}], outputs={"model": "$(steps.tune.outputs.model)"}))
    (made,) = story.look().apply
    assert made["spec"]["trialTemplate"]["spec"]["command"] == ["tune", "$(params.lr)", "0.1"]
    best = {"trial": 1, "values": {"auc": 0.8}, "outputs": {"model": FOUND}}
    name = made["metadata"]["name"]
    story.children[name] = child("Sweep", name, story.run, made["spec"], {"state": "Succeeded", "best": [best]})
    last = story.look()
    assert last.status["outputs"]["model"]["uri"] == FOUND
    assert state(last, "tune")["metrics"] == {"auc": 0.8}


def test_a_sweep_in_the_cache_starts_nothing():
    """A hit has the best trial's outputs and metrics, and the next step the same key as after the sweep itself."""
    task = task_of(tuned())
    outputs = {"model": OutputRecord(FOUND, f"sha256:0123456789abcdef{'0' * 48}", 1)}
    record = CacheRecord(task.key, task.parts, outputs, {"auc": 0.8}, task.pipeline, task.step, "earlier", "tune-old")
    reply = {"tune": CacheAnswer(task.key, tuple(task.parts.items()), record)}
    run = run_of([{"name": "tune", "sweep": SWEEP}, FIT])
    hit = planned(run, answers=reply)
    assert not hit.apply
    assert state(hit, "tune")["cached"] == {"run": "earlier", "job": "tune-old"}
    assert state(hit, "tune")["kind"] == "Sweep", "lineage names the Sweep"
    assert (state(hit, "tune")["outputs"], state(hit, "tune")["metrics"]) == ({"model": {"uri": FOUND}}, {"auc": 0.8})
    (reused,) = planned(after(run, hit)).apply

    first = planned(run)
    best = {"trial": 1, "values": {"auc": 0.8}, "outputs": {"model": FOUND}}
    made = first.apply[0]
    ended = child("Sweep", made["metadata"]["name"], run, made["spec"], {"state": "Succeeded", "best": [best]})
    (searched,) = planned(after(run, first), ended).apply
    assert task_of(reused).key == task_of(searched).key


@pytest.mark.parametrize(
    "change",
    [
        {"objective": {"metric": "auc", "goal": "minimize"}},
        {"algorithm": {"seed": 7}},
        {"algorithm": {"type": "random"}},
        {"searchSpace": {"lr": {"uniform": {"min": 0, "max": 2}}}},
        {"limits": {"maxTrials": 3}},
        {"limits": {"maxTrials": 2, "trialTimeoutSeconds": 60}},
        {"earlyTermination": {"type": "median"}},
        {"registerBest": "churn"},
        {"trialTemplate": {"spec": {"command": ["tune", "$(params.lr)"], "outputs": {"model": {}}}}},
        {"trialTemplate": {"spec": {**SWEEP["trialTemplate"]["spec"], "inputs": {"x": {"uri": "s3://lake/x"}}}}},
    ],
)
def test_each_part_of_a_search_is_in_its_key(change):
    """Objective, algorithm with its seed, space, limits and trials decide about the key."""
    assert task_of(tuned(**change)).key != task_of(tuned()).key


def test_what_does_not_decide_about_a_search_is_not_in_its_key():
    """The default seed is a seed; parallel trials and resources may differ."""
    key = task_of(tuned()).key
    assert task_of(tuned(algorithm={"type": "tpe", "seed": 0})).key == key
    assert task_of(tuned(limits={"maxTrials": 2, "parallelTrials": 2})).key == key


def test_a_sweep_that_learns_from_others_is_not_reused():
    """Their trials are not in the key; the step says so."""
    warm = {**SWEEP, "algorithm": {"warmStartFrom": ["hpo"]}}
    plan = planned(run_of([{"name": "tune", "sweep": warm}]))
    assert ANNOTATION_CACHE not in plan.apply[0]["metadata"].get("annotations", {})
    assert "warmStartFrom may grow" in state(plan, "tune")["missReason"]


def test_a_search_reads_the_version_that_its_key_is_about():
    """An alias of a dataset in the trials is pinned, and the key has the content."""
    spec = {"dataset": "churn", "version": "2", "uri": "s3://lake/churn/2/", "digest": DIGEST}
    status = {"state": "Ready", "conditions": [{"type": "Ready", "status": "True"}]}
    related = (
        stored("Dataset", "churn", {}, {"latestReadyVersion": "2"}),
        stored("DatasetVersion", "churn-2", spec, status),
    )
    trial = {**SWEEP["trialTemplate"]["spec"], "inputs": {"raw": {"dataset": "churn@latest"}}}
    run = run_of([{"name": "tune", "sweep": {**SWEEP, "trialTemplate": {"spec": trial}}}])
    (made,) = planned(run, related=related).apply
    assert made["spec"]["trialTemplate"]["spec"]["inputs"] == {"raw": {"dataset": "churn@2"}}
    assert task_of(made).parts["inputs.raw"] == DIGEST


def test_a_resumed_run_takes_over_what_succeeded():
    """rerun reuses the steps of an earlier run that succeeded, except those named and what depends on them."""
    steps = [step("a", job={"outputs": {"o": {}}}), step("b", after=["a"]), step("c")]
    story = Story(run_of(steps))
    story.look()
    story.end("nightly-a")
    story.end("nightly-c")
    story.look()
    story.end("nightly-b", "Failed")
    story.look()
    earlier = {**story.run.manifest, "metadata": {**story.run.manifest["metadata"], "name": "earlier"}}
    resumed = planned(run_of(steps, rerun={"of": "earlier"}), related=(earlier,))
    assert states(resumed) == {"a": "Succeeded", "b": "Running", "c": "Succeeded"}
    assert state(resumed, "a")["cached"] == {"run": "earlier", "job": "nightly-a"}
    again = planned(run_of(steps, rerun={"of": "earlier", "from": ["a"]}), related=(earlier,))
    assert states(again) == {"a": "Running", "b": "Waiting", "c": "Succeeded"}


def ended(steps: list[Manifest], **spec: Any) -> Manifest:
    """A run called earlier whose steps have all succeeded."""
    story = Story(run_of(steps, **spec))
    while story.look().status["state"] != "Succeeded":
        for name in story.children:
            story.end(name)
    return {**story.run.manifest, "metadata": {**story.run.manifest["metadata"], "name": "earlier"}}


def test_an_edited_step_runs_again_with_all_that_it_feeds():
    """A resumed run takes over the steps whose work is the same; missReason says why the others run."""
    steps = [step("a"), step("b", after=["a"]), step("c", after=["b"]), step("x"), step("y", after=["x"])]
    earlier = ended(steps)
    edited = [step("b", job={"command": ["false"]}, after=["a"]) if s["name"] == "b" else s for s in steps]
    story = Story(run_of(edited, rerun={"of": "earlier"}), earlier)
    plan = story.look()
    assert states(plan) == {"a": "Succeeded", "b": "Running", "c": "Waiting", "x": "Succeeded", "y": "Succeeded"}
    assert state(plan, "b")["missReason"] == "its spec was edited since run earlier"
    story.end("nightly-b")
    assert state(story.look(), "c")["missReason"] == "step b runs again"
    assert "missReason" not in state(plan, "a")


@pytest.mark.parametrize(
    ("former", "edit", "state_after"),
    [
        (step("a"), {"cacheSalt": "2"}, "Running"),
        (step("a"), {"when": "params.rate > 0.0"}, "Running"),
        (step("a"), {"retries": 2, "timeoutSeconds": 60}, "Succeeded"),
        (step("a", forEach={"items": ["1"]}), {"forEach": {"items": ["2"]}}, "Running"),
        (step("a", forEach={"items": ["1"]}), {"forEach": {"items": ["1"], "parallel": 2}}, "Succeeded"),
        (step("a", cache=True), {"trainingJob": {"command": ["true"], "backoffLimit": 7}}, "Succeeded"),
        (step("a", cache=True), {"trainingJob": {"command": ["false"]}}, "Running"),
        (step("a"), {"trainingJob": {"command": ["true"], "backoffLimit": 7}}, "Running"),
    ],
)
def test_what_decides_about_a_result_makes_an_edit(former, edit, state_after):
    """A step with a cache key is compared by it, another one by its spec."""
    earlier = ended([former])
    plan = planned(run_of([{**former, **edit}], rerun={"of": "earlier"}), related=(earlier,))
    assert states(plan)["a"] == state_after


def test_another_value_of_a_parameter_is_an_edit_of_the_steps_that_use_it():
    """The values are compared where they are used."""
    steps = [step("a", job={"command": ["clean", "$(params.rate)"]}), step("b")]
    earlier = ended(steps)
    plan = planned(run_of(steps, rerun={"of": "earlier"}, parameters={"rate": 0.5}), related=(earlier,))
    assert states(plan) == {"a": "Running", "b": "Succeeded"}
    assert state(plan, "a")["missReason"] == "a parameter of it was edited since run earlier"


def test_a_resumed_run_compares_with_the_pipeline_that_the_earlier_one_kept():
    """The kept spec counts, not the Pipeline's present one; without either all steps run again."""
    steps = [step("a"), step("b")]
    earlier = ended(steps)
    digest = plan_pipeline(read_pipeline(pipeline(steps)), seen(), NOW).status["digest"]
    earlier = {
        **earlier,
        "spec": {"pipeline": "churn"},
        "status": {**earlier["status"], "pipeline": {"digest": digest}},
    }
    kept = {**stored("ControllerRevision", "earlier-pipeline", {}), "data": {"spec": pipeline(steps)}}
    steps_now = [step("a", job={"command": ["false"]}), step("b")]
    run = run_of(steps_now, rerun={"of": "earlier"})
    assert states(planned(run, related=(earlier, kept))) == {"a": "Running", "b": "Succeeded"}
    same = stored("Pipeline", "churn", pipeline(steps))
    assert states(planned(run, related=(earlier, same))) == {"a": "Running", "b": "Succeeded"}
    other = stored("Pipeline", "churn", pipeline(steps_now))
    lost = planned(run, related=(earlier, other))
    assert states(lost) == {"a": "Running", "b": "Running"}
    assert state(lost, "b")["missReason"] == "the pipeline of run earlier is not kept any more"


OF_INNER = pipeline([step("fit")])
OTHER = pipeline([step("fit", job={"command": ["false"]})])


def nested_run(name: str, of: Manifest, *made: str, pipeline_name: str = "inner") -> Manifest:
    """A run of a Pipeline with this spec, whose steps have made other runs."""
    digest = plan_pipeline(read_pipeline(of), seen(), NOW).status["digest"]
    steps = [{"name": f"s{n}", "state": "Succeeded", "kind": "PipelineRun", "child": run} for n, run in enumerate(made)]
    status = {"state": "Succeeded", "pipeline": {"digest": digest}, "steps": steps}
    return stored("PipelineRun", name, {"pipeline": pipeline_name}, status)


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ([stored("Pipeline", "inner", OF_INNER), nested_run("nightly-call", OF_INNER)], ""),
        ([nested_run("nightly-call", OF_INNER)], ""),
        (
            [stored("Pipeline", "inner", OTHER), nested_run("nightly-call", OF_INNER)],
            "Pipeline inner was edited since run nightly-call",
        ),
        (
            [
                *(stored("Pipeline", "inner", OF_INNER), stored("Pipeline", "deep", OTHER)),
                nested_run("nightly-call", OF_INNER, "deep-run"),
                nested_run("deep-run", OF_INNER, pipeline_name="deep"),
            ],
            "Pipeline deep was edited since run deep-run",
        ),
        ([stored("Pipeline", "inner", OF_INNER)], "its PipelineRun nightly-call is not kept any more"),
    ],
)
@pytest.mark.parametrize("repeats", [False, True])
def test_a_step_whose_pipeline_was_edited_runs_again(objects, reason, repeats):
    """So do the steps that it feeds; its own unchanged steps come from the cache. A lost Pipeline is no edit."""
    call = {"name": "call", "cache": False, "pipeline": {"name": "inner"}}
    call |= {"forEach": {"items": ["a"]}} if repeats else {}
    steps = [call, step("after", after=["call"]), step("other")]
    earlier = ended(steps)
    if repeats:
        objects = json.loads(json.dumps(objects).replace("nightly-call", "nightly-call-0"))
        reason = reason.replace("nightly-call", "nightly-call-0")
    plan = planned(run_of(steps, rerun={"of": "earlier"}), related=(earlier, *objects))
    begun = {"call": "Running", "after": "Waiting"} if reason else {"call": "Succeeded", "after": "Succeeded"}
    assert {name: states(plan)[name] for name in ("call", "after", "other")} == {**begun, "other": "Succeeded"}
    if reason:
        assert state(plan, "call")["missReason"] == reason
        assert state(plan, "after")["missReason"] == "step call runs again"


def test_finally_runs_again_in_a_resumed_run():
    """It follows what runs again."""
    final = {"finally": [step("mail")]}
    earlier = ended([step("a")], **final)
    plan = planned(run_of([step("a")], rerun={"of": "earlier"}, **final), related=(earlier,))
    assert states(plan) == {"a": "Succeeded", "mail": "Running"}


@pytest.mark.parametrize("name", ["mail", "a-1"])
def test_finally_is_never_reused(name):
    """The cache is not asked, in a fresh run and in a resumed one. A name like that of a repetition changes nothing."""
    steps, final = [step("a")], {"finally": [step(name, cache=True)]}
    earlier = ended(steps, **final)
    known = {name: CacheAnswer("k", (), CacheRecord("k", run="old", job="old"))}
    for more in ({}, {"rerun": {"of": "earlier"}}):
        story = Story(run_of(steps, **final, **more), earlier, answers=known)
        if state(story.look(), "a")["state"] == "Running":
            story.end("nightly-a")
        plan = story.look()
        assert (states(plan)[name], state(plan, name)["child"]) == ("Running", f"nightly-{name}")


def test_a_run_of_a_thousand_steps_has_room_in_its_object():
    """The status of 1,000 ended steps with outputs, metrics and keys stays below 512 KiB."""
    story = Story(
        run_of(
            [
                {"name": f"step-{n}", "trainingJob": {"command": ["a"], "outputs": {"model": {}}}}
                for n in range(MAX_STEPS)
            ]
        )
    )
    for _ in range(MAX_STEPS // 64 + 2):
        plan = story.look()
    assert plan.status["counts"]["running"] == MAX_STEPS
    for name in story.children:
        story.end(name)
    last = story.look()
    assert last.status["state"] == "Succeeded"
    assert len(json.dumps(last.status)) < 512 * 1024
