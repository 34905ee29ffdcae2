"""Plans of an OnlineEndpoint behind the gateway: the order of every change."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from builders import NOW, PLATFORM, child, condition, endpoint, kinds_of, seen, version
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs
from ultramarine_contract.common import TLS_DIR
from ultramarine_contract.errors import GatewayError
from ultramarine_contract.routes import GATEWAY_PODS, LABEL_ROUTES, RouteState, RouteTokens
from ultramarine_contract.serving_records import ServingTask
from ultramarine_operator.kinds.onlineendpoint.endpoint import LABEL_GATEWAY_ONLY
from ultramarine_operator.kinds.onlineendpoint.plan import plan, questions
from ultramarine_operator.kinds.onlineendpoint.routing.manifests import (
    FIRST_PORT,
    PORTS,
    first_port,
    gateway_service,
    next_port,
    pods_service_name,
    routes_in,
    service,
    service_target,
)
from ultramarine_operator.shared.questions import GatewayFacts
from unit.test_onlineendpoint_plan import TWO, deployment, server_pod

HERE = replace(PLATFORM, gateway="ultramarine-gateway.{namespace}.svc:9902", gateway_namespaces=frozenset({"team-a"}))
BOTH = (version(1), version(2))
KEYS = {"keysSecret": "churn-keys"}
HALVES = {"blue": 50, "green": 50}


def look(owner, *children, says=None, related=BOTH):
    """Return the observations in a namespace with a gateway whose pods report that."""
    around = replace(seen(*children, related=related), platform=HERE)
    (question,) = questions(owner, around)
    return replace(around, answers={question: says or GatewayFacts((RouteState(),))})


def after(owner, *before, says=None, related=BOTH):
    """The plan of a pass."""
    return plan(owner, look(owner, *before, says=says, related=related), NOW)


def routes_of(got):
    """The routes that a plan wants."""
    (config_map,) = (made for made in got.apply if made["kind"] == "ConfigMap")
    return routes_in(config_map)


def weights(got):
    """The weights that a plan wants."""
    return {d.name: d.weight for d in routes_of(got).deployments}


def kept(owner, got):
    """The ConfigMap of a plan, as it is seen later."""
    (config_map,) = (made for made in got.apply if made["kind"] == "ConfigMap")
    return child("ConfigMap", config_map["metadata"]["name"], owner) | {"data": config_map["data"]}


def having(config_map, pods=1, **ready):
    """Return gateway pods that have these routes, with a number of addresses of each deployment, 1 by default."""
    routes = routes_in(config_map)
    state = RouteState(routes.version, ready={d.name: ready.get(d.name, 1) for d in routes.deployments})
    return GatewayFacts((state,) * pods)


def address(owner, where):
    """The Service, turned to a deployment's pods or to a port of the gateway."""
    made = service(owner, where) if isinstance(where, str) else gateway_service(owner, where)
    return child("Service", "churn", owner, made["spec"])


def blue(owner):
    """blue with version 1, ready."""
    return deployment(owner, 1), server_pod(owner, 1)


def green(owner, *, rolled=True):
    """green with version 2, ready or not."""
    made = server_pod(owner, 2, "green", ready=rolled)
    made["metadata"]["name"] = "churn-green-x"
    return deployment(owner, 2, "green", rolled=rolled), made


def settled(owner, *pods, related=BOTH):
    """The endpoint at rest, every gateway pod having the routes that it wants: ConfigMap and Service."""
    first = after(owner, *pods, related=related)
    config_map = kept(owner, first)
    return config_map, address(owner, routes_in(config_map).port)


