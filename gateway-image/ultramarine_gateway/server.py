"""HTTP server of the agent: versions in use, probes and metrics."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import aiohttp
from aiohttp import web
from msgspec import structs

from ultramarine_gateway import envoy
from ultramarine_gateway.agent import Agent
from ultramarine_gateway.figures import Figures
from ultramarine_gateway.pods.signatures import Signatures


def application(agent: Agent, folder: Path) -> web.Application:
    """Return the application of the agent's own port; it serves no secrets and changes nothing."""
    figures, signatures = Figures(folder), Signatures(agent)
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
        text = (
            (_own(agent) + agent.tokens.metrics()).encode()
            + of_envoy
            + _zero_counters(agent, of_envoy.decode()).encode()
        )
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    made = web.Application()
    made.add_routes([web.get("/routes", routes), web.get("/live", live), web.get("/ready", ready)])
    made.add_routes([web.get("/metrics", metrics)])
    return made


def _own(agent: Agent) -> str:
    report = agent.report().values()
    gauges = {
        "connected": ("Whether Envoy is connected to the agent.", int(agent.connected)),
        "endpoints": ("Endpoints that Envoy routes.", sum(bool(state.version) for state in report)),
        "endpoints_refused": (
            "Endpoints whose newest routes are not in use.",
            sum(bool(state.reason) for state in report),
        ),
    }
    return "".join(
        f"# HELP ultramarine_gateway_{name} {what}\n# TYPE ultramarine_gateway_{name} gauge\n"
        f"ultramarine_gateway_{name} {value}\n"
        for name, (what, value) in gauges.items()
    )


def _zero_counters(agent: Agent, of_envoy: str) -> str:
    """Return request counters of Envoy without requests yet as 0: a series that begins at 1 shows no increase."""
    names = [name for name in agent.report() if agent.routes(name) is not None]
    series = [f'envoy_http_downstream_rq_total{{endpoint="{name}"}}' for name in names]
    series += [f'envoy_http_downstream_rq{{code="5xx",endpoint="{name}"}}' for name in names]
    return "".join(f"{name} 0\n" for name in series if name not in of_envoy)
