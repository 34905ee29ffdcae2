"""Accounting: the CPU, GPU and memory that an object's pods reserved while they ran, in total and by day."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from ultramarine_contract.meta import Manifest
from ultramarine_contract.quantities import amount

from . import pods
from .conditions import LONG_AGO, parse_timestamp, timestamp

FIELDS = ("cpuSeconds", "gpuSeconds", "memoryGibSeconds")
MAX_DAYS = 8
MAX_GRACE = 10**7  # seconds
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_TOTAL = 10**12  # a status has no room for more
MAX_SKEW = timedelta(minutes=5)  # of a node's clock
REFRESH = timedelta(hours=1)  # between two writes for the sake of the usage alone
GIB = 2**30
GPU = re.compile(r"[a-z.]+/(gpu|gpu\.shared|mig-.*)|gpu\.intel\.com/(i915|xe)")  # whole ones, shares and slices
Amounts = tuple[float, float, float]  # CPUs, GPUs and GiB; or the seconds of each


@dataclass(frozen=True)
class Share:
    """One pod: the resources that it reserves, the time from its first container's start, and the measured CPU."""

    reserved: Amounts
    began: datetime
    ended: datetime | None
    leaves: datetime | None  # time of the request to delete it
    cpu: float = 0.0  # seconds, measured by its trainer, known at the end

    def seconds(self, since: datetime, until: datetime) -> float:
        """Seconds that the pod ran between two times."""
        end = min(until, self.ended) if self.ended else until
        return max((end - max(since, self.began)).total_seconds(), 0.0)

    @property
    def excess(self) -> float:
        """CPU seconds beyond the reservation."""
        return max(self.cpu - self.reserved[0] * self.seconds(self.began, self.ended), 0.0) if self.ended else 0.0


def share(pod: Manifest) -> Share | None:
    """Return the share of a pod; None if none of its containers has started."""
    statuses = pods.statuses(pod)
    begins = [start for status in statuses if (start := _start(status))]
    if not begins:
        return None
    began = min(begins)
    if any(status.get("restartCount") for status in statuses):
        began = min(began, parse_timestamp(pods.started(pod) or timestamp(began)))
    over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    ended = parse_timestamp(pods.finished(pod) or _last_transition(pod) or timestamp(began)) if over else None
    leaves = None
    if (gone := parse_timestamp(str(pod["metadata"].get("deletionTimestamp") or ""))) > EPOCH:
        ended = ended or gone  # on a node that is lost it terminates forever
        grace = min(int(pod["metadata"].get("deletionGracePeriodSeconds") or 0), MAX_GRACE)
        leaves = gone - timedelta(seconds=grace)
    record = pods.record(pod, pods.TRAINER) if over else None
    return Share(reserved(pod), began, ended, leaves, record.cpu_seconds if record else 0.0)


def _start(status: Manifest) -> datetime | None:
    state = status.get("state") or {}
    start = (state.get("running") or {}).get("startedAt") or (state.get("terminated") or {}).get("startedAt")
    began = parse_timestamp(str(start)) if start else LONG_AGO
    return None if began == LONG_AGO else began  # a container that never started has no time


def _last_transition(pod: Manifest) -> str:
    """Last change of the conditions of a pod whose containers do not tell their end."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return max((str(condition.get("lastTransitionTime") or "") for condition in conditions), default="")


def reserved(pod: Manifest) -> Amounts:
    """Return the CPUs, GPUs and GiB of memory that a pod reserves on its node."""
    spec = pod.get("spec") or {}
    together = [requests(container.get("resources") or {}) for container in spec.get("containers") or []]
    before: list[Amounts] = []
    for container in spec.get("initContainers") or []:
        group = together if container.get("restartPolicy") == "Always" else before
        group.append(requests(container.get("resources") or {}))
    running = [sum(column) for column in zip(*together, strict=True)] or [0.0, 0.0, 0.0]
    cpu, gpu, memory = (max(column) for column in zip(running, *before, strict=True))
    return cpu, gpu, memory


def requests(resources: Manifest) -> Amounts:
    """Return the CPUs, GPUs and GiB that a container's resources reserve; a limit without a request is one."""
    reserved = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    gpus = sum(_number(count) for name, count in reserved.items() if _is_gpu(name))
    return _number(reserved.get("cpu")), gpus, _number(reserved.get("memory")) / GIB


def _is_gpu(resource: str) -> bool:
    return GPU.fullmatch(resource) is not None


def _number(quantity: object) -> float:
    try:
        return float(max(amount(str(quantity or 0)), Decimal()))
    except (ValueError, OverflowError):
        return 0.0


def is_due(former: Manifest | None, shares: Iterable[Share], now: datetime) -> bool:
    """True if the usage is worth a write of its own: a pod is about to vanish, or the last count is an hour old."""
    shares = list(shares)
    counted = parse_timestamp(str((former or {}).get("countedUntil") or ""))
    if any(share.leaves is not None and share.leaves > counted and share.seconds(counted, now) for share in shares):
        return True
    since = counted if former else min((share.began for share in shares), default=now)
    return now - since >= REFRESH and any(share.seconds(counted, now) for share in shares)


def advanced(former: Manifest | None, shares: Iterable[Share], now: datetime, *, over: bool = False) -> Manifest | None:
    """Return the usage with all that `shares` add between its `countedUntil` and `now`; None for no usage yet.

    When the object is `over`, the measured CPU of its pods counts too, if that is more than they reserved: this once,
    since no pod runs afterwards.
    """
    counted = parse_timestamp(str((former or {}).get("countedUntil") or ""))
    days: dict[str, list[float]] = {str(day["day"]): _amounts(day) for day in (former or {}).get("days") or []}
    total = _amounts(former or {})
    added, until = False, now.replace(microsecond=0)  # as it is written
    for share in shares:
        end = min(share.ended, until) if share.ended else until
        if over and share.ended:  # by its node's clock
            end = min(share.ended, until + MAX_SKEW)
            until = max(until, end)
        parts = list(_parts(share, counted, end))
        if over and share.excess:
            parts.append((end.strftime("%Y-%m-%d"), (share.excess, 0.0, 0.0)))
        for day, amounts in parts:
            added |= any(amounts)
            for sums in (total, days.setdefault(day, [0.0, 0.0, 0.0])):
                for i, value in enumerate(amounts):
                    sums[i] = min(sums[i] + value, MAX_TOTAL)
    if not added:
        return former
    kept = sorted(days)[-MAX_DAYS:]
    return {**_written(total), "countedUntil": timestamp(until), "days": [{"day": d} | _written(days[d]) for d in kept]}


def _parts(share: Share, since: datetime, end: datetime) -> Iterable[tuple[str, Amounts]]:
    """The seconds of CPU, GPU and memory by the day, in UTC."""
    begin = max(since, share.began)
    while begin < end:
        midnight = datetime(begin.year, begin.month, begin.day, tzinfo=UTC) + timedelta(days=1)
        seconds = (min(end, midnight) - begin).total_seconds()
        cpu, gpu, memory = (amount * seconds for amount in share.reserved)
        yield begin.strftime("%Y-%m-%d"), (cpu, gpu, memory)
        begin = midnight


def _amounts(document: Manifest) -> list[float]:
    return [float(document.get(field) or 0.0) for field in FIELDS]


def _written(amounts: Iterable[float]) -> Manifest:
    return {field: round(value, 2) for field, value in zip(FIELDS, amounts, strict=True)}
