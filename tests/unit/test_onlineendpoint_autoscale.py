"""Plans of an OnlineEndpoint's autoscaling by load."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from builders import NOW, child, condition, endpoint, kinds_of, seen, version
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from ultramarine.resources.onlineendpoint_deployment import Autoscale
from ultramarine.resources.onlineendpoint_rollout import Rollout
from ultramarine_contract.errors import GatewayError
from ultramarine_contract.routes import DeploymentFigures, RouteState
from ultramarine_operator.kinds.onlineendpoint.deployment.autoscale import PAUSE, Notes, decide
from ultramarine_operator.kinds.onlineendpoint.plan import plan, questions
from ultramarine_operator.shared.questions import GatewayFacts
from unit.test_onlineendpoint_plan import deployment, server_pod
from unit.test_onlineendpoint_routed import having as at_gateway
from unit.test_onlineendpoint_routed import look, settled

BY_CONCURRENCY = {"minReplicas": 1, "maxReplicas": 4, "metric": "concurrency", "target": 2}
BY_RATE = {**BY_CONCURRENCY, "metric": "requestRate", "target": 10}
BY_CPU = {"minReplicas": 2, "maxReplicas": 5, "metric": "cpu", "target": 70, "scaleDownAfterSeconds": 60}


def scaled_endpoint(wish, status=None):
    """Return an endpoint whose only deployment is autoscaled, and has 9 replicas, which are ignored."""
    cpu = {"requests": {"cpu": "100m"}}
    blue = {"name": "blue", "model": "churn@1", "replicas": 9, "resources": cpu, "autoscale": wish}
    return endpoint({"keysSecret": "churn-keys", **(status or {})}, deployments=[blue])


def having(owner, replicas):
    """Return its live Deployment with this number of replicas."""
    live = deployment(owner, 1)
    live["spec"] = {**live["spec"], "replicas": replicas}
    return live


def load(*pods, **counts):
    """Return the reports of gateway pods about blue: each its concurrency or nothing, and other given values."""
    figures = [DeploymentFigures(concurrency=pod, rate=pod, **counts) for pod in pods]
    return GatewayFacts(tuple(RouteState(pod=f"g{n}", figures={"blue": figure}) for n, figure in enumerate(figures)))


def passed(owner, says, *children, now=NOW):
    """Return the plan of a pass with the gateway's answer."""
    return plan(owner, look(owner, *children, says=says, related=(version(1),)), now)


def replicas(got):
    """Return the number of pods that the plan gives to blue."""
    (made,) = (made for made in got.apply if made["kind"] == "Deployment")
    return made["spec"]["replicas"]


def noted(got):
    """Return the notes of the plan about blue."""
    return got.status["deployments"][0].get("autoscale")


@pytest.mark.parametrize(
    ("wish", "loads", "count"),
    [
        (BY_CONCURRENCY, [0.0], 1),
        (BY_CONCURRENCY, [2.1], 1),  # within the tolerance of a tenth of a pod
        (BY_CONCURRENCY, [2.3], 2),
        (BY_CONCURRENCY, [3.0, 3.0], 3),  # of all gateway pods together
        (BY_CONCURRENCY, [100.0], 4),
        (BY_CONCURRENCY, [1e308, 1e308], 4),
        (BY_RATE, [35.0], 4),
        (BY_RATE, [12.0, 13.0], 3),
    ],
)
def test_there_are_as_many_pods_as_the_load_needs(wish, loads, count):
    """At once, within the bounds; `replicas` is not looked at, and a look is taken every 5 s."""
    owner = scaled_endpoint(wish)
    got = passed(owner, load(*loads), having(owner, 1), server_pod(owner, 1))

    assert replicas(got) == count
    assert noted(got) == {"replicas": count, "since": "2030-01-01T12:00:00Z", "most": count}
    assert condition(got, "ScalingActive")["status"] == "True"
    assert got.after <= timedelta(seconds=5)
    assert got.status["replicas"] == f"1/{count}"


