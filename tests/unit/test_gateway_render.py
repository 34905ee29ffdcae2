"""Decisions of the gateway without Envoy: the contract, the addresses of requests, the order of responses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from ultramarine_contract.routes import (
    LABEL_ROUTES,
    PIN_HEADER,
    ROUTES_ENTRY,
    EndpointRoutes,
    RouteAuth,
    RouteDeployment,
    RouteLimits,
)
from ultramarine_gateway.config.clusters import addresses
from ultramarine_gateway.config.render import render, render_assignment
from ultramarine_gateway.config.routes import route_configuration
from ultramarine_gateway.state import DesiredState
from ultramarine_gateway.xds.conversation import (
    KEEP_SECONDS,
    Conversation,
    DiscoveryRequest,
    DiscoveryResponse,
    Snapshot,
)
from ultramarine_gateway.xds.resources import ASSIGNMENT, CLUSTER, LISTENER, ROUTES, EndpointConfig, Secrets

BLUE, GREEN = RouteDeployment("blue", "churn-blue", 90), RouteDeployment("green", "churn-green", 10)
CHURN = EndpointRoutes("churn", "team", 20_000, (BLUE, GREEN), RouteAuth("none"))
BLUE_POOL, GREEN_POOL = "churn/blue/http", "churn/green/http"

names = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
deployments = st.builds(
    RouteDeployment,
    name=names,
    service=names,
    weight=st.just(0),
    mirror_percent=st.integers(0, 100),
    timeout_seconds=st.floats(0.001, 86_400),
    protocols=st.sampled_from([("http",), ("grpc",), ("http", "grpc")]),
    hold=st.booleans(),
    compare_percent=st.integers(0, 100),
    tls=st.booleans(),
)
auths = st.one_of(
    st.builds(RouteAuth, mode=st.just("key"), keys_secret=names),
    st.builds(RouteAuth, mode=st.just("none")),
    st.builds(RouteAuth, mode=st.just("token"), issuer=names, jwks=st.just("{}"), audiences=st.tuples(names)),
)
endpoints = st.builds(
    EndpointRoutes,
    endpoint=names,
    namespace=names,
    port=st.integers(10_000, 65_535),
    deployments=st.lists(deployments, max_size=4, unique_by=lambda deployment: deployment.name).map(tuple),
    auth=auths,
    limits=st.builds(RouteLimits, max_requests=st.integers(1, 10**6), max_connections=st.integers(1, 10**6)),
    tls_secret=st.one_of(st.just(""), names),
)


@given(endpoints)
def test_routes_are_read_as_they_were_written(routes: EndpointRoutes) -> None:
    """Written routes are read again, their version follows from their content, and all can be rendered."""
    assert EndpointRoutes.from_json(routes.to_json()) == routes
    assert structs.replace(routes, port=9_999).version != routes.version

    held = frozenset(deployment.name for deployment in routes.deployments if deployment.hold)
    rendered = render(routes, Secrets({"primary": "0" * 64}), "0.0.0.0", held, authority="PEM")
    assert EndpointConfig.from_json(rendered.to_json()) == rendered


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"endpoint": "../etc"}, r"matching regex .* at `\$\.endpoint`"),
        ({"port": 80}, r">= 1024 - at `\$\.port`"),
        *(({"port": port}, "the gateway's own") for port in (9902, 7070, 5000)),
        ({"port": True}, r"got `bool` - at `\$\.port`"),
        ({"port": 20000.5}, r"got `float` - at `\$\.port`"),
        ({"deployments": [{"name": "blue", "service": "b", "weight": 50}]}, "must sum to 100"),
        ({"deployments": [{"name": "b", "service": "b", "weight": 0}] * 2}, "two deployments have the same name"),
        ({"deployments": [{"name": "b", "service": "b", "mirror_percent": 101}]}, "<= 100 .*mirror_percent"),
        ({"deployments": [{"name": "b", "service": "b", "compare_percent": -1}]}, ">= 0 .*compare_percent"),
        ({"deployments": [{"name": "b", "service": "b", "hold": 1}]}, "Expected `bool`, got `int`"),
        ({"deployments": [{"name": "b", "service": "b", "timeout_seconds": 0}]}, "timeout_seconds"),
        ({"deployments": [{"name": "b", "service": "b", "protocols": ["ftp"]}]}, "Invalid enum value .ftp."),
        ({"deployments": [{"name": "b", "service": "b", "protocols": "http"}]}, "Expected `array`, got `str`"),
        ({"auth": {"mode": "key"}}, "auth.keys_secret is missing"),
        ({"auth": {"mode": "magic"}}, r"\$\.auth\.mode"),
        ({"auth": {"mode": "token", "issuer": "i"}}, "jwks or jwks_uri"),
        ({"auth": {"mode": "token", "issuer": "i", "jwks_uri": "file:///etc/passwd"}}, "auth.jwks_uri"),
        ({"limits": {"max_requests": 0}}, "limits.max_requests"),
        ({"shadow": 1}, "shadow"),
    ],
)
def test_what_cannot_be_is_refused_in_words(change: dict[str, Any], words: str) -> None:
    """Invalid routes name their field; an unknown field is refused, since the gateway would ignore it."""
    with pytest.raises(ValueError, match=words):
        EndpointRoutes.from_json(json.dumps(json.loads(CHURN.to_json()) | change))


def test_what_is_not_asked_for_is_not_written() -> None:
    """Routes without the newer fields have the version that they had, and an older gateway reads them."""
    for deployment in json.loads(CHURN.to_json())["deployments"]:
        assert not {"hold", "compare_percent"} & deployment.keys()


def test_a_part_of_the_others_requests_is_compared() -> None:
    """A fifth of blue's 90 percent gets a name and a copy if its length is known; none of green's or by gRPC."""
    green = structs.replace(GREEN, compare_percent=20, protocols=("http", "grpc"))
    routes = structs.replace(CHURN, deployments=(structs.replace(BLUE, protocols=("http", "grpc")), green))
    host = route_configuration(routes, Secrets(), reader="word")["virtual_hosts"][0]
    weighted = [route for route in host["routes"] if route["match"].get("prefix") == "/" and not _pin(route)]
    described = [
        (
            "grpc" in route["match"],
            route["route"]["cluster"],
            route["match"].get("runtime_fraction", {}).get("default_value", {}).get("numerator"),
            [header["name"] for header in route["match"].get("headers", [])],
            [mirror["cluster"] for mirror in route["route"].get("request_mirror_policies", [])],
            [added["header"]["value"] for added in route.get("request_headers_to_add", [])],
        )
        for route in weighted
        if "route" in route
    ]
    assert described == [
        (True, "churn/blue/grpc", 900_000, [], [], []),
        (True, "churn/green/grpc", None, [], [], []),
        (False, "churn/blue/http", 180_000, ["content-length"], ["churn/green/http-copies"], ["word %UNIQUE_ID%"]),
        (False, "churn/blue/http", 900_000, [], [], []),
        (False, "churn/green/http", None, [], [], []),
    ]


def _pin(route: Any) -> bool:
    return any(header["name"] == PIN_HEADER for header in route["match"].get("headers", []))


@given(st.one_of(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_anything_else_is_a_value_error(text: str) -> None:
    """Any text in the ConfigMap gives routes or a ValueError."""
    with pytest.raises(ValueError):
        EndpointRoutes.from_json(text)


def _slice(*endpoints: tuple[str, dict[str, bool | None]], port: int = 8080) -> Any:
    entries = [{"addresses": [address], "conditions": conditions} for address, conditions in endpoints]
    return {"ports": [{"name": "http", "port": port}, {"name": "metrics", "port": 1}], "endpoints": entries}


def test_only_ready_pods_take_requests() -> None:
    """Ready pods that are not terminating take requests, at the port of that name; unknown ones count as ready."""
    ready = _slice(("10.0.0.2", {"ready": True}), ("10.0.0.1", {}), ("10.0.0.3", {"ready": False}))
    leaving = _slice(("10.0.0.4", {"ready": True, "serving": True, "terminating": True}))

    assert addresses([ready, leaving], "http") == (("10.0.0.1", 8080), ("10.0.0.2", 8080))
    assert addresses([ready], "grpc") == ()


def test_the_last_pods_serve_while_they_leave() -> None:
    """If all pods are terminating, those that still serve take the requests, unless requests wait for the next pod."""
    leaving = _slice(
        ("10.0.0.1", {"ready": False, "serving": True, "terminating": True}),
        ("10.0.0.2", {"ready": False, "serving": False}),
    )

    assert addresses([leaving, {"ports": None, "endpoints": None}], "http") == (("10.0.0.1", 8080),)
    assert addresses([leaving], "http", hold=True) == ()


class Envoy:
    """The other side of a conversation: subscribes as Envoy does, and accepts or refuses responses."""

    def __init__(self, refuses: str = "") -> None:
        self.conversation = Conversation()
        self.now = 0.0
        self.order: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
        self._refuses = refuses
        for type in (CLUSTER, LISTENER):
            self.conversation.receive(DiscoveryRequest(type))

    def hears(self, snapshot: Snapshot, answers: bool = True) -> list[DiscoveryResponse]:
        """Take all responses until none follows, and return them."""
        everything: list[DiscoveryResponse] = []
        while responses := self.conversation.responses(snapshot, self.now):
            everything += responses
            for response in responses:
                self._answer(response, answers)
        return everything

    def _answer(self, response: DiscoveryResponse, answers: bool) -> None:
        got = tuple(resource.name for resource in response.resources)
        kind = response.type.rpartition(".")[2]
        self.order.append((kind, got, response.removed))
        follows = {CLUSTER: ASSIGNMENT, LISTENER: ROUTES}.get(response.type)
        error = "no" if kind == self._refuses else ""
        if follows and got and not error:
            self.conversation.receive(DiscoveryRequest(follows, subscribe=got))
        if answers:
            self.conversation.receive(DiscoveryRequest(response.type, nonce=response.nonce, error=error))


def rendered(routes: EndpointRoutes) -> EndpointConfig:
    """All parts of these routes."""
    return render(routes, Secrets(), "0.0.0.0")


def snapshot(*routes: EndpointRoutes, without: tuple[str, ...] = (), whole: bool = True) -> Snapshot:
    """Return these endpoints, with an address for each cluster except those of `without`."""
    made = {endpoint.endpoint: rendered(endpoint) for endpoint in routes}
    pools = [pool for config in made.values() for pool in config.pools if pool not in without]
    return Snapshot(made, {pool: render_assignment(pool, [("10.0.0.1", 8080)]) for pool in pools}, whole)


def test_clusters_come_before_what_leads_to_them() -> None:
    """Envoy gets clusters, then addresses, listener and routes; then nothing more, and it uses them."""
    envoy = Envoy()
    envoy.hears(snapshot(CHURN))

    assert [kind for kind, _, _ in envoy.order] == [
        "Cluster",
        "ClusterLoadAssignment",
        "Listener",
        "RouteConfiguration",
    ]
    assert envoy.conversation.uses(rendered(CHURN))
    assert not envoy.conversation.uses(rendered(structs.replace(CHURN, port=20_001)))
    assert envoy.hears(snapshot(CHURN)) == []


def test_nothing_leads_where_no_address_is_known() -> None:
    """An endpoint is not routed until Envoy has the addresses of all of its clusters."""
    envoy = Envoy()
    envoy.hears(snapshot(CHURN, without=(GREEN_POOL,)))

    assert [kind for kind, _, _ in envoy.order] == ["Cluster", "ClusterLoadAssignment"]
    assert not envoy.conversation.uses(rendered(CHURN))
    envoy.hears(snapshot(CHURN))
    assert envoy.conversation.uses(rendered(CHURN))


def test_a_silent_envoy_is_waited_for() -> None:
    """Routes are not sent before Envoy has acknowledged the clusters, and nothing is sent twice meanwhile."""
    envoy = Envoy()
    envoy.hears(snapshot(CHURN), answers=False)
    assert envoy.order[0][0] == "Cluster"
    assert {kind for kind, _, _ in envoy.order} == {"Cluster", "ClusterLoadAssignment"}


def test_only_what_differs_is_told() -> None:
    """Changed addresses are sent without their cluster, and changed weights as routes alone."""
    envoy, first = Envoy(), snapshot(CHURN)
    envoy.hears(first)
    moved = {**first.assignments, BLUE_POOL: render_assignment(BLUE_POOL, [("10.0.0.9", 8080)])}
    of_addresses = envoy.hears(replace(first, assignments=moved))
    shifted = structs.replace(CHURN, deployments=(structs.replace(BLUE, weight=50), structs.replace(GREEN, weight=50)))
    of_weights = envoy.hears(replace(snapshot(shifted), assignments=moved))

    assert [[resource.name for resource in response.resources] for response in of_addresses] == [[BLUE_POOL]]
    assert [(response.type, [resource.name for resource in response.resources]) for response in of_weights] == [
        (ROUTES, ["churn"])
    ]


def test_a_changed_cluster_is_told_with_its_addresses() -> None:
    """Envoy takes a changed cluster when it has its addresses, for which it does not ask again, or 15 s later."""
    envoy = Envoy()
    envoy.hears(snapshot(CHURN))
    changed = snapshot(structs.replace(CHURN, limits=RouteLimits(max_requests=5)))
    responses = envoy.conversation.responses(changed, envoy.now)

    assert [(response.type, {resource.name for resource in response.resources}) for response in responses] == [
        (CLUSTER, {BLUE_POOL, GREEN_POOL}),
        (ASSIGNMENT, {BLUE_POOL, GREEN_POOL}),
    ]


def test_a_cluster_goes_a_while_after_its_last_route() -> None:
    """The cluster of a deployment that is gone stays for some seconds after Envoy has taken the new routes."""
    envoy = Envoy()
    envoy.hears(snapshot(CHURN))
    without_green = snapshot(structs.replace(CHURN, deployments=(structs.replace(BLUE, weight=100),)))
    envoy.hears(without_green)
    assert ("Cluster", (), (GREEN_POOL,)) not in envoy.order
    envoy.now += KEEP_SECONDS
    envoy.hears(without_green)

    assert envoy.order[-1] == ("Cluster", (), (GREEN_POOL,))


def test_what_is_refused_is_not_told_again_and_stops_no_other() -> None:
    """A listener that Envoy refuses has its reason, and is not sent again until it differs, or is forgiven."""
    envoy = Envoy(refuses="Listener")
    envoy.hears(snapshot(CHURN))
    assert envoy.conversation.refusal(rendered(CHURN)) == "no"
    assert envoy.hears(snapshot(CHURN)) == []
    envoy.conversation.forgive(rendered(CHURN))

    assert [response.type for response in envoy.hears(snapshot(CHURN))] == [LISTENER]


def test_an_envoy_that_has_all_is_told_nothing() -> None:
    """On a new stream, as after a restart of the agent, resources that Envoy has are not sent again, and are in use."""
    have = snapshot(CHURN)
    conversation = Conversation()
    parts = [*rendered(CHURN).resources, *have.assignments.values()]
    for type in (CLUSTER, ASSIGNMENT, LISTENER, ROUTES):
        versions = {resource.name: resource.version for resource in parts if resource.type == type}
        names = () if type in (CLUSTER, LISTENER) else tuple(versions)
        conversation.receive(DiscoveryRequest(type, subscribe=names, versions=versions))

    assert conversation.responses(have, 0.0) == []
    assert conversation.uses(rendered(CHURN))


def test_nothing_is_taken_away_before_all_is_known() -> None:
    """Until all objects were listed nothing is removed; then absent endpoints go."""
    envoy = Envoy()
    envoy.hears(snapshot(CHURN))
    assert envoy.hears(snapshot(whole=False)) == []

    gone = envoy.hears(snapshot())
    assert [(response.type, response.removed) for response in gone] == [(LISTENER, ("churn",))]


def test_envoy_learns_once_that_there_is_no_endpoint() -> None:
    """A subscription to clusters gets an empty response when all objects were listed, and not before."""
    envoy = Envoy()
    assert envoy.hears(snapshot(whole=False)) == []
    assert [(response.type, response.resources) for response in envoy.hears(snapshot())] == [(CLUSTER, ())]
    assert envoy.hears(snapshot()) == []


def test_readiness_comes_after_the_secrets_of_every_endpoint() -> None:
    """Its listener is not sent while an endpoint waits for the content of a Secret, and stays when a later one does."""
    secured = structs.replace(CHURN, auth=RouteAuth("key", keys_secret="keys"))
    metadata = {"name": "churn-routes", "labels": {LABEL_ROUTES: "churn"}}
    state, envoy = DesiredState("team", "0.0.0.0", {}), Envoy()
    state.seen.list_slices([])
    state.seen.list_config_maps([{"metadata": metadata, "data": {ROUTES_ENTRY: secured.to_json()}}])
    state.decide({})
    envoy.hears(state.snapshot)
    assert [(kind, names) for kind, names, _ in envoy.order] == [("Cluster", ())]

    state.seen.secrets["keys"] = None  # read, and absent
    state.decide({})
    envoy.hears(state.snapshot)
    assert [(kind, names) for kind, names, _ in envoy.order] == [("Cluster", ()), ("Listener", ("-ready",))]

    del state.seen.secrets["keys"]
    state.decide({})
    assert envoy.hears(state.snapshot) == []
