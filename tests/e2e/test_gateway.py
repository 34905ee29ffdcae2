"""The gateway on the real cluster: shares, copies and pins, and changes under load in which no request is lost."""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from conftest import Manifest, Platform, condition
from load import OpenLoad
from manifests import endpoint, infer, model_version, onnx_model
from ultramarine_contract.routes import PIN_HEADER

NAME = "shares"
BLUE, GREEN = {"name": "blue", "model": f"{NAME}@1"}, {"name": "green", "model": f"{NAME}@2"}


def served(platform: Platform, traffic: dict[str, int], **spec: Any) -> Manifest:
    """Apply the endpoint with that traffic to blue and green, and wait until every gateway pod shares it so."""
    whole = {"deployments": [BLUE, GREEN], "traffic": traffic, **spec}
    platform.apply(endpoint(NAME, "", **whole))
    return platform.settled(NAME, {name: share for name, share in traffic.items() if share})


@pytest.fixture(scope="module")
def split(platform: Platform) -> Iterator[Platform]:
    """A Model with two ONNX versions, blue with the first behind an endpoint and green with the second."""
    for number in (1, 2):
        content = onnx_model(number)
        uri = platform.put(f"{NAME}-{number}.onnx", content)
        platform.apply(model_version(NAME, number, uri, content))
    platform.apply({"kind": "Model", "metadata": {"name": NAME}, "spec": {"aliases": {"champion": "1"}}})
    served(platform, {"blue": 100})
    yield platform
    platform.delete("oe", NAME)


def ask(client: httpx.Client, times: int, **headers: str) -> Counter[str]:
    """Ask so often, and count which version has answered."""
    counted: Counter[str] = Counter()
    for _ in range(times):
        answer = client.post(f"/v2/models/{NAME}/infer", json=infer([[0.0]]), headers=headers)
        assert answer.status_code == 200, answer.text
        counted[answer.json()["model_version"]] += 1
    return counted


def answered(platform: Platform, deployment: str) -> float:
    """Return the number of inference requests that the pods of a deployment have answered, by their metrics."""
    labels = f"ultramarine.dev/name={NAME},ultramarine.dev/deployment={deployment}"
    total = 0.0
    for pod in platform.get("pod", "", "-l", labels):
        if pod["metadata"].get("deletionTimestamp"):
            continue  # its count goes with it
        told = httpx.get(f"http://{pod['status']['podIP']}:8080/metrics", timeout=30).text
        total += sum(map(float, re.findall(r"^ultramarine_server_requests_total\{.*infer.*\} (\S+)$", told, re.M)))
    return total


def test_the_service_leads_to_the_gateway(split):
    """The endpoint's Service selects the gateway's pods, at the port that the status tells."""
    status = split.status("oe", NAME)
    spec = split.get("service", NAME)["spec"]

    assert {port["targetPort"] for port in spec["ports"]} == {status["gatewayPort"]}
    assert condition(status, "RoutesReady")["status"] == "True"


def test_a_service_that_was_led_elsewhere_leads_to_the_gateway_again(split):
    """Somebody edits the selector of the endpoint's Service: the operator puts it right, and requests are answered."""
    rightly = split.get("service", NAME)["spec"]
    split.kubectl("patch", "service", NAME, "--type=merge", "-p", '{"spec": {"selector": {"app": "elsewhere"}}}')
    end = time.monotonic() + 120
    while (spec := split.get("service", NAME)["spec"]) != rightly:
        assert time.monotonic() < end, spec
        time.sleep(0.2)
    served(split, {"blue": 100})
    with split.client(NAME) as client:
        assert ask(client, 20) == {"1": 20}


def test_requests_are_shared_by_percent(split):
    """Of 1,000 requests at 90 to 10 between 60 and 140 go to green: a fair share misses that once in 30,000 times."""
    served(split, {"blue": 90, "green": 10})
    with split.client(NAME) as client:
        counted = ask(client, 1000)

    assert set(counted) == {"1", "2"}
    assert 60 <= counted["2"] <= 140, counted


def test_a_deployment_without_a_share_can_be_asked_by_name(split):
    """At 0 percent green answers those who name it in the header, and nobody else."""
    served(split, {"blue": 100, "green": 0})
    with split.client(NAME) as client:
        assert ask(client, 30) == {"1": 30}
        assert ask(client, 30, **{PIN_HEADER: "green"}) == {"2": 30}
        unknown = client.post(f"/v2/models/{NAME}/infer", json=infer([[0.0]]), headers={PIN_HEADER: "purple"})
    assert unknown.status_code == 404


def test_a_mirror_gets_copies_and_answers_nobody(split):
    """With all requests mirrored to green every answer is blue's, and green's own count rises by as many."""
    served(split, {"blue": 100}, mirrorTraffic={"green": 100})
    split.emptied(NAME)
    before = answered(split, "green")
    with split.client(NAME) as client:
        assert ask(client, 50) == {"1": 50}
    end = time.monotonic() + 60
    while answered(split, "green") < before + 50 and time.monotonic() < end:
        time.sleep(0.2)
    assert answered(split, "green") == before + 50


