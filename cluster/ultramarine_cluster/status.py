"""The state of a cluster: its components, their health, and its folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from subprocess import CalledProcessError

from . import addons, network, probes, process, programs
from .cluster import find
from .console import minutes
from .errors import ClusterError
from .paths import State, cache


def show(state: State) -> tuple[str, bool]:
    """Return the table of a cluster, and True if all of it is healthy."""
    cluster = find(state.name)
    rows = [("COMPONENT", "PID", "UP FOR", "HEALTH")]
    well = True
    for name, ask in probes.of(state, network.chosen_ports(state), cluster.tier).items():
        running = process.recorded(state, name)
        why = ask() if running else "not running"
        well &= not why
        rows.append(
            (
                name,
                str(running.pid) if running else "-",
                minutes(running.since()) if running else "-",
                why or "ok",
            )
        )
    facts = [("api", cluster.url), ("kubernetes", _version(state))]
    if cluster.tier == "full":
        node = addons.node_state(state)
        well &= node == "Ready"
        facts += [("node", f"{network.NODE_NAME} {network.NODE_ADDRESS}: {node}"), ("pods", _pods(state))]
    facts += [
        ("kubeconfig", str(state.kubeconfig)),
        ("state", str(state.root)),
        ("logs", str(state.logs)),
        ("programs", str(programs.folder())),
        ("cache", str(cache())),
    ]
    lines = [f"cluster {state.name} ({cluster.tier}): {'healthy' if well else 'not healthy; `up` repairs it'}", ""]
    lines += [*_aligned(rows), "", *_aligned(facts)]
    return "\n".join(lines), well


def _version(state: State) -> str:
    try:
        return str(json.loads(addons.kubectl(state, "get", "--raw", "/version"))["gitVersion"])
    except (CalledProcessError, ValueError):
        return "unknown, the API server does not answer"


def _pods(state: State) -> str:
    try:
        items = json.loads(addons.kubectl(state, "get", "--raw", "/api/v1/pods"))["items"]
    except (CalledProcessError, ValueError):
        return "unknown"
    running = sum(1 for pod in items if pod["status"]["phase"] == "Running")
    return f"{running} running of {len(items)}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def log_files(state: State, names: Sequence[str]) -> list[Path]:
    """Return the logs of the named components, of all by default."""
    if not state.logs.is_dir():
        raise ClusterError(f"no logs exist in {state.logs}", "start the cluster: ultramarine-cluster up")
    files = sorted(state.logs.glob("*.log"))
    if not names:
        return files
    by_name = {path.stem: path for path in files}
    for name in names:
        if name not in by_name:
            raise ClusterError(f"no log of {name} exists", f"choose among {', '.join(by_name)}")
    return [by_name[name] for name in names]
