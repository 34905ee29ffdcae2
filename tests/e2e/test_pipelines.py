"""Pipelines on the real cluster: steps that pass outputs on, reuse, conditions, repetitions, and ends by hand."""

from __future__ import annotations

import json
import uuid
from hashlib import sha256
from typing import Any

import pytest
from conftest import Manifest, Platform, condition
from manifests import sweep, training_job

# A second run of these tests must not find the results of the first one.
SALT = uuid.uuid4().hex
CLEAN = """
import sys
open(sys.argv[1] + "/table.csv", "w").write("a,b\\n1,2\\n")
print("rows=1")
"""
FIT = """
import sys
rows = open(sys.argv[1] + "/table.csv").read()
open(sys.argv[2] + "/model.txt", "w").write(rows + sys.argv[3])
print("auc=0.9")
"""


def step(name: str, script: str, *args: str, **fields: Any) -> Manifest:
    """A step that runs a script; fields of its job are in `job`."""
    job = {"source": {"inline": {"main.py": script}}, "command": ["python", "main.py", *args], **fields.pop("job", {})}
    return {"name": name, "cacheSalt": SALT, "trainingJob": {"backoffLimit": 0, **job}, **fields}


def pipeline(name: str, *steps: Manifest, **spec: Any) -> Manifest:
    """A Pipeline."""
    parameters = {"rate": {"type": "number", "default": 0.1}}
    return {
        "kind": "Pipeline",
        "metadata": {"name": name},
        "spec": {"parameters": parameters, "steps": list(steps), **spec},
    }


def run(name: str, pipeline: str, **spec: Any) -> Manifest:
    """A run of a Pipeline."""
    return {"kind": "PipelineRun", "metadata": {"name": name}, "spec": {"pipeline": pipeline, **spec}}


def ended(platform: Platform, name: str) -> Manifest:
    """Wait for the end of a run, and return its status."""
    return platform.wait("plr", name, lambda s: s.get("state") in ("Succeeded", "Failed", "Cancelled", "Invalid"), 300)


def states(status: Manifest) -> dict[str, str]:
    """The state of each step."""
    return {entry["name"]: entry["state"] for entry in status["steps"]}


def own_jobs(platform: Platform, name: str) -> list[str]:
    """The jobs that a run has made."""
    selector = f"ultramarine.dev/kind=PipelineRun,ultramarine.dev/name={name}"
    return [job["metadata"]["name"] for job in platform.get("tj", "", "-l", selector)]


@pytest.fixture(scope="module")
def wine(platform: Platform) -> Manifest:
    """The first run of a Pipeline of two steps."""
    clean = step("clean", CLEAN, "$(outputs.table)", job={"outputs": {"table": {}}})
    inputs = {"table": {"uri": "$(steps.clean.outputs.table)"}}
    words = ("$(inputs.table)", "$(outputs.model)", "$(params.rate)")
    fit = step("fit", FIT, *words, job={"inputs": inputs, "outputs": {"model": {}}})
    platform.apply(pipeline("wine", clean, fit, outputs={"model": "$(steps.fit.outputs.model)"}))
    platform.apply(run("wine-first", "wine"))
    return ended(platform, "wine-first")


def test_a_step_gets_the_output_of_the_one_before(platform, wine):
    """Two jobs run one after the other; the run has outputs, metrics and the Pipeline that it kept."""
    assert states(wine) == {"clean": "Succeeded", "fit": "Succeeded"}, json.dumps(wine)
    assert wine["steps"][1]["metrics"] == {"auc": 0.9}
    assert wine["outputs"]["model"]["uri"] == wine["steps"][1]["outputs"]["model"]["uri"]
    assert wine["pipeline"]["revision"] == "wine-first-pipeline"
    assert len(own_jobs(platform, "wine-first")) == 2


def test_the_same_work_is_not_done_again(platform, wine):
    """A second run starts no job, and has the outputs of the first; another parameter repeats the one step of it."""
    platform.apply(run("wine-again", "wine"), run("wine-other", "wine", parameters={"rate": 0.2}))
    again, other = ended(platform, "wine-again"), ended(platform, "wine-other")

    assert again["counts"]["cached"] == 2, json.dumps(again)
    assert again["outputs"] == wine["outputs"]
    assert own_jobs(platform, "wine-again") == []
    assert [entry.get("cached", {}).get("run") for entry in other["steps"]] == ["wine-first", None]
    assert "0.2" in other["steps"][1]["missReason"]
    assert len(own_jobs(platform, "wine-other")) == 1


