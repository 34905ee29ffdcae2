"""Helpers of the benchmarks of sweeps: the platform, the results of a sweep, and checks of them."""

from __future__ import annotations

import json
import os
import platform as machine
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conftest import Platform, restricted
from prometheus_client.parser import text_string_to_metric_families
from ultramarine_cluster import cluster, target
from ultramarine_cluster.paths import REPOSITORY
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import SweepTask
from ultramarine_sweep.state import journal
from ultramarine_sweep.state.trial import SUCCEEDED, Trial
from ultramarine_sweep.state.trials import Trials

NAMESPACE = "ultramarine-sweeps"
WRITES = ("create", "update", "patch", "delete", "deletecollection")
REQUESTS = ("POST", "PUT", "PATCH", "APPLY", "DELETE")  # the same in the API server's metrics
KINDS = "trainingjobs,jobs,pods,services,configmaps,secrets,events"
PATIENCE = 3600.0  # seconds that a sweep may take
LOSS = {"metric": "loss", "goal": "minimize"}
Manifest = dict[str, Any]


@contextmanager
def installed() -> Iterator[tuple[Platform, Path]]:
    """Yield the chart in a namespace that is removed after success, and the API server's audit log."""
    running = cluster.up()
    to = target.embedded(running)
    restricted(to, NAMESPACE)
    to.run("apply", "--server-side", "--force-conflicts", "--field-manager=helm", "-f", str(REPOSITORY / "crds"))
    target.install(to, NAMESPACE, "crds.install=false", "gateway.enabled=false")
    yield Platform(to, NAMESPACE), running.audit_log
    to.run("delete", "namespace", NAMESPACE, "--wait=true", "--timeout=120s")


def here(on: Platform) -> str:
    """Return the machine and the versions, for the reader of the table."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    server = json.loads(on.target.run("version", "-o", "json"))["serverVersion"]["gitVersion"]
    parts = [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"{model[1] if model else machine.machine()}, {os.cpu_count()} cores",
        f"Linux {machine.release()}",
        f"Python {machine.python_version()}",
        f"Kubernetes {server}",
        f"scikit-learn {version('scikit-learn')}",
        f"load {os.getloadavg()[0]:.1f} before",
    ]
    return ", ".join(parts)


def sleeping(name: str, trials: int, parallel: int, seconds: float = 0.0, **spec: Any) -> Manifest:
    """Return a sweep whose trials sleep and then print the distance of their parameter from 0."""
    nap = f"sleep {seconds:g}; " if seconds else ""
    # Through a shell, as users do: starting one more process is part of a trial.
    command = ["sh", "-c", f"{nap}echo loss=$(params.x)"]
    return {
        "kind": "Sweep",
        "metadata": {"name": name},
        "spec": {
            "objective": LOSS,
            "algorithm": {"type": "random", "seed": 7},
            "searchSpace": {"x": {"uniform": {"min": 0, "max": 10}}},
            "limits": {"maxTrials": trials, "parallelTrials": parallel},
            "trialTemplate": {"spec": {"command": command, "resources": {"requests": {"cpu": "100m"}}}},
            **spec,
        },
    }


@dataclass(frozen=True)
class Came:
    """Outcome of a sweep: seconds from the apply to its state, its last status, and its trials by number."""

    took: float
    status: Manifest
    trials: dict[int, Trial]

    @property
    def span(self) -> float:
        """Return the seconds from the start of the first trial to the end of the last, by the sweep's clock."""
        ran = self.trials.values()
        return max(trial.began + trial.seconds for trial in ran) - min(trial.began for trial in ran)

    @property
    def repeated(self) -> int:
        """Return the number of repeated trials."""
        return sum(trial.attempt > 1 for trial in self.trials.values())


def run(on: Platform, manifest: Manifest) -> Came:
    """Apply a sweep, wait until it has succeeded, and read its trials from the journal."""
    name = manifest["metadata"]["name"]
    on.delete("sw", name)
    began = time.monotonic()
    on.apply(manifest)
    status = on.wait("sw", name, lambda s: s.get("state") in ("Succeeded", "Failed"), PATIENCE)
    took = time.monotonic() - began
    assert status["state"] == "Succeeded", status
    return Came(took, status, trials_of(on, status, manifest["spec"]["objective"]))


@contextmanager
def stored(on: Platform) -> Iterator[Storage]:
    """Return the release's object storage, with administrator's rights."""
    secret = on.target.secret(on.namespace, "ultramarine-storage-accounts")["root"]
    os.environ.update(AWS_ACCESS_KEY_ID="root", AWS_SECRET_ACCESS_KEY=secret)
    with on.target.reach(on.namespace, "ultramarine-storage", 7070) as url:
        yield Storage(url, "us-east-1")


def trials_of(on: Platform, status: Manifest, objective: Manifest) -> dict[int, Trial]:
    """Return the ended trials of the journal in the bucket."""
    uri = status["journal"]["uri"]
    with stored(on) as storage:
        records = journal.read(storage, uri)
    return Trials(SweepTask("", "", uri, (objective,), {}), records).finished


def check(came: Came, count: int) -> None:
    """Check that each trial of a `sleeping` sweep has succeeded once with its value, and that the best are right.

    Raises AssertionError.
    """
    assert sorted(came.trials) == list(range(count)), f"{len(came.trials)} trials, not {count}"
    odd = [n for n, trial in came.trials.items() if (trial.outcome, trial.values) != (SUCCEEDED, (trial.params["x"],))]
    assert not odd, f"trials {odd[:10]} have not told their own value"
    assert came.status["trials"]["succeeded"] == count, came.status["trials"]
    values = sorted(trial.values[0] for trial in came.trials.values())
    assert [best["values"]["loss"] for best in came.status["best"]] == values[:10], came.status["best"]


def write_requests(audit: Path, since: datetime) -> Counter[str]:
    """Return the operator's successful writes in this namespace since then, by verb and resource, except Leases.

    Kubernetes' own controllers are not in that log.
    """
    counts: Counter[str] = Counter()
    with audit.open() as log:
        for event in map(json.loads, filter(lambda line: line.endswith("\n"), log)):
            what = event.get("objectRef", {})
            code = event.get("responseStatus", {}).get("code", 500)
            if what.get("namespace") != NAMESPACE or what.get("resource") == "leases" or code >= 300:
                continue
            if event["verb"] in WRITES and datetime.fromisoformat(event["requestReceivedTimestamp"]) >= since:
                counts["/".join(filter(None, (f"{event['verb']} {what['resource']}", what.get("subresource"))))] += 1
    return counts


def all_writes(on: Platform) -> Counter[str]:
    """Return the number of writes by all clients of the API server, by resource, from its metrics.

    Periodic writes (Leases, the node's status) and requests that write nothing (reviews, tokens) are left out.
    """
    counts: Counter[str] = Counter()
    for family in text_string_to_metric_families(on.target.run("get", "--raw", "/metrics")):
        for sample in family.samples:
            what = sample.labels
            if sample.name != "apiserver_request_total" or what["verb"] not in REQUESTS or what["scope"] != "resource":
                continue
            resource = what["resource"]
            left_out = resource in ("leases", "nodes") or resource.endswith("reviews") or what["subresource"] == "token"
            if what["code"].startswith("2") and not left_out:
                counts[resource] += int(sample.value)
    return counts


def objects(on: Platform) -> dict[str, str]:
    """Return the kinds of all objects that a sweep could have caused, by their uids."""
    return {object["metadata"]["uid"]: object["kind"] for object in on.get(KINDS)}
