"""Pods that wait: for how long that is borne, and what is said when it is not any more."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from ultramarine_contract.meta import Manifest

from . import pods
from .conditions import is_true, parse_timestamp, timestamp
from .plan import Seen
from .quantities import amount
from .questions import AskRefusal, Refusal

NO_IMAGE = timedelta(minutes=2)  # a registry can be a moment behind
NO_REGISTRY = timedelta(minutes=10)  # one that is away or busy says nothing of the image
NO_SUCH_IMAGE = re.compile(r"not found|manifest unknown|does not exist|unauthorized|denied|forbidden", re.IGNORECASE)
NO_POD = timedelta(seconds=30)  # for which a Job may have none before that is told
ASK_AGAIN = timedelta(seconds=60)  # why it has none, which no watch tells; the Job controller tries as often
# What names the thing that was refused, which is another pod each time.
_REFUSED = re.compile(
    r'^(\(combined from similar events\): )?(Error creating: )?([a-z.]+ "[^"]*" is forbidden: )?', re.ASCII
)
_ASKED, _LIMITED = re.compile(r"requested: (.*?), used: "), re.compile(r"limited: (.*)$")
_AMOUNT = re.compile(r"([^=, ]+)=([^=, ]+)")
_LIMITS = re.compile(r"must be less than or equal to \S+ limit|(maximum|minimum) \S+ usage per")
BACK_OFF = timedelta(minutes=10)  # the longest that Kubernetes waits before it makes another pod for a Job
NEVER = {"InvalidImageName", "ErrImageNeverPull"}  # what no waiting changes


def image_error_since(status: Manifest, own_pods: list[Manifest], now: datetime) -> str | None:
    """Since when a pod has no image; None where all have theirs."""
    troubles = [pods.trouble(pod) for pod in _waiting(own_pods)]
    if not any(trouble and trouble.reason in pods.IMAGE_REASONS for trouble in troubles):
        return None
    return str(status.get("imageErrorSince") or timestamp(now))


class Patience:
    """How long these pods are still waited for; `image_error` is since when one has no image.

    `limit` is the spec's pendingDeadlineSeconds, if it has any, and `again` the way to try with another image.
    """

    def __init__(
        self, own_pods: list[Manifest], limit: int | None, image_error: str | None, now: datetime, again: str
    ) -> None:
        self._limit, self._image_error, self._now, self._again = limit, image_error, now, again
        self._pods = _waiting(own_pods)

    def hopeless(self) -> pods.Verdict | None:
        """Why the job fails for a pod that has waited too long, or nothing."""
        for pod in self._pods:
            name, trouble = pod["metadata"]["name"], pods.trouble(pod)
            if trouble and self._for_image(trouble) == timedelta():
                return pods.Verdict(trouble.reason, name, None, trouble.message, "", self._again)
            if left(self._limit, self._now - pods.created(pod)) == timedelta():
                message = trouble.message if trouble else f"pod {name} has not started"
                reason = trouble.reason if trouble else "PendingDeadlineExceeded"
                return pods.Verdict(reason, name, None, message, "", deadline_hint(self._limit))
        return None

    def next_look(self) -> timedelta | None:
        """In how long a waiting pod may have become hopeless."""
        looks: list[timedelta | None] = []
        for pod in self._pods:
            trouble = pods.trouble(pod)
            looks.append(self._for_image(trouble) if trouble else None)
            looks.append(left(self._limit, self._now - pods.created(pod)))
        return min((look for look in looks if look is not None), default=None)

    def _for_image(self, trouble: pods.Trouble) -> timedelta | None:
        """How long an image is still waited for; None where it is not about an image."""
        if trouble.reason not in pods.IMAGE_REASONS:
            return None
        if trouble.reason in NEVER or self._image_error is None:
            return timedelta()
        patience = NO_IMAGE if NO_SUCH_IMAGE.search(trouble.message) else NO_REGISTRY
        if self._limit is not None:
            patience = timedelta(seconds=self._limit)
        return max(patience - (self._now - parse_timestamp(self._image_error)), timedelta())


def without_pods(job: Manifest, now: datetime) -> timedelta | None:
    """For how long a Job that its controller has started has had no pod; nothing where that is as it should be."""
    counts = job.get("status") or {}
    if not counts.get("startTime") or counts.get("active") or is_true(counts, "Complete"):
        return None
    return now - parse_timestamp(str(counts["startTime"]))


def lacks_pods(job: Manifest) -> bool:
    """True if a Job that its controller has started has fewer pods than it wants."""
    spec, counts = job["spec"], job.get("status") or {}
    if spec.get("suspend") or not counts.get("startTime") or is_true(counts, "Complete") or is_true(counts, "Failed"):
        return False
    return int(counts.get("active") or 0) + int(counts.get("succeeded") or 0) < int(spec.get("parallelism") or 1)


def question(job: Manifest) -> AskRefusal:
    """Ask why a Job has no pod."""
    return AskRefusal(job["metadata"]["namespace"], job["metadata"]["uid"])


def refusal(job: Manifest, own_pods: list[Manifest], seen: Seen) -> str:
    """Why the API server refuses the pod that a Job lacks, in words; nothing if one has been made since."""
    answer = seen.answers.get(question(job)) if lacks_pods(job) else None
    if not isinstance(answer, Refusal) or not answer.message:
        return ""
    newest = max((str(pod["metadata"]["creationTimestamp"]) for pod in own_pods), default="")
    if answer.time < newest:
        return ""
    holding = [pod for pod in own_pods if (pod.get("status") or {}).get("phase") in ("Pending", "Running")]
    if holding and "exceeded quota: " in answer.message:
        said = _REFUSED.sub("", answer.message)
        held = f"{len(holding)} pods of this job hold a part of the quota and wait for the rest"
        return f"{said}; {held}: ask for fewer nodes or less for each, or set pendingDeadlineSeconds to end such a wait"
    return refused(answer.message)


def refused(message: str) -> str:
    """What the API server said of something that it refused, without that one's name, and what helps."""
    said = _REFUSED.sub("", message)
    if "exceeded quota: " in said and _is_beyond(said):
        return f"{said}; it asks for more than the whole quota: ask for less, or have the quota raised"
    if "exceeded quota: " in said:
        return f"{said}; it goes on by itself when there is room: ask for less, end something, or have the quota raised"
    if "failed quota: " in said:
        return f"{said}; set that in resources, or have a LimitRange give the namespace defaults"
    if _LIMITS.search(said):
        remedy = "set resources.limits beside the requests, within the namespace's LimitRange"
        if "ephemeral-storage" in said:
            remedy += ", or have the chart's training.ephemeralStorage or serving.ephemeralStorage lowered to it"
        return f"{said}; {remedy}"
    if "no PriorityClass with name" in said:
        return f"{said}; create it, or name another one in podTemplate"
    return said


