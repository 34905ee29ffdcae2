"""Whole rollouts, told by the plan of an endpoint: promoted, rolled back, held, begun anew, and gone on with."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import NOW, child, endpoint, model, seen, version
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ultramarine.resources.onlineendpoint import OnlineEndpointStatus
from ultramarine.resources.onlineendpoint_deployment import EndpointDeployment
from ultramarine.resources.onlineendpoint_rollout import RolloutCounters, RolloutStatus
from ultramarine_contract.errors import GatewayError
from ultramarine_contract.routes import DeploymentFigures, RouteState, rescaled
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.onlineendpoint.plan import plan, questions
from ultramarine_operator.kinds.onlineendpoint.rollout.decide import GOES_ON, STARTS_AGAIN
from ultramarine_operator.kinds.onlineendpoint.rollout.evidence import Counts, Evidence
from ultramarine_operator.kinds.onlineendpoint.rollout.step import _base
from ultramarine_operator.kinds.onlineendpoint.routing.manifests import routes_in, service_target
from ultramarine_operator.shared.conditions import find
from ultramarine_operator.shared.questions import GatewayFacts
from unit.test_onlineendpoint_plan import server_pod
from unit.test_onlineendpoint_routed import HERE
from unit.test_rollout_evidence import MS

BLUE, GREEN = {"name": "blue", "model": "churn@1"}, {"name": "green", "model": "churn@challenger"}
GATES = {"errorRateIncrease": 0.02, "p99Ratio": 1.5}
ROLLOUT = {"candidate": "green", "steps": [10, 50, 100], "stepSeconds": 60, "gates": GATES}
SPEC = {"deployments": [BLUE, GREEN], "traffic": {"blue": 100}, "rollout": ROLLOUT}
CRASH = {"containerStatuses": [{"name": "server", "ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
         "lastState": {"terminated": {"exitCode": 139, "reason": "Error"}}}]}  # fmt: skip


class Envoy:
    """One gateway pod: the routes and pods that it knows, and what it has counted."""

    def __init__(self):
        self.routes, self.pods, self.counts, self.copies = None, set(), {}, {}
        self.signatures = None

    def answer(self, name, requests, errors, milliseconds, refused=0, absent=0):
        of, bad, latency, *rest = self.counts.get(name, (0, 0, [0] * len(MS), 0, 0))
        latency = [count + requests * (bound >= milliseconds) for bound, count in zip(MS, latency, strict=True)]
        self.counts[name] = (of + requests, bad + errors, latency, rest[0] + refused, rest[1] + absent)

    def compare(self, name, *counts):
        self.copies[name] = [
            before + more for before, more in zip(self.copies.get(name, (0, 0, 0)), counts, strict=True)
        ]

    def figures(self, name):
        of, bad, latency, refused, absent = self.counts.get(name, (0, 0, (), 0, 0))
        copies = dict(zip(("compared", "agreed", "unlike"), self.copies.get(name, (0, 0, 0)), strict=True))
        copies |= {"client_errors": refused, "absent": absent}
        return DeploymentFigures(of, bad, 0, tuple(zip(MS, latency, strict=bool(latency))), **copies)

    @property
    def weights(self):
        return {d.name: d.weight for d in self.routes.deployments if d.weight} if self.routes else {}

    @property
    def away(self):
        absent = self.weights.keys() - self.pods
        return tuple(sorted(absent)) if self.weights.keys() & self.pods else ()

    def says(self, pod):
        figures = {d.name: self.figures(d.name) for d in (self.routes.deployments if self.routes else ())}
        ready = {name: int(name in self.pods) for name in ("blue", "green", "purple")}
        version = self.routes.version if self.routes else ""
        more = {"pod": pod, "figures": figures, "away": self.away, "signatures": self.signatures}
        return RouteState(version, ready=ready, **more)


class World:
    """An endpoint with what Kubernetes and two gateway pods make of it; a look comes every three seconds."""

    def __init__(self, **spec):
        self.spec, self.aliases = {**SPEC, **spec}, {"challenger": "2"}
        self.status, self.children, self.events, self.writes = {"keysSecret": "churn-keys"}, {}, [], 0
        self.gateways, self.platform, self.now = {"a": Envoy(), "b": Envoy()}, HERE, NOW
        self.serving, self.crashing = {}, set()  # the version that the ready pod of a deployment serves
        self.errors, self.slow = {}, {}  # by version: of 100 requests so many fail; milliseconds
        self.refusals, self.signatures = {}, {}  # by version: of 100 requests so many are 4xx; the declared inputs
        self.alike, self.unlike = {}, {}  # by version: of 100 copies so many agree, and are no answer; 100 and 0
        self.failed, self.away = 0, None  # requests without a pod; what is said instead of the gateway

    def owner(self):
        return endpoint(self.status, **self.spec)

    def kubelet(self):
        for name in ("blue", "green", "purple"):
            made = self.children.get(("Deployment", f"churn-{name}"))
            if made is None or name in self.crashing:
                continue
            counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), made["spec"]["replicas"])
            made["status"] = {"observedGeneration": 1, **counts}
            number = made["metadata"]["annotations"]["ultramarine.dev/model-version"].removeprefix("churn-")
            if name == "green" and number != self.serving.get(name, number):
                asked = [routed.weight for routed in self.routed() if routed.name == name]
                assert not any(asked), f"green's pods become {number} while they have {asked} %"
            self.serving[name] = number

    def version(self, number):
        inputs = self.signatures.get(str(number))
        return version(number, **({"signature": {"inputs": inputs}} if inputs else {}))

    def pods(self):
        wanted = {
            name: self.children[("Deployment", f"churn-{name}")]["spec"]["replicas"]
            for name in self.serving
            if ("Deployment", f"churn-{name}") in self.children
        }
        made = [server_pod(self.owner(), self.serving[name], name) for name, n in wanted.items() for _ in range(n)]
        for pod in made:
            name = pod["metadata"]["labels"]["ultramarine.dev/deployment"]
            if name in self.crashing:
                pod["status"] |= {"conditions": [], **CRASH}
        return made

    def envoys(self):
        routes = routes_in(self.children.get(("ConfigMap", "churn-routes")))
        for envoy in self.gateways.values():
            envoy.routes, envoy.pods = routes, set(self.serving) - self.crashing

    def routed(self):
        """Return the routes of each gateway pod."""
        return [routed for envoy in self.gateways.values() if envoy.routes for routed in envoy.routes.deployments]

    def traffic(self, requests):
        for envoy in self.gateways.values():
            shares = rescaled(envoy.weights, envoy.away)
            for routed in envoy.routes.deployments if envoy.routes else ():
                share = requests * shares.get(routed.name, 0) // 100
                if share and routed.name in self.crashing:
                    # Those that met an address whose pod is gone are nobody's word of having no pod.
                    envoy.answer(routed.name, share, share, 1, absent=0 if routed.name in envoy.pods else share)
                    self.failed += share
                elif share:
                    number = self.serving[routed.name]
                    bad = share * self.errors.get(number, 0) // 100
                    refused = share * self.refusals.get(number, 0) // 100
                    envoy.answer(routed.name, share, bad, self.slow.get(number, 9), refused)
                    copies = requests * (100 - routed.weight) * routed.compare_percent // 10_000
                    parts = (100, self.alike.get(number, 100), self.unlike.get(number, 0))
                    envoy.compare(routed.name, *(copies * part // 100 for part in parts))

    def look(self):
        owner = self.owner()
        related = (model(aliases=self.aliases), *(self.version(number) for number in (1, 2, 3)))
        around = replace(seen(*self.children.values(), *self.pods(), related=related), platform=self.platform)
        says = self.away or GatewayFacts(tuple(envoy.says(pod) for pod, envoy in self.gateways.items()))
        answers = {question: says for question in questions(owner, around)}
        got = plan(owner, replace(around, answers=answers), self.now)
        for made in got.apply:
            id = (made["kind"], made["metadata"]["name"])
            old = self.children.get(id)
            new = child(*id, owner, made.get("spec"), (old or {}).get("status"))
            new["metadata"]["annotations"] = made["metadata"].get("annotations", {})
            self.children[id] = new | ({"data": made["data"]} if "data" in made else {})
        if got.status != self.status:
            self.writes += 1
            self.events += [event.reason for event in got.events]
        self.status = got.status
        return got

    def go(self, seconds, requests=400, gateways=True):
        """Let time pass; each gateway pod gets so many requests in three seconds."""
        for _ in range(seconds // 3):
            self.now += timedelta(seconds=3)
            self.kubelet()
            if gateways:
                self.envoys()
            self.traffic(requests)
            self.last = self.look()
        return self

    @property
    def rollout(self):
        return self.status.get("rollout") or {}

    @property
    def shares(self):
        return self.status.get("traffic", {})

    @property
    def healthy(self):
        found = find(self.status, "RolloutHealthy") or {}
        return found.get("status"), found.get("reason")

    @property
    def words(self):
        return find(self.status, "RolloutHealthy")["message"]


def test_a_good_candidate_takes_over_step_by_step():
    """Each step lasts its time and is passed by the gates; at the end green answers everything and nothing fails."""
    world, shares = World(), []
    for _ in range(120):
        world.go(3)
        if world.shares and world.shares not in shares:
            shares.append(world.shares)
    assert shares == [{"blue": 100}, {"blue": 90, "green": 10}, {"blue": 50, "green": 50}, {"green": 100}]
    assert (world.rollout["phase"], world.healthy) == ("Promoted", ("True", "Promoted"))
    assert world.rollout["message"] == "green answers everything; give it 100 in traffic, and remove rollout"
    assert [e["verdict"] for e in world.rollout["evidence"]] == ["Passed", "Passed", "Passed"]
    steps = [event for event in world.events if event.startswith("Rollout") or event == "Promoted"]
    assert steps == ["RolloutStarted", "RolloutStep", *["RolloutPassed", "RolloutStep"] * 2, "Promoted"]
    assert (find(world.status, "Ready")["status"], find(world.status, "Reconciling")) == ("True", None)
    assert world.failed == 0
    assert "Deployment/churn-blue" in [f"{kind}/{name}" for kind, name in world.children], "blue's pods stay"
    OnlineEndpointStatus.model_validate(world.status)


def test_a_step_lasts_from_when_every_gateway_has_it():
    """While one gateway pod has the old weights, the step's time does not begin."""
    world = World().go(9)
    world.go(120, gateways=False)
    assert (world.rollout["phase"], world.rollout.get("since")) == ("Waiting", None)
    assert "the gateway has to take the weights" in world.words
    world.go(3)
    assert (world.rollout["phase"], world.shares) == ("Progressing", {"blue": 90, "green": 10})
    world.go(57)
    assert world.rollout["step"] == 1
    world.go(6)
    assert world.rollout["step"] == 2