def test_a_new_endpoint_starts_with_the_least():
    """Without a Deployment and without figures there are minReplicas."""
    owner = scaled_endpoint({**BY_CONCURRENCY, "minReplicas": 3})

    assert replicas(passed(owner, GatewayFacts((RouteState(),)))) == 3


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (GatewayError("no answer", "Unreachable"), "Unreachable"),
        (GatewayFacts((RouteState(),)), "NoFigures"),
        (load(None), "NoFigures"),
        (load(9.0, None), "NoFigures"),
    ],
)
def test_an_unknown_load_changes_nothing(says, reason):
    """If one gateway pod gives no report, the number of pods stays, low load does not count, and a reason is given."""
    notes = {"replicas": 3, "since": "2030-01-01T11:00:00Z", "most": 1}
    owner = scaled_endpoint(BY_CONCURRENCY, {"deployments": [{"name": "blue", "autoscale": notes}]})
    got = passed(owner, says, having(owner, 3))

    assert replicas(got) == 3
    assert noted(got)["most"] == 3
    reported = condition(got, "ScalingActive")
    assert (reported["status"], reported["reason"]) == ("False", reason)
    assert reported["message"].startswith("blue keeps 3 pods: ")


def test_without_a_gateway_the_condition_says_what_to_do():
    """The number of pods stays the same."""
    owner = scaled_endpoint(BY_RATE)
    got = plan(owner, seen(having(owner, 2), related=(version(1),)), NOW)

    assert replicas(got) == 2
    reported = condition(got, "ScalingActive")
    assert (reported["status"], reported["reason"]) == ("False", "NoGateway")
    assert "gateway.enabled" in reported["message"]


def test_pods_go_when_fewer_were_enough_for_a_while():
    """After scaleDownAfterSeconds as many stay as were needed at most meanwhile; an event reports it."""
    notes = {"replicas": 4, "since": "2030-01-01T11:55:00Z", "most": 2}
    owner = scaled_endpoint(BY_CONCURRENCY, {"deployments": [{"name": "blue", "autoscale": notes}]})
    live = having(owner, 4)

    assert replicas(passed(owner, load(0.0), live, now=NOW - timedelta(seconds=1))) == 4
    got = passed(owner, load(0.0), live)
    assert replicas(got) == 2
    assert noted(got) == {"replicas": 2, "since": "2030-01-01T12:00:00Z", "most": 1}
    assert [event.message for event in got.events if event.reason == "Scaled"] == ["blue is scaled from 4 to 2 pods"]


def test_a_steady_load_is_no_news():
    """Passes at the same load plan the same status, however the counts have grown: nothing is written."""
    owner = scaled_endpoint(BY_CONCURRENCY)
    live = having(owner, 2)
    first = passed(owner, load(3.5), live)
    again = replace(owner, manifest={**owner.manifest, "status": first.status})

    for second in (5, 200, 4000):
        got = passed(again, load(3.7, requests=second), live, now=NOW + timedelta(seconds=second))
        assert got.status == first.status


def test_a_disruption_budget_is_for_two_pods_that_there_are():
    """It exists from two pods on, whatever `replicas` says."""
    owner = scaled_endpoint(BY_CONCURRENCY)
    budget = child("PodDisruptionBudget", "churn-blue", owner)
    up, down = (passed(owner, load(concurrency), having(owner, 1), budget) for concurrency in (8.0, 0.0))

    assert "PodDisruptionBudget/churn-blue" in kinds_of(up.apply)
    assert "PodDisruptionBudget/churn-blue" not in kinds_of(down.apply)


def test_cpu_is_left_to_kubernetes_autoscaler():
    """It is made beside the Deployment, whose number of replicas stays the autoscaler's; no figures are read."""
    owner = scaled_endpoint(BY_CPU)
    got = plan(owner, seen(having(owner, 4), related=(version(1),)), NOW)

    (made,) = (made for made in got.apply if made["kind"] == "HorizontalPodAutoscaler")
    assert made["spec"]["scaleTargetRef"]["name"] == "churn-blue"
    assert (made["spec"]["minReplicas"], made["spec"]["maxReplicas"]) == (2, 5)
    assert replicas(got) == 4
    assert noted(got) is None
    assert got.after is None
    assert replicas(plan(owner, seen(related=(version(1),)), NOW)) == 2


