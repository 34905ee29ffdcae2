"""Plans of an OnlineEndpoint behind Gateways of the Gateway API: routes, their statuses, the order of changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import NOW, PLATFORM, child, condition, endpoint, kinds_of, seen, version
from hypothesis import given, settings
from hypothesis import strategies as st
from ultramarine_contract.routes import PIN_HEADER
from ultramarine_operator.kinds.onlineendpoint.plan import plan, questions
from ultramarine_operator.kinds.onlineendpoint.routing.gateway_api import model_in
from ultramarine_operator.kinds.onlineendpoint.routing.manifests import pods_service_name, service_target
from ultramarine_operator.shared.plan import GatewayApi, ParentRef
from unit.test_onlineendpoint_plan import TWO, deployment, server_pod
from unit.test_onlineendpoint_routed import address, blue, green

PUBLIC, INNER = ParentRef("public", "infra", "https"), ParentRef("inner", port=8080)
GATEWAY = GatewayApi((PUBLIC,), "https://{endpoint}.{namespace}.ml.example.com:8443")
HERE = replace(PLATFORM, gateway_api=GATEWAY)
BOTH = (version(1), version(2))
KEYS = {"keysSecret": "churn-keys"}
HALVES = {"blue": 50, "green": 50}


def after(owner, *children, related=BOTH, platform=HERE):
    """The plan of a pass."""
    return plan(owner, replace(seen(*children, related=related), platform=platform), NOW)


def route(got, kind="HTTPRoute"):
    """The route of that kind that a plan wants."""
    (manifest,) = (made for made in got.apply if made["kind"] == kind)
    return manifest


def weights(got):
    """The weights that a plan wants, by Service."""
    return {b["name"]: b["weight"] for b in route(got)["spec"]["rules"][-1]["backendRefs"]}


def pins(got):
    """Return the deployments that a plan makes reachable by name."""
    return [rule["matches"][0]["headers"][0]["value"] for rule in route(got)["spec"]["rules"][:-1]]


def parent_status(parent=PUBLIC, generation=1, **conditions):
    """One Gateway's word on a route: Accepted and ResolvedRefs, unless `conditions` say otherwise."""
    statuses = {"Accepted": "True", "ResolvedRefs": "True", **conditions}
    reference = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": parent.name}
    optional = {"namespace": parent.namespace, "sectionName": parent.section_name, "port": parent.port}
    return {
        "parentRef": {**reference, **{name: value for name, value in optional.items() if value}},
        "controllerName": "example.com/controller",
        "conditions": [
            {"type": type, "status": status, "reason": "Why", "message": "words", "observedGeneration": generation}
            for type, status in statuses.items()
        ],
    }


def kept(owner, got, *parents):
    """The routes of a plan, as they are seen later: in generation 1, with these words of Gateways."""
    routes = []
    for made in (manifest for manifest in got.apply if manifest["kind"] in ("HTTPRoute", "GRPCRoute")):
        route = child(made["kind"], made["metadata"]["name"], owner, made["spec"], {"parents": list(parents)})
        route["metadata"]["annotations"] = made["metadata"]["annotations"]
        routes.append(route)
    return tuple(routes)


def at_rest(owner, *pods):
    """The endpoint as its Gateway has accepted it, and its Service."""
    return (*kept(owner, after(owner, *pods), parent_status()), address(owner, "blue"))


def test_a_new_endpoint_is_ready_when_its_gateway_has_accepted_its_routes():
    """Routes are written at once; the endpoint is Ready when pods are ready and every route is accepted."""
    owner = endpoint(KEYS)
    first = after(owner, related=(version(1),))
    assert kinds_of(first.apply) == [
        "Deployment/churn-blue",
        "Service/churn-blue-pods",
        "HTTPRoute/churn",
        "GRPCRoute/churn",
        "Service/churn",
    ]
    assert first.status["url"] == "https://churn.team-a.ml.example.com:8443"
    assert "gatewayPort" not in first.status
    assert first.status["traffic"] == {}

    silent = after(owner, *blue(owner), *kept(owner, first), related=(version(1),))
    assert condition(silent, "Ready")["status"] == "False"
    assert condition(silent, "RoutesReady")["message"] == (
        "Gateway public of namespace infra has not reported on HTTPRoute churn yet. "
        "Check that it and its controller exist, and that its listeners allow routes of namespace team-a"
    )
    last = after(
        owner, *blue(owner), *kept(owner, first, parent_status()), address(owner, "blue"), related=(version(1),)
    )
    assert (condition(last, "RoutesReady")["status"], condition(last, "Ready")["status"]) == ("True", "True")
    assert condition(last, "RoutesReady")["message"] == "every Gateway has accepted the routes"
    assert (last.status["traffic"], condition(last, "Reconciling"), last.after) == ({"blue": 100}, {}, None)