def test_without_gates_time_decides():
    """Nobody's figures are needed, and the next look comes when the step is over."""
    world = World(rollout={**ROLLOUT, "gates": None})
    world.go(15, requests=0)
    assert world.healthy == ("True", "Progressing")
    assert world.last.after == timedelta(seconds=60)
    world.go(240, requests=0)
    assert world.rollout["phase"] == "Promoted"


def test_errors_turn_it_back():
    """green fails a tenth of its requests: all go to blue at once, and the status shows by which numbers."""
    world = World()
    world.errors["2"] = 10
    world.go(30)
    assert (world.rollout["phase"], world.healthy) == ("RolledBack", ("False", "GateFailed"))
    assert "5xx: " in world.rollout["message"]
    assert "at most 2 % more allowed" in world.rollout["message"]
    assert next(e["verdict"] for e in world.rollout["evidence"]) == "Failed"
    assert world.shares == {"blue": 100}
    assert find(world.status, "Stalled")["message"] == world.rollout["message"]
    assert find(world.status, "Ready")["status"] == "True"
    assert world.events.count("RolledBack") == 1

    writes = world.writes
    world.go(600)
    assert (world.rollout["phase"], world.writes) == ("RolledBack", writes), "it stays so, and nothing is written"


def test_slow_answers_turn_it_back():
    """green takes thrice as long."""
    world = World()
    world.slow["2"] = 27
    world.go(60)
    assert world.rollout["phase"] == "RolledBack"
    assert "took longer than" in world.rollout["message"]