def test_a_new_endpoint_has_routes_first_and_an_address_when_the_gateway_has_them():
    """The Service is made only when every gateway pod has the first routes: its port may belong to another endpoint."""
    owner = endpoint(KEYS)
    first = after(owner, related=(version(1),))
    assert kinds_of(first.apply) == ["Deployment/churn-blue", "Service/churn-blue-pods", "ConfigMap/churn-routes"]
    assert weights(first) == {"blue": 100}
    assert condition(first, "RoutesReady")["status"] == "False"
    assert first.status["traffic"] == {}

    config_map = kept(owner, first)
    half = GatewayFacts((*having(config_map).proxies, RouteState()))
    waiting = after(owner, *blue(owner), config_map, says=half, related=(version(1),))
    assert "Service/churn" not in kinds_of(waiting.apply)
    assert condition(waiting, "RoutesReady")["message"] == "1 of 2 gateway pods have the newest routes"
    assert condition(waiting, "Ready")["status"] == "False"

    turning = after(owner, *blue(owner), config_map, says=having(config_map, 2), related=(version(1),))
    made = next(m for m in turning.apply if m["metadata"]["name"] == "churn")
    assert made["spec"]["selector"] == GATEWAY_PODS
    assert {port["targetPort"] for port in made["spec"]["ports"]} == {first.status["gatewayPort"]}

    last = after(owner, *blue(owner), *settled(owner, *blue(owner)), says=having(config_map, 2), related=(version(1),))
    assert (condition(last, "RoutesReady")["status"], condition(last, "Ready")["status"]) == ("True", "True")
    assert condition(last, "Ready")["message"] == "churn-1 answers"
    assert last.status["traffic"] == {"blue": 100}
    assert condition(last, "Reconciling") == {}


def test_the_first_routes_cost_one_status_until_they_are_confirmed():
    """Not sent, not yet at the gateway, and confirmed without the Service yet: the status is the same each time."""
    one = endpoint(KEYS)
    live = deployment(one, 1, rolled=False)
    first = after(one, live, related=(version(1),))
    config_map = kept(one, first)
    later = endpoint(first.status)
    for says in (GatewayFacts((RouteState(),)), having(config_map)):
        again = after(later, live, config_map, says=says, related=(version(1),))
        assert again.status == first.status


def test_the_gateway_finds_what_the_routes_name():
    """The ConfigMap has the label that the gateway follows, and each deployment in it a Service of that name."""
    owner = endpoint(KEYS, deployments=TWO, traffic=HALVES)
    got = after(owner)
    (config_map,) = (m for m in got.apply if m["kind"] == "ConfigMap")
    services = {m["metadata"]["name"]: m["spec"] for m in got.apply if m["kind"] == "Service"}

    assert config_map["metadata"]["labels"][LABEL_ROUTES] == "churn"
    for routed in routes_of(got).deployments:
        spec = services[routed.service]
        assert spec["clusterIP"] == "None"
        assert spec["selector"]["ultramarine.dev/deployment"] == routed.name
        assert {port["name"] for port in spec["ports"]} == set(routed.protocols)


def test_a_split_waits_for_every_deployment_whose_share_rises():
    """From blue alone to halves: nothing changes until green is ready and every gateway pod has an address of it."""
    before = endpoint(KEYS, deployments=TWO, traffic={"blue": 100})
    owner = endpoint(KEYS | {"traffic": {"blue": 100}}, deployments=TWO, traffic=HALVES)
    at_rest = settled(before, *blue(before))

    early = after(owner, *blue(owner), *green(owner, rolled=False), *at_rest, says=having(at_rest[0]))
    assert weights(early) == {"blue": 100, "green": 0}
    assert early.status["traffic"] == {"blue": 100}
    words = "blue answers until blue (50 %) and green (50 %) take over: green: 0 of 1 pods of churn-2 are ready"
    assert condition(early, "Ready")["message"].startswith(words)

    unknown = after(owner, *blue(owner), *green(owner), *at_rest, says=having(at_rest[0], green=0))
    assert weights(unknown) == {"blue": 100, "green": 0}
    assert "an address of green" in condition(unknown, "Ready")["message"]
    assert unknown.after is not None

    ready = after(owner, *blue(owner), *green(owner), *at_rest, says=having(at_rest[0]))
    assert weights(ready) == HALVES
    assert ready.status["traffic"] == {"blue": 100}, "only what every gateway pod has confirmed is told"

    routes = kept(owner, ready)
    last = after(owner, *blue(owner), *green(owner), routes, at_rest[1], says=having(routes))
    assert last.status["traffic"] == HALVES
    assert last.status["modelVersion"] == "churn-1 and churn-2"
    assert condition(last, "Ready")["message"] == "blue (50 %, churn-1) and green (50 %, churn-2) answer"
    assert [event.reason for event in last.events if event.reason == "TrafficTurned"] == ["TrafficTurned"]


