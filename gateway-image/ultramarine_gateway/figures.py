"""Figures of each deployment, from Envoy's statistics, for the operator."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
from msgspec import structs
from ultramarine_contract.routes import DeploymentFigures, EndpointRoutes

from ultramarine_gateway import envoy
from ultramarine_gateway.xds.resources import cluster_name

KEPT_SECONDS = 0.5  # minimum between two questions to Envoy about an endpoint
LEAST_SECONDS, MEAN_SECONDS = 2.0, 11.0  # minimum and maximum period of a mean

_Read = dict[str, DeploymentFigures]


class Figures:
    """Figures of endpoints, at most KEPT_SECONDS old."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._samples: dict[str, list[tuple[float, _Read]]] = {}  # by endpoint, the oldest first

    async def of(self, routes: EndpointRoutes) -> _Read | None:
        """Return the figures by deployment; None if Envoy does not answer."""
        now = time.monotonic()
        recent = {name: [s for s in samples if now - s[0] <= MEAN_SECONDS] for name, samples in self._samples.items()}
        self._samples = {name: samples for name, samples in recent.items() if samples}
        before = self._samples.get(routes.endpoint, [])
        names = {deployment.name for deployment in routes.deployments}
        if before and now - before[-1][0] < KEPT_SECONDS and before[-1][1].keys() == names:
            return before[-1][1]
        try:
            figures = figures_in(await envoy.cluster_stats(self._folder, routes.endpoint), routes)
        except (OSError, aiohttp.ClientError, TimeoutError):
            return None
        if before and now - before[0][0] >= LEAST_SECONDS:
            since, old = before[0]
            figures = {name: means(new, old.get(name), now - since) for name, new in figures.items()}
        self._samples[routes.endpoint] = [*before, (now, figures)]
        return figures


def means(new: DeploymentFigures, old: DeploymentFigures | None, seconds: float) -> DeploymentFigures:
    """Return the figures with means since the old ones; without means if Envoy has restarted."""
    if old is None or new.requests < old.requests:
        return new
    answered = new.requests - old.requests
    came = max(0, answered + new.active - old.active)
    concurrency = float(new.active)
    counts = dict(old.latency)
    timed = [(bound, count - counts.get(bound, 0)) for bound, count in new.latency]
    if timed and timed[-1][1] > 0 and answered > 2 * new.active:
        # Little's law, for short requests: a sample of active ones says little about them.
        below = [(0.0, 0), *timed]
        milliseconds = sum((low + high) / 2 * (n - m) for (low, m), (high, n) in pairwise(below)) / timed[-1][1]
        concurrency = came / seconds * milliseconds / 1000
    return structs.replace(new, rate=came / seconds, concurrency=concurrency)


def figures_in(stats: list[Any], routes: EndpointRoutes) -> _Read:
    """Sum the statistics of the clusters of each deployment; a cluster without statistics counts as 0."""
    numbers: Counter[str] = Counter()
    buckets: dict[str, list[Any]] = {}
    for stat in stats:
        if "histograms" in stat:
            buckets |= {histogram["name"]: histogram["buckets"] for histogram in stat["histograms"]}
        else:
            numbers[stat["name"]] = stat["value"]
    made: _Read = {}
    for deployment in routes.deployments:
        pools = [cluster_name(routes.endpoint, deployment.name, protocol) for protocol in deployment.protocols]
        names = [f"cluster.{pool}.upstream_rq_" for pool in pools]
        # 401 and 429 come from new keys and from limits, and say nothing about the model.
        refused = [numbers[f"{name}4xx"] - numbers[f"{name}401"] - numbers[f"{name}429"] for name in names]
        latency: Counter[float] = Counter()
        for name in names:
            for bucket in buckets.get(f"{name}time", ()):
                latency[float(bucket["upper_bound"])] += bucket["cumulative"]
        made[deployment.name] = DeploymentFigures(
            requests=sum(numbers[f"{name}completed"] for name in names),
            errors=sum(numbers[f"{name}5xx"] for name in names),
            active=sum(numbers[f"{name}active"] + numbers[f"{name}pending_active"] for name in names),
            latency=tuple(sorted(latency.items())),
            absent=sum(numbers[f"cluster.{pool}.upstream_cx_none_healthy"] for pool in pools),
            client_errors=max(0, sum(refused)),
        )
    return made
