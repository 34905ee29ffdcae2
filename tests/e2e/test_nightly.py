"""The examples of pipelines as their pages say: a new champion each night, and a step for each part of a list."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Platform
from load import Background
from manifests import Manifest, infer
from pages import ROOT
from person import Person, data_scientist
from sklearn.datasets import load_breast_cancer

NAME = "nightly-cancer"
SALT = uuid.uuid4().hex  # records of earlier sessions stay in the storage, and would be reused


@pytest.fixture(scope="module")
def ada(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """A data scientist with the examples, which share no cache with other sessions and are gone afterwards."""
    folder = tmp_path_factory.mktemp("ada")
    person = Person(folder, data_scientist(platform, "nightly", folder))
    for example in ("examples/pipeline", "examples/many-steps"):
        shutil.copytree(ROOT / example, folder / example)
        file = folder / example / "pipeline.yaml"
        manifests = list(yaml.safe_load_all(file.read_text()))
        for manifest in manifests:
            for step in manifest["spec"]["steps"]:
                step |= {} if "publish" in step else {"cacheSalt": SALT}
        file.write_text(yaml.safe_dump_all(manifests))
    yield person
    platform.delete("sched", NAME)
    platform.delete("oe", NAME)
    platform.delete("plr", "many", "many-again", "first-night")
    platform.delete("pl", NAME, "many-steps")


@pytest.fixture(scope="module")
def raw(platform: Platform) -> str:
    """URI of the raw table."""
    table = load_breast_cancer(as_frame=True).frame
    return platform.put("nightly/train.csv", table.to_csv(index=False).encode())


def _has_blue(status: Manifest) -> bool:
    """Return True if blue's pod is ready and gets all requests."""
    (blue,) = status.get("deployments") or [{}]
    return bool(blue.get("readyReplicas")) and (status.get("traffic") or {}).get("blue") == 100


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_night_ends_with_a_champion_that_passed_the_gates(ada: Person, platform: Platform, raw: str) -> None:
    """The first run makes the champion; a triggered night rolls the next version out by the gates, and crowns it."""
    example = Path("examples/pipeline")
    sets = ("--set", "first=true", "--set", f"raw={raw}")
    plan = ada.run("plan", str(example / "pipeline.yaml"), *sets).stdout
    assert [step for step in ("clean", "tune", "check", "crown") if step not in plan] == []
    with ada.at_a_terminal(ada.folder) as terminal:
        begun = f"ultramarine run start {example}/pipeline.yaml --name first-night --detach {' '.join(sets)}"
        assert terminal.type(begun).exit_code == 0
        watched = terminal.type("ultramarine run watch first-night")
    assert watched.exit_code == 0, watched.text
    for words in ("✔ clean", "✔ tune", "✔ check", "· challenge", "✔ crown", "↓"):
        assert words in watched.text
    assert watched.text.count("✔ clean") == 1, "the graph is drawn in place"
    assert "● clean" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.recording.text)
    assert watched.broken == []
    first = str(platform.get("mdl", NAME)["spec"]["aliases"]["champion"])

    # The challenger of the endpoint's file has none yet: its alias is set by the first night with an endpoint.
    ada.run("apply", "-f", str(example / "endpoint.yaml"))
    platform.wait("oe", NAME, _has_blue, 300)
    ada.run("apply", "-f", str(example / "schedule.yaml"))
    platform.wait("sched", NAME, lambda s: s.get("state") == "Active")
    spec = {"pipeline": NAME, "parameters": {"raw": raw, "trials": 5}}
    patch = {"spec": {"template": {"kind": "PipelineRun", "spec": spec}}}
    platform.kubectl("patch", "sched", NAME, "--type=merge", "-p", json.dumps(patch))
    run = ada.run("schedule", "trigger", NAME).stdout.strip().removeprefix("pipelinerun/")
    platform.wait("sched", NAME, lambda s: s.get("lastRun") == run)
    row, codes = infer(load_breast_cancer().data[:1].tolist(), "input", "FP64"), list[int]()

    def ask() -> None:
        with platform.client(NAME) as client:
            while not load.stopping.is_set():
                codes.append(client.post(f"/v2/models/{NAME}/infer", json=row).status_code)

    with Background(ask) as load:
        night = platform.wait("plr", run, lambda s: s.get("state") in ("Succeeded", "Failed"), 900)
    assert night["state"] == "Succeeded", json.dumps(night)
    states = {step["name"]: (step["state"], "cached" in step) for step in night["steps"]}
    assert states["clean"] == ("Succeeded", True)
    assert states["challenge"] == states["crown"] == ("Succeeded", False)
    second = str(platform.get("mdl", NAME)["spec"]["aliases"]["champion"])
    assert int(second) > int(first)
    assert platform.status("oe", NAME)["rollout"]["phase"] == "Promoted"
    assert set(codes) == {200}


def test_a_step_for_each_part_of_a_list(ada: Person, platform: Platform) -> None:
    """The example with many steps adds its parts up; with more parts only the new ones run."""
    file = "examples/many-steps/pipeline.yaml"
    ada.run("run", "start", file, "--set", "parts=4", "--name", "many")
    more = ada.run("run", "start", file, "--set", "parts=5", "--name", "many-again").stderr
    assert "sum: Succeeded" in more
    status = platform.status("plr", "many-again")
    steps = {step["name"]: step for step in status["steps"]}
    assert steps["sum"]["metrics"]["total"] == 30.0
    assert [f"part-{part}" for part in range(5) if "cached" not in steps[f"part-{part}"]] == ["part-4"]