def test_traffic_leaves_a_deployment_that_is_ill():
    """blue fails an update, and its share falls: only green, whose share rises, has to be ready for that."""
    before = endpoint(KEYS, deployments=TWO, traffic=HALVES)
    at_rest = settled(before, *blue(before), *green(before))
    owner = endpoint(KEYS | {"traffic": HALVES}, deployments=TWO, traffic={"blue": 10, "green": 90})
    ill = (deployment(owner, 1, rolled=False), server_pod(owner, 1, ready=False))
    got = after(owner, *ill, *green(owner), *at_rest, says=having(at_rest[0], blue=0))

    assert weights(got) == {"blue": 10, "green": 90}


def test_what_leaves_the_spec_goes_step_by_step():
    """blue leaves: its weight goes when green is ready, then its routes, then its pods; each after the one before."""
    before = endpoint(KEYS, deployments=TWO, traffic={"blue": 100})
    at_rest = settled(before, *blue(before), *green(before))
    owner = endpoint(KEYS | {"traffic": {"blue": 100}}, deployments=TWO[1:])
    pods = (*blue(before), *green(owner))

    routes, expected = at_rest[0], []
    for _ in range(4):
        got = after(owner, *pods, routes, at_rest[1], says=having(routes))
        expected.append((weights(got), [ref.name for ref in got.delete]))
        late = after(owner, *pods, kept(owner, got), at_rest[1], says=having(routes))
        if kept(owner, got) != routes:
            assert late.delete == (), "nothing is deleted before every gateway pod has confirmed"
        routes = kept(owner, got)

    assert expected == [
        ({"green": 100, "blue": 0}, []),
        ({"green": 100}, []),
        ({"green": 100}, ["churn-blue"]),
        ({"green": 100}, ["churn-blue"]),
    ]


def test_the_service_of_a_deployment_that_left_goes_with_it():
    """When blue's pods may go, so may the Service by which the gateway found them."""
    before = endpoint(KEYS, deployments=TWO, traffic={"green": 100})
    owner = endpoint(KEYS, deployments=TWO[1:])
    at_rest = settled(owner, *green(owner))
    listed = child("Service", pods_service_name(before, "blue"), before)
    got = after(owner, *blue(before), *green(owner), listed, *at_rest, says=having(at_rest[0]))

    assert [(ref.resource.kind, ref.name) for ref in got.delete] == [
        ("Deployment", "churn-blue"),
        ("Service", "churn-blue-pods"),
    ]


def test_who_loses_a_share_keeps_its_pods_until_that_is_confirmed():
    """blue is scaled down in the edit that halves its share: its pods stay until no gateway pod sends it more."""
    four = [{**TWO[0], "replicas": 4}, TWO[1]]
    before = endpoint(KEYS, deployments=four, traffic={"blue": 100})
    big = deployment(before, 1)
    big["spec"]["replicas"] = 4
    at_rest = settled(before, big, server_pod(before, 1))
    owner = endpoint(KEYS | {"traffic": {"blue": 100}}, deployments=TWO, traffic=HALVES)
    pods = (big, server_pod(owner, 1), *green(owner))

    turning = after(owner, *pods, *at_rest, says=having(at_rest[0]))
    assert turning.apply[0]["spec"]["replicas"] == 4
    routes = kept(owner, turning)
    assert after(owner, *pods, routes, at_rest[1], says=having(at_rest[0])).apply[0]["spec"]["replicas"] == 4
    assert after(owner, *pods, routes, at_rest[1], says=having(routes)).apply[0]["spec"]["replicas"] == 1


