"""Patience with pods that wait: how long a run waits for them, and what its status says meanwhile."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ultramarine_contract.errors import counted

from ..shared.conditions import parse_timestamp, timestamp
from ..shared.plan import Seen
from ..shared.pods import IMAGE_REASONS, Trouble, Verdict
from ..shared.questions import AskRefusal, Refusal
from ..shared.refusals import refused, refused_object
from .views import JobView, PodView

MAX_NO_IMAGE = timedelta(minutes=2)  # a registry may lag behind a push
MAX_NO_REGISTRY = timedelta(minutes=10)  # a registry that is away or busy says nothing about the image
NO_SUCH_IMAGE = re.compile(r"not found|manifest unknown|does not exist|unauthorized|denied|forbidden", re.IGNORECASE)
MAX_NO_POD = timedelta(seconds=30)  # for a Job; then its status reports it
# A question why a Job has no pod is repeated: no watch reports the answer, and the Job controller tries as often.
ASK_AGAIN = timedelta(seconds=60)
MAX_BACK_OFF = timedelta(minutes=10)  # of Kubernetes, before it makes another pod for a Job
NEVER = {"InvalidImageName", "ErrImageNeverPull"}  # waiting does not change these


def image_error_since(former: str | None, pods: Sequence[PodView], now: datetime) -> str | None:
    """Return the time since which a pod cannot pull its image; None if all have theirs.

    `former` is that time in the former status.
    """
    troubles = (pod.trouble for pod in pods if pod.is_waiting)
    if not any(trouble and trouble.reason in IMAGE_REASONS for trouble in troubles):
        return None
    return former or timestamp(now)


@dataclass(frozen=True)
class Patience:
    """Limits of the wait for pods that have not started.

    `limit` is the spec's pendingDeadlineSeconds, if it has any. `image_error` is the time since which a pod has no
    image. `retry_hint` says how to try again with another image.
    """

    pods: Sequence[PodView]
    limit: int | None
    image_error: str | None
    now: datetime
    retry_hint: str

    def hopeless(self) -> Verdict | None:
        """Return why the run fails for a pod that has waited too long; None while it waits on."""
        for pod in self._waiting():
            trouble = pod.trouble
            if trouble and self._for_image(trouble) == timedelta():
                return Verdict(trouble.reason, pod.name, None, trouble.message, "", self.retry_hint)
            if left(self.limit, self.now - pod.created) == timedelta():
                message = trouble.message if trouble else f"pod {pod.name} has not started"
                reason = trouble.reason if trouble else "PendingDeadlineExceeded"
                return Verdict(reason, pod.name, None, message, "", deadline_hint(self.limit))
        return None

    def next_look(self) -> timedelta | None:
        """Return the time until a waiting pod may have become hopeless."""
        looks: list[timedelta | None] = []
        for pod in self._waiting():
            trouble = pod.trouble
            looks.append(self._for_image(trouble) if trouble else None)
            looks.append(left(self.limit, self.now - pod.created))
        return min((look for look in looks if look is not None), default=None)

    def _waiting(self) -> list[PodView]:
        return [pod for pod in self.pods if pod.is_waiting]

    def _for_image(self, trouble: Trouble) -> timedelta | None:
        """Return the rest of the patience with an image; None if the trouble is not about an image."""
        if trouble.reason not in IMAGE_REASONS:
            return None
        if trouble.reason in NEVER or self.image_error is None:
            return timedelta()
        patience = MAX_NO_IMAGE if NO_SUCH_IMAGE.search(trouble.message) else MAX_NO_REGISTRY
        if self.limit is not None:
            patience = timedelta(seconds=self.limit)
        return max(patience - (self.now - parse_timestamp(self.image_error)), timedelta())


def without_pods(job: JobView, now: datetime) -> timedelta | None:
    """Return for how long a started Job has had no pod; None if it needs none."""
    if not job.first_started or job.active or job.complete:
        return None
    return now - parse_timestamp(job.first_started)


def lacks_pods(job: JobView) -> bool:
    """True if a Job that its controller has started has fewer pods than it asks for."""
    if job.is_suspended or not job.first_started or job.has_ended:
        return False
    return job.active + job.succeeded < int(job.manifest["spec"].get("parallelism") or 1)


def question(job: JobView) -> AskRefusal:
    """Return the question why a Job has no pod."""
    return AskRefusal(job.namespace, job.uid)


def refusal(job: JobView, seen: Seen) -> str:
    """Return why the API server refuses the pod that a Job lacks; empty if one was made since."""
    answer = seen.answers.get(question(job)) if lacks_pods(job) else None
    if not isinstance(answer, Refusal) or not answer.message:
        return ""
    newest = max((str(pod.manifest["metadata"]["creationTimestamp"]) for pod in job.pods), default="")
    if answer.time < newest:
        return ""
    holding = [pod for pod in job.pods if pod.phase in ("Pending", "Running")]
    if holding and "exceeded quota: " in answer.message:
        held = f"{counted(len(holding), 'pod')} of this job, which hold a part of the quota, wait for the rest"
        remedy = "ask for fewer nodes or less for each, or set pendingDeadlineSeconds to end such a wait"
        return f"{refused_object(answer.message)}; {held}: {remedy}"
    return refused(answer.message)


def sooner(look: timedelta | None, refusal: str) -> timedelta | None:
    """Return when to look again: soon while pods are refused, since no watch reports that they would be admitted."""
    return min(look or ASK_AGAIN, ASK_AGAIN) if refusal else look


def no_pod(job: JobView, refusal: str = "") -> Trouble:
    """Return why a started Job has had no pod for a while, or at once if that is known."""
    if refusal:
        return Trouble("NoPod", f"Kubernetes makes no pod for Job {job.name}: {refusal}")
    command = f"kubectl -n {job.namespace} describe job {job.name}"
    why = f"{command} says why (a quota, a limit range, an admission policy)"
    if not job.failed:
        return Trouble("NoPod", f"Kubernetes makes no pod for Job {job.name}; {why}")
    lost = "a pod" if job.failed == 1 else f"{job.failed} pods"
    waits = f"{lost} of Job {job.name} failed or went, and Kubernetes waits before it makes the next one"
    return Trouble("Retrying", f"{waits}, longer each time, ten minutes at most; if none comes then, {why}")


def left(limit: int | None, waited: timedelta) -> timedelta | None:
    """Return the rest of a spec's pendingDeadlineSeconds; None if it has none."""
    return None if limit is None else max(timedelta(seconds=limit) - waited, timedelta())


def deadline_hint(limit: int | None) -> str:
    """Return the remedy for a run that has waited too long."""
    return f"it waited for spec.pendingDeadlineSeconds={limit}; allow more, or remove the cause"