def test_what_shows_only_under_load_turns_it_back_from_100_percent():
    """At the last step nobody answers beside green: it is compared with what blue had shown."""
    world = World()
    while world.shares != {"green": 100}:
        world.go(3)
    world.slow["2"] = 2000
    world.go(30)
    assert (world.rollout["phase"], world.shares) == ("RolledBack", {"blue": 100})
    assert world.failed == 0


AGREEMENT = {**ROLLOUT, "gates": {"agreement": 0.98}}


def test_copies_are_compared_at_each_step_and_what_was_seen_counts_at_the_last():
    """green gets copies of as many of blue's requests as it gets itself; at 100 percent nobody is left to be copied."""
    world, percents = World(rollout=AGREEMENT), []
    world.alike["2"] = 99
    for _ in range(120):
        world.go(3, requests=4000)
        (green,) = {(d.weight, d.compare_percent) for d in world.routed() if d.name == "green"} or {(0, 0)}
        if green not in percents:
            percents.append(green)
    assert percents == [(0, 0), (10, 10), (50, 50), (100, 0)]
    assert world.rollout["phase"] == "Promoted"
    evidence, _ = world.rollout["evidence"]
    assert (evidence["gate"], evidence["verdict"]) == ("agreement", "Passed")
    assert evidence["message"].startswith("agreement: ")
    assert "copies were answered alike (" in evidence["message"]
    assert evidence["message"].endswith("; 98 % required")
    assert world.events.count("RolloutPassed") == 2