def test_what_the_autoscaler_lacks_is_told():
    """Without metrics-server the autoscaler does nothing, and the endpoint has its message."""
    owner = scaled_endpoint(BY_CPU)
    inactive = {
        "type": "ScalingActive",
        "status": "False",
        "reason": "FailedGetResourceMetric",
        "message": "no metrics",
    }
    autoscaler = child("HorizontalPodAutoscaler", "churn-blue", owner, status={"conditions": [inactive]})
    got = plan(owner, seen(having(owner, 2), autoscaler, related=(version(1),)), NOW)

    reported = condition(got, "ScalingActive")
    assert (reported["status"], reported["reason"]) == ("False", "FailedGetResourceMetric")
    assert reported["message"] == "blue keeps 2 pods: no metrics"


def test_an_autoscaler_goes_with_its_wish():
    """A deployment that is no longer scaled by CPU loses its autoscaler, which would fight over the replicas."""
    owner = scaled_endpoint(BY_RATE)
    autoscaler = child("HorizontalPodAutoscaler", "churn-blue", owner)
    first = plan(owner, seen(having(owner, 2), autoscaler, related=(version(1),)), NOW)
    got = plan(owner, seen(having(owner, 2), autoscaler, *_applied(owner, first), related=(version(1),)), NOW)

    assert [ref.name for ref in got.delete if ref.resource.kind == "HorizontalPodAutoscaler"] == ["churn-blue"]


def _applied(owner, got):
    """The Service that a plan applies, as it is seen later."""
    return [child("Service", m["metadata"]["name"], owner, m["spec"]) for m in got.apply if m["kind"] == "Service"]


def test_fixed_pods_are_not_scaled():
    """Without autoscale there is no condition, no note, and no look every 5 s."""
    owner = endpoint({"keysSecret": "churn-keys"}, deployments=[{"name": "blue", "model": "churn@1", "replicas": 3}])
    got = plan(owner, seen(having(owner, 1), related=(version(1),)), NOW)

    assert replicas(got) == 3
    assert condition(got, "ScalingActive") == {}
    assert noted(got) is None
    assert got.after is None


@pytest.mark.parametrize(
    "notes",
    [{}, {"since": "0000-00-00T00:00:00Z", "most": 1}, {"since": "2030-01-01T11:00:00Z"}, {"since": 7, "most": "x"}],
)
def test_spoiled_notes_take_no_pods_away(notes):
    """After any edit of the status, the time of low load begins again."""
    owner = scaled_endpoint(BY_CONCURRENCY, {"deployments": [{"name": "blue", "autoscale": notes}]})

    assert replicas(passed(owner, load(0.0), having(owner, 3))) == 3


@given(
    needs=st.lists(st.integers(1, 9), min_size=1, max_size=200),
    wait=st.sampled_from([0, 7, 10, 60, 300]),
    start=st.integers(1, 9),
)
def test_fewer_pods_were_enough_all_the_time_and_notes_are_few(needs, wait, start):
    """For any course of needs: never too few pods, none taken that was needed in the last seconds, few writes."""
    wish = Autoscale(max_replicas=9, metric="concurrency", target=1, scale_down_after_seconds=wait)
    count, notes, writes, course = start, None, [], []
    for number, need in enumerate(needs):
        now = NOW + timedelta(seconds=5 * number)
        before = count, notes
        count, notes = decide(count, need, notes, wish, now)
        course.append((now, need))
        recent = [need for at, need in course if now - at < timedelta(seconds=wait)]
        assert count >= need
        if count < before[0]:
            assert count >= max(recent, default=0)
            assert now - NOW >= timedelta(seconds=wait)
        if count == before[0] and notes != before[1]:
            writes.append(now)
    # What is noted besides decisions: beginnings, each at most every PAUSE, and each larger need after one.
    for first in writes:
        span = min(PAUSE, timedelta(seconds=wait) / 2)
        if span:
            assert sum(first <= moment < first + span for moment in writes) <= 2 + 9


@given(st.integers(0, 20), st.integers(-5, 5), st.integers(0, 9), st.integers(1, 9))
def test_a_decision_is_made_of_any_notes(age, most, need, current):
    """Whatever the notes are, there are never more pods than needed or present, and never fewer than needed."""
    wish = Autoscale(max_replicas=9, metric="concurrency", target=1, scale_down_after_seconds=10)
    count, _ = decide(current, need, Notes(NOW - timedelta(seconds=age), most), wish, NOW)

    assert need <= count <= max(need, current)


