"""Rollouts on the real cluster: a good candidate takes over under load, and a bad one is turned back by the gates.

Version 1 answers 1, version 2 answers 2, and version 11 answers 1 as well. Version 4 is no model, version 5 has another
input, and version 6 refuses every request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from conftest import Manifest, Platform, condition
from load import OpenLoad
from manifests import endpoint, infer, model_version, onnx_model, training_job
from ultramarine_contract.common import ArtifactManifest, FileEntry

NAME = "stepwise"
BLUE, GREEN = {"name": "blue", "model": f"{NAME}@1"}, {"name": "green", "model": f"{NAME}@challenger"}
GATES = {"errorRateIncrease": 0.05}

# Answers as the ONNX models do, but for every fourth request: of that it dies.
CROOKED = """
import sys
from pathlib import Path

(Path(sys.argv[1]) / "model.py").write_text('''
import itertools


class Model:
    signature = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
    }

    def __init__(self):
        self.asked = itertools.count(1)

    def predict(self, inputs):
        if next(self.asked) % 4 == 0:
            raise RuntimeError("every fourth time")
        return {"y": inputs["x"]}
''')
"""


# Takes what the ONNX models take, and refuses it.
REFUSING = b"""
class Model:
    signature = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
    }

    def predict(self, inputs):
        raise ValueError("age is missing")
"""


def champion_alone(platform: Platform) -> None:
    """Apply the endpoint without a rollout, and wait until blue answers everything."""
    platform.apply(endpoint(NAME, "", deployments=[BLUE, GREEN], traffic={"blue": 100}))
    platform.settled(NAME, {"blue": 100})


def roll_out(platform: Platform, steps: list[int], **gates: float) -> None:
    """Apply the endpoint with a rollout of green."""
    rollout = {"candidate": "green", "steps": steps, "stepSeconds": 5, "gates": gates}
    platform.apply(endpoint(NAME, "", deployments=[BLUE, GREEN], traffic={"blue": 100}, rollout=rollout))


def challenger(platform: Platform, number: str) -> None:
    """Let the alias challenger mean another version."""
    platform.apply({"kind": "Model", "metadata": {"name": NAME}, "spec": {"aliases": {"challenger": number}}})


def ended(platform: Platform, *phases: str, seconds: float = 300) -> Manifest:
    """Wait until the rollout is in one of these phases, and return the endpoint's status."""
    return platform.wait("oe", NAME, lambda s: (s.get("rollout") or {}).get("phase") in phases, seconds)


def python_version(platform: Platform, number: int, code: bytes) -> Manifest:
    """A version of a model of format python, made by hand: a folder with its list of files."""
    entry = FileEntry("model.py", len(code), hashlib.sha256(code).hexdigest())
    listed = ArtifactManifest((entry,), "python").to_json()
    uri = platform.put(f"{NAME}-{number}/model.py", code).removesuffix("model.py")
    platform.put(f"{NAME}-{number}/manifest.json", listed)
    return model_version(NAME, number, uri, listed, "python", allowCodeExecution=True)


def of_gate(status: Manifest, gate: str) -> Manifest:
    """Return the verdict of one gate."""
    found: Manifest = next(each for each in status["rollout"]["evidence"] if each["gate"] == gate)
    return found


@pytest.fixture(scope="module")
def stepping(platform: Platform) -> Iterator[Platform]:
    """A Model with three ONNX versions, and blue with the first of them behind an endpoint."""
    for number, answer in ((1, 1), (2, 2), (11, 1)):
        content = onnx_model(answer)
        uri = platform.put(f"{NAME}-{number}.onnx", content)
        platform.apply(model_version(NAME, number, uri, content))
    challenger(platform, "2")
    champion_alone(platform)
    yield platform
    platform.delete("oe", NAME, "halfway")