def test_other_answers_turn_it_back():
    """green answers a tenth of the copies otherwise: blue gets everything, and nothing is copied any more."""
    world = World(rollout=AGREEMENT)
    world.alike["2"] = 90
    world.go(60)
    assert (world.rollout["phase"], world.healthy) == ("RolledBack", ("False", "GateFailed"))
    assert "copies were answered alike" in world.rollout["message"]
    assert {d.compare_percent for d in world.routed()} == {0}


def test_answers_that_cannot_be_compared_turn_it_back_in_words():
    """Outputs of another name, or errors: that is never a pass, and the message says what it is."""
    world = World(rollout=AGREEMENT)
    world.alike["2"], world.unlike["2"] = 0, 100
    world.go(60)
    assert world.rollout["phase"] == "RolledBack"
    assert "with an error or with outputs of other names or types; 98 % required" in world.rollout["message"]


def test_without_copies_the_step_is_held():
    """Requests alone say nothing of agreement: nothing was compared, so the step stays."""
    world = World(rollout=AGREEMENT).go(12)
    for envoy in world.gateways.values():
        envoy.compare = lambda *_: None
    world.go(300)
    assert (world.rollout["phase"], world.rollout["step"]) == ("Progressing", 1)
    assert world.healthy == ("Unknown", "InsufficientData")
    assert "no copy compared yet, about" in world.words


def test_what_is_paused_is_compared_no_more():
    """The shares stay as they were, but copies would tell nobody anything."""
    world = World(rollout={**AGREEMENT, "onFailure": "Pause"})
    world.alike["2"] = 50
    world.go(60)
    assert (world.rollout["phase"], world.shares) == ("Paused", {"blue": 90, "green": 10})
    assert {d.compare_percent for d in world.routed()} == {0}


def test_other_gates_have_nothing_copied():
    """Copies are work for green's pods, and only agreement needs them."""
    world = World().go(30)
    assert world.shares == {"blue": 90, "green": 10}
    assert {d.compare_percent for d in world.routed()} == {0}


def test_an_agent_that_restarts_counts_copies_from_now():
    """Its counters begin at nothing, and what it had told goes with them."""
    world = World(rollout=AGREEMENT).go(30)
    for envoy in world.gateways.values():
        envoy.copies.clear()
    world.go(3, requests=0)
    assert all(counters.get("compared", 0) == 0 for counters in world.rollout["base"])
    world.go(600)
    assert world.rollout["phase"] == "Promoted"


def test_pause_stays_where_it_failed():
    """With onFailure: Pause the shares stay for somebody to look at, and the object is stalled."""
    world = World(rollout={**ROLLOUT, "onFailure": "Pause"})
    world.errors["2"] = 10
    world.go(300)
    assert (world.rollout["phase"], world.shares) == ("Paused", {"blue": 90, "green": 10})
    assert world.healthy == ("False", "GateFailed")
    assert find(world.status, "Stalled") is not None


def test_a_candidate_that_crashes_goes_back():
    """Pods that fail for a while under requests end the rollout, gates or none; one that is quickly back does not."""
    world = World(rollout={**ROLLOUT, "gates": None}).go(30)
    world.crashing.add("green")
    world.go(12)
    assert (world.rollout["phase"], "failingSince" in world.rollout) == ("Progressing", True)
    world.crashing.clear()
    world.go(3)
    assert (world.rollout["phase"], "failingSince" in world.rollout) == ("Progressing", False)

    world.crashing.add("green")
    world.go(30)
    assert (world.rollout["phase"], world.healthy) == ("RolledBack", ("False", "CandidateFailing"))
    assert "churn-2: " in world.rollout["message"]
    assert world.shares == {"blue": 100}


def test_a_candidate_that_never_starts_gets_nothing_and_is_waited_for():
    """Nothing is lost, so nothing is ended: what lacks may yet come."""
    world = World()
    world.look()
    world.serving["green"] = "2"
    world.crashing.add("green")
    world.go(300)
    assert (world.rollout["phase"], world.shares, world.failed) == ("Waiting", {"blue": 100}, 0)
    assert "churn-2" in world.words
    world.crashing.clear()
    world.go(12)
    assert world.shares == {"blue": 90, "green": 10}


def test_too_few_requests_hold_the_step():
    """With one request in three seconds the step stays, and says how many requests the gates lack."""
    world = World().go(600, requests=10)
    assert (world.rollout["phase"], world.rollout["step"]) == ("Progressing", 1)
    assert world.healthy == ("Unknown", "InsufficientData")
    assert "requests of the candidate, about" in world.words
    assert find(world.status, "Reconciling") is not None
    writes = world.writes
    world.go(300, requests=10)
    assert world.writes - writes <= 10, "the numbers are written every 30 s at most"
    world.go(60)
    assert world.rollout["step"] == 2


