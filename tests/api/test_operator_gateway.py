"""The real operator and a real gateway, agent and Envoy, at one API server; pods and addresses are made by hand."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import hands
import pytest
from bare import Api, Refused, eventually
from builders import WEIGHTS, WEIGHTS_DIGEST, ours, read
from cryptography.hazmat.primitives.asymmetric import ec
from operator_process import BUCKET, Operator
from stories import status, there
from test_gateway_agent import Gateway, gateway, get  # noqa: F401  the fixture of the agent's tests serves here too
from ultramarine_contract.meta import API_VERSION, Manifest
from ultramarine_contract.routes import (
    LABEL_ROUTES,
    PIN_HEADER,
    ROUTES_ENTRY,
    EndpointRoutes,
    RouteAuth,
    RouteDeployment,
)
from ultramarine_contract.storage import Storage
from ultramarine_operator.kinds.onlineendpoint.routing.manifests import first_port, next_port, routes_in
from ultramarine_operator.shared.conditions import find
from unit.conftest import ObjectStore

BLUE, GREEN = {"name": "blue", "model": "churn@1"}, {"name": "green", "model": "churn@2"}


def endpoint(deployments: list[Manifest], **spec: Any) -> Manifest:
    """The endpoint shop."""
    whole = {"authMode": "none", "deployments": deployments, **spec}
    return {"apiVersion": API_VERSION, "kind": "OnlineEndpoint", "metadata": {"name": "shop"}, "spec": whole}


def version(number: int) -> Manifest:
    """A version of churn."""
    spec = {"model": "churn", "version": str(number), "uri": f"s3://{BUCKET}/{number}.onnx", "digest": WEIGHTS_DIGEST}
    whole = {**spec, "format": {"name": "onnx"}}
    return {"apiVersion": API_VERSION, "kind": "ModelVersion", "metadata": {"name": f"churn-{number}"}, "spec": whole}


def roll(api: Api, deployment: str) -> None:
    """Make the pod of a Deployment, ready, as kubelet and controllers do."""
    made = eventually(f"Deployment {deployment}", lambda: there(api, "deployments", deployment))
    api.apply(hands.pod_of(made, f"{deployment}-0"))
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": hands.now()}
    api.status("pod", f"{deployment}-0", {"phase": "Running", "startTime": hands.now(), "conditions": [ready]})
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
    api.status("deployment", deployment, {"observedGeneration": made["metadata"]["generation"], **counts})


def tell_addresses(api: Api, service: str, address: str) -> None:
    """Make the EndpointSlice of a Service, with an address that is nobody's (TEST-NET-1)."""
    meta = {"name": f"{service}-1", "labels": {"kubernetes.io/service-name": service}}
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "grpc", "port": 9000, "protocol": "TCP"}]
    one = {"addresses": [address], "conditions": {"ready": True}}
    kind = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4"}
    api.apply({**kind, "metadata": meta, "ports": ports, "endpoints": [one]})


def words(api: Api, condition: str) -> str:
    """A condition of the endpoint: its status and its message."""
    found = find(status(api, "oe", "shop"), condition) or {}
    return f"{found.get('status')}: {found.get('message')}"


