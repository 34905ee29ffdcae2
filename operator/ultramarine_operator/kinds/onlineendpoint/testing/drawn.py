"""Makes a drawn OnlineEndpoint valid."""

from __future__ import annotations

from ultramarine_contract.meta import Manifest

from ....shared.testing import fit
from .own_code import complete_own_code


def complete(_: Manifest, spec: Manifest) -> None:
    """Make the fields of a drawn spec agree with each other."""
    names = [deployment["name"] for deployment in spec["deployments"]]
    drawn = spec.pop("traffic", {})
    if drawn or len(names) > 1:
        live, share = len(drawn) % len(names), min(drawn.values(), default=100)
        spec["traffic"] = {name: 100 if number == live else 0 for number, name in enumerate(names)}
        if len(names) > 1:  # split between two of them
            spec["traffic"][names[live]] = share
            spec["traffic"][names[live - 1]] = 100 - share
    copied = spec.pop("mirrorTraffic", {})
    idle = [name for name, share in spec.get("traffic", {}).items() if not share]
    if copied and idle:
        spec["mirrorTraffic"] = dict(zip(idle, copied.values(), strict=False))
    if "rollout" in spec:
        free = [name for name in idle if not spec.get("mirrorTraffic", {}).get(name)]
        _complete_rollout(spec["rollout"], free) if free else spec.pop("rollout")
    for deployment in spec["deployments"]:
        complete_own_code(deployment)
        if "warmup" in deployment:
            deployment["warmup"] = {"request": '{"inputs": []}'}
        if "container" in deployment:
            _complete_container(deployment)
        elif "pool" in deployment:
            deployment.pop("model", None)
            deployment.pop("warmup", None)
        else:
            deployment.setdefault("model", "churn@1")
        if limits := deployment.get("autoscale"):
            _complete_autoscale(deployment, limits)
        fit(deployment.get("resources", {}))
    if not any(deployment.get("container", {}).get("api") == "openai" for deployment in spec["deployments"]):
        spec.pop("tokenLimits", None)
    _complete_access(spec)
    _complete_pools(spec)
    _complete_collector(spec)


def _complete_container(deployment: Manifest) -> None:
    for name in ("pool", "scoring", "environment", "warmup", "batching"):
        deployment.pop(name, None)
    for name in ("maxConcurrentRequests", "maxQueueMilliseconds"):
        deployment.get("requestSettings", {}).pop(name, None)
    deployment["container"] |= {"ports": {"http": 8000}, "writable": ["/var/run"]}


def _complete_collector(spec: Manifest) -> None:
    if "dataCollector" in spec:
        spec["dataCollector"]["uri"] = spec["dataCollector"]["uri"].rstrip("/") + "/"
        spec["dataCollector"]["samplingRate"] = spec["dataCollector"]["samplingRate"] or 1


def _complete_access(spec: Manifest) -> None:
    if spec.get("authMode", "key") != "key":
        spec.pop("keysSecretRef", None)
    token = spec.pop("token", {"issuer": "a", "audiences": ["a"]})
    if spec.get("authMode") == "token":
        if "jwksUri" in token:
            token.pop("jwks", None)
        else:
            token["jwks"] = '{"keys": [{"kty": "RSA"}]}'
        spec["token"] = token


def _complete_pools(spec: Manifest) -> None:
    pools = {deployment["name"] for deployment in spec["deployments"] if "pool" in deployment}
    others = [deployment for deployment in spec["deployments"] if {"pool", "container"} & deployment.keys()]
    if pools or any("http" not in other.get("container", {"ports": "http"})["ports"] for other in others):
        spec.pop("dataCollector", None)
    if spec.get("rollout", {}).get("candidate") in pools:
        spec.pop("rollout")
    if others and "rollout" in spec:
        spec["rollout"].get("gates", {}).pop("agreement", None)
        if not spec["rollout"].get("gates"):
            spec["rollout"].pop("gates", None)


def _complete_autoscale(deployment: Manifest, limits: Manifest) -> None:
    limits["maxReplicas"] = max(limits["maxReplicas"], limits.get("minReplicas", 1))
    if limits["metric"] == "cpu":
        limits["minReplicas"], limits["target"] = max(1, limits.get("minReplicas", 1)), min(100, limits["target"])
        deployment.setdefault("resources", {}).setdefault("requests", {})["cpu"] = "100m"


def _complete_rollout(rollout: Manifest, free: list[str]) -> None:
    rollout["candidate"] = free[0]
    rollout["steps"] = sorted({*rollout["steps"], 100})
    if len(rollout["steps"]) == 1 or not rollout.get("gates"):
        rollout.pop("gates", None)
