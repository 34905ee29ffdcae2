"""The status of a TrainingJob, read off its Job, its pods and what these have reported."""

from __future__ import annotations

from datetime import datetime

from ultramarine.resources.trainingjob_status import (
    Goodput,
    Logs,
    Metrics,
    ProgressStatus,
    TrainingJobStatus,
)
from ultramarine_contract import common as contract
from ultramarine_contract.score import score
from ultramarine_contract.training_records import Progress, TerminationRecord

from ... import runs
from ...runs import JobView, PodView, waiting
from ...shared import pods
from ...shared.conditions import Condition, health
from ...shared.plan import Platform, Seen
from ...shared.states import State
from ...training.environment import pin_of
from ...training.pods import mlflow, source_digest
from ...training.provenance import add_fetched, ran, use
from . import history
from .manifests import Job, output_prefix


def running(job: Job, running: list[PodView]) -> State:
    """State of a job whose pods run the command."""
    newest = next((pod for pod in reversed(running) if pod.index == 0), running[-1])
    message = f"pod {newest.name} runs on node {newest.node}"
    if job.spec.nodes > 1:
        count = len({pod.index for pod in running})
        message = f"{count} of {job.spec.nodes} pods run; {message}"
    return "Running", (Condition("Running", True, "PodRunning", message), *health(done=False, progress=message))


def kept(job: Job, platform: Platform) -> TrainingJobStatus:
    """Return what earlier passes wrote, and what is clear from the beginning."""
    status = runs.former(job, TrainingJobStatus, without={"imageErrorSince"})
    ran(status, source_digest=source_digest(job), requested_by=platform.requester(job.manifest))
    if (pin := pin_of(job)) is not None:
        use(status, pin)
    return status


def gathered(job: Job, child: JobView | None, seen: Seen, now: datetime) -> TrainingJobStatus:
    """Return what earlier passes wrote, with what can be read off the Job, its pods and their reports."""
    status = kept(job, seen.platform)
    own_pods = child.pods if child else ()
    history.activity(status, child, now)
    status.attempt_history = history.history(status.attempt_history, own_pods, now)
    # Without any it is left out: a job that was held before its first pod would differ from one that never was.
    if attempts := history.attempts(job, child, status):
        status.attempts = attempts
    if own_pods:
        newest = ([pod for pod in own_pods if pod.index == 0] or own_pods)[-1]
        status.pod = newest.name
        starts = [pod.started for pod in own_pods if pod.started]
        if starts and status.start_time is None:
            status.start_time = min(starts)
        ran(status, image_digest=newest.image_digest(pods.TRAINER))
    former_error = job.status.get("imageErrorSince")
    status.image_error_since = waiting.image_error_since(former_error, own_pods, now)
    prefix, records = output_prefix(job, seen.platform), history.records(own_pods)
    for record in records:
        add_record(status, record, prefix)
    if status.attempt_history:
        status.logs = Logs(uri=f"{prefix}{contract.LOGS_NAME}/")
    status.last_checkpoint, worked = history.checkpoint(status.last_checkpoint, prefix, records, seen.report)
    if worked:
        status.goodput = (status.goodput or Goodput()).model_copy(update={"productive_seconds": int(worked)})
    run_ids = [*(record.mlflow_run for record in records), seen.report.mlflow_run if seen.report else ""]
    status.mlflow = mlflow(status.mlflow, seen.platform, run_ids)
    if seen.report is not None:
        _add_progress(status, seen.report)
    return status


def add_record(status: TrainingJobStatus, record: TerminationRecord, prefix: str) -> None:
    """Add a trainer's termination record: the code and the data that it fetched, and metrics.

    What it says it has stored must lie below `prefix`.
    """
    _add_metrics(status, dict(record.metrics))
    folder = f"{prefix}{contract.METRICS_NAME}/"
    if record.series.startswith(folder):
        status.metrics = (status.metrics or Metrics()).model_copy(update={"uri": folder})
    add_fetched(status, record.source, record.inputs)
    if record.step >= 0:
        progress = history.progress(Progress(record.step, record.total_steps))
        former = status.progress or ProgressStatus()
        status.progress = former.model_copy(update=progress.model_dump(exclude_unset=True))


def _add_metrics(status: TrainingJobStatus, metrics: dict[str, float]) -> None:
    """Add the newest values of metrics."""
    fitting = [(name, value) for name, value in metrics.items() if len(name) <= contract.METRIC_NAME_LIMIT]
    if latest := dict(fitting[: contract.METRIC_LIMIT]):
        status.metrics = (status.metrics or Metrics()).model_copy(update={"latest": latest})
        status.score = score(latest)


def _add_progress(status: TrainingJobStatus, progress: Progress) -> None:
    """Add what a pod has posted since it started."""
    _add_metrics(status, dict(progress.metrics))
    status.progress = history.progress(progress)
    if status.progress.percent is not None:
        status.percent = f"{status.progress.percent}%"


def end(status: TrainingJobStatus, child: JobView | None, now: datetime) -> None:
    """Add the time of the end, by the Job's own clock, and how much of the active time was productive."""
    # A pod that was never seen began not long after its Job, which began when it was made.
    made = str(child.manifest["metadata"].get("creationTimestamp") or "") if child else ""
    runs.end(status, child, now, start=made)
    active = status.active_seconds + runs.seconds_between(status.active_since, status.completion_time or "")
    productive = min(status.goodput.productive_seconds if status.goodput else 0, active)
    status.active_since, status.active_seconds = None, active
    status.goodput = Goodput(productive_seconds=productive, lost_seconds=active - productive)