def test_our_own_gateway_is_not_asked():
    """With Gateways of the Gateway API, the chart's gateway is not asked, even if one is left."""
    left = replace(HERE, gateway="gateway:9902", gateway_namespaces=frozenset({"team-a"}))

    assert questions(endpoint(KEYS), replace(seen(), platform=left)) == ()


def test_http_and_grpc_have_host_names_of_their_own():
    """Gateway API accepts only one of two routes of different kinds that have a host name in common."""
    got = after(endpoint(KEYS))

    assert route(got)["spec"]["hostnames"] == ["churn.team-a.ml.example.com"]
    assert route(got, "GRPCRoute")["spec"]["hostnames"] == ["churn-grpc.team-a.ml.example.com"]
    ports = {
        kind: {b["port"] for rule in route(got, kind)["spec"]["rules"] for b in rule["backendRefs"]}
        for kind in ("HTTPRoute", "GRPCRoute")
    }
    assert ports == {"HTTPRoute": {8080}, "GRPCRoute": {9000}}


def test_a_route_attaches_to_every_gateway_and_names_no_more_than_was_said():
    """Each parentRef is as in the chart's values: what they leave out is left to Gateway API's defaults."""
    two = replace(HERE, gateway_api=replace(GATEWAY, parents=(PUBLIC, INNER)))
    got = after(endpoint(KEYS), platform=two)

    public = {"name": "public", "namespace": "infra", "sectionName": "https"}
    assert route(got)["spec"]["parentRefs"] == [public, {"name": "inner", "port": 8080}]


@pytest.mark.parametrize(
    ("parents", "done", "words"),
    [
        ([parent_status(PUBLIC), parent_status(INNER)], True, "every Gateway has accepted the routes"),
        ([parent_status(PUBLIC)], False, "Gateway inner of namespace team-a has not reported on HTTPRoute churn yet"),
        (
            [parent_status(PUBLIC), parent_status(replace(INNER, port=80))],
            False,
            "Gateway inner of namespace team-a has not reported",
        ),
        ([parent_status(PUBLIC), parent_status(replace(INNER, namespace="team-a"))], True, "every Gateway"),
        (
            [parent_status(PUBLIC, generation=0), parent_status(INNER)],
            False,
            "has not processed the newest HTTPRoute churn yet",
        ),
        (
            [parent_status(PUBLIC), parent_status(INNER, Accepted="False")],
            False,
            "inner of namespace team-a refuses HTTPRoute churn",
        ),
        (
            [parent_status(PUBLIC, ResolvedRefs="False"), parent_status(INNER)],
            False,
            "refuses HTTPRoute churn: Why: words",
        ),
        (
            [parent_status(PUBLIC), {"parentRef": {"name": "inner", "port": 8080}}],
            False,
            "has not processed the newest",
        ),
    ],
)
def test_routes_are_confirmed_when_every_gateway_has_accepted_them_as_they_are(parents, done, words):
    """Accepted and ResolvedRefs of each parent, both of the newest generation; anything less says who and why."""
    two = replace(HERE, gateway_api=replace(GATEWAY, parents=(PUBLIC, INNER)))
    owner = endpoint(KEYS | {"traffic": {"blue": 100}})
    routes = kept(owner, after(owner, *blue(owner), platform=two, related=(version(1),)), *parents)
    got = after(owner, *blue(owner), *routes, address(owner, "blue"), platform=two, related=(version(1),))

    assert condition(got, "RoutesReady")["status"] == str(done)
    assert words in condition(got, "RoutesReady")["message"]
    assert condition(got, "Ready")["status"] == "True", "whoever answered goes on"