def test_an_endpoint_from_before_the_gateway_is_turned_without_a_gap():
    """The Service stays at blue's pods until every gateway pod has the routes, and the routes begin with blue."""
    status = KEYS | {"traffic": {"blue": 100}}
    owner = endpoint(status, deployments=TWO, traffic={"green": 100})
    pods = (*blue(owner), *green(owner))
    first = after(owner, *pods, address(owner, "blue"))
    assert weights(first) == {"blue": 100, "green": 0}
    assert service_target(first.apply[-1]) == "blue"

    routes = kept(owner, first)
    turning = after(owner, *pods, routes, address(owner, "blue"), says=having(routes))
    assert service_target(turning.apply[-1]) == routes_in(routes).port
    assert weights(turning) == {"blue": 100, "green": 0}
    assert turning.status["traffic"] == {"blue": 100}

    turned = address(owner, routes_in(routes).port)
    assert weights(after(owner, *pods, routes, turned, says=having(routes))) == {"blue": 0, "green": 100}


def test_a_gateway_that_is_gone_gives_the_service_back():
    """Without a gateway the Service returns to the pods of the last champion, and the list of pods goes."""
    owner = endpoint(KEYS | {"traffic": {"blue": 100}}, deployments=TWO, traffic={"blue": 100})
    at_rest = settled(owner, *blue(owner), *green(owner))
    got = plan(owner, seen(*blue(owner), *green(owner), *at_rest, related=BOTH), NOW)
    assert service_target(got.apply[-1]) == "blue"
    assert got.delete == ()

    listed = child("Service", pods_service_name(owner, "blue"), owner)
    last = plan(owner, seen(*blue(owner), *green(owner), listed, at_rest[0], address(owner, "blue"), related=BOTH), NOW)
    assert [ref.name for ref in last.delete] == ["churn-blue-pods"]
    assert condition(last, "RoutesReady") == {}


def test_a_split_without_a_gateway_says_what_it_needs():
    """The larger part answers everything, and the object is stalled until the gateway is there or the split is not."""
    owner = endpoint(KEYS, deployments=TWO, traffic={"blue": 10, "green": 90})
    got = plan(owner, seen(*blue(owner), *green(owner), address(owner, "green"), related=BOTH), NOW)

    assert got.status["traffic"] == {"green": 100}
    assert (condition(got, "RoutesReady")["reason"], condition(got, "Ready")["status"]) == ("NoGateway", "True")
    assert "gateway.enabled" in condition(got, "Stalled")["message"]


@pytest.mark.attack(
    "network/shared-port",
    asset="an endpoint's answers",
    threat="a request for one endpoint comes to another's pods at the gateway",
    control="each has a port of its own, and its Service leads there only when every gateway pod has confirmed that",
)
def test_a_taken_port_is_left_for_another():
    """If another endpoint has the port, the next one is tried once; no Service points to the taken port."""
    owner = endpoint(KEYS)
    first = after(owner, *blue(owner), related=(version(1),))
    routes, port = kept(owner, first), first.status["gatewayPort"]
    taken = GatewayFacts((RouteState(reason="port taken", port=port, port_taken_by="other"),))
    got = after(owner, *blue(owner), routes, says=taken, related=(version(1),))

    assert got.status["gatewayPort"] == next_port(owner, port) == routes_of(got).port
    assert "OnlineEndpoint other" in condition(got, "RoutesReady")["message"]
    assert "Service/churn" not in kinds_of(got.apply)
    again = after(owner, *blue(owner), kept(owner, got), says=taken, related=(version(1),))
    assert routes_of(again).port == next_port(owner, port), "what is said of an older port is over"


