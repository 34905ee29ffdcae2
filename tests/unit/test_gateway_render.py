"""What the gateway decides without Envoy: the contract, which addresses take requests, in which order it tells."""

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
    deployments=st.lists(deployments, max_size=4, unique_by=lambda one: one.name).map(tuple),
    auth=auths,
    limits=st.builds(RouteLimits, max_requests=st.integers(1, 10**6), max_connections=st.integers(1, 10**6)),
    tls_secret=st.one_of(st.just(""), names),
)


@given(endpoints)
def test_routes_are_read_as_they_were_written(routes: EndpointRoutes) -> None:
    """What is written is read, its version is that of its content, and Envoy has words for all of it."""
    assert EndpointRoutes.from_json(routes.to_json()) == routes
    assert structs.replace(routes, port=9_999).version != routes.version

    held = frozenset(one.name for one in routes.deployments if one.hold)
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
    """Routes that cannot be meant name the field; a field that is not known is refused, since it would not be done."""
    with pytest.raises(ValueError, match=words):
        EndpointRoutes.from_json(json.dumps(json.loads(CHURN.to_json()) | change))


def test_what_is_not_asked_for_is_not_written() -> None:
    """Routes without the newer fields have the version that they had, and an older gateway reads them."""
    for one in json.loads(CHURN.to_json())["deployments"]:
        assert not {"hold", "compare_percent"} & one.keys()