def test_a_route_of_grpc_that_is_refused_or_behind_holds_changes_back():
    """Both routes have to be accepted, and to be made of the same."""
    owner = endpoint(KEYS | {"traffic": {"blue": 100}})
    http, _ = kept(owner, after(owner, *blue(owner)), parent_status())
    _, refused = kept(owner, after(owner, *blue(owner)), parent_status(Accepted="False"))
    got = after(owner, *blue(owner), http, refused, address(owner, "blue"))
    assert "refuses GRPCRoute churn" in condition(got, "RoutesReady")["message"]

    other = endpoint(KEYS, deployments=TWO, traffic=HALVES)
    _, behind = kept(owner, after(other), parent_status())
    got = after(owner, *blue(owner), http, behind, address(owner, "blue"))
    assert condition(got, "RoutesReady")["message"] == "GRPCRoute churn is being written"


def test_without_grpc_there_is_no_such_route_and_one_from_before_goes():
    """With grpc: false, for Gateways without GRPCRoute, the operator does not wait for it and deletes an old one."""
    owner = endpoint(KEYS | {"traffic": {"blue": 100}})
    plain = replace(HERE, gateway_api=replace(GATEWAY, grpc=False))
    http, grpc = kept(owner, after(owner, *blue(owner), related=(version(1),)), parent_status())
    got = after(owner, *blue(owner), http, grpc, address(owner, "blue"), platform=plain, related=(version(1),))

    assert "GRPCRoute/churn" not in kinds_of(got.apply)
    assert condition(got, "RoutesReady")["status"] == "True"
    assert [(ref.resource.kind, ref.name) for ref in got.delete] == [("GRPCRoute", "churn")]


def test_a_split_waits_for_every_deployment_whose_share_rises():
    """From blue alone to halves: not before green is ready, and told only when the Gateway has accepted it."""
    before = endpoint(KEYS, deployments=TWO, traffic={"blue": 100})
    owner = endpoint(KEYS | {"traffic": {"blue": 100}}, deployments=TWO, traffic=HALVES)
    rest = at_rest(before, *blue(before))

    early = after(owner, *blue(owner), *green(owner, rolled=False), *rest)
    assert weights(early) == {"churn-blue-pods": 100}
    assert pins(early) == ["blue", "green"]

    ready = after(owner, *blue(owner), *green(owner), *rest)
    assert weights(ready) == {"churn-blue-pods": 50, "churn-green-pods": 50}
    assert ready.status["traffic"] == {"blue": 100}

    late = after(owner, *blue(owner), *green(owner), *kept(owner, ready, parent_status(generation=0)), rest[-1])
    assert late.status["traffic"] == {"blue": 100}
    last = after(owner, *blue(owner), *green(owner), *kept(owner, ready, parent_status()), rest[-1])
    assert last.status["traffic"] == HALVES


def test_a_rollout_goes_by_time_alone():
    """These Gateways count nothing: with gates nothing begins, and without them shares turn as they accept routes."""
    rollout = {"candidate": "green", "steps": [10, 100], "stepSeconds": 60}
    gated = endpoint(KEYS, deployments=TWO, traffic={"blue": 100}, rollout={**rollout, "gates": {"p99Ratio": 2}})
    resting = at_rest(gated, *blue(gated), *green(gated))
    got = after(gated, *blue(gated), *green(gated), *resting)
    assert condition(got, "RolloutHealthy")["reason"] == "NoFigures"
    assert weights(got) == {"churn-blue-pods": 100}

    status, children, shares = KEYS, resting, []
    for _ in range(3):
        owner = endpoint(status, deployments=TWO, traffic={"blue": 100}, rollout=rollout)
        got = after(owner, *blue(owner), *green(owner), *children)
        status, children = got.status, (*kept(owner, got, parent_status()), address(owner, "blue"))
        shares.append(weights(got).get("churn-green-pods", 0))
    assert shares == [0, 10, 10]
    assert (status["rollout"]["phase"], status["traffic"]) == ("Progressing", {"blue": 90, "green": 10})