def start(operator: Operator, api: Api, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start an operator, and wait until it has found two versions of churn ready."""
    for name, value in object_store.credentials.items():
        monkeypatch.setenv(name, value)
    for number in (1, 2):
        Storage(object_store.endpoint).write(f"s3://{BUCKET}/{number}.onnx", WEIGHTS)
        api.apply(version(number))
    operator.start()
    eventually("both are ready", lambda: all(status(api, "mv", f"churn-{n}").get("state") == "Ready" for n in (1, 2)))


@pytest.fixture
def routed(
    api: Api,
    gateway: Gateway,  # noqa: F811
    object_store: ObjectStore,
    replica: Callable[..., Operator],
    monkeypatch: pytest.MonkeyPatch,
) -> Api:
    """Two versions of churn that are ready, and an operator that knows the gateway."""
    operator = replica("operator", gateway=f"127.0.0.1:{gateway.port}")
    start(operator, api, object_store, monkeypatch)
    return api


def test_an_endpoint_changes_as_the_gateway_confirms(routed, gateway):  # noqa: F811
    """Routes, then the Service; a share when Envoy knows the pods; and pods go when Envoy has let go of them."""
    routed.apply(endpoint([BLUE, GREEN], traffic={"blue": 100}))
    eventually("the routes are confirmed", lambda: words(routed, "RoutesReady").startswith("True"))
    port = status(routed, "oe", "shop")["gatewayPort"]
    service = there(routed, "services", "shop")
    assert service is not None
    assert {each["targetPort"] for each in service["spec"]["ports"]} == {port}
    assert get(f"http://127.0.0.1:{port}/v2").status_code == 503, "nobody is there yet"

    roll(routed, "shop-blue")
    tell_addresses(routed, "shop-blue-pods", "192.0.2.1")
    eventually("blue answers", lambda: words(routed, "Ready") == "True: churn-1 answers")

    routed.apply(endpoint([BLUE, GREEN], traffic={"blue": 50, "green": 50}))
    roll(routed, "shop-green")
    eventually("Envoy does not know green's pods", lambda: "an address of green" in words(routed, "Ready"))
    assert status(routed, "oe", "shop")["traffic"] == {"blue": 100}
    tell_addresses(routed, "shop-green-pods", "192.0.2.2")
    eventually("both answer", lambda: status(routed, "oe", "shop").get("traffic") == {"blue": 50, "green": 50})
    assert gateway.addresses("shop/green/http") == {"192.0.2.2:8080"}
    routes = routes_in(there(routed, "configmaps", "shop-routes"))
    assert routes is not None
    assert gateway.state("shop")["version"] == routes.version

    routed.apply(endpoint([GREEN]))
    eventually("blue has gone", lambda: there(routed, "deployments", "shop-blue") is None)
    routes = routes_in(there(routed, "configmaps", "shop-routes"))
    assert routes is not None
    assert [(each.name, each.weight) for each in routes.deployments] == [("green", 100)]
    assert gateway.state("shop")["version"] == routes.version
    unknown = get(f"http://127.0.0.1:{port}/v2", headers={PIN_HEADER: "blue"})
    assert unknown.status_code == 404, "Envoy has let go of it"


def test_a_port_of_somebody_elses_is_left_to_him(routed, gateway):  # noqa: F811
    """Another endpoint listens where this one wants to: this one gets another port, and says so until it has it."""
    shop = read(ours("OnlineEndpoint", "shop", endpoint([BLUE])["spec"], namespace=routed.namespace))
    port = first_port(shop)
    routes = EndpointRoutes(
        "other", routed.namespace, port, (RouteDeployment("blue", "other-blue", 100),), RouteAuth("none")
    )
    metadata = {"name": "other-routes", "labels": {LABEL_ROUTES: "other"}}
    routed.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {ROUTES_ENTRY: routes.to_json()}}
    )
    eventually("the other one has it", lambda: gateway.state("other").get("version") == routes.version)

    routed.apply(endpoint([BLUE]))
    eventually("the routes are confirmed", lambda: words(routed, "RoutesReady").startswith("True"))
    service = there(routed, "services", "shop")
    assert service is not None
    assert {each["targetPort"] for each in service["spec"]["ports"]} == {next_port(shop, port)}
    assert gateway.state("other")["version"] == routes.version


def test_a_split_is_refused_that_is_not_whole(routed):
    """99 percent is refused by the API server, and nothing of the endpoint changes."""
    routed.apply(endpoint([BLUE, GREEN], traffic={"blue": 100}))
    eventually("the routes are confirmed", lambda: words(routed, "RoutesReady").startswith("True"))
    before = there(routed, "configmaps", "shop-routes")
    with pytest.raises(Refused, match="traffic must sum to 100"):
        routed.apply(endpoint([BLUE, GREEN], traffic={"blue": 90, "green": 9}))
    assert there(routed, "configmaps", "shop-routes") == before


def test_keys_are_asked_for_at_the_gateway_and_outlive_their_secret(routed, gateway):  # noqa: F811
    """The Secret that the operator makes opens at the gateway; deleted, it is named, and its keys open as before."""
    routed.apply(endpoint([BLUE], authMode="key"))
    eventually("the routes are confirmed", lambda: words(routed, "RoutesReady").startswith("True"))
    url = f"http://127.0.0.1:{status(routed, 'oe', 'shop')['gatewayPort']}/v2"
    secret = there(routed, "secrets", "shop-keys")
    assert secret is not None
    keys = [{"api-key": base64.b64decode(secret["data"][name]).decode()} for name in ("primary", "secondary")]
    # 503: let in, and nobody is there.
    assert [get(url, headers=headers).status_code for headers in ({}, *keys)] == [401, 503, 503]

    routed.run("delete", "secret", "shop-keys")
    eventually("it is missed", lambda: gateway.state("shop").get("missing_secret") == "shop-keys")
    routed.apply(endpoint([BLUE], authMode="key", traffic={"blue": 100}))  # so that the operator looks again
    eventually("it is named", lambda: "Secret shop-keys not found" in words(routed, "RoutesReady"))
    assert get(url, headers=keys[0]).status_code == 503
    assert there(routed, "secrets", "shop-keys") is None, "new keys would lock out who has the old ones"


def key_set() -> str:
    """A JSON Web Key Set; who has the private half is nobody."""
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    x, y = (base64.urlsafe_b64encode(n.to_bytes(32, "big")).rstrip(b"=").decode() for n in (numbers.x, numbers.y))
    return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "x": x, "y": y}]})


def test_tokens_are_asked_for_at_the_gateway_and_pods_wait_for_their_policy(routed, gateway):  # noqa: F811
    """With tokens there is a policy before there are pods; put wider by somebody, it is set right."""
    token = {"issuer": "https://id.example.com", "audiences": ["churn"], "jwks": key_set()}
    routed.apply(endpoint([BLUE], authMode="token", token=token))
    eventually("the routes are confirmed", lambda: words(routed, "RoutesReady").startswith("True"))
    made = eventually("its pods are made", lambda: there(routed, "deployments", "shop-blue"))
    policy = there(routed, "networkpolicies", "shop-gateway-only")
    assert policy is not None
    assert int(policy["metadata"]["resourceVersion"]) < int(made["metadata"]["resourceVersion"])
    selected = policy["spec"]["podSelector"]["matchLabels"].items()
    assert selected <= made["spec"]["template"]["metadata"]["labels"].items()
    port = status(routed, "oe", "shop")["gatewayPort"]
    assert get(f"http://127.0.0.1:{port}/v2").status_code == 401

    routed.run("patch", "networkpolicy", "shop-gateway-only", "--type=merge", "-p", '{"spec":{"ingress":[{}]}}')

    def is_right() -> bool:
        found = there(routed, "networkpolicies", "shop-gateway-only")
        return found is not None and found["spec"] == policy["spec"]

    eventually("it is set right", is_right)
