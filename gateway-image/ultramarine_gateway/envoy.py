"""The Envoy beside the agent: its start, its statistics and its drain."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import aiohttp

from ultramarine_gateway.config.bootstrap import ADMIN_SOCKET, bootstrap
from ultramarine_gateway.config.forwards import Forward

# Requests on a changed listener may go on for this long; clients that send another one are asked to reconnect.
DRAIN_SECONDS = 600


def start(folder: Path, concurrency: int, forwards: Sequence[Forward]) -> NoReturn:
    """Become Envoy, with `concurrency` threads that answer requests, and with forwarded ports."""
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "bootstrap.json"
    configuration.write_text(json.dumps(bootstrap(str(folder), forwards)))
    (folder / ADMIN_SOCKET).unlink(missing_ok=True)
    options = ["--concurrency", str(concurrency), "--drain-time-s", str(DRAIN_SECONDS), "--drain-strategy", "immediate"]
    # One JSON object a line, as in all logs of the platform.
    options += [
        "--log-level",
        "warn",
        "--log-format",
        '{"time":"%Y-%m-%dT%T.%eZ","level":"%l","logger":"envoy","message":"%j"}',
    ]
    os.execvp("envoy", ["envoy", "-c", str(configuration), "--disable-hot-restart", *options])


async def drain(folder: Path, least: float, most: float) -> None:
    """Ask all clients to reconnect elsewhere; return when no request was active for 2 s, or after `most` seconds.

    During the first `least` seconds new clients may come, until every proxy has noticed that this pod ends.
    """
    async with _admin(folder) as session:
        async with session.post("http://envoy/drain_listeners?graceful&skip_exit") as answer:
            answer.raise_for_status()
        quiet = 0
        for second in range(round(most)):
            await asyncio.sleep(1)
            quiet = 0 if await _active(session) else quiet + 1
            if second + 1 >= least and quiet >= 2:
                return


async def metrics(folder: Path) -> bytes:
    """Return Envoy's statistics in the text format of Prometheus. Raises OSError if Envoy does not answer."""
    async with _admin(folder) as session, session.get("http://envoy/stats/prometheus?usedonly") as answer:
        answer.raise_for_status()
        return await answer.read()


async def cluster_stats(folder: Path, endpoint: str) -> list[Any]:
    """Return Envoy's statistics of the requests to an endpoint's clusters.

    Raises OSError if Envoy does not answer, and aiohttp.ClientError for an error status.
    """
    counted = r"rq_(completed|[45]xx|401|429|active|pending_active|time)|cx_none_healthy"
    name = rf"^cluster\.{endpoint}/[^/.]+/(http|grpc)\.upstream_({counted})$"
    query = {"filter": name, "format": "json", "histogram_buckets": "cumulative"}
    async with _admin(folder) as session, session.get("http://envoy/stats", params=query) as answer:
        answer.raise_for_status()
        stats: list[Any] = (await answer.json(content_type=None))["stats"]
        return stats


async def _active(session: aiohttp.ClientSession) -> int:
    query = {"filter": r"^http\.[^-.]+\.downstream_rq_active$", "format": "json"}
    async with session.get("http://envoy/stats", params=query) as answer:
        stats = (await answer.json(content_type=None))["stats"]
    return sum(stat.get("value", 0) for stat in stats if not stat["name"].startswith("http.admin."))


def _admin(folder: Path) -> aiohttp.ClientSession:
    connector = aiohttp.UnixConnector(path=str(folder / ADMIN_SOCKET))
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10))