def test_every_port_is_tried():
    """From any port the next ones come to all of them, so an endpoint finds one as long as there is one."""
    owner, seen_ports = endpoint(), set()
    port = first_port(owner)
    for _ in range(PORTS):
        seen_ports.add(port)
        port = next_port(owner, port)

    assert seen_ports == set(range(FIRST_PORT, FIRST_PORT + PORTS))


@pytest.mark.parametrize(
    ("says", "ready", "words"),
    [
        (GatewayError("no gateway pod is ready: x has no address", "NoGateway"), "False", "no gateway pod is ready"),
        (GatewayError("the gateway pod at 10.0.0.3 does not answer", "Unreachable"), "True", "10.0.0.3"),
        (GatewayFacts((RouteState(reason="Envoy refuses this"),)), "True", "Envoy refuses this"),
    ],
)
def test_trouble_with_the_gateway_is_told(says, ready, words):
    """Routes that are not confirmed are not ready; the endpoint is, while gateway pods are there and pods answer."""
    owner = endpoint(KEYS | {"traffic": {"blue": 100}})
    at_rest = settled(owner, *blue(owner), related=(version(1),))
    got = after(owner, *blue(owner), *at_rest, says=says, related=(version(1),))

    assert condition(got, "RoutesReady")["status"] == "False"
    assert words in condition(got, "RoutesReady")["message"]
    assert condition(got, "Ready")["status"] == ready
    assert got.delete == ()
    assert got.after is not None


def test_mirrors_and_bounds_reach_the_gateway_and_the_server():
    """A mirror has a percent and no weight; the gateway waits longer than the server, whose answer says why."""
    settings = {"timeoutSeconds": 5, "maxConcurrentRequests": 8, "maxQueueMilliseconds": 250}
    batching = {"maxBatchSize": 32, "maxLatencyMilliseconds": 2}
    request = json.dumps({"inputs": []})
    first = {**TWO[0], "requestSettings": settings, "batching": batching, "warmup": {"request": request}}
    owner = endpoint(KEYS, deployments=[first, TWO[1]], traffic={"blue": 100}, mirrorTraffic={"green": 20})
    got = after(owner)
    blue, two = routes_of(got).deployments
    env = got.apply[0]["spec"]["template"]["spec"]["containers"][0]["env"]
    task = ServingTask.from_json(env[0]["value"])

    assert (blue.weight, blue.mirror_percent, blue.timeout_seconds) == (100, 0, 6.25)
    assert (two.weight, two.mirror_percent) == (0, 20)
    bounds = (task.timeout_seconds, task.max_concurrent_requests, task.max_queue_milliseconds)
    assert bounds == (5, 8, 250)
    assert (task.max_batch_size, task.max_latency_milliseconds, task.warmup) == (32, 2, request)


def test_limits_of_tokens_reach_the_gateway():
    """Only answers of containers with an API are counted; routes without any do not mention tokens."""
    server = {"image": "llm:local", "ports": {"http": 8080}}
    deployments = [
        {"name": "blue", "container": {**server, "api": "openai"}},
        {"name": "green", "container": server},
    ]
    limited = endpoint(KEYS, deployments=deployments, traffic=EIGHTY, tokenLimits={"tokensPerMinute": 500})
    assert routes_of(after(limited)).tokens == RouteTokens(("blue",), 500)
    assert "tokens" not in json.loads(routes_of(after(endpoint(KEYS, deployments=TWO, traffic=EIGHTY))).to_json())


def test_a_gateway_of_another_namespace_is_none():
    """Only endpoints of namespaces in which the chart has put a gateway wait for one."""
    around = replace(seen(), platform=replace(HERE, gateway_namespaces=frozenset({"team-b"})))
    assert questions(endpoint(), around) == ()


