"""Models that are compiled: what is registered natively is served as ONNX, and answers as before."""

from __future__ import annotations

import json
import pickle
import time
from typing import Any

import pytest
from conftest import Platform, condition
from load import OpenLoad
from manifests import Manifest, endpoint, infer, model_version, training_job
from sklearn.linear_model import LogisticRegression

ROWS = [[-5.0], [0.2], [1.4], [1.6], [7.0]]


def answers(platform: Platform, name: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return an endpoint's metadata of its model `shrunk`, and its outputs for the rows, by name."""
    with platform.client(name) as client:
        about = client.get("/v2/models/shrunk").json()
        answer = client.post("/v2/models/shrunk/infer", json=infer(ROWS, "input", "FP64"))
    assert answer.status_code == 200, answer.text
    return about, {output["name"]: output for output in answer.json()["outputs"]}


def test_the_first_answer_is_native_and_later_ones_are_compiled(platform):
    """By default: served as soon as it is trained, compiled meanwhile, with equal answers and no failed request."""
    began = time.monotonic()
    job = training_job("swift", outputs={"model": {"registerAs": "swift"}})
    platform.apply(job, endpoint("swift", "swift@latest"))
    platform.ready("swift", "swift-1")
    first = time.monotonic() - began
    deployed = platform.get("deployment", "swift-blue")["metadata"]["creationTimestamp"]
    with OpenLoad(platform, "swift", infer(ROWS, "input", "FP64")) as load, platform.client("swift") as client:
        status = platform.wait("mv", "swift-1", lambda s: condition(s, "Compiled").get("status") == "True")
        compiled = time.monotonic() - began
        while client.get("/v2/models/swift").json()["platform"] != "onnx_onnxv1":
            assert time.monotonic() < began + 600
            time.sleep(0.2)
        moved = time.monotonic() - began
        platform.wait("oe", "swift", lambda s: not condition(s, "Reconciling"))
        platform.kubectl("wait", "--for=jsonpath={.status.replicas}=1", "deployment/swift-blue", "--timeout=180s")
    print(f"first answer {first:.1f} s, compiled {compiled:.1f} s, served {moved:.1f} s; {len(load.versions)} requests")

    # On a busy machine a compilation may end before the pod is ready: what counts is that no server waits for it.
    assert deployed <= condition(status, "Compiled")["lastTransitionTime"]
    assert load.failures == []
    answers = [{o["name"]: o["data"] for o in json.loads(outputs)} for outputs in load.outputs]
    for answer in answers:
        assert answer["predict"] == answers[0]["predict"]
        assert answer["predict_proba"] == pytest.approx(answers[0]["predict_proba"], rel=1e-5, abs=1e-9)
    assert status["state"] == "Ready"
    assert not condition(status, "Stalled")
    [job] = platform.get("job", "", "-l", "ultramarine.dev/name=swift-1")
    assert job["spec"]["ttlSecondsAfterFinished"] == 600


OF_OWN_KIND = """
import sys
import skops.io
from sklearn.cluster import BisectingKMeans

skops.io.dump(BisectingKMeans(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]]), sys.argv[1] + "/model.skops")
"""


class Dated(LogisticRegression):
    """A model that another scikit-learn has saved."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (LogisticRegression, (), {**self.__dict__, "_sklearn_version": "1.5.2"})


@pytest.mark.slow
def test_a_model_is_trusted_once_and_says_what_servers_will(platform):
    """Refused at registration, then trusted by its Model; a pickle of another version, and one that lacks a library.

    What was compiled of a version goes with it, if the Model says so.
    """

    def refused(status: Manifest) -> bool:
        return condition(status, "Ready").get("reason") == "CodeExecutionRefused"

    platform.apply(training_job("odd", OF_OWN_KIND, outputs={"model": {"registerAs": "odd"}}))
    assert platform.ended("odd")["state"] == "Succeeded"
    status = platform.wait("mv", "odd-1", refused)
    assert "sklearn.cluster._bisect_k_means.BisectingKMeans" in condition(status, "Ready")["message"]
    platform.kubectl("patch", "mdl", "odd", "--type=merge", "-p", '{"spec": {"trust": {"allowCodeExecution": true}}}')
    status = platform.wait("mv", "odd-1", lambda s: condition(s, "Ready").get("status") == "True")
    who = json.loads(platform.kubectl("auth", "whoami", "-o", "json"))["status"]["userInfo"]["username"]
    assert status["codeExecution"]["allowedBy"] == who
    assert status["codeExecution"]["through"] == "spec.trust.allowCodeExecution of Model odd"
    # What was refused to be compiled, too, is tried again; nothing can convert it.
    platform.wait("mv", "odd-1", lambda s: condition(s, "Compiled").get("reason") == "NotConvertible")
    platform.apply(endpoint("odd", "odd@latest"))
    platform.ready("odd", "odd-1")

    dated = pickle.dumps(Dated().fit([[0.0], [1.0]], [0, 1]))
    damaged = b"no pickle"
    platform.apply(model_version("odd", 2, platform.put("odd-2.pkl", dated), dated, "pickle"))
    platform.ready("odd", "odd-2")
    status = platform.wait("mv", "odd-2", lambda s: condition(s, "Compatible").get("status") == "False")
    assert "saved by scikit-learn 1.5.2, the server has" in condition(status, "Compatible")["message"]
    assert "VersionMismatch" in platform.kubectl("describe", "mv", "odd-2")
    platform.apply(model_version("odd", 3, platform.put("odd-3.pkl", damaged), damaged, "pickle"))
    status = platform.wait("mv", "odd-3", lambda s: condition(s, "Ready").get("reason") == "ModelCorrupt")
    assert "not a readable pickle model" in condition(status, "Stalled")["message"]
    platform.wait("mdl", "odd", lambda s: s.get("latestReadyVersion") == "2")
    platform.ready("odd", "odd-2")
    platform.delete("oe", "odd", "swift")

    uri = platform.status("mv", "odd-2")["compiled"]["uri"]
    platform.kubectl("patch", "mdl", "odd", "--type=merge", "-p", '{"spec": {"deletionPolicy": "Delete"}}')
    platform.wait("mdl", "odd", lambda s: any(uri.startswith(one["uri"]) for one in s.get("artifacts", [])))
    platform.delete("mv", "odd-2")
    platform.wait("mdl", "odd", lambda s: not any(uri.startswith(one["uri"]) for one in s.get("artifacts", [])))
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with platform.target.bucket(platform.namespace) as storage:
        assert storage.list_objects_v2(Bucket=bucket, Prefix=key)["KeyCount"] == 0


@pytest.fixture(scope="module")
def shrunk(platform: Platform) -> Platform:
    """The Model shrunk: version 1 native, 2 of the same artifact, compiled, 3 of a TrainingJob that asks for it."""
    platform.apply(training_job("shrunk", model="shrunk"))
    assert platform.ended("shrunk")["state"] == "Succeeded"
    made = platform.get("mv", "shrunk-1")["spec"]
    by_hand = {**made, "version": "2", "compile": {"to": "onnx"}}
    platform.apply({"kind": "ModelVersion", "metadata": {"name": "shrunk-2"}, "spec": by_hand})
    platform.wait("mv", "shrunk-2", lambda s: condition(s, "Ready").get("status") == "True")
    asking = {"model": {"registerAs": "shrunk", "compile": {"to": "onnx", "onFailure": "Fail"}}}
    platform.apply(training_job("shrunk-again", outputs=asking))
    assert platform.ended("shrunk-again")["outputs"]["model"]["modelVersion"] == "shrunk-3"
    platform.wait("mv", "shrunk-3", lambda s: condition(s, "Ready").get("status") == "True")
    return platform


@pytest.mark.slow
@pytest.mark.parametrize("version", ["shrunk-2", "shrunk-3"])
def test_a_version_is_compiled_with_figures(shrunk, version):
    """Compiled is True, and the status says where the artifact lies, what was compared, and how far answers differ."""
    status = shrunk.status("mv", version)

    assert condition(status, "Compiled")["status"] == "True", status
    compiled = status["compiled"]
    assert compiled["uri"].startswith(f"s3://ultramarine/{shrunk.namespace}/compiled/")
    assert (compiled["rows"], compiled["labelAgreement"]) == (1000, 1)
    assert compiled["worstRelativeError"] <= 1e-5
    assert condition(shrunk.status("mv", "shrunk-1"), "Compiled")["reason"] == "NotAsked"


@pytest.mark.slow
def test_a_compiled_model_answers_as_the_native_one(shrunk):
    """Two endpoints of one model, native and compiled, show the same signature and give the same answers."""
    shrunk.apply(endpoint("as-native", "shrunk@1"), endpoint("as-onnx", "shrunk@2"))
    shrunk.ready("as-native", "shrunk-1")
    shrunk.ready("as-onnx", "shrunk-2")
    native, wanted = answers(shrunk, "as-native")
    compiled, got = answers(shrunk, "as-onnx")

    assert (native["platform"], compiled["platform"]) == ("sklearn_skops", "onnx_onnxv1")
    assert (compiled["inputs"], compiled["outputs"]) == (native["inputs"], native["outputs"])
    assert got["predict"] == wanted["predict"]
    assert got["predict_proba"]["data"] == pytest.approx(wanted["predict_proba"]["data"], abs=1e-6)


@pytest.mark.slow
def test_a_parity_that_cannot_hold_leaves_the_native_model(shrunk):
    """A version whose compiled answers differ by more than its limit says by how much, and is served as it is."""
    train = """
import sys
import numpy as np
import skops.io
from sklearn.ensemble import HistGradientBoostingRegressor

rows = np.linspace(0, 10, 500).reshape(-1, 1)
model = HistGradientBoostingRegressor(max_iter=20).fit(rows, np.sin(rows[:, 0]))
skops.io.dump(model, sys.argv[1] + "/model.skops")
"""
    shrunk.apply(training_job("wavy", train, model="wavy"))
    assert shrunk.ended("wavy")["state"] == "Succeeded"
    spec = {
        **shrunk.get("mv", "wavy-1")["spec"],
        "version": "2",
        "compile": {"to": "onnx", "parity": {"rtol": 1e-12}},
    }
    shrunk.apply({"kind": "ModelVersion", "metadata": {"name": "wavy-2"}, "spec": spec})
    status = shrunk.wait("mv", "wavy-2", lambda s: condition(s, "Ready").get("status") == "True")

    assert condition(status, "Compiled")["reason"] == "ParityFailed"
    assert status["compiled"]["worstRelativeError"] > 1e-12
    assert "uri" not in status["compiled"]
    shrunk.apply(endpoint("as-it-is", "wavy@2"))
    shrunk.ready("as-it-is", "wavy-2")
    with shrunk.client("as-it-is") as client:
        assert client.get("/v2/models/wavy").json()["platform"] == "sklearn_skops"
        answer = client.post("/invocations", json={"instances": [[1.0], [None]]})
    assert answer.status_code == 200, answer.text
    assert [*map(type, answer.json()["predictions"])] == [float, float]


@pytest.mark.slow
def test_a_model_that_no_converter_knows_is_not_ready_where_that_is_asked(shrunk):
    """With onFailure: Fail a version that cannot be compiled is not served, and says why."""
    train = """
import sys
import skops.io
from sklearn.isotonic import IsotonicRegression

skops.io.dump(IsotonicRegression().fit([0, 1, 2], [0, 1, 3]), sys.argv[1] + "/model.skops")
"""
    asking = {"model": {"registerAs": "steps", "compile": {"to": "onnx", "onFailure": "Fail"}}}
    shrunk.apply(training_job("steps", train, outputs=asking))
    assert shrunk.ended("steps")["state"] == "Succeeded"
    status = shrunk.wait("mv", "steps-1", lambda s: s.get("state") == "Invalid")

    assert condition(status, "Ready")["reason"] == condition(status, "Compiled")["reason"] == "NotConvertible"
    assert "IsotonicRegression cannot be converted" in condition(status, "Ready")["message"]
