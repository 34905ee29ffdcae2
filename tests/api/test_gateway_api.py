"""Routes of Gateway API before its real CRDs, and the operator that writes them; the Gateway's controller is played."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hands
import pytest
import yaml
from bare import ROOT, Api, eventually
from operator_process import Operator
from stories import status, there
from test_operator_gateway import BLUE, GREEN, endpoint, roll, start, words
from ultramarine_cluster import build
from ultramarine_cluster.cluster import Cluster
from ultramarine_cluster.paths import cache
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds.onlineendpoint.routing.gateway_api import model_in
from ultramarine_operator.kube.apply import holds
from unit.conftest import ObjectStore

# The oldest one in whose standard channel all is that our routes say, and a new one.
RELEASES = (pytest.param("v1.3.0", marks=pytest.mark.slow), "v1.6.3")
ROUTES = ("httproutes", "grpcroutes")
PUBLIC = {"name": "public", "namespace": "infra", "sectionName": "https"}
GATEWAY_API = {"parentRefs": [PUBLIC], "url": "https://{endpoint}.{namespace}.ml.example.com"}


def crds(release: str) -> list[Path]:
    """The CRDs of both routes, out of the Go module of a release of Gateway API."""
    caches = {"GOMODCACHE": str(cache() / "go-mod"), "GOFLAGS": "-modcacherw", "GOTOOLCHAIN": "local"}
    words = [str(build.go_program()), "mod", "download", "-json", f"sigs.k8s.io/gateway-api@{release}"]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd="/", env={**os.environ, **caches})
    folder = Path(json.loads(done.stdout)["Dir"]) / "config" / "crd" / "standard"
    return [folder / f"gateway.networking.k8s.io_{plural}.yaml" for plural in ROUTES]


@pytest.fixture(scope="module", params=RELEASES)
def known(request: pytest.FixtureRequest, bare: Cluster) -> Iterator[None]:
    """The API server knows the routes of one release after the other."""
    files = [word for path in crds(request.param) for word in ("-f", str(path))]
    bare.run("apply", "--server-side", *files)  # they are too large for client-side apply
    bare.run("wait", "--for=condition=Established", *files, "--timeout=180s")
    # They are served, and kubectl can name them, a moment after they are established.
    group = ("api-resources", "--api-group=gateway.networking.k8s.io", "-o", "name")
    eventually("the routes are served", lambda: all(plural in bare.run(*group) for plural in ROUTES))
    yield
    bare.run("delete", *files)


def golden(api: Api) -> list[Manifest]:
    """The routes of the golden file, in the namespace of the test and owned by nobody."""
    made = yaml.safe_load_all((ROOT / "tests" / "golden" / "gateway_api_endpoint.yaml").read_text())
    routes = [each for each in made if each["kind"].endswith("Route")]
    for route in routes:
        route["metadata"] = {**route["metadata"], "namespace": api.namespace, "ownerReferences": []}
    return routes


def test_the_golden_routes_are_kept_to_the_letter(known, api):
    """Both are admitted, and the server keeps each field that they have: none is unknown to it."""
    routes = golden(api)
    assert [route["kind"] for route in routes] == ["HTTPRoute", "GRPCRoute"]
    api.apply(*routes)

    for route, plural in zip(routes, ROUTES, strict=True):
        assert holds(route["spec"], api.get(plural, "churn")["spec"])


@pytest.mark.parametrize(
    ("spoil", "refusal"),
    [
        (lambda rule: rule["filters"][0]["requestMirror"].update(percent=101), "less than or equal to 100"),
        (lambda rule: rule["timeouts"].update(request="6.25s"), "should match"),
        (lambda rule: rule["backendRefs"][0].update(weight=-1), "greater than or equal to 0"),
        (lambda rule: rule["backendRefs"][0].pop("port"), "Must have port for Service reference"),
    ],
)
def test_the_rules_of_gateway_api_are_in_force(known, api, spoil, refusal):
    """Each rule that admits a route refuses the same route with one wrong number."""
    http, _ = golden(api)
    spoil(http["spec"]["rules"][-1])

    assert refusal in api.refusal(http)


def accept(api: Api, **conditions: str) -> None:
    """Say of both routes as they are now what a Gateway's controller says: accepted, unless `conditions` differ."""
    for plural in ROUTES:
        generation = api.get(plural, "shop")["metadata"]["generation"]
        common = {"reason": "Why", "message": "words", "lastTransitionTime": hands.now()}
        told = [
            {"type": type, "status": word, "observedGeneration": generation, **common}
            for type, word in {"Accepted": "True", "ResolvedRefs": "True", **conditions}.items()
        ]
        parent = {"parentRef": PUBLIC, "controllerName": "example.com/played", "conditions": told}
        api.status(plural, "shop", {"parents": [parent]})


def routed_to(api: Api) -> list[str]:
    """The deployments that both routes have, or none while they differ."""
    http, grpc = (model_in(there(api, plural, "shop")) for plural in ROUTES)
    return [deployment.name for deployment in http.deployments] if http is not None and http == grpc else []


def shares(api: Api) -> dict[str, int]:
    """The weights in the HTTPRoute, by Service; none until the GRPCRoute is made of the same."""
    rules = api.get("httproutes", "shop")["spec"]["rules"] if routed_to(api) else [{"backendRefs": []}]
    return {each["name"]: each["weight"] for each in rules[-1]["backendRefs"]}