@pytest.mark.slow
def test_a_good_candidate_takes_over_without_a_failed_request(stepping):
    """At 40 requests a second: a fifth, until both gates pass, then all; and traffic in Git changes nothing more."""
    with OpenLoad(stepping, NAME) as load:
        roll_out(stepping, [20, 100], **GATES, p99Ratio=5)
        status = ended(stepping, "Promoted", "RolledBack", "Paused")
        assert status["rollout"]["phase"] == "Promoted", status["rollout"]
        assert {each["gate"]: each["verdict"] for each in status["rollout"]["evidence"]} == {
            "errorRateIncrease": "Passed",
            "p99Ratio": "Passed",
            "clientErrorRateIncrease": "Passed",
        }
        stepping.apply(endpoint(NAME, "", deployments=[BLUE, GREEN], traffic={"green": 100}))
        status = stepping.wait("oe", NAME, lambda s: "rollout" not in s and not condition(s, "Reconciling"))
        assert status["traffic"] == {"green": 100}
    assert load.failures == []
    assert (load.versions[0], load.versions[-1], set(load.versions)) == ("1", "2", {"1", "2"})
    stepping.events(NAME, "RolloutStarted", "RolloutStep", "RolloutPassed", "Promoted")
    print(f"{len(load.versions)} requests during a rollout, none failed")
    champion_alone(stepping)


@pytest.mark.slow
def test_a_candidate_that_fails_requests_is_turned_back_and_the_next_one_gets_its_chance(stepping):
    """Every fourth answer of version 3 is 500: blue answers again within seconds; the alias at 2 begins anew."""
    job = training_job("crooked", CROOKED, outputs={"model": {"registerAs": NAME, "format": "python"}})
    stepping.apply(job)
    made = stepping.ended("crooked")["modelVersion"]
    stepping.kubectl("patch", "mv", made, "--type=merge", "-p", '{"spec": {"allowCodeExecution": true}}')
    stepping.wait("mv", made, lambda s: s.get("state") == "Ready")
    number = made.removeprefix(f"{NAME}-")
    challenger(stepping, number)

    with OpenLoad(stepping, NAME) as load:
        roll_out(stepping, [50, 100], **GATES)
        status = ended(stepping, "Promoted", "RolledBack", "Paused")
        stepping.wait("oe", NAME, lambda s: s.get("traffic") == {"blue": 100})
    assert status["rollout"]["phase"] == "RolledBack", status["rollout"]
    evidence = of_gate(status, "errorRateIncrease")
    assert evidence["verdict"] == "Failed"
    assert evidence["message"] in condition(status, "RolloutHealthy")["message"]
    told = condition(status, "RolloutHealthy")
    assert (told["status"], told["reason"], condition(status, "Ready")["status"]) == ("False", "GateFailed", "True")
    assert all(failure.startswith("500 ") for failure in load.failures), load.failures
    assert 3 <= len(load.failures) <= 100, "it was caught by some failures, not by hundreds"
    stepping.events(NAME, "RolledBack")
    print(f"turned back after {len(load.failures)} failed requests: {evidence['message']}")

    with OpenLoad(stepping, NAME) as load:
        challenger(stepping, "2")
        status = ended(stepping, "Promoted", "Paused")
    assert (status["traffic"], load.failures) == ({"green": 100}, [])
    assert number not in load.versions, "a version that failed is asked no more"
    assert load.versions[-1] == "2"
    champion_alone(stepping)


@pytest.mark.slow
def test_a_candidate_is_judged_by_how_it_answers(stepping):
    """Version 2 answers otherwise than blue and is turned back; version 11 answers alike and takes over.

    No request fails meanwhile, copies or not, and to copy requests costs blue nothing that anybody would notice.
    """
    challenger(stepping, "2")
    with OpenLoad(stepping, NAME) as load:
        roll_out(stepping, [50, 100], agreement=0.95)
        status = ended(stepping, "Promoted", "RolledBack", "Paused")
        stepping.wait("oe", NAME, lambda s: s.get("traffic") == {"blue": 100})
    assert status["rollout"]["phase"] == "RolledBack", status["rollout"]
    evidence = of_gate(status, "agreement")
    assert evidence["verdict"] == "Failed"
    assert evidence["message"].startswith("agreement: 0 of "), evidence
    assert evidence["message"] in condition(status, "RolloutHealthy")["message"]
    assert load.failures == []
    print(f"turned back by its answers: {evidence['message']}")

    with OpenLoad(stepping, NAME) as load:
        challenger(stepping, "11")
        status = ended(stepping, "Promoted", "Paused")
    assert (status["traffic"], load.failures) == ({"green": 100}, [])
    evidence = of_gate(status, "agreement")
    assert evidence["verdict"] == "Passed"
    assert "2" not in load.versions, "a version that answers otherwise is asked no more"
    assert load.versions[-1] == "11"
    print(f"taken over by its answers: {evidence['message']}")
    champion_alone(stepping)


