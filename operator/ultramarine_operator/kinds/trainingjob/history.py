"""What a TrainingJob remembers of its attempts: who ran and how it ended, for how long, and what is kept of it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from ultramarine_contract.meta import Manifest
from ultramarine_contract.training_records import CheckpointRecord, Progress, TerminationRecord

from ...shared import pods
from ...shared.conditions import LONG_AGO, is_true, parse_timestamp, timestamp
from .manifests import Job

MAX_ATTEMPTS = 20
MAX_MESSAGE = 512
MAX_URI = 2048
MAX_SECONDS = 10**10  # centuries; more would not fit the status with what is added


def place(pod: Manifest) -> tuple[datetime, bool, str]:
    """Where a pod stands among those of its job, the oldest first."""
    # Of two that were made in one second, the one that has not failed took the other's place.
    return pods.created(pod), (pod.get("status") or {}).get("phase") != "Failed", str(pod["metadata"]["name"])


def attempts(job: Job, child: Manifest | None, own_pods: list[Manifest], history: list[Manifest]) -> int:
    """How often it was begun: by its Job's counts, or by the pods of node 0 where the Job was made anew."""
    counts = (child or {}).get("status") or {}
    failed = int(counts.get("failed") or 0)
    if job.spec.nodes == 1:
        counted = max(failed + int(counts.get("active") or 0) + int(counts.get("succeeded") or 0), len(own_pods))
    else:
        counted = failed + 1 if own_pods else 0
    first = {entry["pod"] for entry in history if not entry.get("node")}
    first |= {pod["metadata"]["name"] for pod in own_pods if pods.node_index(pod) == 0}  # one that waits is begun too
    return max(counted, len(first), int(job.status.get("attempts", 0)))


def history(job: Job, own_pods: list[Manifest], now: datetime) -> list[Manifest]:
    """The newest attempts: each pod of node 0 that ran, and of the other nodes those that failed."""
    known: dict[str, Manifest] = {entry["pod"]: entry for entry in job.status.get("attemptHistory") or []}
    for pod in own_pods:
        name, phase = pod["metadata"]["name"], (pod.get("status") or {}).get("phase")
        if phase in ("Running", "Succeeded", "Failed") and (pods.node_index(pod) == 0 or phase == "Failed"):
            known[name] = _attempt(pod, phase, str(known.get(name, {}).get("endTime") or timestamp(now)))
    live = {pod["metadata"]["name"] for pod in own_pods}
    for name, entry in known.items():
        if name not in live and "endTime" not in entry:
            end = max(timestamp(now), str(entry.get("startTime", "")))  # its node's clock may be ahead of ours
            gone = {"endTime": end, "reason": "PodGone", "message": "its pod was deleted"}
            known[name] = entry | gone
    return list(known.values())[-MAX_ATTEMPTS:]  # as they came: own_pods are in order, and nodes' clocks are not


def _attempt(pod: Manifest, phase: str, ended: str) -> Manifest:
    """One pod's line; `ended` is when it was seen to have ended, where its containers do not tell."""
    entry: Manifest = {"pod": pod["metadata"]["name"]}
    if index := pods.node_index(pod):
        entry["node"] = index
    if start := pods.started(pod):
        entry["startTime"] = start
    if phase == "Running":
        return entry
    entry["endTime"] = pods.finished(pod) or max(ended, entry.get("startTime", ""))
    if phase == "Succeeded":
        return entry | {"reason": "Succeeded", "exitCode": 0}
    verdict = pods.verdict(pod)
    code = {"exitCode": verdict.exit_code} if verdict.exit_code is not None else {}
    return entry | code | {"reason": verdict.reason[:256], "message": verdict.message[:MAX_MESSAGE]}


def began(child: Manifest | None) -> str:
    """Since when a Job is active, or nothing: before Kubernetes 1.35 a suspended one keeps the time of its start."""
    status = (child or {}).get("status") or {}
    return "" if is_true(status, "Suspended") else str(status.get("startTime") or "")


def activity(job: Job, child: Manifest | None, now: datetime) -> Manifest:
    """Since when it is active, and how many seconds it was before; what nobody saw of it is not counted."""
    used, since = min(int(job.status.get("activeSeconds", 0)), MAX_SECONDS), job.status.get("activeSince")
    if started := began(child):
        return {"activeSeconds": used or None, "activeSince": started}
    if since:  # suspended, or its Job was deleted
        used += max(int((now - parse_timestamp(since)).total_seconds()), 0)
    return {"activeSeconds": used or None}


def last_records(own_pods: list[Manifest]) -> list[TerminationRecord]:
    """What the ended pods of node 0 said, oldest first."""
    told = [pods.record(pod, pods.TRAINER) for pod in own_pods if pods.node_index(pod) == 0]
    return [record for record in told if record is not None]


def checkpoint(
    job: Job, prefix: str, records: list[TerminationRecord], progress: Progress | None
) -> tuple[Manifest | None, float]:
    """The newest complete checkpoint, and the seconds of work that it keeps where a pod has just told them.

    The command can tell one too: what is not below `prefix`, the job's own folder, is not believed.
    """

    def own(one: CheckpointRecord | None) -> CheckpointRecord | None:
        return one if one and one.uri.startswith(prefix) and len(one.uri) <= MAX_URI and _is_time(one.time) else None

    # Who runs goes on from what the others kept: it is believed whatever its node's clock says.
    live = own(progress.checkpoint if progress else None)
    newest = live
    for one in (own(record.checkpoint) for record in records):  # the oldest pod first
        if one and (live is None or (one.previous and one.previous.uri == live.uri)):
            newest = one
    known: Manifest | None = job.status.get("lastCheckpoint")
    if newest is None or (known and not live and newest.time < known.get("time", "")):
        return known, 0.0
    found = {"uri": newest.uri, "time": newest.time, "bytes": max(int(newest.bytes), 0)}
    return (found | {"step": int(newest.step)} if newest.step >= 0 else found), newest.productive_seconds


def _is_time(text: str) -> bool:
    return len(text) <= 64 and parse_timestamp(text) != LONG_AGO


def progress(told: Progress) -> Manifest:
    """What a pod posted, as status.progress."""
    names = {"step": "step", "total_steps": "totalSteps", "percent": "percent", "eta_seconds": "etaSeconds"}
    return {names[name]: value for name, value in asdict(told).items() if name in names and value >= 0}