def test_a_moved_alias_begins_anew_and_asks_nobody_whose_pods_change():
    """challenger moves to 3 at 50 percent: blue gets everything, then green's pods change, then it begins again."""
    world = World()
    while world.shares != {"blue": 50, "green": 50}:
        world.go(3)
    world.aliases["challenger"] = "3"
    first = world.look()
    assert [made["metadata"]["name"] for made in first.apply if made["kind"] == "Deployment"] == ["churn-blue"]
    assert world.rollout["message"].endswith("until then the pods of green stay as they are")
    served = []
    for _ in range(12):
        world.go(3)
        served.append((world.shares.get("green", 0), world.serving["green"]))
    assert served[0] == (0, "2")
    assert [share for share, number in served if number == "2"] == [0] * len([n for _, n in served if n == "2"])
    assert served[-1] == (10, "3")
    assert world.events.count("RolloutStarted") == 2
    world.go(300)
    assert world.rollout["phase"] == "Promoted"


def test_after_a_rollback_another_version_begins_anew():
    """The bad version stays out; the next one gets its chance by itself."""
    world = World()
    world.errors["2"] = 10
    world.go(60)
    assert world.rollout["phase"] == "RolledBack"
    world.aliases["challenger"] = "3"
    world.go(300)
    assert (world.rollout["phase"], world.shares, world.serving["green"]) == ("Promoted", {"green": 100}, "3")


def test_another_rollout_in_the_spec_begins_anew_and_other_pods_do_not():
    """Steps, gates or seconds that change are another rollout; the number of pods is none."""
    world = World()
    world.errors["2"] = 10
    world.go(60)
    world.spec["deployments"] = [BLUE, {**GREEN, "replicas": 2}]
    world.go(30)
    assert world.rollout["phase"] == "RolledBack"
    world.spec["rollout"] = {**ROLLOUT, "gates": {"errorRateIncrease": 0.5}}
    world.go(300)
    assert world.rollout["phase"] == "Promoted"


def test_an_alias_to_nowhere_holds_what_is_there():
    """The alias is taken away in the middle: green keeps its share, and gets no more until it leads somewhere."""
    world = World().go(30)
    del world.aliases["challenger"]
    world.go(300)
    assert (world.rollout["step"], world.shares) == (1, {"blue": 90, "green": 10})
    assert "no alias challenger" in find(world.status, "Ready")["message"]
    world.aliases["challenger"] = "2"
    world.go(300)
    assert (world.rollout["phase"], world.events.count("RolloutStarted")) == ("Promoted", 1)


def test_a_gateway_that_does_not_answer_holds_the_step():
    """Without figures nothing is judged and nothing changes; afterwards it goes on from the same base."""
    world = World().go(30)
    step = dict(world.rollout)
    world.away = GatewayError("the gateway pod at 10.0.0.3 does not answer", "Unreachable")
    world.go(120)
    assert world.healthy == ("Unknown", "NoFigures")
    assert (world.rollout["base"], world.rollout["since"]) == (step["base"], step["since"])
    world.away = None
    world.go(240)
    assert world.rollout["phase"] == "Promoted"


def test_a_gateway_pod_is_replaced_and_an_envoy_restarted():
    """Counts of a replaced gateway pod are not evidence any more; the others' are, and the rollout continues."""
    world = World()
    world.errors["1"] = world.errors["2"] = 1
    world.go(30)
    world.gateways["c"] = world.gateways.pop("b")
    world.gateways["c"].counts.clear()
    world.gateways["a"].counts.clear()
    world.go(3, requests=0)
    assert {counters["pod"] for counters in world.rollout["base"]} == {"a", "c"}
    assert all(counters.get("requests", 0) == 0 for counters in world.rollout["base"])
    world.go(600)
    assert world.rollout["phase"] == "Promoted"


def test_a_candidate_that_may_sleep_is_awake_while_it_is_judged():
    """A new version has to show that it starts before it gets requests; one that waits for a pod has not failed."""
    sleepy = {"minReplicas": 0, "maxReplicas": 3, "metric": "concurrency", "target": 4}
    world = World(deployments=[BLUE, {**GREEN, "autoscale": sleepy}]).go(30)
    green = world.children[("Deployment", "churn-green")]
    assert (green["spec"]["replicas"], world.shares) == (1, {"blue": 90, "green": 10})
    green["spec"]["replicas"] = 0
    world.look()
    assert world.children[("Deployment", "churn-green")]["spec"]["replicas"] == 1
    assert "failingSince" not in world.rollout
    world.go(300)
    assert world.rollout["phase"] == "Promoted"


def test_all_that_is_known_stands_in_the_status():
    """Each look by a new operator, whose first pass is lost before its status is written: the same end."""
    world = World()
    for _ in range(120):
        kept = (dict(world.status), dict(world.children))
        world.go(3)
        world.status, world.children = kept[0], {**world.children}
        world.look()
    assert (world.rollout["phase"], world.failed) == ("Promoted", 0)