@pytest.fixture
def operator(
    known: None,
    api: Api,
    object_store: ObjectStore,
    replica: Callable[..., Operator],
    monkeypatch: pytest.MonkeyPatch,
) -> Operator:
    """Two versions of churn that are ready, and an operator with the chart's rights that is told of a Gateway."""
    rights = ("operator", "lease", "gatewayApi")
    operator: Operator = replica("operator", rights, gateway_api=json.dumps(GATEWAY_API))
    start(operator, api, object_store, monkeypatch)
    return operator


def served(api: Api, deployments: list[Manifest], **spec: Any) -> None:
    """Apply the endpoint shop, and wait until the operator has looked at it."""
    api.apply(endpoint(deployments, **spec))
    generation = api.get("oe", "shop")["metadata"]["generation"]
    eventually("it was looked at", lambda: status(api, "oe", "shop").get("observedGeneration") == generation)


def test_an_endpoint_changes_as_the_gateway_accepts(api, operator):
    """Routes first; a share when pods are ready; pods go when a Gateway has accepted routes without them."""
    served(api, [BLUE, GREEN], traffic={"blue": 100})
    eventually("both routes are there", lambda: routed_to(api) == ["blue", "green"])
    silent = "Gateway public of namespace infra has not reported on HTTPRoute shop yet"
    eventually("the Gateway's silence is told", lambda: silent in words(api, "RoutesReady"))
    assert status(api, "oe", "shop")["url"] == f"https://shop.{api.namespace}.ml.example.com"
    accept(api)
    roll(api, "shop-blue")
    eventually("blue answers", lambda: words(api, "Ready") == "True: churn-1 answers")

    served(api, [BLUE, GREEN], traffic={"blue": 50, "green": 50})
    assert shares(api) == {"shop-blue-pods": 100}, "green has no pods yet"
    roll(api, "shop-green")
    eventually("the routes share", lambda: shares(api) == {"shop-blue-pods": 50, "shop-green-pods": 50})
    eventually("nobody has accepted that", lambda: "has not processed the newest" in words(api, "RoutesReady"))
    assert status(api, "oe", "shop")["traffic"] == {"blue": 100}
    accept(api)
    eventually("both answer", lambda: status(api, "oe", "shop").get("traffic") == {"blue": 50, "green": 50})

    served(api, [GREEN])
    eventually("blue's share is gone", lambda: shares(api) == {"shop-green-pods": 100})
    assert routed_to(api) == ["green", "blue"]
    accept(api)
    eventually("blue's pin is gone", lambda: routed_to(api) == ["green"])
    assert there(api, "deployments", "shop-blue") is not None
    accept(api)
    eventually("blue is gone", lambda: there(api, "deployments", "shop-blue") is None)


def test_a_gateway_that_refuses_is_told_and_what_answers_goes_on(api, operator):
    """The Gateway's own words are in the condition, and no share changes until it accepts."""
    served(api, [BLUE, GREEN], traffic={"blue": 100})
    eventually("both routes are there", lambda: routed_to(api) == ["blue", "green"])
    accept(api)
    roll(api, "shop-blue")
    roll(api, "shop-green")
    eventually("blue answers", lambda: words(api, "Ready") == "True: churn-1 answers")

    accept(api, Accepted="False")
    eventually("the refusal is told", lambda: "refuses HTTPRoute shop: Why: words" in words(api, "RoutesReady"))
    served(api, [BLUE, GREEN], traffic={"green": 100})
    assert words(api, "Ready").startswith("True")
    assert shares(api) == {"shop-blue-pods": 100}
    accept(api)
    eventually("green's share is written", lambda: shares(api) == {"shop-green-pods": 100})


def test_routes_at_rest_are_not_written_again_and_a_strangers_edit_is_undone(api, operator):
    """A default of the server is not a difference; weights that another client wrote are."""
    served(api, [BLUE])
    eventually("both routes are there", lambda: routed_to(api) == ["blue"])
    accept(api)
    roll(api, "shop-blue")
    eventually("blue answers", lambda: words(api, "Ready") == "True: churn-1 answers")
    before, passes = (
        [api.get(p, "shop")["metadata"]["resourceVersion"] for p in ROUTES],
        operator.passes("OnlineEndpoint"),
    )
    api.run("label", "oe/shop", "colour=red")
    eventually("a pass", lambda: operator.passes("OnlineEndpoint") > passes)
    assert [api.get(p, "shop")["metadata"]["resourceVersion"] for p in ROUTES] == before

    spoilt = [{"op": "replace", "path": "/spec/rules/1/backendRefs/0/name", "value": "somebody-elses"}]
    api.run("patch", "httproute", "shop", "--type=json", "-p", json.dumps(spoilt))
    eventually("it is as it was", lambda: shares(api) == {"shop-blue-pods": 100})


@pytest.mark.attack("operator/routes")
def test_a_route_of_somebody_elses_is_left_alone(api, operator):
    """An HTTPRoute of the endpoint's name that the operator did not make stays as it is, and the endpoint says so."""
    theirs = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "shop"}}
    api.apply({**theirs, "spec": {"hostnames": ["theirs.example.com"]}})
    served(api, [BLUE])

    eventually(
        "the clash is told", lambda: "HTTPRoute shop already exists and has another owner" in words(api, "Reconciled")
    )
    assert api.get("httproutes", "shop")["spec"]["hostnames"] == ["theirs.example.com"]


def test_without_such_gateways_the_operator_does_not_ask_for_routes(api, replica):
    """If the chart names none, routes of Gateway API are neither listed nor watched, without any right to them."""
    operator: Operator = replica("plain")
    operator.start()
    served(api, [BLUE])

    asked = " ".join(operator.metrics())
    assert "OnlineEndpoint" in asked
    assert "Route" not in asked
    assert operator.probe("/readyz")[1]["refused"] == []