def test_what_leaves_the_spec_goes_step_by_step():
    """blue leaves: its weight when green is ready, then its pin, then its pods; each after the Gateway's word.

    The Service beside the routes has to have left it, too.
    """
    before = endpoint(KEYS, deployments=TWO, traffic={"blue": 100})
    owner = endpoint(KEYS | {"traffic": {"blue": 100}}, deployments=TWO[1:])
    pods = (*blue(before), *green(owner))
    *routes, where = at_rest(before, *blue(before), *green(before))

    steps = []
    for _ in range(4):
        got = after(owner, *pods, *routes, where)
        steps.append((weights(got), pins(got), [ref.name for ref in got.delete]))
        unconfirmed = kept(owner, got, parent_status(generation=0))
        if model_in(unconfirmed[0]) != model_in(routes[0]):
            assert after(owner, *pods, *unconfirmed, address(owner, "green")).delete == ()
        routes, where = kept(owner, got, parent_status()), address(owner, service_target(got.apply[-1]))

    green_alone = {"churn-green-pods": 100}
    assert steps == [
        (green_alone, ["green", "blue"], []),
        (green_alone, ["green"], []),
        (green_alone, ["green"], ["churn-blue"]),
        (green_alone, ["green"], ["churn-blue"]),
    ]
    still = after(owner, *pods, *routes, address(owner, "blue"))
    assert still.delete == (), "the Service still leads to blue"


def test_who_loses_a_share_keeps_its_pods_until_that_is_confirmed():
    """blue is scaled down in the edit that halves its share: its pods stay until the Gateway has accepted that."""
    four = [{**TWO[0], "replicas": 4}, TWO[1]]
    before = endpoint(KEYS, deployments=four, traffic={"blue": 100})
    big = deployment(before, 1)
    big["spec"]["replicas"] = 4
    rest = at_rest(before, big, server_pod(before, 1))
    owner = endpoint(KEYS | {"traffic": {"blue": 100}}, deployments=TWO, traffic=HALVES)
    pods = (big, server_pod(owner, 1), *green(owner))

    turning = after(owner, *pods, *rest)
    assert turning.apply[0]["spec"]["replicas"] == 4
    waiting = after(owner, *pods, *kept(owner, turning, parent_status(generation=0)), rest[-1])
    assert waiting.apply[0]["spec"]["replicas"] == 4
    assert after(owner, *pods, *kept(owner, turning, parent_status()), rest[-1]).apply[0]["spec"]["replicas"] == 1


def test_who_the_service_leads_to_keeps_its_pods():
    """blue is scaled to nothing, and no Gateway asks it any more: it stays while the Service was not seen turned."""
    before = endpoint(KEYS, deployments=TWO, traffic={"green": 100})
    none = [{**TWO[0], "replicas": 0}, TWO[1]]
    owner = endpoint(KEYS | {"traffic": {"green": 100}}, deployments=none, traffic={"green": 100})
    pods = (*blue(before), *green(owner))
    routes = kept(owner, after(owner, *pods), parent_status())

    assert after(owner, *pods, *routes, address(owner, "blue")).apply[0]["spec"]["replicas"] == 1
    assert after(owner, *pods, *routes, address(owner, "green")).apply[0]["spec"]["replicas"] == 0


def test_an_endpoint_from_our_gateway_is_taken_over_with_its_shares():
    """Routes begin with who answered; the Service, which led to our gateway, leads to the largest share's pods."""
    status = KEYS | {"traffic": {"blue": 90, "green": 10}, "gatewayPort": 10_000}
    owner = endpoint(status, deployments=TWO, traffic={"green": 100})
    ours = child("Service", "churn", owner, {"selector": {"app.kubernetes.io/name": "ultramarine"}})
    got = after(owner, *blue(owner), *green(owner, rolled=False), ours)

    assert weights(got) == {"churn-blue-pods": 100, "churn-green-pods": 0}, "green has no pod yet"
    assert service_target(got.apply[-1]) == "blue"
    assert got.delete == ()
    without_pods = after(owner, *blue(owner)[:1], *green(owner, rolled=False), ours)
    assert weights(without_pods) == {"churn-blue-pods": 90, "churn-green-pods": 10}, (
        "as long as no deployment has a pod"
    )


