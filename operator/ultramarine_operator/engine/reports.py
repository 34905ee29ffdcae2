"""How far each running job and sweep is, as its pods have posted it: held in memory, and told to the passes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ultramarine_contract.meta import GROUP, JOB, POD, SWEEP, TRAINING_JOB, Key, Manifest, controller_uid
from ultramarine_contract.sweep_records import SweepSummary, coordinator_name

from ..shared.plan import Report
from ..shared.pods import TRAINER, created, image_digest, node_index
from .mirror import Mirror, owner_key

RING_SECONDS = 10.0  # a status is written at most so often for progress alone
ACCEPT_SECONDS = 1.0  # a job may post no more often
URGENT_SECONDS = 0.1  # nor a sweep that wants other trials than before, or is over: there is a pass at once
MOST = 10_000  # objects that are remembered, of some kilobytes each


@dataclass(slots=True)
class _Entry:
    pod_uid: str
    report: Report
    received: float
    due: float  # when the key was, or will be, rung for it


class Reports:
    """Reports by key, each from one pod; `ring(key, after)` asks for a pass in that many seconds."""

    def __init__(
        self, mirror: Mirror, ring: Callable[[Key, float], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._mirror = mirror
        self._ring = ring
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def owner_of_pod(self, namespace: str, name: str, uid: str) -> Key | None:
        """The TrainingJob or Sweep that a pod belongs to by both its labels and its owners; nothing for other pods."""
        pod = self._mirror.get(Key(POD.kind, namespace, name))
        if pod is None or pod["metadata"].get("uid") != uid:
            return None
        key = owner_key(pod)
        ours_to_hear = key is not None and key.kind in (TRAINING_JOB.kind, SWEEP.kind)
        job = self._mirror.get(key) if key is not None and ours_to_hear else None
        if key is None or job is None:
            return None
        made = (child for child in self._mirror.children(key, JOB.kind))
        ours = (child for child in made if _is_made_by(child, job, GROUP))
        return key if any(_is_made_by(pod, child, JOB.group) for child in ours) else None

    def image_of_pod(self, namespace: str, name: str, uid: str) -> str:
        """The image of a pod's trainer as its node resolved it; nothing before the node has told."""
        pod = self._mirror.get(Key(POD.kind, namespace, name))
        return image_digest(pod, TRAINER) if pod is not None and pod["metadata"].get("uid") == uid else ""

    def speaks(self, key: Key, uid: str) -> bool:
        """Whether that pod is the one whose word counts for a job or a sweep."""
        pod = speaker(key, self._mirror.children(key, JOB.kind, POD.kind))
        return pod is not None and pod["metadata"].get("uid") == uid

    def put(self, key: Key, pod_uid: str, report: Report) -> bool:
        """Take in what a pod has posted, and have its owner looked at within RING_SECONDS; not if it came too soon.

        A sweep that wants other trials than before, or is over, is looked at at once.
        """
        now, known = self._clock(), self._entries.get(key)
        urgent = known is not None and _pressing(report) != _pressing(known.report)
        if known is not None and now < known.received + (URGENT_SECONDS if urgent else ACCEPT_SECONDS):
            return False
        due = now if known is None or urgent else max(now, known.due + RING_SECONDS)
        if known is not None and known.due > now and not urgent:
            due = known.due  # that pass is to come, and will see this
        else:
            self._ring(key, due - now)
        self._entries[key] = _Entry(pod_uid, report, now, due)
        self._entries.move_to_end(key)
        while len(self._entries) > MOST:
            self._entries.popitem(last=False)
        return True

    def latest(self, key: Key, children: Iterable[Manifest]) -> Report | None:
        """The newest report on an object; nothing while it comes from a pod that another one has taken over from."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        pod = speaker(key, children)
        return entry.report if pod is not None and pod["metadata"].get("uid") == entry.pod_uid else None

    def forget(self, key: Key) -> None:
        """Let go of an object that is gone."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()


def speaker(key: Key, children: Iterable[Manifest]) -> Manifest | None:
    """The pod that speaks: of a job that of node 0, of a sweep its coordinator's, and the newest one of these."""
    children = list(children)
    pods = [child for child in children if child["kind"] == POD.kind and node_index(child) == 0]
    if key.kind == SWEEP.kind:
        name = coordinator_name(key.name)
        jobs = [child for child in children if child["kind"] == JOB.kind and child["metadata"]["name"] == name]
        pods = [pod for pod in pods if controller_uid(pod) in {job["metadata"].get("uid") for job in jobs}]
    return max(pods, key=lambda pod: (created(pod), not _is_over(pod), str(pod["metadata"]["name"])), default=None)


def _pressing(report: Report) -> object:
    return report.urgent if isinstance(report, SweepSummary) else ()


def _is_over(pod: Manifest) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _is_made_by(child: Manifest, owner: Manifest, group: str) -> bool:
    return any(
        reference.get("controller")
        and reference.get("kind") == owner["kind"]
        and str(reference.get("apiVersion", "")).startswith(f"{group}/")
        and reference.get("uid") == owner["metadata"].get("uid")
        for reference in child["metadata"].get("ownerReferences") or []
    )