def test_steps_of_all_sorts(platform):
    """A Sweep, a nested Pipeline, entries of a list and a condition are steps like any other."""
    tune = sweep("x", limits={"maxTrials": 2})["spec"]
    inner = pipeline(
        "inner",
        step("only", CLEAN, "$(outputs.table)", job={"outputs": {"table": {}}}),
        outputs={"table": "$(steps.only.outputs.table)"},
    )
    outer = pipeline(
        "outer",
        {"name": "tune", "sweep": tune},
        {"name": "nested", "pipeline": {"name": "inner"}},
        step("each", "import sys; print(f'size={sys.argv[1]}')", "$(item)", forEach={"items": [1, 2]}),
        step("never", "", when="steps.tune.metrics.loss > 1000.0"),
        step(
            "sum",
            "import sys; print(sys.argv[1])",
            "$(steps.each.metrics.size)",
            job={"inputs": {"table": {"uri": "$(steps.nested.outputs.table)"}}},
        ),
    )
    platform.apply(inner, outer, run("outer-run", "outer", ttlSecondsAfterFinished=600))
    status = ended(platform, "outer-run")
    assert states(status) == {
        "tune": "Succeeded", "nested": "Succeeded", "each": "Succeeded", "each-0": "Succeeded",
        "each-1": "Succeeded", "never": "Skipped", "sum": "Succeeded",
    }, json.dumps(status)  # fmt: skip


def test_a_cancelled_run_ends_its_jobs(platform):
    """spec.cancel deletes the jobs and sweeps that run; a resumed run takes over what had succeeded."""
    quick = step("quick", CLEAN, "$(outputs.table)", job={"outputs": {"table": {}}}, cache=False)
    slow = step("slow", "import time; time.sleep(600)", after=["quick"], cache=False)
    forever = sweep("x", ["sleep", "600"], limits={"maxTrials": 1})["spec"]
    platform.apply(pipeline("slow", quick, slow, {"name": "tune", "after": ["quick"], "sweep": forever}))
    platform.apply(run("slow-run", "slow"))
    platform.wait("plr", "slow-run", lambda s: (s.get("counts") or {}).get("running") == 2)
    platform.kubectl("patch", "plr", "slow-run", "--type=merge", "-p", '{"spec": {"cancel": true}}')
    status = ended(platform, "slow-run")
    assert states(status) == {"quick": "Succeeded", "slow": "Failed", "tune": "Failed"}
    assert condition(status, "Failed")["reason"] == "Cancelled"

    platform.apply(run("slow-resumed", "slow", rerun={"of": "slow-run"}, ttlSecondsAfterFinished=0))
    resumed = platform.wait("plr", "slow-resumed", lambda s: (s.get("counts") or {}).get("running") == 2)
    assert resumed["steps"][0]["cached"]["run"] == "slow-run"
    platform.kubectl("patch", "plr", "slow-resumed", "--type=merge", "-p", '{"spec": {"cancel": true}}')


def test_a_pipeline_with_a_fault_starts_nothing(platform):
    """The condition Accepted names step, field, what was expected and what there is."""
    platform.apply(pipeline("faulty", step("clean", CLEAN, job={"nodes": "$(params.rate)"})))
    status = platform.wait("pl", "faulty", lambda s: condition(s, "Accepted").get("status") == "False")
    assert condition(status, "Accepted")["message"] == "step clean: nodes: expected integer, got number"


