"""The rules of a pool; see rules.py."""

from __future__ import annotations

from typing import Any

from bare import merged
from rules import ALONE, ENDPOINT, Manifest, Rule, endpoint_of, of_spec

SMALL: Manifest = {"selector": {"matchLabels": {"tier": "small"}}}
KEPT: Manifest = {"samplingRate": 0.1, "uri": "s3://lake/team-a/kept/"}


def alone(*models: str, **deployment: Any) -> Manifest:
    """The spec of an endpoint of these models that keeps no requests, which is not done with those of a pool."""
    return endpoint_of(*models, **deployment) | {"dataCollector": None}


def pool_of(**pool: Any) -> Manifest:
    """The spec of an endpoint with one deployment, a pool of the models that are labelled tier: small."""
    traffic = {"blue": None, "green": None, "a": 100}
    return {
        "deployments": [{"name": "a", "pool": merged(SMALL, pool)}],
        "traffic": traffic,
        **ALONE,
        "dataCollector": None,
    }


def rolled_out(candidate: Manifest) -> Manifest:
    """The spec of an endpoint in which this deployment, b, shall take over from a model."""
    rollout = {"candidate": "b", "steps": [100], "gates": None}
    deployments = [{"name": "a", "model": "m@1"}, {"name": "b", **candidate}]
    return alone("m@1") | {"deployments": deployments, "rollout": rollout}


def compared(champion: Manifest) -> Manifest:
    """The spec of an endpoint in which b shall take over from this deployment, a, as far as it answers alike."""
    gates = {"errorRateIncrease": None, "p99Ratio": None, "agreement": 0.9}
    rollout = {"candidate": "b", "steps": [10, 100], "gates": gates}
    deployments = [{"name": "a", **champion}, {"name": "b", "model": "m@2"}]
    return alone("m@1") | {"deployments": deployments, "rollout": rollout, "dataCollector": None}


RULES: list[Rule] = [
    of_spec(
        ENDPOINT,
        "a deployment has no pool beside its model",
        pool_of(),
        alone("m@1", pool=SMALL),
        "spec.deployments[0]: ",
        "a deployment serves either a model or a pool; give one of them",
    ),
    of_spec(
        ENDPOINT,
        "a pool has no warm-up",
        pool_of(),
        alone("m@1", model=None, pool=SMALL, warmup={"request": "{}"}),
        "spec.deployments[0]: ",
        "a pool has many models, which no single warmup request fits; leave warmup out",
    ),
    of_spec(
        ENDPOINT,
        "a pool's labels are at most 8",
        pool_of(selector={"matchLabels": {f"l{n}": "a" for n in range(7)}}),
        pool_of(selector={"matchLabels": {f"l{n}": "a" for n in range(8)}}),
        "spec.deployments[0].pool.selector.matchLabels: Too many",
    ),
    *(
        of_spec(
            ENDPOINT,
            f"a pool's labels have keys of labels, not {wrong[:9]}",
            pool_of(selector={"matchLabels": {right: "a"}}),
            pool_of(selector={"matchLabels": {wrong: "a"}}),
            "spec.deployments[0].pool.selector.matchLabels: ",
            "each key must be a label key, such as tier or example.com/tier",
        )
        for right, wrong in (("example.com/tier", "-tier"), ("a" * 317, "a" * 318))
    ),
    of_spec(
        ENDPOINT,
        "a pool's label is as long as a label can be",
        pool_of(selector={"matchLabels": {"tier": "a" * 63}}),
        pool_of(selector={"matchLabels": {"tier": "a" * 64}}),
        "spec.deployments[0].pool.selector.matchLabels.tier: Too long",
    ),
    of_spec(
        ENDPOINT,
        "a pool's alias is one",
        pool_of(alias="champion"),
        pool_of(alias="7"),
        "spec.deployments[0].pool.alias: ",
        "must be a lower-case name, such as champion",
    ),
    of_spec(
        ENDPOINT,
        "a pool's alias is as long as an alias can be",
        pool_of(alias="a" * 40),
        pool_of(alias="a" * 41),
        "spec.deployments[0].pool.alias: Too long",
    ),
    of_spec(
        ENDPOINT,
        "a pool is no candidate",
        rolled_out({"model": "m@2"}),
        rolled_out({"pool": SMALL}),
        "spec: ",
        "rollout.candidate must be a deployment of one model, not of a pool; choose another candidate",
    ),
    of_spec(
        ENDPOINT,
        "answers of a pool are not compared",
        compared({"model": "m@1"}),
        compared({"pool": SMALL}),
        "spec: ",
        "rollout.gates.agreement compares answers of one model, not of a pool; remove it, "
        "or put the pool into its own endpoint",
    ),
    of_spec(
        ENDPOINT,
        "requests of a pool are not kept",
        pool_of(),
        pool_of() | {"dataCollector": KEPT},
        "spec: ",
        "dataCollector does not collect requests of a pool; remove it, or put the pool into its own endpoint",
    ),
]
