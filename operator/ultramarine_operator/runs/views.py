"""Jobs and pods as the lifecycle reads them: frozen views over manifests, tolerant of every status that can occur."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ultramarine_contract.meta import JOB, POD, Manifest, Ref, controller_uid

from ..shared import pods
from ..shared.conditions import find, is_true, parse_timestamp, timestamp
from ..shared.plan import Obj, Seen
from ..shared.pods import Trouble

# Jobs and pods are watched apart: a pod's termination message may be seen a moment after the end of its Job.
MAX_LAG = timedelta(seconds=20)


@dataclass(frozen=True)
class ContainerEnd:
    """The end of one container of a pod."""

    container: str
    exit_code: int | None
    message: str  # termination message


@dataclass(frozen=True)
class PodView:
    """One pod."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def phase(self) -> str:
        return str(self._status.get("phase") or "")

    @property
    def is_waiting(self) -> bool:
        """True if it has no running container yet."""
        return self.phase == "Pending"

    @property
    def is_running(self) -> bool:
        """True if its main containers run, and Kubernetes has not been asked to delete it."""
        return pods.is_running(self.manifest)

    @property
    def has_succeeded(self) -> bool:
        return self.phase == "Succeeded"

    @property
    def has_failed(self) -> bool:
        return self.phase == "Failed"

    @property
    def is_disrupted(self) -> bool:
        """True if Kubernetes took it away: evicted, preempted, or its node gone."""
        return pods.is_disrupted(self.manifest)

    @property
    def index(self) -> int:
        """Completion index in an Indexed Job; 0 in any other."""
        return pods.node_index(self.manifest)

    @property
    def node(self) -> str:
        """Node that runs it; a question mark before it has one."""
        return str((self.manifest.get("spec") or {}).get("nodeName", "?"))

    @property
    def created(self) -> datetime:
        return pods.created(self.manifest)

    @property
    def started(self) -> str | None:
        """Time at which the kubelet accepted it, as the API writes it."""
        return pods.started(self.manifest)

    @property
    def finished(self) -> str | None:
        """End of its last container, as the API writes it; None while one runs."""
        return pods.finished(self.manifest)

    @property
    def trouble(self) -> pods.Trouble | None:
        """Reason why it does not run and will not without a change; None for a pod on its way."""
        return pods.trouble(self.manifest)

    @property
    def verdict(self) -> pods.Verdict:
        """Cause of the failure of a failed pod."""
        return pods.verdict(self.manifest)

    @property
    def has_bad_end(self) -> bool:
        """True if a container of it has ended with an error."""
        return pods.terminated(self.manifest) is not None

    @property
    def ends(self) -> tuple[ContainerEnd, ...]:
        """Containers that have ended, in the order in which they run."""
        ends = []
        for status in pods.statuses(self.manifest):
            if ended := (status.get("state") or {}).get("terminated"):
                message = str(ended.get("message") or "")
                ends.append(ContainerEnd(str(status.get("name") or ""), ended.get("exitCode"), message))
        return tuple(ends)

    def image_digest(self, container: str) -> str:
        """Image that a container really runs, as the node resolved it."""
        return pods.image_digest(self.manifest, container)

    @property
    def _status(self) -> Manifest:
        return self.manifest.get("status") or {}


@dataclass(frozen=True)
class JobView:
    """One Job that the object controls, and the Job's own pods, oldest first."""

    manifest: Manifest
    pods: tuple[PodView, ...] = ()

    @classmethod
    def find(cls, owner: Obj[Any], name: str, seen: Seen) -> JobView | None:
        """Return the owner's Job of that name; None if it is absent or another object controls it."""
        manifest = seen.child(JOB.kind, name)
        if manifest is None or controller_uid(manifest) != owner.uid:
            return None
        return cls.of(manifest, seen)

    @classmethod
    def of(cls, manifest: Manifest, seen: Seen) -> JobView:
        """Return the view of a Job with its pods."""
        own = (PodView(pod) for pod in seen.of(POD.kind) if controller_uid(pod) == manifest["metadata"]["uid"])
        # Of two pods made in one second, the one that has not failed replaced the other.
        return cls(manifest, tuple(sorted(own, key=lambda pod: (pod.created, not pod.has_failed, pod.name))))

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.manifest["metadata"]["uid"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    @property
    def ref(self) -> Ref:
        return Ref.to(JOB, self.manifest)

    @property
    def is_leaving(self) -> bool:
        """True if Kubernetes has been asked to delete it."""
        return bool(self.manifest["metadata"].get("deletionTimestamp"))

    @property
    def is_suspended(self) -> bool:
        return bool(self.manifest["spec"].get("suspend"))

    @property
    def complete(self) -> Manifest | None:
        """Condition Complete, if it is True."""
        return self._condition("Complete")

    @property
    def failure(self) -> Manifest | None:
        """Condition Failed, if it is True."""
        return self._condition("Failed")

    @property
    def has_ended(self) -> bool:
        return bool(self.complete or self.failure)

    @property
    def goes_on(self) -> bool:
        """True if it may still make pods."""
        return not self.has_ended and not self.is_leaving

    @property
    def started(self) -> str:
        """Time since which it is active; empty if suspended, which Kubernetes before 1.35 shows only by a condition."""
        return "" if is_true(self._status, "Suspended") else str(self._status.get("startTime") or "")

    @property
    def first_started(self) -> str:
        """Start in its status, suspended or not."""
        return str(self._status.get("startTime") or "")

    @property
    def active(self) -> int:
        """Number of its pods that are pending or running, by its own count."""
        return self._count("active")

    @property
    def succeeded(self) -> int:
        """Number of its pods that succeeded, by its own count."""
        return self._count("succeeded")

    @property
    def failed(self) -> int:
        """Number of its pods that failed, by its own count."""
        return self._count("failed")

    @property
    def failures(self) -> list[PodView]:
        """Pods that failed, oldest first."""
        return [pod for pod in self.pods if pod.has_failed]

    @property
    def causes(self) -> list[PodView]:
        """Pods that failed by themselves and were not stopped; the first to end comes first."""
        failures = [pod for pod in self.failures if not pod.is_disrupted and pod.verdict.reason != "Stopped"]
        return sorted(failures, key=lambda pod: pod.finished or str(pod.manifest["metadata"]["creationTimestamp"]))

    @property
    def makes_no_more_pods(self) -> bool:
        """True if Kubernetes makes no further pod after those that failed."""
        return pods.is_last(self.manifest, [pod.manifest for pod in self.failures])

    def end(self, now: datetime) -> str:
        """Return the time of its end by its own clock; `now` if it does not say."""
        condition = self.complete or self.failure or {}
        return str(self._status.get("completionTime") or condition.get("lastTransitionTime") or timestamp(now))

    def has_just_ended(self, now: datetime) -> bool:
        """True if a pod's termination message may not have been seen yet."""
        since = (self.complete or self.failure or {}).get("lastTransitionTime")
        return since is not None and abs(now - parse_timestamp(str(since))) < MAX_LAG

    def _condition(self, type: str) -> Manifest | None:
        condition = find(self._status, type)
        return condition if condition is not None and condition.get("status") == "True" else None

    def _count(self, name: str) -> int:
        return int(self._status.get(name) or 0)

    @property
    def _status(self) -> Manifest:
        return self.manifest.get("status") or {}


def first_trouble(views: Iterable[PodView]) -> Trouble | None:
    """Return the trouble of the first of these pods that has any."""
    return next((trouble for pod in views if (trouble := pod.trouble) is not None), None)