def test_the_champion_answers_before_anything_begins():
    """An endpoint that is made with its rollout gives green nothing before blue answers."""
    world = World()
    first = world.look()
    assert {d.name: d.weight for d in routes_in(made_routes(first)).deployments} == {"blue": 100, "green": 0}
    assert world.healthy == ("Unknown", "ChampionFirst")

    while world.healthy != ("Unknown", "Started"):
        world.go(3)
    assert world.last.after == timedelta(seconds=1), "nobody rings for what the status says first"
    assert {d.name: d.weight for d in routes_in(made_routes(world.last)).deployments} == {"blue": 100, "green": 0}


def made_routes(got):
    """The ConfigMap of a plan."""
    (found,) = (made for made in got.apply if made["kind"] == "ConfigMap")
    return found


def test_without_a_gateway_the_rollout_waits_and_blue_answers():
    """The condition says what it needs; a gateway that goes in the middle takes the rollout back to its beginning."""
    world = World()
    while world.shares != {"blue": 50, "green": 50}:
        world.go(3)
    world.platform = replace(HERE, gateway_namespaces=frozenset())
    world.go(30)
    assert world.healthy == ("Unknown", "NoGateway")
    assert "gateway.enabled" in world.words
    assert service_target(world.children[("Service", "churn")]) == "blue"
    world.platform = HERE
    world.go(300)
    assert world.rollout["phase"] == "Promoted"


def test_a_promoted_candidate_is_written_into_traffic_without_a_change():
    """traffic: {green: 100} without rollout is what stands already; without either it is back to blue."""
    world = World().go(360)
    assert world.rollout["phase"] == "Promoted"
    version = routes_in(world.children[("ConfigMap", "churn-routes")]).version
    world.spec = {**SPEC, "traffic": {"green": 100}, "rollout": None}
    world.go(9)
    assert routes_in(world.children[("ConfigMap", "churn-routes")]).version == version
    assert ("rollout" in world.status, find(world.status, "RolloutHealthy")) == (False, None)
    world.spec = {**SPEC, "rollout": None}
    world.go(9)
    assert world.shares == {"blue": 100}


def test_several_champions_share_the_rest():
    """traffic of 70 to 30 beside a tenth: 63 to 27, and both together are the champion that is compared with."""
    purple = {"name": "purple", "model": "churn@1"}
    world = World(deployments=[BLUE, GREEN, purple], traffic={"blue": 70, "purple": 30})
    world.errors["1"] = 50
    world.go(30)
    assert world.shares == {"blue": 63, "green": 10, "purple": 27}
    assert {counters["deployment"] for counters in world.rollout["base"]} == {"blue", "green", "purple"}
    world.go(300)
    assert (world.rollout["phase"], world.shares) == ("Promoted", {"green": 100})


def test_going_back_needs_no_more_than_a_pod_that_is_ready():
    """blue is being scaled up when green fails: its pods that are there take over at once."""
    world = World()
    while world.shares != {"blue": 50, "green": 50}:
        world.go(3)
    world.spec["deployments"] = [{**BLUE, "replicas": 5}, GREEN]
    world.errors["2"] = 50
    for _ in range(4):
        world.now += timedelta(seconds=3)
        world.envoys()
        world.traffic(400)
        got = world.look()
    assert got.status["deployments"][0]["state"] == "Updating"
    assert (world.rollout["phase"], world.shares) == ("RolledBack", {"blue": 100})


@pytest.mark.parametrize(
    "odd",
    [
        {"phase": "Progressing"},
        {"phase": "", "identity": "x", "step": 10},
        {"phase": "Promoted", "identity": "x", "step": 1},
        {"phase": "Progressing", "identity": "x", "step": 1, "since": "0000-12-31T23:59:59Z"},
        {"phase": None, "base": 7},
        [],
        "x",
    ],
)
def test_what_anybody_wrote_into_the_status_begins_anew(odd):
    """A status that we did not write is none; blue answers, and the rollout begins."""
    world = World().go(9)
    world.status["rollout"] = odd
    world.go(9)
    assert world.rollout["phase"] in ("Waiting", "Progressing")
    assert world.rollout["step"] == 1


def test_a_time_to_come_does_not_hold_the_step_or_end_the_pass():
    """A step's begin in the future is replaced by now, also near the end of representable time."""
    world = World(rollout={**ROLLOUT, "gates": None}).go(15)
    world.status["rollout"]["since"] = "9999-12-31T23:59:59Z"
    world.go(240)
    assert world.rollout["phase"] == "Promoted"


