"""Reports of running pods on their objects, held in memory for the passes."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ultramarine_contract.meta import JOB, POD, Key, Manifest

from ..shared.kind import Kind
from ..shared.pods import image_digest
from .accounting import own_pods
from .mirror import Mirror, owner_key

RING_SECONDS = 10.0  # between two status writes for progress alone
ACCEPT_SECONDS = 1.0  # between two reports on an object
URGENT_SECONDS = 0.1  # before a report of another urgency, which gets a pass at once
MAX_ENTRIES = 10_000  # of some kilobytes each
RESERVED = ("healthz", "readyz", "metrics")  # paths of the operator itself


@dataclass(slots=True)
class _Entry:
    pod_uid: str
    report: Any
    received: float
    due: float  # when the key was, or will be, rung for it


class Reports:
    """Reports by key, each from one pod; `ring(key, after)` asks for a pass in that many seconds."""

    def __init__(
        self,
        mirror: Mirror,
        kinds: Iterable[Kind],
        ring: Callable[[Key, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mirror = mirror
        self.channels = {kind.name: kind.report for kind in kinds if kind.report is not None}
        paths = Counter([*RESERVED, *(channel.path for channel in self.channels.values())])
        if taken := [path for path, count in paths.items() if count > 1]:
            raise ValueError(f"the path {taken[0]} of a kind's reports is taken; give its Reporting another path")
        self._ring = ring
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def owner_of_pod(self, namespace: str, name: str, uid: str) -> Key | None:
        """Return the object that a pod belongs to by labels and owners; None if its kind has no reports."""
        pod = self._mirror.get(Key(POD.kind, namespace, name))
        if pod is None or pod["metadata"].get("uid") != uid:
            return None
        key = owner_key(pod)
        owner = self._mirror.get(key) if key is not None and key.kind in self.channels else None
        if key is None or owner is None:
            return None
        own = own_pods(owner, self._mirror.children(key))
        return key if any(child["metadata"].get("uid") == uid for child in own) else None

    def image_of_pod(self, key: Key, name: str, uid: str) -> str:
        """Return the image of a pod of an object as its node resolved it; empty until then."""
        pod = self._mirror.get(Key(POD.kind, key.namespace, name))
        is_same = pod is not None and pod["metadata"].get("uid") == uid
        return image_digest(pod, self.channels[key.kind].image_of) if pod is not None and is_same else ""

    def speaks(self, key: Key, uid: str) -> bool:
        """Return True if that pod is the one whose reports count."""
        pod = self.channels[key.kind].speaker(key.name, self._mirror.children(key, JOB.kind, POD.kind))
        return pod is not None and pod["metadata"].get("uid") == uid

    def put(self, key: Key, pod_uid: str, report: Any) -> bool:
        """Take in a report, and have its object reconciled within RING_SECONDS; False if it came too soon.

        One of another urgency than the report before is reconciled at once.
        """
        now, former = self._clock(), self._entries.get(key)
        urgency = self.channels[key.kind].urgency
        urgent = former is not None and urgency(report) != urgency(former.report)
        if former is not None and now < former.received + (URGENT_SECONDS if urgent else ACCEPT_SECONDS):
            return False
        due = now if former is None or urgent else max(now, former.due + RING_SECONDS)
        if former is not None and former.due > now and not urgent:
            due = former.due  # that pass is to come, and will see this
        else:
            self._ring(key, due - now)
        self._entries[key] = _Entry(pod_uid, report, now, due)
        self._entries.move_to_end(key)
        while len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)
        return True

    def latest(self, key: Key, children: Iterable[Manifest]) -> Any:
        """Return the newest report on an object; None if another pod has taken over from its sender."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        pod = self.channels[key.kind].speaker(key.name, children)
        return entry.report if pod is not None and pod["metadata"].get("uid") == entry.pod_uid else None

    def forget(self, key: Key) -> None:
        """Let go of an object that is gone."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
