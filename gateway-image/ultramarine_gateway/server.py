"""HTTP server of the agent: versions in use, probes and metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import aiohttp
from aiohttp import web
from msgspec import structs
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from ultramarine_gateway import envoy
from ultramarine_gateway.agent import Agent
from ultramarine_gateway.figures import Figures
from ultramarine_gateway.pods.signatures import Signatures


def application(agent: Agent, folder: Path) -> web.Application:
    """Return the application of the agent's own port; it serves no secrets and changes nothing."""
    figures, signatures, registry = Figures(folder), Signatures(agent), CollectorRegistry()
    registry.register(Gauges(agent))
    registry.register(agent.tokens)
    pod = os.environ.get("HOSTNAME", "")

    async def routes(request: web.Request) -> web.Response:
        report, endpoint = agent.report(), request.query.get("endpoint")
        if endpoint is not None:
            report = {endpoint: report[endpoint]} if endpoint in report else {}
            in_use = agent.routes(endpoint)
            if endpoint in report and in_use is not None and request.query.get("figures") != "false":
                counted = await figures.of(in_use) or {}
                own = {
                    name: structs.replace(
                        figures_of, waiting=agent.waiting(endpoint, name), **asdict(agent.agreement(endpoint, name))
                    )
                    for name, figures_of in counted.items()
                }
                report[endpoint] = structs.replace(report[endpoint], figures=own or None)
            if endpoint in report and in_use is not None and request.query.get("signatures") == "true":
                report[endpoint] = structs.replace(report[endpoint], signatures=await signatures.of(in_use))
        tls = bool(agent.seen.authority)
        endpoints = {
            name: structs.replace(state, pod=pod, tls=tls, since=agent.since(name)).document()
            for name, state in report.items()
        }
        return web.json_response({"connected": agent.connected, "endpoints": endpoints})

    async def live(_: web.Request) -> web.Response:
        return web.Response()

    async def ready(_: web.Request) -> web.Response:
        if agent.connected and agent.settled:
            return web.Response()
        waiting = "Envoy does not have all of its routes yet" if agent.connected else "Envoy is not connected"
        return web.Response(status=503, text=waiting)

    async def metrics(_: web.Request) -> web.Response:
        try:
            of_envoy = await envoy.metrics(folder)
        except (OSError, aiohttp.ClientError, TimeoutError):
            of_envoy = b""
        text = generate_latest(registry) + of_envoy + _zero_counters(agent, of_envoy.decode()).encode()
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    made = web.Application()
    made.add_routes([web.get("/routes", routes), web.get("/live", live), web.get("/ready", ready)])
    made.add_routes([web.get("/metrics", metrics)])
    return made


class Gauges(Collector):
    """Gauges, taken from the agent at the moment of the scrape."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        """Yield every gauge."""
        report = self._agent.report().values()
        in_use, refused = sum(bool(state.version) for state in report), sum(bool(state.reason) for state in report)
        yield GaugeMetricFamily(
            "ultramarine_gateway_connected", "1 if Envoy is connected to the agent.", int(self._agent.connected)
        )
        yield GaugeMetricFamily("ultramarine_gateway_endpoints", "Endpoints that Envoy routes.", in_use)
        yield GaugeMetricFamily(
            "ultramarine_gateway_endpoints_refused", "Endpoints whose newest routes are not in use.", refused
        )


def _zero_counters(agent: Agent, of_envoy: str) -> str:
    """Return request counters of Envoy without requests yet as 0: a series that begins at 1 shows no increase.

    They continue families of Envoy's own text, whose heads may come once only.
    """
    names = [name for name in agent.report() if agent.routes(name) is not None]
    series = [f'envoy_http_downstream_rq_total{{endpoint="{name}"}}' for name in names]
    series += [f'envoy_http_downstream_rq{{code="5xx",endpoint="{name}"}}' for name in names]
    return "".join(f"{name} 0\n" for name in series if name not in of_envoy)
