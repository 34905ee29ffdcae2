"""The requester of an object and the usage of its pods: put into its status, and counted for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from ultramarine_contract.meta import DEPLOYMENT, JOB, POD, Manifest, controller_uid

from ..shared import metrics, states, usage
from ..shared.conditions import ENDED
from ..shared.kind import Kind
from ..shared.metrics import FINISHED, USED
from ..shared.plan import Platform

MAX_SERIES = 2000  # of each metric by requester; later requesters count as OTHERS
OTHERS = "others"
KEPT = ("requestedBy", "usage")


class Accounting:
    """Fills the fields that every kind has in common; one of a process, since it bounds the number of series."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._series: set[tuple[str, str, str]] = set()

    def begin(self, kinds: Iterable[Kind], namespaces: Iterable[str | None]) -> None:
        """Create the counters that alerts look at, since a rate of one that is born at 1 is 0."""
        kinds = list(kinds)
        metrics.begin(kind.name for kind in kinds)
        for namespace in filter(None, namespaces):
            for kind in kinds:
                self.notice(kind, namespace)

    def notice(self, kind: Kind, namespace: str) -> None:
        """Create the counters of a kind in a namespace."""
        if kind.ends:
            for outcome in ENDED:
                FINISHED.labels(kind=kind.name, object_namespace=namespace, outcome=outcome)

    def completed(
        self, kind: Kind, manifest: Manifest, planned: Manifest, children: Iterable[Manifest], now: datetime
    ) -> tuple[Manifest, timedelta | None]:
        """Return the status to write, and the time until the next look if pods run.

        The usage is brought up to date when the status is written anyway, and else once in an hour or before a pod
        vanishes.
        """
        old = manifest.get("status") or {}
        status = {**planned, **{name: old[name] for name in KEPT if name in old}}
        shares: list[usage.Share] = []
        if "usage" in kind.status.model_fields:
            shares = [share for pod in own_pods(manifest, children) if (share := usage.share(pod)) is not None]
            if status != old or usage.is_due(old.get("usage"), shares, now):
                ends = states.is_over(status) and not states.is_over(old)
                counted = usage.advanced(old.get("usage"), shares, now, over=ends)
                status |= {"usage": counted} if counted else {}
        if status != old and "requestedBy" not in status and (user := self._platform.requester(manifest)):
            status["requestedBy"] = user  # a status that was restored has another one
        runs = any(share.ended is None for share in shares)
        return status, usage.REFRESH if runs else None

    def count(self, kind: Kind, manifest: Manifest, written: Manifest) -> None:
        """Count what a written status says more than the one before."""
        old, namespace = manifest.get("status") or {}, str(manifest["metadata"]["namespace"])
        if kind.ends and states.is_over(written) and not states.is_over(old):
            outcome = str(written.get("state"))
            FINISHED.labels(kind=kind.name, object_namespace=namespace, outcome=outcome).inc()
        before, after = old.get("usage") or {}, written.get("usage") or {}
        grown = {name: after.get(name, 0) - before.get(name, 0) for name in usage.FIELDS}
        if any(amount > 0 for amount in grown.values()):
            labels = self._labels(kind.name, namespace, self._platform.requester(manifest))
            for name, amount in grown.items():
                USED[name].labels(*labels).inc(max(amount, 0))

    def deleted(self, kind: Kind, manifest: Manifest, children: Iterable[Manifest], now: datetime) -> None:
        """Count what the pods of a deleted object used since its last status, which is gone with it."""
        status = manifest.get("status") or {}
        if "usage" in kind.status.model_fields:
            shares = [share for pod in own_pods(manifest, children) if (share := usage.share(pod)) is not None]
            counted = usage.advanced(status.get("usage"), shares, now)
            self.count(kind, manifest, {**status, **({"usage": counted} if counted else {})})

    def _labels(self, kind: str, namespace: str, requester: str) -> tuple[str, str, str]:
        labels = (kind, namespace, requester)
        if labels not in self._series and len(self._series) >= MAX_SERIES:
            return kind, namespace, OTHERS
        self._series.add(labels)
        return labels


def own_pods(manifest: Manifest, children: Iterable[Manifest]) -> list[Manifest]:
    """Return the pods of an object's own Jobs and Deployments; labels alone make no pod its own."""
    children, uid = list(children), manifest["metadata"].get("uid")
    own = [child for child in children if child["kind"] != POD.kind and controller_uid(child) == uid]
    jobs = {child["metadata"]["uid"] for child in own if child["kind"] == JOB.kind}
    deployments = {child["metadata"]["name"] for child in own if child["kind"] == DEPLOYMENT.kind}

    def is_own(pod: Manifest) -> bool:
        for owner in pod["metadata"].get("ownerReferences") or []:
            type = str(owner.get("apiVersion")).partition("/")[0], owner.get("kind")
            if owner.get("controller") and type == (JOB.group, JOB.kind) and owner.get("uid") in jobs:
                return True
            deployment = str(owner.get("name")).rpartition("-")[0]
            if owner.get("controller") and type == (DEPLOYMENT.group, "ReplicaSet") and deployment in deployments:
                return True
        return False

    return [child for child in children if child["kind"] == POD.kind and is_own(child)]
