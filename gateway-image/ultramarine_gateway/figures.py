"""What Envoy has counted of each deployment of an endpoint, for an operator that asks."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from ultramarine.shared.routes import DeploymentFigures, EndpointRoutes

from ultramarine_gateway import envoy
from ultramarine_gateway.rendering import cluster_name

KEPT_SECONDS = 0.5  # however often is asked, Envoy is not asked more often than this for one endpoint

_Read = dict[str, DeploymentFigures]


class Figures:
    """The figures of the endpoints that were asked for, each at most KEPT_SECONDS old."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[float, EndpointRoutes, _Read]] = {}

    async def of(self, routes: EndpointRoutes) -> _Read | None:
        """By deployment; nothing where Envoy does not answer."""
        now = time.monotonic()
        self._read = {name: read for name, read in self._read.items() if now - read[0] < KEPT_SECONDS}
        kept = self._read.get(routes.endpoint)
        if kept is not None and kept[1] == routes:
            return kept[2]
        try:
            figures = figures_in(await envoy.cluster_stats(self._folder, routes.endpoint), routes)
        except (OSError, aiohttp.ClientError, TimeoutError):
            return None
        self._read[routes.endpoint] = (now, routes, figures)
        return figures


def figures_in(stats: list[Any], routes: EndpointRoutes) -> _Read:
    """Add up what Envoy says of the clusters of each deployment; a cluster that it has no word of counts as 0."""
    numbers: Counter[str] = Counter()
    buckets: dict[str, list[Any]] = {}
    for one in stats:
        if "histograms" in one:
            buckets |= {histogram["name"]: histogram["buckets"] for histogram in one["histograms"]}
        else:
            numbers[one["name"]] = one["value"]
    made: _Read = {}
    for deployment in routes.deployments:
        pools = [cluster_name(routes.endpoint, deployment.name, protocol) for protocol in deployment.protocols]
        names = [f"cluster.{pool}.upstream_rq_" for pool in pools]
        latency: Counter[float] = Counter()
        for name in names:
            for bucket in buckets.get(f"{name}time", ()):
                latency[float(bucket["upper_bound"])] += bucket["cumulative"]
        made[deployment.name] = DeploymentFigures(
            requests=sum(numbers[f"{name}completed"] for name in names),
            errors=sum(numbers[f"{name}5xx"] for name in names),
            active=sum(numbers[f"{name}active"] + numbers[f"{name}pending_active"] for name in names),
            latency=tuple(sorted(latency.items())),
        )
    return made
