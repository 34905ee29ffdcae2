"""The examples of pipelines by the words of their pages: a champion each night, and a step for each part of a list."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from conftest import NAMESPACE, Platform
from load import Background
from manifests import Manifest, infer
from pages import ROOT, blocks
from person import Person, data_scientist
from sklearn.datasets import load_breast_cancer
from terminal import Shown

NAME = "nightly-cancer"
EXAMPLE = ROOT / "examples" / "pipeline"
MANY = "examples/many-steps"
FIRST_RUN, A_NIGHT = (block.text.splitlines() for block in blocks(EXAMPLE / "README.md") if block.language == "sh")


@pytest.fixture(scope="module")
def ada(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """A data scientist with the examples in the folder of a clone; her objects are gone afterwards."""
    folder = tmp_path_factory.mktemp("ada")
    person = Person(folder, data_scientist(platform, "nightly", folder))
    for example in ("examples/pipeline", MANY):
        shutil.copytree(ROOT / example, folder / example)
    yield person
    platform.delete("sched", NAME)
    platform.delete("oe", NAME)
    for run in platform.get("plr"):
        if run["spec"].get("pipeline") in (NAME, "many-steps"):
            platform.delete("plr", run["metadata"]["name"])
    platform.delete("pl", NAME, "many-steps")


def _made(platform: Platform, run: str) -> list[Manifest]:
    """Return the jobs and sweeps that a run has made."""
    words = ("-l", f"ultramarine.dev/kind=PipelineRun,ultramarine.dev/name={run}")
    return [*platform.get("tj", "", *words), *platform.get("sw", "", *words)]


def _put_table(platform: Platform) -> None:
    """Put the table of `make demo` to its place, in a new order: no earlier session has done the work on it."""
    pipeline = yaml.safe_load((EXAMPLE / "pipeline.yaml").read_text())
    bucket, _, key = pipeline["spec"]["parameters"]["raw"]["default"].removeprefix("s3://").partition("/")
    table = load_breast_cancer(as_frame=True).frame.sample(frac=1, random_state=uuid.uuid4().int % 2**32)
    with platform.target.bucket(NAMESPACE) as storage:
        storage.put_object(Bucket=bucket, Key=key, Body=table.to_csv(index=False).encode())


def _has_blue(status: Manifest) -> bool:
    """Return True if blue's pod is ready and gets all requests."""
    blue = next((entry for entry in status.get("deployments") or [] if entry["name"] == "blue"), {})
    return bool(blue.get("readyReplicas")) and (status.get("traffic") or {}).get("blue") == 100


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_night_ends_with_a_champion_that_passed_the_gates(ada: Person, platform: Platform) -> None:
    """The page's commands make the champion; a night with new data rolls the next version out, and crowns it."""
    with ExitStack() as stack:
        terminal = stack.enter_context(ada.at_a_terminal(ada.folder))

        def typed(lines: list[str]) -> list[Shown]:
            """Type lines of the page; each must succeed."""
            screens = [terminal.type(line, 900) for line in lines]
            assert [screen.text for screen in screens if screen.exit_code or screen.broken] == []
            return screens

        _put_table(platform)
        plan, started, *_ = typed(FIRST_RUN)
        assert [step for step in ("clean", "tune", "check", "crown") if f"step {step}: runs" not in plan.text] == []
        for words in ("✔ clean", "✔ tune", "✔ check", "· challenge", "✔ crown", "↓"):
            assert words in started.text
        assert started.text.count("✔ clean") == 1, "the graph is drawn in place"
        assert "● clean" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.recording.text)
        first = str(platform.get("mdl", NAME)["spec"]["aliases"]["champion"])

        # The challenger of the endpoint's file has none yet: its alias is set by the first night with an endpoint.
        platform.wait("oe", NAME, _has_blue, 300)
        _put_table(platform)
        row, codes = infer(load_breast_cancer().data[:1].tolist(), "input", "FP64"), list[int]()

        def ask() -> None:
            with platform.client(NAME) as client:
                while not load.stopping.is_set():
                    codes.append(client.post(f"/v2/models/{NAME}/infer", json=row).status_code)

        with Background(ask) as load:
            _, watched, why = typed(A_NIGHT)
        for step in ("clean", "tune", "check", "challenge", "crown"):
            assert f"✔ {step}" in watched.text
        assert "inputs.raw" in why.text
    second = str(platform.get("mdl", NAME)["spec"]["aliases"]["champion"])
    assert int(second) > int(first)
    assert platform.status("oe", NAME)["rollout"]["phase"] == "Promoted"
    assert set(codes) == {200}

    same = ada.run("schedule", "trigger", NAME).stdout.strip().rpartition("/")[2]
    night = platform.wait("plr", same, lambda s: s.get("state") in ("Succeeded", "Failed"))
    assert night["state"] == "Succeeded", json.dumps(night)
    assert _made(platform, same) == [], "a night with the data of the last one starts no pod"
    assert platform.get("mdl", NAME)["spec"]["aliases"]["champion"] == second


@pytest.mark.slow
def test_a_step_for_each_part_of_a_list(ada: Person, platform: Platform) -> None:
    """The page's command adds the parts up; the same run again starts no pod, and one with more parts the new ones."""
    file = ada.folder / MANY / "pipeline.yaml"
    pipeline = yaml.safe_load(file.read_text())
    salt = uuid.uuid4().hex  # records of earlier sessions stay in the storage, and would be reused
    for step in pipeline["spec"]["steps"]:
        step["cacheSalt"] = salt
    file.write_text(yaml.safe_dump(pipeline))
    (command,) = (block.text.split() for block in blocks(Path(ROOT, MANY, "README.md")))
    more = [word.replace("parts=20", "parts=21") for word in command]
    runs: list[str] = []
    for words in (command, command, more):
        runs += re.findall(r"PipelineRun (\S+) created", ada.run(*words[1:]).stderr)
    sums = [step for run in runs for step in platform.status("plr", run)["steps"] if step["name"] == "sum"]
    assert [step["metrics"]["total"] for step in sums] == [2470.0, 2470.0, 2870.0]
    assert [len(_made(platform, run)) for run in runs] == [22, 0, 3]
