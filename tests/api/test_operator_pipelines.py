"""Pipelines before a real API server, with the real operator."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bare import Api, eventually
from hands import complete_job, ended_pod, put, record_step, task_of
from operator_process import Node
from stories import partitioned, ready, status, trained
from ultramarine_contract.meta import PIPELINE_RUN, Manifest
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_operator.shared.testing import applied

COMMAND = str(Path(sys.executable).parent / "ultramarine")
ALIAS = {"model": "churn", "version": "1", "alias": "champion"}


def run(name: str, **publish: Any) -> Manifest:
    """A run of one step, which publishes."""
    fields = {field: value for field, value in {**ALIAS, **publish}.items() if value is not None}
    steps = [{"name": "publish", "publish": fields}]
    return applied("PipelineRun", name, {"pipelineSpec": {"steps": steps}})


def step(api: Api, name: str) -> Manifest:
    """The status of the step."""
    return next(iter(status(api, "plr", name).get("steps") or []), {})


def ended(api: Api, name: str) -> str:
    """Wait for the end of a run, and return its state."""
    return eventually(
        f"{name} has ended", lambda: (word := status(api, "plr", name).get("state")) in ("Succeeded", "Failed") and word
    )


def job_of(api: Api, step: str) -> Manifest | None:
    """The Job of a step, once it is there."""
    return next((job for job in api.all("jobs") if job["metadata"]["name"].startswith(f"{step}-")), None)


def complete(api: Api, node: Node, store: Storage, job: Manifest, output: str = "") -> None:
    """Do the work of a step's Job as trainer, kubelet and Job controller: store an output, if it has one, and end."""
    outputs = {output: put(store, f"{task_of(job).output_prefix}{output}", "a,b")} if output else {}
    record = TerminationRecord(outputs=outputs)
    record_step(store, job, record)
    name = job["metadata"]["name"]
    node.start_pod(name)
    api.status("pod", f"{name}-0-abcde", ended_pod(0, record.to_json()))
    api.status("job", name, complete_job())


@pytest.fixture
def churn(api, replica, node):
    """The Model churn with one ready version, and an alias that the user has set."""
    replica("operator").start()
    trained(api, node, "churn")
    eventually("the version is ready", lambda: ready(api, "churn-1"))
    api.run("patch", "mdl", "churn", "--type=merge", "-p", '{"spec": {"aliases": {"old": "1"}}}')


def test_a_step_moves_an_alias_and_a_deployment_forward_only(api, churn):
    """Both get the version while other fields stay; one that has a newer version keeps it, and the step says so."""
    deployments = [{"name": "blue", "model": "churn@2"}, {"name": "green", "model": "churn@1", "replicas": 3}]
    api.apply(applied("OnlineEndpoint", "churn", {"traffic": {"blue": 100}, "deployments": deployments}))
    second = {**api.get("mv", "churn-1")["spec"], "version": "2"}
    api.apply(run("alias"), applied("ModelVersion", "churn-2", second))
    assert ended(api, "alias") == "Succeeded"
    assert api.get("mdl", "churn")["spec"]["aliases"] == {"old": "1", "champion": "1"}
    assert step(api, "alias")["published"]["version"] == "1"

    place = {"alias": None, "endpoint": "churn"}
    api.apply(run("older", **place, deployment="blue"), run("newer", **place, deployment="green", version="2"))
    assert ended(api, "older") == ended(api, "newer") == "Succeeded"
    assert "leads to version 2, which is newer than 1" in step(api, "older")["message"]
    assert step(api, "newer")["published"]["former"] == "1"
    assert api.get("oe", "churn")["spec"]["deployments"][1] == {**deployments[1], "model": "churn@2"}


