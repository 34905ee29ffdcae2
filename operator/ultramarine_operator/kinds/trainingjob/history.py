"""History of a TrainingJob: its attempts and their ends, its active time, and its newest checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from ultramarine.resources.trainingjob_status import Attempt, CheckpointStatus, ProgressStatus, TrainingJobStatus
from ultramarine_contract.training_records import CheckpointRecord, Progress, TerminationRecord

from ...runs import JobView, PodView, seconds_between
from ...shared import pods
from ...shared.conditions import LONG_AGO, parse_timestamp, timestamp
from ...shared.statuses import cut
from .manifests import Job

MAX_ATTEMPTS = 20
MAX_URI = 2048
MAX_SECONDS = 10**10  # centuries; more would not fit the status with what is added


def attempts(job: Job, child: JobView | None, status: TrainingJobStatus) -> int:
    """Return the number of attempts: by the Job's counts, or by the pods of node 0 if the Job was made again.

    `status` has the attempts that were seen until now.
    """
    own_pods = child.pods if child else ()
    counted = 0
    if child and job.spec.nodes == 1:
        counted = max(child.failed + child.active + child.succeeded, len(own_pods))
    elif child and own_pods:
        counted = child.failed + 1
    first = {attempt.pod for attempt in status.attempt_history if not attempt.node}
    first |= {pod.name for pod in own_pods if pod.index == 0}  # an attempt whose pod waits has begun too
    return max(counted, len(first), status.attempts)


def history(former: Iterable[Attempt], own_pods: Iterable[PodView], now: datetime) -> list[Attempt]:
    """Return the newest attempts: each pod of node 0 that ran, and of the other nodes those that failed."""
    attempts = {attempt.pod: attempt for attempt in former}
    for pod in own_pods:
        if pod.phase in ("Running", "Succeeded", "Failed") and (pod.index == 0 or pod.has_failed):
            before = attempts.get(pod.name)
            attempts[pod.name] = _attempt(pod, (before.end_time if before else None) or timestamp(now))
    live = {pod.name for pod in own_pods}
    for name, attempt in attempts.items():
        if name not in live and attempt.end_time is None:
            end = max(timestamp(now), attempt.start_time or "")  # its node's clock may be ahead
            gone = {"end_time": end, "reason": "PodGone", "message": "its pod was deleted"}
            attempts[name] = attempt.model_copy(update=gone)
    return list(attempts.values())[-MAX_ATTEMPTS:]  # in the order of the pods: clocks of nodes differ


def _attempt(pod: PodView, observed_end: str) -> Attempt:
    """Return a pod's entry; `observed_end` counts if its containers do not report their end."""
    entry: dict[str, Any] = {"pod": pod.name, "start_time": pod.started}
    if pod.index:
        entry["node"] = pod.index
    if pod.phase != "Running":
        entry["end_time"] = pod.finished or max(observed_end, pod.started or "")
    if pod.has_succeeded:
        entry |= {"reason": "Succeeded", "exit_code": 0}
    if pod.has_failed:
        verdict = pod.verdict
        entry |= {"reason": verdict.reason, "message": verdict.message, "exit_code": verdict.exit_code}
    return Attempt(**cut(Attempt, **entry))


def activity(status: TrainingJobStatus, child: JobView | None, now: datetime) -> None:
    """Write since when it is active, and for how many seconds it was before; unobserved time does not count."""
    since, used = status.active_since, min(status.active_seconds, MAX_SECONDS)
    status.active_since = (child.started if child else "") or None
    if since and not status.active_since:  # suspended, or its Job was deleted
        used += seconds_between(since, timestamp(now))
    if used:
        status.active_seconds = used


def records(own_pods: Iterable[PodView]) -> list[TerminationRecord]:
    """Return the termination messages of the ended pods of node 0, oldest first."""
    records = [pods.record(pod.manifest, pods.TRAINER) for pod in own_pods if pod.index == 0]
    return [record for record in records if record is not None]


def checkpoint(
    former: CheckpointStatus | None, prefix: str, records: list[TerminationRecord], progress: Progress | None
) -> tuple[CheckpointStatus | None, float]:
    """Return the newest complete checkpoint, and the seconds of work that it keeps if a pod has just reported them.

    The command can report one too: a checkpoint that is not below `prefix`, the job's own folder, does not count.
    """

    def own(record: CheckpointRecord | None) -> CheckpointRecord | None:
        is_own = record and record.uri.startswith(prefix) and len(record.uri) <= MAX_URI and _is_time(record.time)
        return record if is_own else None

    # A running pod goes on from what the others kept: its report counts whatever its node's clock says.
    live = own(progress.checkpoint if progress else None)
    newest = live
    for record in (own(record.checkpoint) for record in records):  # the oldest pod first
        if record and (live is None or (record.previous and record.previous.uri == live.uri)):
            newest = record
    if newest is None or (former and not live and newest.time < former.time):
        return former, 0.0
    step = {"step": int(newest.step)} if newest.step >= 0 else {}
    size = max(int(newest.bytes), 0)
    return CheckpointStatus(uri=newest.uri, time=newest.time, bytes=size, **step), newest.productive_seconds


def _is_time(text: str) -> bool:
    return len(text) <= 64 and parse_timestamp(text) != LONG_AGO


def progress(report: Progress) -> ProgressStatus:
    """Return a pod's report as status.progress."""
    names = ("step", "total_steps", "percent", "eta_seconds")
    return ProgressStatus(**{name: value for name in names if (value := getattr(report, name)) >= 0})