def test_names_of_services_fit():
    """The longest names of an endpoint and of two of its deployments give two names that a Service may have."""
    owner = endpoint()
    owner.manifest["metadata"]["name"] = "a" * 40
    names = {pods_service_name(owner, "b" * 39 + last) for last in "xy"}

    assert len(names) == 2
    assert all(len(name) <= 63 and name.strip("-") == name for name in names)


TOKEN = {"issuer": "id", "audiences": ["churn"], "jwksUri": "https://id.example.com/keys"}
SPECS = (
    {"deployments": TWO, "traffic": {"blue": 100}},
    {"deployments": TWO, "traffic": HALVES},
    {"deployments": TWO, "traffic": {"green": 100}},
    {"deployments": TWO[1:]},
    {"deployments": TWO[:1]},
    {"deployments": [{**TWO[0], "replicas": 0}, TWO[1]], "traffic": {"green": 100}},
    {"deployments": TWO, "traffic": HALVES, "authMode": "token", "token": TOKEN},
)


class Cluster:
    """One endpoint with two gateway pods, each of which learns of routes and of pods when it likes."""

    def __init__(self):
        self.spec, self.status = SPECS[0], dict(KEYS)
        self.children, self.gateways = {}, [{"routes": None, "pods": set()} for _ in range(2)]
        self.ready = set()

    def owner(self):
        return endpoint(self.status, **self.spec)

    def pods(self):
        return [
            server_pod(self.owner(), {"blue": 1, "green": 2}[name], name)
            for name in self.ready
            if ("Deployment", f"churn-{name}") in self.children
        ]

    def says(self):
        states = [
            RouteState(
                gateway["routes"].version if gateway["routes"] else "",
                ready={name: int(name in gateway["pods"]) for name in ("blue", "green")},
            )
            for gateway in self.gateways
        ]
        return GatewayFacts(tuple(states))

    def do(self, what):
        match what:
            case ("edit", number):
                self.spec = SPECS[number]
            case ("pods", name):  # they start, where they are wanted
                if (made := self.children.get(("Deployment", f"churn-{name}"))) and made["spec"]["replicas"]:
                    counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), 1)
                    made["status"] = {"observedGeneration": 1, **counts}
                    self.ready.add(name)
            case ("routes", number):
                self.gateways[number]["routes"] = routes_in(self.children.get(("ConfigMap", "churn-routes")))
            case ("addresses", number):
                self.gateways[number]["pods"] = set(self.ready)
            case "pass":
                self._pass()

    def _pass(self):
        owner = self.owner()
        got = plan(owner, look(owner, *self.children.values(), *self.pods(), says=self.says()), NOW)
        for ref in got.delete:
            gone = self.children.pop((ref.resource.kind, ref.name))
            if gone["kind"] == "Deployment":
                self.ready.discard(ref.name.removeprefix("churn-"))
        for made in got.apply:
            id = (made["kind"], made["metadata"]["name"])
            old = self.children.get(id)
            new = child(*id, owner, made.get("spec"), (old or {}).get("status"))
            new["metadata"]["annotations"] = made["metadata"].get("annotations", {})
            self.children[id] = new | ({"data": made["data"]} if "data" in made else {})
            if made["kind"] == "Deployment" and made["spec"]["replicas"] == 0:
                self.ready.discard(made["metadata"]["name"].removeprefix("churn-"))
        self.status = got.status

    def check(self):
        """Nothing leads to a deployment without pods; pods without a check are behind their policy."""
        made = [child["spec"]["template"] for (kind, _), child in self.children.items() if kind == "Deployment"]
        if any(LABEL_GATEWAY_ONLY in child["metadata"]["labels"] for child in made):
            assert ("NetworkPolicy", "churn-gateway-only") in self.children
        if service_target(self.children.get(("Service", "churn"))) is None or not self.served:
            return
        for gateway in self.gateways:
            for routed in gateway["routes"].deployments:
                if routed.weight:
                    assert routed.name in self.ready, f"{routed.name} has {routed.weight} % and no pod: {self.spec}"
                    assert routed.name in gateway["pods"], f"a gateway pod gives {routed.name} requests, and has no pod"

    @property
    def served(self):
        return self.status.get("traffic")