def test_a_plan_says_what_a_run_would_reuse(api, operator, node, store, tmp_path):
    """A step of equal work is reused and tells the next one's key; another parameter is named with both values."""
    clean = {"command": ["clean"], "outputs": {"table": {}}}
    inputs = {"table": {"uri": "$(steps.clean.outputs.table)"}}
    train = {"command": ["train", "$(params.rate)"], "inputs": inputs, "parameters": {"rate": "$(params.rate)"}}
    steps = [{"name": "clean", "trainingJob": clean}, {"name": "train", "trainingJob": train}]
    spec = {"parameters": {"rate": {"type": "number", "default": 0.1}}, "steps": steps}
    file = tmp_path / "pipeline.yaml"
    file.write_text(json.dumps(applied("Pipeline", "churn", spec)))

    def plan(*words: str, code: int = 0) -> str:
        argv = [COMMAND, "--kubeconfig", str(api.cluster.kubeconfig), "-n", api.namespace, "plan", str(file), *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stderr
        return done.stdout

    first = plan()
    assert "step clean: runs, no earlier run did this work" in first
    assert "pods: 1 of node" in first
    assert "step train: runs, step clean runs; the cache is asked with its results" in first
    assert "2 of 2 steps would run, no earlier run shows the time" in first

    api.apply(applied("Pipeline", "churn", spec), applied("PipelineRun", "first", {"pipeline": "churn"}))
    for name, output in (("clean", "table"), ("train", "")):
        work = eventually(f"{name} has its job", lambda name=name: job_of(api, name))
        complete(api, node, store, work, output)
    assert ended(api, "first") == "Succeeded"

    assert "step train: reused, the results are those of run first" in plan()
    other = plan("--set", "rate=0.2")
    assert "step clean: reused, the results are those of run first" in other
    assert "rate is 0.2, and was 0.1 in run first" in other
    assert "1 of 2 steps would run" in other
    refused = "Pipeline/churn would be refused: parameters.rate: expected number, got string"
    assert refused in plan("--set", "rate=much", code=1)
    steps[1] = {"name": "train", "trainingJob": {**train, "command": ["train", "$(params.rat)"]}}
    file.write_text(json.dumps(applied("Pipeline", "churn", spec)))
    assert "would be refused: step train: " in plan("--set", "rate=1", code=1)


def test_an_edit_of_the_pipeline_is_for_later_runs(api, operator, node, store):
    """A run that is under way goes on with the Pipeline that it began with, and names it; the next has the new one."""

    def spec(word: str) -> Manifest:
        first = {"name": "first", "trainingJob": {"command": ["first"], "outputs": {"table": {}}}}
        last = {"name": "last", "after": ["first"], "trainingJob": {"command": [word]}}
        return applied("Pipeline", "churn", {"steps": [first, last]})

    api.apply(spec("old"), applied("PipelineRun", "begun", {"pipeline": "churn"}))
    work = eventually("first has its job", lambda: job_of(api, "first"))
    api.apply(spec("new"))
    complete(api, node, store, work, "table")
    complete(api, node, store, eventually("last has its job", lambda: job_of(api, "last")))
    assert ended(api, "begun") == "Succeeded"
    assert status(api, "plr", "begun")["pipeline"]["generation"] == 1

    api.apply(applied("PipelineRun", "later", {"pipeline": "churn"}))
    eventually("last runs again", lambda: status(api, "plr", "later").get("counts", {}).get("running"))
    assert {job["spec"]["command"][0] for job in api.all("tj")} == {"first", "old", "new"}
    assert "new" in status(api, "plr", "later")["steps"][1]["missReason"]


RACERS = [f"racer-{number}" for number in range(4)]


@pytest.fixture
def winner(api, operator):
    """The one of four runs with the same step, created at once, that has the TrainingJob; the others wait for it."""
    steps = [{"name": "fit", "trainingJob": {"command": ["fit"], "outputs": {"model": {}}}}]
    runs = [applied("PipelineRun", name, {"pipelineSpec": {"steps": steps}}) for name in RACERS]
    with ThreadPoolExecutor(len(runs)) as pool:
        answers = list(pool.map(lambda run: api.http.post(PIPELINE_RUN.path(api.namespace), json=run), runs))
    assert {answer.status_code for answer in answers} == {201}
    running = eventually("one runs, three wait", lambda: _running(api, RACERS, 3))
    time.sleep(2)  # in which a second job would show
    assert _running(api, RACERS, 3) == running
    return running


def _running(api: Api, runs: list[str], waiting: int) -> str:
    """Return the run that has the job of the step, once so many others say that they wait for it."""
    steps = {name: step(api, name) for name in runs}
    running = [name for name, state in steps.items() if state.get("child")]
    waits = [state for state in steps.values() if f"run {''.join(running)} does the same" in state.get("message", "")]
    return running[0] if len(running) == 1 and len(waits) == waiting else ""


def test_runs_that_race_for_equal_work_do_it_once(api, node, store, winner):
    """The others have the results of the one job, and name its run."""
    (work,) = api.all("tj")
    complete(api, node, store, eventually("its Job is there", lambda: job_of(api, "fit")), "model")
    assert [ended(api, name) for name in RACERS] == ["Succeeded"] * 4
    origin = {"run": winner, "job": work["metadata"]["name"]}
    assert {name: step(api, name).get("cached") for name in RACERS} == {
        name: None if name == winner else origin for name in RACERS
    }
    assert len({step(api, name)["outputs"]["model"]["uri"] for name in RACERS}) == 1
    assert [job["metadata"]["uid"] for job in api.all("tj")] == [work["metadata"]["uid"]]


def test_a_deleted_run_leaves_its_work_to_one_that_waits(api, winner):
    """If the run that has the job is deleted with it, one of those that wait makes the next job."""
    (work,) = api.all("tj")
    api.run("delete", "plr", winner)
    api.run("delete", "tj", work["metadata"]["name"])  # no garbage collector runs here
    left = [name for name in RACERS if name != winner]
    eventually("another run has the job", lambda: _running(api, left, 2))
    assert len(api.all("tj")) == 1


def test_a_plan_resolves_datasets(api, operator, store, tmp_path):
    """The cache is asked with the version of an input, and for each partition; a missing version is named."""
    partitioned(api, store, tmp_path / "orders")

    def reads(name: str, reference: str) -> Manifest:
        return {"name": name, "trainingJob": {"command": ["true"], "inputs": {"rows": {"dataset": reference}}}}

    part = {"command": ["true"], "inputs": {"rows": {"uri": "$(item.uri)", "digest": "$(item.digest)"}}}
    months = {"name": "months", "forEach": {"partitions": "orders@1"}, "trainingJob": part}
    spec = {"steps": [reads("reads", "orders@latest"), reads("waits", "other@latest"), months]}
    file = tmp_path / "pipeline.yaml"
    file.write_text(json.dumps(applied("Pipeline", "churn", spec)))
    argv = [COMMAND, "--kubeconfig", str(api.cluster.kubeconfig), "-n", api.namespace, "plan", str(file)]
    planned = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300).stdout

    assert "step reads: runs, no earlier run did this work" in planned
    assert "step waits: runs, inputs.rows: Dataset other has no version yet" in planned
    assert "step months: runs, 1 of 1 repetition; months-0: no earlier run did this work" in planned
