"""More memory for the next attempt."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from ...shared.meta import Manifest
from .manifests import Job

_UNITS: dict[str, int | Decimal] = {
    "": 1,
    "m": Decimal("0.001"),
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_QUANTITY = re.compile(r"([+-]?[0-9]+[.]?[0-9]*(?:[eE][+-]?[0-9]+)?)([KMGTPE]i|[mkMGTPE]?)")


def in_bytes(quantity: str) -> int:
    """A quantity of memory as Kubernetes writes it, in bytes."""
    match = _QUANTITY.fullmatch(quantity)
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity")
    return math.ceil(Decimal(match[1]) * _UNITS[match[2]])


def known(job: Job, facts: Manifest) -> str:
    """The limit that an earlier pass has raised, if it can be one: anybody who may write the status can write there."""
    told = str(facts.get("memory", ""))
    if job.spec.on_out_of_memory is None or not _QUANTITY.fullmatch(told):
        return ""
    most = in_bytes(str(job.spec.on_out_of_memory.max_memory))
    return told if in_bytes(str(job.spec.resources.limits["memory"])) < in_bytes(told) <= most else ""


def raised(limit: str, factor: float, most: str) -> str:
    """`limit` times `factor`, in whole Mi and no more than `most`; empty where that is not more than `limit`."""
    wanted = math.ceil(in_bytes(limit) * factor / 2**20) * 2**20
    if wanted >= in_bytes(most):
        return most if in_bytes(most) > in_bytes(limit) else ""
    return f"{wanted // 2**20}Mi"
