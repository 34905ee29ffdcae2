"""Pods as many as the load needs, on the real cluster: by requests in flight, by CPU, and none while nobody asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Manifest, Platform, condition
from load import Clients
from manifests import endpoint, infer, model_version

NAME = "elastic"
BY_CONCURRENCY = {"minReplicas": 1, "maxReplicas": 3, "metric": "concurrency", "target": 2, "scaleDownAfterSeconds": 20}
BY_CPU = {"minReplicas": 1, "maxReplicas": 2, "metric": "cpu", "target": 90}


def slow_model() -> bytes:
    """An ONNX model that gives back its one input after some ten milliseconds of work."""
    from onnx import TensorProto, helper

    shape, nothing = (
        helper.make_tensor("shape", TensorProto.INT64, [2], [600, 600]),
        helper.make_tensor("nothing", TensorProto.FLOAT, [1], [0.0]),
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=1),
        helper.make_node("Expand", ["sum", "shape"], ["a"]),
        helper.make_node("MatMul", ["a", "a"], ["b"]),
        helper.make_node("MatMul", ["b", "a"], ["c"]),
        helper.make_node("ReduceMax", ["c"], ["most"], keepdims=1),
        helper.make_node("Mul", ["most", "nothing"], ["zero"]),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1])] for name in "xy"]
    graph = helper.make_graph(nodes, "worker", *ends, [shape, nothing])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content: bytes = made.SerializeToString()
    return content


def scaled(platform: Platform, wish: Manifest | None) -> None:
    """Apply the endpoint with that wish, and wait until its model answers."""
    resources = {"requests": {"cpu": "100m"}}
    blue: dict[str, Any] = {"name": "blue", "model": f"{NAME}@1", "resources": resources}
    platform.apply(endpoint(NAME, "", deployments=[blue | ({"autoscale": wish} if wish else {})]))
    platform.settled(NAME)


def counted(replicas: str) -> Any:
    """Return a check of the numbers of ready and desired pods."""
    return lambda status: status.get("replicas") == replicas


@pytest.fixture(scope="module")
def elastic(platform: Platform) -> Iterator[Platform]:
    """A Model with one version that takes its time."""
    content = slow_model()
    platform.apply(model_version(NAME, 1, platform.put(f"{NAME}.onnx", content), content))
    yield platform
    platform.delete("oe", NAME)


@pytest.mark.slow
def test_pods_come_and_go_with_the_requests_in_flight(elastic):
    """Seven clients at a target of two get three pods, one client is left with one, and no request fails meanwhile."""
    scaled(elastic, BY_CONCURRENCY)
    elastic.wait("oe", NAME, lambda s: condition(s, "ScalingActive").get("status") == "True")
    elastic.wait("oe", NAME, counted("1/1"))
    with Clients(elastic, NAME, 1) as steady:
        began = time.monotonic()
        with Clients(elastic, NAME, 6) as burst:
            elastic.wait("oe", NAME, counted("3/3"), 300)
            took = time.monotonic() - began
            assert elastic.get("pdb", f"{NAME}-blue")["spec"]["maxUnavailable"] == 1
        elastic.wait("oe", NAME, counted("1/1"), 300)
        elastic.emptied(NAME)
    assert burst.failures == []
    assert steady.failures == []
    assert burst.answers > 0
    print(f"three pods were ready after {took:.0f} s; {steady.answers + burst.answers} requests, none failed")


@pytest.mark.slow
def test_cpu_is_kubernetes_own_autoscalers(elastic):
    """The autoscaler gets its metric, the number of pods is its own, and it goes when it is no longer wished for."""
    scaled(elastic, BY_CPU)

    def measured(status: Manifest) -> bool:
        current = status.get("currentMetrics") or [{}]
        percent = current[0].get("resource", {}).get("current", {}).get("averageUtilization")
        return condition(status, "AbleToScale").get("status") == "True" and percent is not None

    elastic.wait("hpa", f"{NAME}-blue", measured, 300)
    elastic.wait("oe", NAME, lambda s: condition(s, "ScalingActive").get("status") == "True")

    scaled(elastic, {**BY_CPU, "minReplicas": 2})
    elastic.wait("oe", NAME, counted("2/2"))
    time.sleep(10)
    assert elastic.get("deployment", f"{NAME}-blue")["spec"]["replicas"] == 2

    scaled(elastic, None)
    elastic.wait("oe", NAME, counted("1/1"))
    elastic.kubectl("wait", "--for=delete", f"hpa/{NAME}-blue", "--timeout=120s")


@pytest.mark.slow
def test_the_first_requests_wait_for_a_pod(elastic):
    """While nobody asks there is no pod and the endpoint is Ready; five requests at once are held, and all answered."""
    scaled(elastic, {**BY_CONCURRENCY, "minReplicas": 0, "scaleDownAfterSeconds": 10})
    status = elastic.wait("oe", NAME, counted("0/0"))
    assert condition(status, "Ready")["status"] == "True"
    labels = f"ultramarine.dev/name={NAME},ultramarine.dev/deployment=blue"
    elastic.kubectl("wait", "--for=delete", "pod", "-l", labels, "--timeout=240s")

    with elastic.client(NAME) as client, ThreadPoolExecutor(5) as pool:
        began = time.monotonic()
        path = f"/v2/models/{NAME}/infer"
        asked = [pool.submit(client.post, path, json=infer([[1.0]]), timeout=180) for _ in range(5)]
        codes = [one.result().status_code for one in asked]
        took = time.monotonic() - began
    assert codes == [200] * 5
    print(f"five requests to no pod were answered after {took:.1f} s")