def test_a_pod_that_nobody_can_reach_is_not_sent_a_request(split):
    """green's new pods cannot be had: its share stays at nothing, the status says why, and blue answers all."""
    broken = {"name": "green", "model": f"{NAME}@2", "resources": {"requests": {"memory": "1000Gi"}}}
    served(split, {"blue": 100})
    split.apply(endpoint(NAME, "", deployments=[BLUE, broken], traffic={"blue": 50, "green": 50}))
    status = split.wait("oe", NAME, lambda s: "until" in condition(s, "Ready").get("message", ""))
    assert status["traffic"] == {"blue": 100}
    with split.client(NAME) as client:
        assert ask(client, 50) == {"1": 50}
    served(split, {"blue": 100})


def test_traffic_turns_step_by_step_without_a_failed_request(split):
    """From blue to green by steps, back in one, and blue removed and made again, at a fixed rate of requests."""
    served(split, {"blue": 100})
    with OpenLoad(split, NAME) as load:
        for share in (10, 50, 100):
            served(split, {"blue": 100 - share, "green": share})
        served(split, {"blue": 100})
        split.apply(endpoint(NAME, "", deployments=[GREEN], traffic={"green": 100}))
        split.kubectl("wait", "--for=delete", "deployment/shares-blue", "--timeout=300s")
        split.emptied(NAME)
        served(split, {"blue": 100})
    assert load.failures == []
    assert set(load.versions) == {"1", "2"}
    print(f"{len(load.versions)} requests during seven turns, none failed")


@pytest.mark.slow
def test_an_alias_moves_without_a_failed_request(split):
    """champion moves from 1 to 2 behind the gateway: old pods answer until new ones are known to it."""
    champion = {"name": "blue", "model": f"{NAME}@champion"}
    served(split, {"blue": 100}, deployments=[champion])
    with OpenLoad(split, NAME) as load:
        split.apply({"kind": "Model", "metadata": {"name": NAME}, "spec": {"aliases": {"champion": "2"}}})
        split.ready(NAME, f"{NAME}-2")
        split.emptied(NAME)
    assert load.failures == []
    assert load.versions[0] == "1"
    assert load.versions[-1] == "2"
    served(split, {"blue": 100})


@pytest.fixture
def two_gateways(split: Platform) -> Iterator[Platform]:
    """The gateway with two pods, both of which have the endpoint's routes."""
    split.kubectl("scale", "deployment/ultramarine-gateway", "--replicas=2")
    split.kubectl("rollout", "status", "deployment/ultramarine-gateway", "--timeout=300s")
    yield split
    split.kubectl("scale", "deployment/ultramarine-gateway", "--replicas=1")
    split.kubectl("rollout", "status", "deployment/ultramarine-gateway", "--timeout=300s")


def gateways(platform: Platform) -> list[str]:
    """The names of the gateway's pods, but for one that is going already."""
    pods = platform.get("pod", "", "-l", "app.kubernetes.io/component=gateway")
    return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]


@pytest.mark.slow
@pytest.mark.exclusive
def test_a_gateway_pod_goes_without_a_failed_request(two_gateways):
    """One of two gateway pods is deleted under load: it empties itself, and the other and its successor answer."""
    served(two_gateways, {"blue": 50, "green": 50})
    with OpenLoad(two_gateways, NAME) as load:
        two_gateways.kubectl("delete", "pod", gateways(two_gateways)[0], "--wait=true", "--timeout=300s")
        two_gateways.kubectl("rollout", "status", "deployment/ultramarine-gateway", "--timeout=300s")
    assert load.failures == []
    assert set(load.versions) == {"1", "2"}


@pytest.mark.slow
@pytest.mark.exclusive
def test_a_gateway_pod_that_is_killed_is_missed_for_a_moment(two_gateways):
    """One of two gateway pods dies at once: what it had taken is lost, and afterwards every request is answered."""
    served(two_gateways, {"blue": 100})
    with OpenLoad(two_gateways, NAME) as load:
        two_gateways.kubectl("delete", "pod", gateways(two_gateways)[0], "--grace-period=0", "--force")
        two_gateways.kubectl("rollout", "status", "deployment/ultramarine-gateway", "--timeout=300s")
        time.sleep(3)
    assert len(load.failures) <= OpenLoad.AT_ONCE, load.failures
    with OpenLoad(two_gateways, NAME) as later:
        time.sleep(3)
    assert later.failures == []
    print(f"{len(load.failures)} of {len(load.versions)} requests were lost with the gateway pod")


@pytest.mark.parametrize(
    ("traffic", "words"),
    [
        ({"blue": 90, "green": 9}, "traffic must sum to 100"),
        ({"blue": 90, "purple": 10}, "traffic names a deployment that spec.deployments does not have"),
    ],
)
def test_wrong_traffic_is_refused_and_changes_nothing(split, traffic, words):
    """99 percent, or a share for nobody: `kubectl apply` says what is wrong, and the endpoint goes on as it was."""
    served(split, {"blue": 100})
    wrong = endpoint(NAME, "", deployments=[BLUE, GREEN], traffic=traffic)
    argv = [*split.target.kubectl, "-n", split.namespace, "apply", "-f", "-"]
    manifest = yaml.safe_dump({"apiVersion": "ultramarine.dev/v1alpha1", **wrong})
    done = subprocess.run(argv, input=manifest, capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert words in done.stderr
    with split.client(NAME) as client:
        assert ask(client, 20) == {"1": 20}