EVENTS = st.one_of(
    st.just("pass"),
    st.tuples(st.just("edit"), st.integers(0, len(SPECS) - 1)),
    st.tuples(st.just("pods"), st.sampled_from(["blue", "green"])),
    st.tuples(st.sampled_from(["routes", "addresses"]), st.integers(0, 1)),
)


@settings(deadline=None, max_examples=60)
def with_tls(pod):
    """A pod whose server takes TLS alone."""
    mount = {"name": "tls-server", "mountPath": TLS_DIR}
    pod["spec"]["containers"] = [{"name": "server", "volumeMounts": [mount]}]
    return pod


@pytest.mark.parametrize("on", [True, False])
def test_pods_are_asked_by_tls_as_soon_as_one_of_the_new_ones_is_ready(monkeypatch, on):
    """Turned on and off alike: routes and Services follow the pods, not the installation, for pods come one by one."""
    owner = endpoint(KEYS)
    plain, by_tls = blue(owner), (blue(owner)[0], with_tls(blue(owner)[1]))
    old, new = (plain, by_tls) if on else (by_tls, plain)
    monkeypatch.setitem(globals(), "HERE", replace(HERE, tls=on))

    def asked(*before):
        return [route.tls for route in routes_of(after(owner, *before, related=(version(1),))).deployments]

    assert asked() == asked(*new) == [on]
    assert asked(*old) == [not on]
    assert asked(*new, *old[1:]) == [True]  # one that takes it not is passed by for the other

    # Plain pods stay until every gateway pod knows the authority of the others.
    for knows in (False, True):
        says = GatewayFacts((RouteState(tls=True), RouteState(tls=knows)))
        replaced = "Deployment/churn-blue" in kinds_of(after(owner, *plain, says=says, related=(version(1),)).apply)
        assert replaced == (knows or not on)

    alone = replace(seen(*new, address(owner, "blue"), related=(version(1),)), platform=replace(PLATFORM, tls=on))
    direct = plan(owner, alone, NOW)
    (made,) = (m for m in direct.apply if m["metadata"]["name"] == "churn")
    assert [port["port"] for port in made["spec"]["ports"]] == [443 if on else 80, 9000]
    assert direct.status["url"].startswith("https:" if on else "http:")


@given(st.lists(EVENTS, max_size=60))
@example([("edit", 6), "pass", "pass", ("edit", 3)])  # blue, which leaves, may yet make pods without a check
def test_no_order_of_events_sends_a_request_where_no_pod_is(events):
    """Whenever edits, pods, gateway pods and passes take their turns: what answers has pods that are known there."""
    cluster = Cluster()
    for what in (
        "pass",
        ("pods", "blue"),
        ("routes", 0),
        ("routes", 1),
        ("addresses", 0),
        ("addresses", 1),
        *["pass"] * 3,
    ):
        cluster.do(what)
    assert cluster.served == {"blue": 100}
    for what in events:
        cluster.do(what)
        cluster.check()
    for _ in range(8):
        for what in (
            ("pods", "blue"),
            ("pods", "green"),
            *((w, n) for w in ("routes", "addresses") for n in (0, 1)),
            "pass",
        ):
            cluster.do(what)
            cluster.check()
    assert cluster.served == cluster.owner().spec.shares


EIGHTY = {"blue": 80, "green": 20}


def refused(owner):
    """blue, whose model the server refuses."""
    made = server_pod(owner, 1, ready=False)
    made["status"] |= {
        "containerStatuses": [
            {
                "name": "server",
                "ready": False,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 1, "message": '{"reason": "Refused", "message": "no model"}'}},
            }
        ]
    }
    return deployment(owner, 1, rolled=False), made