def test_an_input_that_vanishes_before_it_is_read_is_named(platform):
    """The step fails by the file that is gone: of a dataset's version by DataChanged, of a URI by what is missing."""
    name, gate, content = "vanishing", "vanishing-gate", b"a,b\n1,2\n"
    uris = {place: platform.put(f"{name}/{place}-{SALT}.csv", content) for place in ("version", "raw", "gate")}
    digest = f"sha256:{sha256(content).hexdigest()}"

    def version(dataset: str, uri: str) -> Manifest:
        spec = {"dataset": dataset, "version": "1", "uri": uri, "digest": digest}
        return {"kind": "DatasetVersion", "metadata": {"name": f"{dataset}-1"}, "spec": spec}

    def reads(step_name: str, source: Manifest, *after: str) -> Manifest:
        return step(step_name, "print('read=1')", after=list(after), job={"inputs": {"rows": source}})

    platform.apply(
        *({"kind": "Dataset", "metadata": {"name": owner}, "spec": {"type": "file"}} for owner in (name, gate)),
        version(name, uris["version"]),
    )
    platform.wait("dset", name, lambda s: s.get("latestReadyVersion") == "1")
    steps = (
        reads("hold", {"dataset": f"{gate}@1"}),
        reads("of-version", {"dataset": f"{name}@1"}, "hold"),
        reads("of-uri", {"uri": uris["raw"]}, "hold"),
    )
    platform.apply(pipeline(name, *steps), run("vanishing-run", name))
    platform.wait("plr", "vanishing-run", lambda s: "StepsRunning" in str(s))
    with platform.target.bucket(platform.namespace) as storage:
        for place in ("version", "raw"):
            bucket, _, key = uris[place].removeprefix("s3://").partition("/")
            storage.delete_object(Bucket=bucket, Key=key)
    platform.apply(version(gate, uris["gate"]))
    status = ended(platform, "vanishing-run")
    assert states(status) == {"hold": "Succeeded", "of-version": "Failed", "of-uri": "Failed"}, json.dumps(status)
    _, of_version, of_uri = status["steps"]
    assert uris["version"] in of_version["message"]
    assert platform.status("tj", of_version["child"])["failure"]["reason"] == "DataChanged"
    assert uris["raw"] in of_uri["message"]


def test_a_published_version_is_rolled_out(platform):
    """Aliases move to what a step registered; a later version goes to a deployment, and its rollout is awaited."""
    name, number = "publish", "$(steps.fit.outputs.model)"
    fit = training_job("fit", model=name)["spec"]
    rows = step("rows", CLEAN, "$(outputs.table)", job={"outputs": {"table": {"dataset": name}}}, cache=False)
    champion = {"model": name, "version": number, "alias": "champion"}
    golden = {"dataset": name, "version": "$(steps.rows.outputs.table)", "alias": "golden"}
    green = {"model": name, "version": number, "endpoint": name, "deployment": "green", "wait": True}
    platform.apply(
        {"kind": "Dataset", "metadata": {"name": name}, "spec": {}},
        pipeline(
            name,
            {"name": "fit", "cache": False, "trainingJob": fit},
            rows,
            {"name": "champion", "publish": champion},
            {"name": "golden", "publish": golden},
            {"name": "green", "when": "params.rate > 0.5", "timeoutSeconds": 180, "publish": green},
        ),
        run("publish-first", name),
    )
    first = ended(platform, "publish-first")
    assert first["state"] == "Succeeded", json.dumps(first)
    assert platform.get("mdl", name)["spec"]["aliases"] == {"champion": "1"}
    assert platform.get("dset", name)["spec"]["aliases"] == {"golden": "1"}

    deployments = [{"name": "blue", "model": f"{name}@1"}, {"name": "green", "model": f"{name}@1"}]
    rollout = {"candidate": "green", "steps": [50, 100], "stepSeconds": 1}
    spec = {"traffic": {"blue": 100}, "deployments": deployments, "rollout": rollout}
    platform.apply(
        {"kind": "OnlineEndpoint", "metadata": {"name": name}, "spec": spec},
        run("publish-second", name, parameters={"rate": 0.9}),
    )
    second = ended(platform, "publish-second")
    assert second["state"] == "Succeeded", json.dumps(second)
    published = {entry["name"]: entry["published"] for entry in second["steps"] if "published" in entry}
    assert (published["champion"]["former"], published["green"]["former"]) == ("1", "1")
    assert platform.get("oe", name)["spec"]["deployments"][1]["model"] == f"{name}@2"
    assert platform.status("oe", name)["rollout"]["phase"] == "Promoted"
    platform.kubectl("delete", "oe", name)
