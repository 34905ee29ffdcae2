"""A pool beside what else an OnlineEndpoint can do: autoscaling, sleep, tokens, rollouts."""

from __future__ import annotations

from typing import Any

from builders import NOW, child, condition, endpoint, kinds_of, ours, seen, version
from msgspec.structs import replace
from ultramarine_contract.meta import Manifest
from ultramarine_contract.routes import DeploymentFigures
from ultramarine_contract.serving_records import ServingTask
from ultramarine_operator.kinds.onlineendpoint.endpoint import LABEL_GATEWAY_ONLY
from ultramarine_operator.kinds.onlineendpoint.plan import plan
from ultramarine_operator.kinds.onlineendpoint.rollout.decide import identity
from ultramarine_operator.kinds.onlineendpoint.routing.manifests import network_policy, routes_in
from ultramarine_operator.shared.plan import Obj
from ultramarine_operator.shared.questions import GatewayFacts
from unit.test_onlineendpoint_routed import address, having, look

POOL = {"selector": {"matchLabels": {"tier": "small"}}}
RELATED = (ours("Model", "churn", {}, labels={"tier": "small"}), version(1))
TOKEN = {"issuer": "https://id.example.com", "audiences": ["churn"], "jwksUri": "https://id.example.com/keys"}
ANSWERED = {"traffic": {"many": 100}, "conditions": [{"type": "Ready", "status": "True"}], "keysSecret": "churn-keys"}


def pooled(status: Manifest | None = None, **deployment: Any) -> Obj[Any]:
    """An endpoint with a pool of the Model churn."""
    return endpoint(status, deployments=[{"name": "many", "pool": POOL, **deployment}])


def deployment_in(got: Any) -> Manifest:
    """The Deployment that a plan writes."""
    (found,) = (m for m in got.apply if m["kind"] == "Deployment")
    return found


def test_a_pool_is_scaled_by_its_cpu():
    """The autoscaler is for its Deployment, and every container says what it reserves, without which none works."""
    wish = {"minReplicas": 2, "maxReplicas": 5, "metric": "cpu", "target": 70}
    got = plan(pooled(resources={"requests": {"cpu": "1"}}, autoscale=wish), seen(related=RELATED), NOW)

    assert "HorizontalPodAutoscaler/churn-many" in kinds_of(got.apply)
    pod = deployment_in(got)["spec"]["template"]["spec"]
    assert all("cpu" in one["resources"]["requests"] for one in (*pod["initContainers"], *pod["containers"]))


def test_a_pool_sleeps_and_says_so():
    """A pool has no version to name; its deployment sleeps under its own name, with what it would wake with."""
    one = pooled(ANSWERED, autoscale={"minReplicas": 0, "maxReplicas": 2, "metric": "concurrency", "target": 2})
    idle = {"many": DeploymentFigures(concurrency=0.0, rate=0.0)}
    first = plan(one, look(one, related=RELATED), NOW)
    live = child("Deployment", "churn-many", one, deployment_in(first)["spec"], {"observedGeneration": 1})
    live["spec"]["replicas"] = 0
    live["metadata"]["annotations"] = deployment_in(first)["metadata"]["annotations"]
    routes = [m for m in plan(one, look(one, live, related=RELATED), NOW).apply if m["kind"] == "ConfigMap"][-1]
    config_map = child("ConfigMap", "churn-routes", one) | {"data": routes["data"]}
    (state,) = having(config_map).proxies
    says = GatewayFacts((replace(state, figures=idle),))
    got = plan(
        one, look(one, live, config_map, address(one, routes_in(config_map).port), says=says, related=RELATED), NOW
    )

    assert deployment_in(got)["spec"]["replicas"] == 0
    assert condition(got, "Ready")["status"] == "True"
    assert condition(got, "Ready")["message"].startswith("many sleeps: no requests come")
    assert condition(got, "Ready")["message"].endswith("; 1 model")
    assert "modelVersion" not in got.status


def test_tokens_are_the_gateways_work_for_a_pool_too():
    """Its pods ask for nothing, and have the label by which the NetworkPolicy lets the gateway alone ask them."""
    one = endpoint(authMode="token", token=TOKEN, deployments=[{"name": "many", "pool": POOL}])
    policy = child("NetworkPolicy", network_policy(one)["metadata"]["name"], one)
    template = deployment_in(plan(one, look(one, policy, related=RELATED), NOW))["spec"]["template"]
    task = ServingTask.from_json(template["spec"]["containers"][0]["env"][0]["value"])

    assert (task.auth, task.pool_bytes > 0) == ("gateway", True)
    assert template["metadata"]["labels"][LABEL_GATEWAY_ONLY] == "true"


def test_a_pool_that_is_a_candidate_all_the_same_is_not_rolled_out():
    """The API server refuses it; if one is there, nothing begins."""
    deployments = [{"name": "blue", "model": "churn@1"}, {"name": "many", "pool": POOL}]
    rollout = {"candidate": "many", "steps": [100]}
    one = endpoint(deployments=deployments, traffic={"blue": 100}, rollout=rollout)

    assert identity(one, seen(related=RELATED)) == ""
