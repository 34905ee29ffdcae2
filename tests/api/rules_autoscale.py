"""The rules of how many pods the load of a deployment may call for; see rules.py."""

from __future__ import annotations

from typing import Any

from rules import ENDPOINT, Manifest, Rule, endpoint_of, of_spec

AT = "spec.deployments[0].autoscale"


def scaled(**patch: Any) -> Manifest:
    """The spec of an endpoint that is scaled by its requests, with that wish patched."""
    wish = {"minReplicas": 1, "maxReplicas": 3, "metric": "concurrency", "target": 2, **patch}
    return endpoint_of("m@1", autoscale={name: value for name, value in wish.items() if value is not None})


def by_cpu(resources: Manifest | None, **patch: Any) -> Manifest:
    """The spec of an endpoint that is scaled by the CPU that it uses, with these resources."""
    spec = scaled(metric="cpu", **patch)
    for deployment in spec["deployments"]:
        deployment |= {} if resources is None else {"resources": resources}
    return spec


CPU = {"requests": {"cpu": "100m"}}
RULES: list[Rule] = [
    of_spec(
        ENDPOINT,
        "the least is no more than the most",
        scaled(minReplicas=3, maxReplicas=3),
        scaled(minReplicas=4, maxReplicas=3),
        f"{AT}: ",
        "minReplicas must not be larger than maxReplicas",
    ),
    of_spec(
        ENDPOINT,
        "pods that there are not use no CPU",
        by_cpu(CPU),
        by_cpu(CPU, minReplicas=0),
        f"{AT}: ",
        "metric: cpu needs minReplicas of at least 1",
    ),
    of_spec(
        ENDPOINT,
        "a part of the CPU is percent",
        by_cpu(CPU, target=100),
        by_cpu(CPU, target=101),
        f"{AT}: ",
        "the target of metric: cpu is a percentage; set it to 100 at most",
    ),
    *(
        of_spec(
            ENDPOINT,
            f"a part of the CPU is a part of something, not of {wrong}",
            by_cpu(right),
            by_cpu(wrong),
            "spec.deployments[0]: ",
            "metric: cpu needs reserved CPU; set resources.requests.cpu",
        )
        for right, wrong in (
            (CPU, None),
            ({"limits": {"cpu": "1"}}, {"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}}),
        )
    ),
]