def test_a_rollout_is_named_by_what_was_asked_for_alone():
    """A default that a release adds does not change the rollout's identity."""
    assert World().go(9).rollout["identity"] == "0f26daa0604c625a"


EVENTS = st.one_of(
    st.tuples(st.just("go"), st.integers(1, 40)),
    st.tuples(st.just("lag"), st.integers(1, 4)),  # gateway pods that learn nothing for a while
    st.tuples(st.just("alias"), st.sampled_from(["2", "3", "9"])),
    st.tuples(st.just("errors"), st.sampled_from([0, 30])),
    st.tuples(st.just("alike"), st.sampled_from([100, 50])),
    st.tuples(st.just("crash"), st.booleans()),
    st.tuples(st.just("steps"), st.sampled_from([[10, 100], [1, 2, 99, 100]])),
    st.just("lost status"),
)


@settings(deadline=None, max_examples=20)
@given(st.lists(EVENTS, max_size=12))
@example([("go", 1), ("alias", "3"), "lost status", ("lag", 1)])
def test_whatever_happens_a_good_version_is_promoted_in_the_end(events):
    """Aliases, errors, crashes, edits and lost statuses in any order: afterwards a new and good version wins.

    Meanwhile no pod of green becomes another version while a gateway pod leads requests to it.
    """
    world = World(rollout={**ROLLOUT, "gates": {**GATES, "agreement": 0.9}, "stepSeconds": 6}).go(9)
    for event in events:
        match event:
            case ("go", looks):
                world.go(3 * looks)
            case ("lag", looks):
                world.go(3 * looks, gateways=False)
            case ("alias", number):
                world.aliases["challenger"] = number
            case ("errors", percent):
                world.errors["2"] = percent
            case ("alike", percent):
                world.alike["2"] = percent
            case ("crash", True):
                world.crashing.add("green")
            case ("crash", False):
                world.crashing.discard("green")
            case ("steps", steps):
                world.spec["rollout"] = {**world.spec["rollout"], "steps": steps}
            case "lost status":
                world.go(3)
                world.status = {"keysSecret": "churn-keys"}
        assert sum((world.status.get("traffic") or {"blue": 100}).values()) == 100
    world.crashing.clear()
    world.errors.clear()
    world.aliases["challenger"] = "3"
    world.spec["rollout"] = {**ROLLOUT, "stepSeconds": 9}
    world.go(300)
    assert (world.rollout["phase"], world.shares, world.serving["green"]) == ("Promoted", {"green": 100}, "3")


MATRIX = {"name": "input", "datatype": "FP64", "shape": [-1, 30]}


def test_a_rollout_waits_for_its_champion():
    """blue was never ready: green gets nothing by the rollout, and the condition says what is wrong with blue."""
    world = World()
    world.serving["blue"] = "1"
    world.crashing.add("blue")
    world.go(60)
    assert (world.rollout["phase"], world.healthy) == ("Waiting", ("Unknown", "ChampionNotReady"))
    assert world.words.startswith("the rollout waits for its champion: blue has no ready pod: churn-1: ")
    assert "RolloutStarted" not in world.events

    world.crashing.clear()
    world.go(9)
    assert "RolloutStarted" in world.events
    world.go(600)
    assert world.rollout["phase"] == "Promoted"


def test_a_champion_without_pods_stops_the_clock_and_the_evidence():
    """blue dies in the first step: green answers all, nothing is judged, and the step begins anew when blue is back."""
    world = World().go(30)
    began = world.rollout["since"]
    world.crashing.add("blue")
    world.errors["2"] = 50  # as a candidate would fail that is asked ten times as much
    world.go(3)
    world.go(120)
    assert (world.rollout["phase"], world.rollout["step"]) == ("Waiting", 1)
    assert world.healthy == ("Unknown", "ChampionNotReady")
    assert world.shares == {"green": 100}
    assert "blue has no ready pod and gets none of its 90 %: churn-1: " in find(world.status, "Ready")["message"]

    world.crashing.clear()
    world.errors.clear()
    world.go(9)
    assert (world.rollout["phase"], world.shares) == ("Progressing", {"blue": 90, "green": 10})
    assert world.rollout["since"] > began
    world.go(600)
    assert world.rollout["phase"] == "Promoted"


def test_errors_for_want_of_a_pod_are_no_evidence():
    """Of a champion's 503s that no pod has made, none makes room for the candidate's errors."""
    world = World().go(30)
    for envoy in world.gateways.values():
        envoy.answer("blue", 20_000, 20_000, 1, absent=20_000)
    world.errors["2"] = 20
    world.go(9)
    assert (world.rollout["phase"], world.healthy[1]) == ("RolledBack", "GateFailed")
    assert "5xx: " in world.rollout["message"]
    assert "against 0 of " in world.rollout["message"]


