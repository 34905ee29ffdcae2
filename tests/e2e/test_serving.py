"""Serving: what the endpoint answers to good and bad requests, and what it says of models that cannot be served."""

from __future__ import annotations

import pickle
import time

import pytest
from conftest import Platform, condition
from load import Load
from manifests import endpoint, infer, model_version, onnx_model

TRUNCATED = b"PK\x03\x04 half a file"


@pytest.fixture(scope="module")
def adder(platform: Platform) -> Platform:
    """A Model with one ONNX version made by hand, served behind the endpoint `adder` by two pods."""
    content = onnx_model(1)
    platform.apply(
        {"kind": "Model", "metadata": {"name": "adder"}, "spec": {"aliases": {"champion": "1"}}},
        model_version("adder", 1, platform.put("adder-1.onnx", content), content),
        endpoint("adder", "adder@champion", deployments=[{"name": "blue", "model": "adder@champion", "replicas": 2}]),
    )
    platform.ready("adder", "adder-1")
    return platform


def test_the_protocol_is_spoken(adder):
    """Health, server and model metadata, and inference, as the Open Inference Protocol V2 says."""
    with adder.client("adder") as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 200
        assert "name" in client.get("/v2").json()
        about = client.get("/v2/models/adder").json()
        assert about["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]
        assert client.get("/v2/models/adder/versions/1/ready").status_code == 200
        answer = client.post("/v2/models/adder/infer", json={"id": "42", **infer([[1.0], [2.0]])}).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("adder", "1", "42")
    assert answer["outputs"][0]["data"] == [2.0, 3.0]


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (infer([[1.0, 2.0]]), 400, "shape"),
        (infer([[1.0]], datatype="FP64"), 400, "FP32"),
        (infer([[1.0]], name="z"), 400, "z"),
        ({"inputs": []}, 400, "x"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [1.0]}]}, 400, "2"),
        ("not json", 400, "JSON"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(adder, body, code, words):
    """The answer is the protocol's error, and names what was expected."""
    with adder.client("adder") as client:
        sent = {"content": body} if isinstance(body, str) else {"json": body}
        answer = client.post("/v2/models/adder/infer", **sent)
    assert answer.status_code == code
    assert words in answer.json()["error"]


@pytest.mark.attack(
    "client/no-key",
    asset="predictions, metadata",
    threat="asking without a key, or with a wrong one",
    control="keys are on by default, generated with 256 bits, and asked for on every route but health, by the "
    "gateway and by the pod",
)
def test_keys_are_asked_for(adder):
    """Without a key, or with a wrong one, nothing is told; both keys of the Secret open."""
    for key, code in (("wrong", 401), (adder.secret("adder-keys")["secondary"], 200)):
        with adder.client("adder", key) as client:
            assert client.post("/v2/models/adder/infer", json=infer([[1.0]])).status_code == code
    with adder.client("adder") as client:
        del client.headers["Authorization"]
        assert client.get("/v2/models/adder").status_code == 401


def test_other_models_are_not_found(adder):
    """A model that this endpoint does not serve is a 404 that says so."""
    with adder.client("adder") as client:
        answer = client.post("/v2/models/other/infer", json=infer([[1.0]]))
    assert answer.status_code == 404
    assert "other" in answer.json()["error"]


def test_an_edited_disruption_budget_is_set_right(adder):
    """Somebody allows both pods to be drained at once: the endpoint's own rule comes back."""
    adder.kubectl("patch", "pdb", "adder-blue", "--type=merge", "-p", '{"spec":{"maxUnavailable":2}}')
    adder.kubectl("wait", "--for=jsonpath={.spec.maxUnavailable}=1", "pdb/adder-blue", "--timeout=120s")


@pytest.mark.attack("client/huge-body")
def test_a_huge_body_is_refused_and_the_next_request_answered(adder):
    """100 MB get a 413 with the limit, and the server goes on."""
    with adder.client("adder") as client:
        answer = client.post("/v2/models/adder/infer", content=b" " * 100_000_000)
        assert answer.status_code == 413
        assert "error" in answer.json()
        assert client.post("/v2/models/adder/infer", json=infer([[1.0]])).status_code == 200


def test_a_moved_alias_changes_the_answers_without_a_failed_request(adder):
    """champion moves from 1 to 2: every request is answered, first by the old version and then by the new one."""
    content = onnx_model(2)
    adder.apply(model_version("adder", 2, adder.put("adder-2.onnx", content), content))
    adder.wait("mv", "adder-2", lambda s: s.get("state") == "Ready")
    with Load(adder, "adder") as load:
        adder.apply({"kind": "Model", "metadata": {"name": "adder"}, "spec": {"aliases": {"champion": "2"}}})
        adder.ready("adder", "adder-2")
        adder.emptied("adder")
    assert load.failures == []
    assert set(load.answers) == {1.0, 2.0}
    assert load.answers[-1] == 2.0
    print(f"{len(load.answers)} requests during the update, none failed")


def test_traffic_turns_to_another_deployment_without_a_failed_request(adder):
    """From blue to green, and blue removed: every request is answered."""
    deployments = [
        {"name": "blue", "model": "adder@2", "replicas": 1},
        {"name": "green", "model": "adder@1", "replicas": 1},
    ]
    with Load(adder, "adder") as load:
        adder.apply(endpoint("adder", "", deployments=deployments, traffic={"green": 100}))
        adder.ready("adder", "adder-1")
        adder.apply(endpoint("adder", "", deployments=deployments[1:], traffic={"green": 100}))
        adder.kubectl("wait", "--for=delete", "deployment/adder-blue", "--timeout=180s")
        adder.emptied("adder")
    assert load.failures == []
    assert set(load.answers) == {1.0, 2.0}


def test_a_deployment_is_exchanged_for_another_in_one_edit(adder):
    """green leaves the spec in the edit that brings red: green answers until red is ready, and goes then."""
    with Load(adder, "adder") as load:
        adder.apply(endpoint("adder", "", deployments=[{"name": "red", "model": "adder@2"}], traffic={"red": 100}))
        adder.ready("adder", "adder-2")
        adder.kubectl("wait", "--for=delete", "deployment/adder-green", "--timeout=180s")
        adder.emptied("adder")
    assert load.failures == []
    assert set(load.answers) == {1.0, 2.0}


@pytest.mark.slow
def test_deleted_keys_are_made_again(adder):
    """The Secret deleted and the pod restarted: the endpoint gets new keys, and answers to them."""
    before = adder.secret("adder-keys")
    adder.delete("secret", "adder-keys")
    adder.kubectl("delete", "pod", "-l", "ultramarine.dev/name=adder", "--wait=true")
    adder.ready("adder", "adder-2", 240)
    assert adder.secret("adder-keys") != before
    with adder.client("adder") as client:
        assert client.post("/v2/models/adder/infer", json=infer([[0.0]])).status_code == 200


@pytest.mark.attack("client/empty-key")
def test_keys_of_ones_own_that_are_not_there_are_named(adder):
    """keysSecretRef to nothing: the message names the Secret and what it needs; made later, the endpoint goes Ready."""
    adder.apply(endpoint("own-keys", "adder@1", keysSecretRef={"name": "mine"}))
    failing = adder.wait("oe", "own-keys", lambda s: "Secret mine not found" in str(s.get("deployments")))
    assert "primary and secondary" in failing["deployments"][0]["message"]
    adder.kubectl("create", "secret", "generic", "mine", "--from-literal=primary=a-long-enough-key")
    try:
        adder.ready("own-keys", "adder-1", 240)
        with adder.client("own-keys", "a-long-enough-key") as client:
            assert client.get("/v2/models/adder").status_code == 200
    finally:
        adder.delete("oe", "own-keys")
        adder.delete("secret", "mine")


@pytest.mark.slow
def test_hand_made_changes_are_set_right(adder):
    """A deleted Service comes back, and an edited Deployment is restored."""
    adder.kubectl("delete", "service", "adder")
    adder.kubectl("patch", "deployment", "adder-red", "-p", '{"spec":{"replicas":3}}')
    end = time.monotonic() + 120
    while time.monotonic() < end:
        services = adder.get("service", "", "-l", "ultramarine.dev/name=adder")
        replicas = adder.get("deployment", "adder-red")["spec"]["replicas"]
        if services and replicas == 1:
            return
        time.sleep(0.3)
    pytest.fail(f"services {len(services)}, replicas {replicas}")


@pytest.mark.attack("model/damaged-file")
@pytest.mark.parametrize(
    ("name", "format", "content", "words"),
    [
        ("corrupt", "onnx", b"this is no model", "ModelCorrupt"),
        pytest.param("truncated", "sklearn", TRUNCATED, "ModelCorrupt", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(platform, name, format, content, words):
    """The endpoint's status and events carry the server's own words; it is never Ready."""
    suffix = {"onnx": "onnx", "sklearn": "skops"}[format]
    uri = platform.put(f"{name}.{suffix}", content)
    version = model_version(name, 1, uri, content, format, compile={"to": "none"})  # which would find it out before
    platform.apply(version, endpoint(name, f"{name}@1"))
    status = platform.wait("oe", name, lambda s: (s.get("deployments") or [{}])[0].get("state") == "Failing")
    platform.events(name, "DeploymentFailing")
    pods = platform.get("pod", "", "-l", f"ultramarine.dev/name={name}")
    assert words in str([pod["status"] for pod in pods])
    assert f"{name}-1" in status["deployments"][0]["message"]
    assert condition(status, "Ready")["status"] == "False"
    platform.delete("oe", name)


def test_another_object_than_was_registered_is_refused_at_once(platform):
    """The version says so itself: no server has to fetch the object for that."""
    uri = platform.put("exchanged.onnx", onnx_model(2))
    platform.apply(model_version("exchanged", 1, uri, onnx_model(1)))
    status = platform.wait("mv", "exchanged-1", lambda s: s.get("state") == "Invalid")
    assert condition(status, "Ready")["reason"] == "DigestMismatch"


@pytest.mark.attack(
    "model/pickles",
    asset="the serving pod",
    threat="pickle, joblib, torch and python run code when they are loaded",
    control="refused by the operator and again by the server, unless `allowCodeExecution`",
)
def test_a_pickle_is_refused_until_allowed(platform):
    """A pickle runs code: the version says so, and is ready and served only after allowCodeExecution."""
    from sklearn.linear_model import LogisticRegression

    content = pickle.dumps(LogisticRegression().fit([[0.0], [1.0]], [0, 1]))
    uri = platform.put("pickled.pkl", content)
    platform.apply(model_version("pickled", 1, uri, content, "pickle"), endpoint("pickled", "pickled@1"))
    refused = platform.wait("mv", "pickled-1", lambda s: s.get("state") == "Refused")
    assert "allowCodeExecution" in condition(refused, "Ready")["message"]
    waiting = platform.wait("oe", "pickled", lambda s: "allowCodeExecution" in str(s))
    assert condition(waiting, "Ready")["status"] == "False"

    platform.apply(model_version("pickled", 1, uri, content, "pickle", allowCodeExecution=True))
    platform.ready("pickled", "pickled-1")
    platform.delete("oe", "pickled")


def test_open_endpoints_want_no_key(platform):
    """authMode: none answers everybody, and makes no Secret."""
    content = onnx_model(5)
    platform.apply(
        model_version("free", 1, platform.put("free.onnx", content), content),
        endpoint("free", "free@latest", authMode="none"),
    )
    platform.ready("free", "free-1")
    with platform.client("free", "") as client:
        del client.headers["Authorization"]
        assert client.post("/v2/models/free/infer", json=infer([[0.0]])).json()["outputs"][0]["data"] == [5.0]
    assert not [s for s in platform.get("secret") if s["metadata"]["name"] == "free-keys"]
    platform.delete("oe", "free")
