"""What runs, since when, whether it is well, and where things are."""

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
    """The table of one cluster, and whether all of it is well."""
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
    lines = [f"cluster {state.name} ({cluster.tier}): {'well' if well else 'not well; `up` repairs it'}", ""]
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
    """The logs of the named components, of all by default."""
    if not state.logs.is_dir():
        raise ClusterError(f"there are no logs in {state.logs}", "bring the cluster up: ultramarine-cluster up")
    found = sorted(state.logs.glob("*.log"))
    if not names:
        return found
    known = {path.stem: path for path in found}
    for name in names:
        if name not in known:
            raise ClusterError(f"there is no log of {name}", f"choose among {', '.join(known)}")
    return [known[name] for name in names]