def test_a_candidate_that_refuses_everything_is_turned_back():
    """Its 400s fail the gate that nobody asked for, after a few requests; refusals of both sides would not."""
    world = World(rollout={**ROLLOUT, "gates": {"p99Ratio": 1.5}})
    world.refusals |= {"1": 2, "2": 100}
    world.go(30)
    assert (world.rollout["phase"], world.healthy) == ("RolledBack", ("False", "GateFailed"))
    assert world.rollout["message"].startswith("green has failed (green at 10 %, step 1 of 3)")
    assert "4xx: " in world.rollout["message"]
    assert world.shares == {"blue": 100}

    turned_off = World(rollout={**ROLLOUT, "gates": {"p99Ratio": 1.5, "clientErrorRateIncrease": 1}})
    turned_off.refusals["2"] = 100
    assert turned_off.go(600).rollout["phase"] == "Promoted"
    both = World()
    both.refusals |= {"1": 5, "2": 5}
    assert both.go(600).rollout["phase"] == "Promoted"


@pytest.mark.parametrize("on_failure", ["Rollback", "Pause"])
@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ([{**MATRIX, "shape": [-1, 31]}], "its input input has the shape [-1, 31] and not [-1, 30]"),
        ([{**MATRIX, "name": "x"}], "it has no input input, it needs an input x"),
        ([MATRIX, {**MATRIX, "name": "age"}], "it needs an input age"),
        ([{**MATRIX, "datatype": "FP32"}], "its input input is FP32 and not FP64"),
    ],
)
def test_a_candidate_of_other_inputs_gets_no_request(inputs, why, on_failure):
    """Declared or reported inputs that differ turn a candidate back before its first step."""
    declared, told = World(rollout={**ROLLOUT, "onFailure": on_failure}), World(rollout={**ROLLOUT, "gates": None})
    declared.signatures |= {"1": [MATRIX], "2": inputs}
    for envoy in told.gateways.values():
        envoy.signatures = {
            name: {"name": "churn", "version": number, "inputs": taken}
            for name, number, taken in (("blue", "1", [MATRIX]), ("green", "2", inputs))
        }
    for world in (declared, told):
        world.go(90)
        assert (world.rollout["phase"], world.healthy) == ("RolledBack", ("False", "SignatureChanged"))
        words = (
            f"green is not rolled out, and blue gets all requests: churn-2 refuses requests that churn-1 takes: {why}. "
        )
        assert world.words.startswith(words)
        assert find(world.status, "Stalled")["message"] == world.words
        assert world.shares == {"blue": 100}
        assert all("green" not in envoy.counts for envoy in world.gateways.values()), "no request has gone there"
        assert world.events.count("RolledBack") == 1

    declared.aliases["challenger"] = "3"
    declared.signatures["3"] = [MATRIX]
    assert declared.go(600).rollout["phase"] == "Promoted", "another version begins anew"


def test_inputs_that_are_told_of_another_version_say_nothing():
    """Pods of an older version may answer yet, and a gateway may tell anything."""
    other = {"name": "churn", "version": "3", "inputs": [{**MATRIX, "name": "x"}]}
    for told in ({"blue": other}, {"green": other}, {"green": "?"}, {"green": {"name": 1}}, None):
        world = World()
        for envoy in world.gateways.values():
            blue = {"name": "churn", "version": "1", "inputs": [MATRIX]}
            envoy.signatures = None if told is None else {"blue": blue} | told
        assert world.go(600).rollout["phase"] == "Promoted"


def test_every_field_of_a_deployment_starts_a_rollout_again_or_does_not():
    """A new field has to be put into one of the two: a canary must not go on with other pods."""
    assert not STARTS_AGAIN & GOES_ON
    assert EndpointDeployment.model_fields.keys() == STARTS_AGAIN | GOES_ON


def test_counters_beyond_the_status_are_left_out():
    """A gateway may have more pods than the status has room for: the rollout goes on, and the status is written."""
    counters = tuple(RolloutCounters(pod=f"gateway-{number}") for number in range(300))
    update = _base(Evidence(Counts(), Counts(), (), counters))
    status = RolloutStatus.model_validate({"phase": "Progressing", **update})
    assert [entry.pod for entry in status.base] == [f"gateway-{number}" for number in range(200)]
    assert len(Counts(latency=(1e9,) * 1000).written("g" * 300).latency) == 2048


def test_a_list_of_endpoints_shows_the_rollout() -> None:
    """A Ready endpoint may have rolled back, which `kubectl get` shows without -o wide."""
    [kind] = [kind for kind in KINDS if kind.name == "OnlineEndpoint"]
    [column] = [column for column in kind.all_columns if column.name == "Rollout"]
    assert (column.path, column.priority) == (".status.rollout.phase", 0)