def test_copies_go_to_mirrors_with_their_percent_and_not_from_pinned_requests():
    """A mirror is a filter of the rule that shares, with the port of the route's protocol."""
    three = [*TWO, {"name": "purple", "model": "churn@2"}]
    got = after(endpoint(KEYS, deployments=three, traffic={"blue": 100}, mirrorTraffic={"purple": 20, "green": 100}))

    for kind, port in (("HTTPRoute", 8080), ("GRPCRoute", 9000)):
        *named, shared = route(got, kind)["spec"]["rules"]
        assert shared["filters"] == [
            {
                "type": "RequestMirror",
                "requestMirror": {"backendRef": {"name": f"churn-{name}-pods", "port": port}, "percent": percent},
            }
            for name, percent in (("green", 100), ("purple", 20))
        ]
        assert all("filters" not in rule for rule in named)


def test_timeouts_are_those_of_the_pods_and_the_longest_where_requests_are_shared():
    """In whole seconds, a bit longer than the pods' own, which say what is wrong; GRPCRoute has none."""
    quick = {**TWO[0], "requestSettings": {"timeoutSeconds": 5, "maxQueueMilliseconds": 250}}
    slow = {**TWO[1], "requestSettings": {"timeoutSeconds": 3600, "maxQueueMilliseconds": 600_000}}
    got = after(endpoint(KEYS, deployments=[quick, slow], traffic=HALVES))

    assert [r["timeouts"] for r in route(got)["spec"]["rules"]] == [{"request": t} for t in ("7s", "4201s", "4201s")]
    assert all("timeouts" not in rule for rule in route(got, "GRPCRoute")["spec"]["rules"])


def test_a_route_has_no_more_rules_than_gateway_api_allows():
    """However many deployments are still leaving, the rule by which requests are shared is among the sixteen."""
    eight = {letter: [{"name": f"{letter}{n}", "model": "churn@1"} for n in range(8)] for letter in "de"}
    before = endpoint(KEYS, deployments=eight["e"], traffic={"e0": 100})
    old = [deployment(before, 1, deployment_["name"]) for deployment_ in eight["e"]]
    routes = kept(before, after(before, *old, related=(version(1),)), parent_status(generation=0))
    owner = endpoint(KEYS | {"traffic": {"e0": 100}}, deployments=eight["d"], traffic={"d0": 100})
    got = after(owner, *old, *routes, address(owner, "e0"), related=(version(1),))

    assert len(route(got)["spec"]["rules"]) == 16
    assert weights(got) == {pods_service_name(owner, "e0"): 100}
    assert route(got)["spec"]["rules"][0]["matches"] == [{"headers": [{"name": PIN_HEADER, "value": "d0"}]}]


@pytest.mark.parametrize("broken", [{}, {"annotations": {"ultramarine.dev/route-model": "{"}}])
def test_routes_that_lost_their_model_are_written_anew_and_nothing_is_deleted(broken):
    """Without the routes the status names the deployment that answered last, and pods stay."""
    before = endpoint(KEYS, deployments=TWO, traffic={"green": 100})
    owner = endpoint(KEYS | {"traffic": {"green": 100}}, deployments=TWO[1:])
    routes = [
        {**routed, "metadata": {**routed["metadata"], "annotations": {}, **broken}}
        for routed in kept(before, after(before), parent_status())
    ]
    got = after(owner, *blue(before), *green(owner), *routes, address(owner, "green"))

    assert weights(got) == {"churn-green-pods": 100}
    assert got.status["traffic"] == {"green": 100}
    assert got.delete == ()


SPECS = (
    {"deployments": TWO, "traffic": {"blue": 100}},
    {"deployments": TWO, "traffic": HALVES},
    {"deployments": TWO, "traffic": {"green": 100}},
    {"deployments": TWO[1:]},
    {"deployments": TWO[:1]},
    {"deployments": [{**TWO[0], "replicas": 0}, TWO[1]], "traffic": {"green": 100}},
)
TWICE = replace(HERE, gateway_api=replace(GATEWAY, parents=(PUBLIC, INNER)))