def _is_beyond(said: str) -> bool:
    """True if what is asked for is more than a quota has in all, so that no end of another object makes room."""
    asked, limited = _ASKED.search(said), _LIMITED.search(said)
    if asked is None or limited is None:
        return False
    most = dict(_AMOUNT.findall(limited[1]))
    try:
        return any(amount(one) > amount(most[name]) for name, one in _AMOUNT.findall(asked[1]) if name in most)
    except ValueError:
        return False


def sooner(look: timedelta | None, refusal: str) -> timedelta | None:
    """When to look again: at `look`, and soon while pods are refused, since nobody tells that they would not be."""
    return min(look or ASK_AGAIN, ASK_AGAIN) if refusal else look


def no_pod(job: Manifest, refusal: str = "") -> pods.Trouble:
    """Why a Job that its controller has started has had no pod for a while, or at once where that is known."""
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    if refusal:
        return pods.Trouble("NoPod", f"Kubernetes makes no pod for Job {name}: {refusal}")
    why = f"kubectl -n {namespace} describe job {name} says why (a quota, a limit range, an admission policy)"
    if failed := has_failed(job):
        lost = "a pod" if failed == 1 else f"{failed} pods"
        waits = (
            f"{lost} of Job {name} failed or went, and Kubernetes waits before it makes the next one, longer each time"
        )
        return pods.Trouble("Retrying", f"{waits}, ten minutes at most; if none comes then, {why}")
    return pods.Trouble("NoPod", f"Kubernetes makes no pod for Job {name}; {why}")


def has_failed(job: Manifest) -> int:
    """How many pods of a Job have failed, by its own counts."""
    return int((job.get("status") or {}).get("failed") or 0)


def left(limit: int | None, waited: timedelta) -> timedelta | None:
    """How long of a spec's pendingDeadlineSeconds is left; None where it has none."""
    return None if limit is None else max(timedelta(seconds=limit) - waited, timedelta())


def deadline_hint(limit: int | None) -> str:
    """What to do about what has waited too long."""
    return f"it waited for spec.pendingDeadlineSeconds={limit}; allow more, or see to the cause"


def _waiting(own_pods: list[Manifest]) -> list[Manifest]:
    return [pod for pod in own_pods if (pod.get("status") or {}).get("phase") == "Pending"]
