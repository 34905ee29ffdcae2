"""Pods that wait: for how long that is borne, and what is said when it is not any more."""

from __future__ import annotations

from datetime import datetime, timedelta

from ...shared import pods
from ...shared.meta import Manifest
from .manifests import Job

NO_IMAGE = timedelta(minutes=2)  # a registry that is away for a moment is no reason to give up
NEVER = {"InvalidImageName", "ErrImageNeverPull"}  # what no waiting changes


def hopeless(job: Job, own_pods: list[Manifest], now: datetime) -> pods.Verdict | None:
    """Why the job fails for a pod that has waited too long, or nothing."""
    if job.spec.suspend:
        return None
    for pod in _waiting(own_pods):
        name, waited, trouble = pod["metadata"]["name"], now - pods.created(pod), pods.trouble(pod)
        if trouble and (patience := _patience(trouble.reason)) is not None and waited >= patience:
            hint = "correct spec.image, and run it again as a new TrainingJob"
            return pods.Verdict(trouble.reason, name, None, trouble.message, "", hint)
        left_over = left(job, waited)
        if left_over is not None and left_over <= timedelta():
            message = trouble.message if trouble else f"pod {name} has not started"
            reason = trouble.reason if trouble else "PendingDeadlineExceeded"
            return pods.Verdict(reason, name, None, message, "", deadline_hint(job))
    return None


def next_look(job: Job, own_pods: list[Manifest], now: datetime) -> timedelta | None:
    """In how long a waiting pod may have become hopeless."""
    looks: list[timedelta] = []
    for pod in _waiting(own_pods):
        waited, trouble = now - pods.created(pod), pods.trouble(pod)
        if trouble and (patience := _patience(trouble.reason)) is not None:
            looks.append(patience - waited)
        if (left_over := left(job, waited)) is not None:
            looks.append(left_over)
    return max(min(looks), timedelta()) if looks and not job.spec.suspend else None


def left(job: Job, waited: timedelta) -> timedelta | None:
    """How long of the spec's pendingDeadlineSeconds is left; None where it has none."""
    seconds = job.spec.pending_deadline_seconds
    return None if seconds is None else timedelta(seconds=seconds) - waited


def deadline_hint(job: Job) -> str:
    """What to do about a job that has waited too long."""
    seconds = job.spec.pending_deadline_seconds
    return f"it waited for spec.pendingDeadlineSeconds={seconds}; allow more, or see to the cause"


def _waiting(own_pods: list[Manifest]) -> list[Manifest]:
    return [pod for pod in own_pods if (pod.get("status") or {}).get("phase") == "Pending"]


def _patience(reason: str) -> timedelta | None:
    if reason in NEVER:
        return timedelta()
    return NO_IMAGE if reason in pods.IMAGE_REASONS else None