class World:
    """One endpoint and two Gateways, each of which accepts the routes when it likes, and then routes by them."""

    def __init__(self):
        self.spec, self.status, self.children, self.ready = SPECS[0], dict(KEYS), {}, set()
        self.gateways = [{"shares": {}, "says": {}} for _ in range(2)]
        self.held = False  # whether the API server refuses to have the endpoint's Service changed

    def routes(self):
        return [route for kind in ("HTTPRoute", "GRPCRoute") if (route := self.children.get((kind, "churn")))]

    def do(self, what):
        match what:
            case ("edit", number):
                self.spec = SPECS[number]
            case ("pods", name):
                if (made := self.children.get(("Deployment", f"churn-{name}"))) and made["spec"]["replicas"]:
                    counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), 1)
                    made["status"] = {"observedGeneration": 1, **counts}
                    self.ready.add(name)
            case ("accept", number):
                self._accept(number)
            case ("hold", held):
                self.held = held
            case "pass":
                self._pass()

    def _accept(self, number):
        for route in self.routes():
            gateway, parent = self.gateways[number], (PUBLIC, INNER)[number]
            gateway["says"][route["kind"]] = parent_status(parent, route["metadata"]["generation"])
            refs = route["spec"]["rules"][-1]["backendRefs"]
            gateway["shares"][route["kind"]] = {ref["name"]: ref["weight"] for ref in refs}

    def _pass(self):
        owner = endpoint(self.status, **self.spec)
        for route in self.routes():
            says = [gateway["says"][route["kind"]] for gateway in self.gateways if route["kind"] in gateway["says"]]
            route["status"] = {"parents": says}
        numbers = {"blue": 1, "green": 2}
        pods = [server_pod(owner, numbers[n], n) for n in self.ready if ("Deployment", f"churn-{n}") in self.children]
        got = after(owner, *self.children.values(), *pods, platform=TWICE)
        for ref in got.delete:
            del self.children[ref.resource.kind, ref.name]
            self.ready.discard(ref.name.removeprefix("churn-"))
        for made in got.apply:
            id = (made["kind"], made["metadata"]["name"])
            if self.held and id == ("Service", "churn"):
                continue
            old = self.children.get(id) or {}
            new = child(*id, owner, made.get("spec"), old.get("status"))
            new["metadata"]["annotations"] = made["metadata"].get("annotations", {})
            if id[0].endswith("Route"):
                before = old["metadata"]["generation"] if old else 0
                new["metadata"]["generation"] = before + (made["spec"] != old.get("spec"))
            self.children[id] = new
            if id[0] == "Deployment" and made["spec"]["replicas"] == 0:
                self.ready.discard(id[1].removeprefix("churn-"))
        self.status = got.status

    def check(self):
        """Neither a Gateway nor the Service leads to a deployment without pods."""
        there = {f"churn-{name}-pods" for name in self.ready}
        for gateway in self.gateways:
            for kind, shares in gateway["shares"].items():
                assert set(shares) <= there, f"{kind} gives {shares}, and there is {there}: {self.spec}"
        assert service_target(self.children["Service", "churn"]) in self.ready


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.just("pass"),
            st.tuples(st.just("edit"), st.integers(0, len(SPECS) - 1)),
            st.tuples(st.just("pods"), st.sampled_from(("blue", "green"))),
            st.tuples(st.just("accept"), st.integers(0, 1)),
            st.tuples(st.just("hold"), st.booleans()),
        ),
        max_size=60,
    )
)
def test_no_order_of_events_sends_a_request_where_no_pod_is(events):
    """Whenever edits, pods, Gateways and passes take their turns; and in the end all is as the spec says."""
    world = World()
    for what in ("pass", ("pods", "blue"), ("accept", 0), ("accept", 1), "pass"):
        world.do(what)
    assert world.status["traffic"] == {"blue": 100}
    for what in events:
        world.do(what)
        world.check()
    for _ in range(8):
        for what in (("hold", False), ("pods", "blue"), ("pods", "green"), ("accept", 0), ("accept", 1), "pass"):
            world.do(what)
            world.check()
    assert world.status["traffic"] == endpoint(**world.spec).spec.shares