def test_a_part_of_the_others_requests_is_compared() -> None:
    """Of blue's 90 percent a fifth goes on with a name and as a copy, where it is short; none of green's or by gRPC."""
    green = structs.replace(GREEN, compare_percent=20, protocols=("http", "grpc"))
    routes = structs.replace(CHURN, deployments=(structs.replace(BLUE, protocols=("http", "grpc")), green))
    host = route_configuration(routes, Secrets(), reader="word")["virtual_hosts"][0]
    weighted = [one for one in host["routes"] if one["match"].get("prefix") == "/" and not _pin(one)]
    told = [
        (
            "grpc" in one["match"],
            one["route"]["cluster"],
            one["match"].get("runtime_fraction", {}).get("default_value", {}).get("numerator"),
            [header["name"] for header in one["match"].get("headers", [])],
            [mirror["cluster"] for mirror in one["route"].get("request_mirror_policies", [])],
            [added["header"]["value"] for added in one.get("request_headers_to_add", [])],
        )
        for one in weighted
        if "route" in one
    ]
    assert told == [
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
    """Whatever stands in the ConfigMap, reading it gives routes or a ValueError."""
    with pytest.raises(ValueError):
        EndpointRoutes.from_json(text)


def _slice(*endpoints: tuple[str, dict[str, bool | None]], port: int = 8080) -> Any:
    found = [{"addresses": [address], "conditions": conditions} for address, conditions in endpoints]
    return {"ports": [{"name": "http", "port": port}, {"name": "metrics", "port": 1}], "endpoints": found}


def test_only_ready_pods_take_requests() -> None:
    """Ready pods that are not told to stop take requests, at the port of that name; who is unknown counts as ready."""
    ready = _slice(("10.0.0.2", {"ready": True}), ("10.0.0.1", {}), ("10.0.0.3", {"ready": False}))
    leaving = _slice(("10.0.0.4", {"ready": True, "serving": True, "terminating": True}))

    assert addresses([ready, leaving], "http") == (("10.0.0.1", 8080), ("10.0.0.2", 8080))
    assert addresses([ready], "grpc") == ()


def test_the_last_pods_serve_while_they_leave() -> None:
    """Where all pods were told to stop, those that still serve take the requests: nobody else could."""
    leaving = _slice(
        ("10.0.0.1", {"ready": False, "serving": True, "terminating": True}),
        ("10.0.0.2", {"ready": False, "serving": False}),
    )

    assert addresses([leaving, {"ports": None, "endpoints": None}], "http") == (("10.0.0.1", 8080),)


class Envoy:
    """The other side of a conversation: subscribes as Envoy does, and takes or refuses what it is told."""

    def __init__(self, refuses: str = "") -> None:
        self.conversation = Conversation()
        self.now = 0.0
        self.order: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
        self._refuses = refuses
        for type in (CLUSTER, LISTENER):
            self.conversation.receive(DiscoveryRequest(type))

    def hears(self, wanted: Snapshot, answers: bool = True) -> list[DiscoveryResponse]:
        """All that it is told until nothing more is said."""
        everything: list[DiscoveryResponse] = []
        while said := self.conversation.responses(wanted, self.now):
            everything += said
            for told in said:
                self._answer(told, answers)
        return everything

    def _answer(self, told: DiscoveryResponse, answers: bool) -> None:
        got = tuple(one.name for one in told.resources)
        kind = told.type.rpartition(".")[2]
        self.order.append((kind, got, told.removed))
        follows = {CLUSTER: ASSIGNMENT, LISTENER: ROUTES}.get(told.type)
        error = "no" if kind == self._refuses else ""
        if follows and got and not error:
            self.conversation.receive(DiscoveryRequest(follows, subscribe=got))
        if answers:
            self.conversation.receive(DiscoveryRequest(told.type, nonce=told.nonce, error=error))


def rendered(routes: EndpointRoutes) -> EndpointConfig:
    """All parts of these routes."""
    return render(routes, Secrets(), "0.0.0.0")


def wanted(*routes: EndpointRoutes, without: tuple[str, ...] = (), whole: bool = True) -> Snapshot:
    """These endpoints, with an address for each cluster but for some."""
    made = {one.endpoint: rendered(one) for one in routes}
    pools = [pool for one in made.values() for pool in one.pools if pool not in without]
    return Snapshot(made, {pool: render_assignment(pool, [("10.0.0.1", 8080)]) for pool in pools}, whole)


def test_clusters_come_before_what_leads_to_them() -> None:
    """Envoy is told clusters, then addresses, listener and routes; then nothing more, and it uses them."""
    envoy = Envoy()
    envoy.hears(wanted(CHURN))

    assert [kind for kind, _, _ in envoy.order] == [
        "Cluster",
        "ClusterLoadAssignment",
        "Listener",
        "RouteConfiguration",
    ]
    assert envoy.conversation.uses(rendered(CHURN))
    assert not envoy.conversation.uses(rendered(structs.replace(CHURN, port=20_001)))
    assert envoy.hears(wanted(CHURN)) == []


def test_nothing_leads_where_no_address_is_known() -> None:
    """An endpoint is not routed while Envoy has not heard of the addresses of all of its clusters."""
    envoy = Envoy()
    envoy.hears(wanted(CHURN, without=(GREEN_POOL,)))

    assert [kind for kind, _, _ in envoy.order] == ["Cluster", "ClusterLoadAssignment"]
    assert not envoy.conversation.uses(rendered(CHURN))
    envoy.hears(wanted(CHURN))
    assert envoy.conversation.uses(rendered(CHURN))


def test_a_silent_envoy_is_waited_for() -> None:
    """Routes are not told before Envoy has said that it has the clusters, and nothing is told twice meanwhile."""
    envoy = Envoy()
    envoy.hears(wanted(CHURN), answers=False)
    assert envoy.order[0][0] == "Cluster"
    assert {kind for kind, _, _ in envoy.order} == {"Cluster", "ClusterLoadAssignment"}


def test_only_what_differs_is_told() -> None:
    """Other addresses are told without their cluster, and other weights as routes alone."""
    envoy, first = Envoy(), wanted(CHURN)
    envoy.hears(first)
    moved = {**first.assignments, BLUE_POOL: render_assignment(BLUE_POOL, [("10.0.0.9", 8080)])}
    of_addresses = envoy.hears(replace(first, assignments=moved))
    shifted = structs.replace(CHURN, deployments=(structs.replace(BLUE, weight=50), structs.replace(GREEN, weight=50)))
    of_weights = envoy.hears(replace(wanted(shifted), assignments=moved))

    assert [[one.name for one in told.resources] for told in of_addresses] == [[BLUE_POOL]]
    assert [(told.type, [one.name for one in told.resources]) for told in of_weights] == [(ROUTES, ["churn"])]


def test_a_changed_cluster_is_told_with_its_addresses() -> None:
    """Envoy takes a changed cluster when it has its addresses, for which it does not ask again, or 15 s later."""
    envoy = Envoy()
    envoy.hears(wanted(CHURN))
    changed = wanted(structs.replace(CHURN, limits=RouteLimits(max_requests=5)))
    said = envoy.conversation.responses(changed, envoy.now)

    assert [(told.type, {one.name for one in told.resources}) for told in said] == [
        (CLUSTER, {BLUE_POOL, GREEN_POOL}),
        (ASSIGNMENT, {BLUE_POOL, GREEN_POOL}),
    ]


def test_a_cluster_goes_a_while_after_its_last_route() -> None:
    """The cluster of a deployment that is gone stays for some seconds after Envoy has taken the new routes."""
    envoy = Envoy()
    envoy.hears(wanted(CHURN))
    without_green = wanted(structs.replace(CHURN, deployments=(structs.replace(BLUE, weight=100),)))
    envoy.hears(without_green)
    assert ("Cluster", (), (GREEN_POOL,)) not in envoy.order
    envoy.now += KEEP_SECONDS
    envoy.hears(without_green)

    assert envoy.order[-1] == ("Cluster", (), (GREEN_POOL,))


def test_what_is_refused_is_not_told_again_and_stops_no_other() -> None:
    """A listener that Envoy refuses has its reason, and is not told again until it is another, or forgiven."""
    envoy = Envoy(refuses="Listener")
    envoy.hears(wanted(CHURN))
    assert envoy.conversation.refusal(rendered(CHURN)) == "no"
    assert envoy.hears(wanted(CHURN)) == []
    envoy.conversation.forgive(rendered(CHURN))

    assert [told.type for told in envoy.hears(wanted(CHURN))] == [LISTENER]


def test_an_envoy_that_has_all_is_told_nothing() -> None:
    """On a new stream, as after a restart of the agent, what Envoy has from before is not told again, and is in use."""
    have = wanted(CHURN)
    conversation = Conversation()
    parts = [*rendered(CHURN).resources, *have.assignments.values()]
    for type in (CLUSTER, ASSIGNMENT, LISTENER, ROUTES):
        versions = {one.name: one.version for one in parts if one.type == type}
        names = () if type in (CLUSTER, LISTENER) else tuple(versions)
        conversation.receive(DiscoveryRequest(type, subscribe=names, versions=versions))

    assert conversation.responses(have, 0.0) == []
    assert conversation.uses(rendered(CHURN))


def test_nothing_is_taken_away_before_all_is_known() -> None:
    """Until all objects were listed nothing is removed; then what there is no more goes."""
    envoy = Envoy()
    envoy.hears(wanted(CHURN))
    assert envoy.hears(wanted(whole=False)) == []

    gone = envoy.hears(wanted())
    assert [(told.type, told.removed) for told in gone] == [(LISTENER, ("churn",))]


def test_envoy_learns_once_that_there_is_no_endpoint() -> None:
    """A subscription to clusters gets an empty response when all objects were listed, and not before."""
    envoy = Envoy()
    assert envoy.hears(wanted(whole=False)) == []
    assert [(response.type, response.resources) for response in envoy.hears(wanted())] == [(CLUSTER, ())]
    assert envoy.hears(wanted()) == []


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