SLEEPY = {**BY_CONCURRENCY, "minReplicas": 0}
ANSWERED = {"traffic": {"blue": 100}, "conditions": [{"type": "Ready", "status": "True"}]}
LONG_SINCE = {"replicas": 1, "since": "2030-01-01T11:00:00Z", "most": 0}


def sleepy(noted=None, wish=SLEEPY):
    """An endpoint that has answered, and may sleep."""
    deployments = {"deployments": [{"name": "blue", "autoscale": noted}]} if noted else {}
    return scaled_endpoint(wish, {**ANSWERED, **deployments})


def at(owner, count):
    """Return its Deployment with this number of pods, all of them available."""
    live = having(owner, count)
    live["status"] |= dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), count)
    return live


def asleep(owner, says=None):
    """A pass over its Deployment without pods."""
    return passed(owner, says or load(0.0), at(owner, 0))


def test_who_is_not_asked_sleeps():
    """With minReplicas 0 the last pod goes after a time without requests; the gateway holds later ones."""
    owner = sleepy(LONG_SINCE)
    got = passed(owner, load(0.0), at(owner, 1), server_pod(owner, 1))

    assert replicas(got) == 0
    (config_map,) = (made for made in got.apply if made["kind"] == "ConfigMap")
    assert '"hold": true' in config_map["data"]["routes.json"]
    # A rare request keeps the pod.
    assert replicas(passed(owner, load(0.01), at(owner, 1), server_pod(owner, 1))) == 1


def test_who_sleeps_is_ready_and_says_so():
    """The endpoint stays Ready with the version of the next request; a pass follows every 2 s."""
    owner = sleepy()
    children = settled(owner, at(owner, 0), related=(version(1),))
    (routed,) = at_gateway(children[0]).proxies
    (counted,) = load(0.0).proxies
    says = GatewayFacts((structs.replace(routed, figures=counted.figures),))
    got = passed(owner, says, at(owner, 0), *children)

    assert condition(got, "Ready")["status"] == "True"
    assert condition(got, "Ready")["message"].startswith("churn-1 sleeps: no requests come")
    assert got.status["modelVersion"] == "churn-1"
    assert got.status["replicas"] == "0/0"
    assert got.status["deployments"][0]["state"] == "Ready"
    assert got.after <= timedelta(seconds=2)


@pytest.mark.parametrize(("wish", "count"), [(SLEEPY, 3), ({**BY_RATE, "minReplicas": 0}, 1)])
def test_a_request_that_waits_wakes(wish, count):
    """By concurrency, waiting requests count as in flight; by rate they need one pod, as before the first mean."""
    owner = sleepy(wish=wish)

    assert replicas(asleep(owner, load(0.0, waiting=6))) == count
    assert replicas(asleep(owner, load(None, waiting=6))) == 1
    assert replicas(asleep(owner, load(None))) == 0


def test_who_wakes_is_still_ready():
    """While the first pod starts, requests wait and none is refused; if it cannot start, the endpoint is not Ready."""
    owner = sleepy()
    waking = passed(owner, load(0.0, waiting=1), at(owner, 0))
    assert condition(waking, "Ready")["status"] == "True"

    ended = {"name": "server", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    ill = server_pod(owner, 1, ready=False, phase="Pending", containerStatuses=[ended])
    unavailable = at(owner, 1)
    unavailable["status"] |= {"availableReplicas": 0}
    failing = passed(owner, load(0.0, waiting=1), unavailable, ill)
    assert failing.status["deployments"][0]["state"] == "Failing"
    assert condition(failing, "Ready")["status"] == "False"
    assert "cannot pull image" in condition(failing, "Ready")["message"]
    [config_map] = [made for made in failing.apply if made["kind"] == "ConfigMap"]
    [route] = json.loads(config_map["data"]["routes.json"])["deployments"]
    assert "cannot pull image" in route["cause"], "clients hear it from the gateway"
    assert "hold" not in route


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("it has not answered yet", {"status": {"traffic": {}}}),
        ("it gets copies", {"mirror_traffic": {"blue": 10}}),
    ],
)
def test_who_must_be_awake_is(reason, change):
    """A deployment has a pod before it gets requests, and while it gets copies of them."""
    owner = sleepy()
    status = owner.manifest["status"] | change.get("status", {})
    spec = owner.spec.model_copy(update={name: value for name, value in change.items() if name != "status"})
    owner = replace(owner, manifest=owner.manifest | {"status": status}, spec=spec)

    assert replicas(asleep(owner)) == 1, reason


