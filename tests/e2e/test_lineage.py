"""Runs of pipelines and where models come from: what a data scientist asks by the command, and what an auditor asks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import NAMESPACE, Manifest, Platform
from manifests import TRAIN, endpoint
from person import Person, data_scientist

# A second run of these tests must not find the results and the records of the first one.
SALT = uuid.uuid4().hex
MODEL, DATASET, PIPELINE = f"line-{SALT[:8]}", f"line-raw-{SALT[:8]}", "line"
RUNS = ("line-first", "line-second", "line-slow", "line-resumed")
VERSION, DATA = f"ModelVersion/{MODEL}-1", f"DatasetVersion/{DATASET}-1"
COUNT = "import sys, pathlib\nprint(f'files={len(list(pathlib.Path(sys.argv[1]).rglob(\"*.csv\")))}')"
FIT = TRAIN + "print(f'rate={float(sys.argv[2])}')\n"


def step(name: str, script: str, *args: str, salt: str = SALT, **job: Any) -> Manifest:
    """A step that runs a script with arguments."""
    source = {"inline": {"main.py": script}}
    spec = {"source": source, "command": ["python", "main.py", *args], "backoffLimit": 0, **job}
    return {"name": name, "cacheSalt": salt, "trainingJob": spec}


def pipeline(name: str, *steps: Manifest) -> Manifest:
    """A Pipeline with one parameter."""
    rate = {"type": "number", "default": 0.1}
    return {
        "kind": "Pipeline",
        "metadata": {"name": name},
        "spec": {"parameters": {"rate": rate}, "steps": list(steps)},
    }


@pytest.fixture(scope="module")
def person(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """A data scientist."""
    folder = tmp_path_factory.mktemp("ada")
    return Person(folder, data_scientist(platform, "lineage", folder))


@pytest.fixture(scope="module")
def ada(platform: Platform, person: Person) -> Iterator[Person]:
    """A data scientist who has run a pipeline from a dataset to a served model; nothing of it is left afterwards."""
    platform.delete("plr", *RUNS)
    (person.folder / "raw.csv").write_text("x,y\n0,0\n3,1\n")
    person.run("data", "put", "raw.csv", "--register", DATASET)
    outputs = {"model": {"registerAs": MODEL, "compile": {"to": "none"}}}
    read = {"table": {"dataset": f"{DATASET}@1"}}
    count = step("count", COUNT, "$(inputs.table)", inputs=read)
    fit = step("fit", FIT, "$(outputs.model)", "$(params.rate)", inputs=read, outputs=outputs)
    person.write("line.yaml", pipeline(PIPELINE, count, {**fit, "after": ["count"]}))
    done = person.run("run", "start", "line.yaml", "--name", "line-first", "--set", "rate=1")
    assert "fit: Succeeded" in done.stderr
    person.run("models", "promote", f"{MODEL}@1", "--alias", "champion")
    platform.apply(endpoint(MODEL, f"{MODEL}@champion"))
    yield person
    platform.delete("oe", MODEL)
    platform.delete("plr", *RUNS)
    platform.delete("mdl", MODEL)
    platform.delete("mv", f"{MODEL}-1", f"{MODEL}-2")
    platform.delete("dset", DATASET)
    platform.delete("dsv", f"{DATASET}-1")


def test_runs_are_listed_shown_and_compared(ada: Person, platform: Platform) -> None:
    """A second run with another parameter reuses one step, and says why the other one ran again."""
    ada.run("run", "start", PIPELINE, "--name", "line-second", "--set", "rate=2", "--detach")
    done = ada.run("run", "watch", "line-second")
    assert "count: Reused, from run line-first" in done.stderr

    listed = ada.run("run", "list", "--pipeline", PIPELINE).stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["RUN", "line-second", "line-first"]
    shown = ada.run("run", "show", "line-second").stdout
    assert {("count", "Reused"), ("fit", "Succeeded")} <= {tuple(line.split()[:2]) for line in shown.splitlines()}
    assert f"{DATASET}@1" in shown.splitlines()[-1]  # what the run has pinned
    assert "was not reused: parameters" not in ada.run("run", "why", "line-second", "count").stdout
    assert "It was not reused: command is" in ada.run("run", "why", "line-second", "fit").stdout
    assert {"parameters.rate: 1 -> 2", "step fit: rate 1 -> 2"} <= set(
        ada.run("run", "diff", "line-first", "line-second").stdout.splitlines()
    )
    assert "has no step nothing" in ada.run("run", "why", "line-second", "nothing", code=1).stderr


def test_a_run_is_cancelled_and_resumed(ada: Person, platform: Platform) -> None:
    """`run cancel` ends the running step; `run resume` takes over what had ended."""
    slow = {**step("slow", "import time; time.sleep(600)"), "after": ["count"]}
    ada.write("slow.yaml", pipeline("line-slow", step("count", "print('files=1')"), slow))
    ada.run("run", "start", "slow.yaml", "--name", "line-slow", "--detach")
    platform.wait("plr", "line-slow", lambda s: (s.get("counts") or {}).get("succeeded") == 1)
    ada.run("run", "cancel", "line-slow")
    assert "slow: Failed" in ada.run("run", "watch", "line-slow", code=1).stderr

    ada.run("run", "resume", "line-slow", "--name", "line-resumed", "--detach")
    resumed = platform.wait("plr", "line-resumed", lambda s: (s.get("counts") or {}).get("cached"))
    assert resumed["steps"][0]["cached"]["run"] == "line-slow"
    ada.run("run", "cancel", "line-resumed")


def chain(ada: Person, direction: str, *words: str) -> list[str]:
    """Return KIND/NAME of the facts in a direction, the nearest first."""
    document = json.loads(ada.run("lineage", *words, "-o", "json").stdout)
    return list(dict.fromkeys(f"{fact['kind']}/{fact['name']}" for fact in document[direction]))


def test_lineage_leads_from_data_to_endpoint_and_back(ada: Person, platform: Platform) -> None:
    """The model names the version of the data, and the data the model and the endpoint that serves it."""
    platform.ready(MODEL, f"{MODEL}-1")
    job = platform.get("mv", f"{MODEL}-1")["spec"]["lineage"]["trainingJob"]

    origins = chain(ada, "origins", "model", f"{MODEL}@champion")
    assert origins[:2] == [VERSION, f"TrainingJob/{job}"]
    assert {DATA, "PipelineRun/line-first"} <= set(origins)
    # The record of what an endpoint serves is written after its status.
    led_to = {f"TrainingJob/{job}", VERSION, f"Model/{MODEL}", f"OnlineEndpoint/{MODEL}"}
    platform.wait("oe", MODEL, lambda _: led_to <= set(chain(ada, "consequences", "dataset", f"{DATASET}@1")))
    assert DATA in chain(ada, "origins", "endpoint", MODEL)

    tree = ada.run("lineage", "model", f"{MODEL}@1").stdout
    assert f"OnlineEndpoint/{MODEL} deployment/blue {MODEL}-1" in tree
    assert ada.run("lineage", "model", f"{MODEL}@1", "-o", "mermaid").stdout.startswith("flowchart LR\n")
    events = ada.run("lineage", "model", f"{MODEL}@1", "-o", "openlineage").stdout.splitlines()
    assert f"TrainingJob/{job}/end" in [json.loads(event)["job"]["name"] for event in events]
    assert "nothing is recorded" in ada.run("lineage", "model", "line-none@1", code=1).stderr


@contextmanager
def damaged(platform: Platform, number: int, *, removed: bool) -> Iterator[None]:
    """Alter or remove a record, as the administrator of the storage alone can; put it back afterwards."""
    place = {"Bucket": "ultramarine", "Key": f"{NAMESPACE}/records/{number:010}.json"}
    with platform.target.bucket(NAMESPACE) as root:
        former = root.get_object(**place)["Body"].read()
        if removed:
            root.delete_object(**place)
        else:
            root.put_object(**place, Body=former + b"\n")
        try:
            yield
        finally:
            root.put_object(**place, Body=former)


def faults(person: Person) -> set[str]:
    """Return what an audit finds wrong with the records; other tests may be making objects meanwhile."""
    process = person.begin("audit", "verify")
    out, err = process.communicate(timeout=300)
    assert process.returncode == (1 if out else 0), err
    assert "the last record is sha256:" in err
    return {line for line in out.splitlines() if "no record says" not in line}


def test_a_damaged_record_shows(person: Person, platform: Platform) -> None:
    """`audit verify` names a record that was altered or removed, and exits with 1."""
    before = faults(person)
    with platform.target.bucket(NAMESPACE) as root:
        listed = root.list_objects_v2(Bucket="ultramarine", Prefix=f"{NAMESPACE}/records/0")
    number = int(listed["Contents"][0]["Key"].rpartition("/")[2].removesuffix(".json"))
    with damaged(platform, number, removed=False):
        altered = faults(person) - before
        assert any(fault.startswith(f"record {number} was altered") for fault in altered), altered
    with damaged(platform, number, removed=True):
        removed = faults(person) - before
        assert any(fault.endswith((f"record {number} was removed", f"to {number} were removed")) for fault in removed)
    assert faults(person) <= before