def away(config_map, *names, pods=1, others=()):
    """Gateway pods that lead no requests to these deployments; `others` are those that one more pod leaves out."""
    (state, *_) = having(config_map, **dict.fromkeys(names, 0)).proxies
    more = (structs.replace(state, away=tuple(others)),) if others else ()
    return GatewayFacts(((structs.replace(state, away=names),) * pods) + more)


def test_a_deployment_that_never_was_ready_leaves_its_share_to_the_others():
    """The endpoint is Ready, since every request is answered; traffic, Ready and an event say what became of blue."""
    owner = endpoint(KEYS, deployments=TWO, traffic=EIGHTY)
    pods = (*refused(owner), *green(owner))
    at_rest = settled(owner, *pods)

    got = after(owner, *pods, *at_rest, says=away(at_rest[0], "blue"))
    assert weights(got) == EIGHTY, "the gateway's agent knows of pods sooner than the operator"
    assert got.status["traffic"] == {"green": 100}
    assert got.status["modelVersion"] == "churn-2"
    ready = condition(got, "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Diverted")
    words = "green answers all requests; blue has no ready pod and gets none of its 80 %: churn-1: "
    assert ready["message"].startswith(words)
    assert condition(got, "Reconciling")["message"] == ready["message"]
    events = {event.reason: (event.type, event.message) for event in got.events}
    assert events["Ready"] == ("Normal", "churn-2 answers")
    assert events["TrafficDiverted"] == ("Warning", "blue has no ready pod: green answers its requests")

    later = endpoint(got.status, deployments=TWO, traffic=EIGHTY)
    again = after(later, *pods, *at_rest, says=away(at_rest[0], "blue"))
    assert again.status == got.status
    assert again.events == ()

    back = after(later, *blue(owner), *green(owner), *at_rest, says=away(at_rest[0]))
    assert back.status["traffic"] == EIGHTY
    assert [event.message for event in back.events if event.reason == "TrafficTurned"] == [
        "blue (80 %) and green (20 %) now answer"
    ]


def test_only_who_gets_nothing_from_any_gateway_pod_is_left_out_of_the_status():
    """While one gateway pod still asks blue, it answers; and the gateway is asked again soon."""
    owner = endpoint(KEYS | {"traffic": EIGHTY}, deployments=TWO, traffic=EIGHTY)
    pods = (*refused(owner), *green(owner))
    at_rest = settled(owner, *pods)
    got = after(
        owner, *pods, *at_rest, says=GatewayFacts((*away(at_rest[0], "blue").proxies, *having(at_rest[0]).proxies))
    )
    assert got.status["traffic"] == EIGHTY
    assert got.after is not None
    assert got.after.total_seconds() <= 5

    nobody = after(
        owner, *refused(owner), *green(owner, rolled=False), *at_rest, says=having(at_rest[0], blue=0, green=0)
    )
    assert nobody.status["traffic"] == EIGHTY
    assert condition(nobody, "Ready")["status"] == "False"


def test_requests_do_not_wait_for_pods_that_fail():
    """A deployment that may sleep, and whose pods fail, holds no requests until one is ready; one that sleeps does."""
    sleepy = [
        {**TWO[0], "autoscale": {"metric": "concurrency", "target": 1, "minReplicas": 0, "maxReplicas": 2}},
        TWO[1],
    ]
    owner = endpoint(KEYS, deployments=sleepy, traffic=EIGHTY)

    def holds(*pods, before=()):
        return next(
            d.hold for d in routes_of(after(owner, *pods, *green(owner), *before)).deployments if d.name == "blue"
        )

    starting = deployment(owner, 1, rolled=False)
    assert holds()
    failing = after(owner, *refused(owner), *green(owner))
    assert not holds(*refused(owner))
    assert not holds(starting, before=[kept(owner, failing)]), (
        "its pod is started again, and nothing says that it is well"
    )
    assert holds(*blue(owner), before=[kept(owner, failing)])