def test_requests_keep_away_from_a_deployment_that_was_never_ready(stepping):
    """Blue, with 80 %, cannot load its model: green answers all, and the endpoint says why blue does not."""
    uri = stepping.put(f"{NAME}-4.onnx", b"no model")
    stepping.apply(model_version(NAME, 4, uri, b"no model"))
    refused = {"name": "blue", "model": f"{NAME}@4"}, {"name": "green", "model": f"{NAME}@1"}
    stepping.apply(endpoint("halfway", "", deployments=list(refused), traffic={"blue": 80, "green": 20}))

    def diverted(status: Manifest) -> bool:
        return condition(status, "Ready").get("reason") == "Diverted" and status["deployments"][0]["state"] == "Failing"

    status = stepping.wait("oe", "halfway", diverted)
    said = condition(status, "Ready")
    assert (said["status"], status["traffic"], status["modelVersion"]) == ("True", {"green": 100}, f"{NAME}-1")
    assert said["message"].startswith("green answers all requests; blue has no ready pod and gets none of its 80 %: ")
    assert f"{NAME}-4" in said["message"]
    with stepping.client("halfway") as client:
        path = f"/v2/models/{NAME}/infer"
        answers = [client.post(path, json=infer([[0.0]])).status_code for _ in range(50)]
        pinned = client.post(path, json=infer([[0.0]]), headers={"x-ultramarine-deployment": "blue"})
    assert answers == [200] * 50
    assert (pinned.status_code, pinned.json()["error"]) == (503, "deployment blue of halfway has no ready pod")
    events = stepping.events("halfway", "Ready", "TrafficDiverted", "DeploymentFailing")
    assert {each["message"] for each in events if each["reason"] == "Ready"} == {f"{NAME}-1 answers"}
    print(f"50 of 50 answered: {said['message']}")


def test_a_candidate_of_another_input_gets_no_request_and_one_that_refuses_all_only_a_few(stepping):
    """Version 5 is turned back by what its pod says of its input; version 6, which says nothing wrong, by its 400s.

    Without a rollout version 5 gets its share of the traffic, and the status says what follows.
    """
    content = onnx_model(5, "z")
    stepping.apply(model_version(NAME, 5, stepping.put(f"{NAME}-5.onnx", content), content))
    stepping.apply(python_version(stepping, 6, REFUSING))
    challenger(stepping, "5")
    with OpenLoad(stepping, NAME) as load:
        roll_out(stepping, [50, 100], **GATES)
        status = ended(stepping, "Promoted", "RolledBack", "Paused")
    assert (status["rollout"]["phase"], status["rollout"]["reason"]) == ("RolledBack", "SignatureChanged"), status
    words = f"{NAME}-5 refuses requests that {NAME}-1 takes: it has no input x, it needs an input z"
    assert words in condition(status, "RolloutHealthy")["message"]
    assert load.failures == []
    assert set(load.versions) == {"1"}

    with OpenLoad(stepping, NAME) as load:
        challenger(stepping, "6")
        stepping.wait("oe", NAME, lambda s: (s.get("rollout") or {}).get("reason") != "SignatureChanged")
        status = ended(stepping, "Promoted", "RolledBack", "Paused")
        stepping.wait("oe", NAME, lambda s: s.get("traffic") == {"blue": 100})
    assert (status["rollout"]["phase"], status["rollout"]["reason"]) == ("RolledBack", "GateFailed"), status
    evidence = of_gate(status, "clientErrorRateIncrease")
    assert evidence["verdict"] == "Failed"
    assert all(failure.startswith("400 ") for failure in load.failures), load.failures
    assert 3 <= len(load.failures) <= 200, "it was caught by some refusals, not by hundreds"
    print(f"turned back after {len(load.failures)} refused requests: {evidence['message']}")
    champion_alone(stepping)

    challenger(stepping, "5")
    stepping.apply(endpoint(NAME, "", deployments=[BLUE, GREEN], traffic={"blue": 50, "green": 50}))
    status = stepping.wait("oe", NAME, lambda s: condition(s, "SignatureChanged"))
    assert words in condition(status, "SignatureChanged")["message"]
    assert condition(status, "Ready")["status"] == "True"
    assert "InputsDiffer" in stepping.kubectl("get", "oe", NAME)
    champion_alone(stepping)
    stepping.wait("oe", NAME, lambda s: not condition(s, "SignatureChanged"))
