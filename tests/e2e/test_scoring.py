"""Scoring scripts on the cluster: one that hangs, ends and returns what is no JSON, and one that cannot start."""

from __future__ import annotations

import pytest
from conftest import Platform
from manifests import endpoint, model_version

SCORE = """
import json, os, time

def init():
    global words
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "words.txt")) as file:
        words = file.read()

def run(data):
    request = json.loads(data)
    if request == "hang":
        time.sleep(3600)
    if request == "end":
        os._exit(7)
    if request == "nan":
        return [float("nan")]
    if request == "set":
        return {1, 2}
    if request == "generator":
        return (number for number in (1, 2))
    return {"words": words, "request": request}
"""


def scored(name: str, script: str, **deployment):
    """An endpoint whose script answers for the model `words`."""
    manifest = endpoint(name, "words@1")
    manifest["spec"]["deployments"][0] |= {"scoring": {"source": {"inline": {"score.py": script}}}, **deployment}
    return manifest


@pytest.fixture(scope="module")
def scripts(platform: Platform) -> Platform:
    """A good script and one that cannot start, with a model of no format of the platform."""
    platform.apply(
        model_version("words", 1, platform.put("words.txt", b"one two"), b"one two", "custom"),
        scored("worded", SCORE, requestSettings={"timeoutSeconds": 2}),
        scored("unworded", SCORE.replace("words.txt", "missing.txt")),
    )
    return platform


def test_a_script_answers_hangs_ends_and_answers_again(scripts):
    """A hanging run is 504 and a crash 502; both times the process starts again behind the same pod."""
    scripts.ready("worded", "words-1")
    pods = [pod["metadata"]["uid"] for pod in scripts.pods_of("OnlineEndpoint", "worded")]
    with scripts.client("worded") as client:
        assert client.post("/score", json=[1]).json() == {"words": "one two", "request": [1]}
        assert client.post("/score", json="hang").status_code == 504
        scripts.ready("worded", "words-1")
        assert client.post("/score", json="end").status_code in (502, 503)
        answers = []
        scripts.wait(
            "oe", "worded", lambda _: answers.append(client.post("/score", json=[2])) or answers[-1].is_success
        )
        assert answers[-1].json()["request"] == [2]
        assert {answer.status_code for answer in answers} <= {200, 502, 503}
    assert [pod["metadata"]["uid"] for pod in scripts.pods_of("OnlineEndpoint", "worded")] == pods


def test_what_is_no_json_is_named(scripts):
    """NaN is written as Azure's server writes it; a set and a generator are 500 with their type."""
    scripts.ready("worded", "words-1")
    with scripts.client("worded") as client:
        assert client.post("/score", json="nan").text == "[NaN]"
        for kind in ("set", "generator"):
            answer = client.post("/score", json=kind)
            assert answer.status_code == 500
            assert kind in answer.json()["error"]


def test_a_script_that_cannot_start_shows_its_line(scripts):
    """The deployment's message has the exception of init() with file and line."""
    status = scripts.wait("oe", "unworded", lambda s: (s.get("deployments") or [{}])[0].get("state") == "Failing")
    message = status["deployments"][0]["message"]
    assert "init() of score.py raised FileNotFoundError" in message
    assert "(score.py, line 6)" in message