def test_who_was_never_ready_does_not_sleep():
    """A pod that never became ready stays, so that users can see its failure."""
    owner = sleepy(LONG_SINCE)
    live = at(owner, 1)
    live["status"] |= {"availableReplicas": 0}

    assert replicas(passed(owner, load(0.0), live)) == 1


def test_without_a_gateway_nobody_sleeps():
    """Without a gateway to wake it, a deployment with minReplicas: 0 has one pod."""
    owner = sleepy(LONG_SINCE)

    assert replicas(plan(owner, seen(at(owner, 0), related=(version(1),)), NOW)) == 1


def of_model(owner, reference):
    """The same endpoint with another model."""
    (blue,) = owner.spec.deployments
    spec = owner.spec.model_copy(update={"deployments": [blue.model_copy(update={"model": reference})]})
    return replace(owner, spec=spec)


def test_who_leads_nowhere_now_is_scaled_and_woken():
    """While the alias names no ready version, the load decides about the version that served."""
    busy = of_model(scaled_endpoint(BY_CONCURRENCY), "churn@champion")
    got = passed(busy, load(7.0), having(busy, 1), server_pod(busy, 1))
    assert got.status["deployments"][0]["state"] == "Waiting"
    assert replicas(got) == 4

    owner = of_model(sleepy(), "churn@champion")
    woken = asleep(owner, load(0.0, waiting=1))
    assert replicas(woken) == 1
    assert condition(woken, "Ready")["status"] == "True"
    # A deleted version has no Deployment.
    gone = plan(owner, look(owner, at(owner, 0), says=load(0.0, waiting=1), related=()), NOW)
    assert "Deployment/churn-blue" not in kinds_of(gone.apply)


@pytest.mark.parametrize(("phase", "count"), [("Progressing", 3), ("Paused", 3), ("RolledBack", 0), ("Promoted", 0)])
def test_champions_do_not_shrink_while_all_may_come_back_to_them(phase, count):
    """Their load falls during a rollout, but one that fails gives all requests back at once."""
    owner = sleepy({**LONG_SINCE, "replicas": 3})
    (blue,) = owner.spec.deployments
    green = blue.model_copy(update={"name": "green", "autoscale": None, "replicas": 1})
    rollout = Rollout.model_validate({"candidate": "green", "steps": [10, 100]})
    changes = {"deployments": [blue, green], "traffic": {"blue": 100}, "rollout": rollout}
    status = owner.manifest["status"] | {"rollout": {"phase": phase}}
    owner = replace(owner, spec=owner.spec.model_copy(update=changes), manifest=owner.manifest | {"status": status})
    got = passed(owner, load(0.0), at(owner, 3), server_pod(owner, 1))

    (made,) = (made for made in got.apply if made["metadata"]["name"] == "churn-blue" and made["kind"] == "Deployment")
    assert made["spec"]["replicas"] == count


def test_who_shall_not_sleep_any_more_holds_requests_until_a_pod_is_ready():
    """After minReplicas becomes 1 in its sleep, routes hold requests until the first pod is ready."""
    before = sleepy()
    children = settled(before, at(before, 0), related=(version(1),))
    edited = sleepy(wish=BY_CONCURRENCY)

    def routes(*pods):
        got = passed(edited, load(0.0), at(edited, 1), *pods, *children)
        (config_map,) = (made for made in got.apply if made["kind"] == "ConfigMap")
        return config_map["data"]["routes.json"]

    assert '"hold": true' in routes()
    assert '"hold": true' not in routes(server_pod(edited, 1))


def test_figures_are_asked_for_where_they_are_looked_at():
    """Each Envoy searches all of its statistics for them: not for deployments that are scaled by CPU, or fixed."""

    def asked(wish):
        owner = scaled_endpoint(wish)
        (question,) = questions(owner, look(owner, says=load(0.0)))
        return question.figures

    assert [asked(wish) for wish in (BY_CONCURRENCY, BY_RATE, BY_CPU, None)] == [True, True, False, False]
