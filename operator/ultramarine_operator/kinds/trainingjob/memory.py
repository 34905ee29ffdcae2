"""More memory for the next attempt."""

from __future__ import annotations

import math

from ultramarine_contract.meta import Manifest

from ...shared.quantities import QUANTITY, amount
from .manifests import Job


def in_bytes(quantity: str) -> int:
    """A quantity of memory as Kubernetes writes it, in bytes."""
    return math.ceil(amount(quantity))


def known(job: Job, facts: Manifest) -> str:
    """The limit that an earlier pass has raised, if it can be one: anybody who may write the status can write there."""
    told = str(facts.get("memory", ""))
    if job.spec.on_out_of_memory is None or not QUANTITY.fullmatch(told):
        return ""
    most = in_bytes(str(job.spec.on_out_of_memory.max_memory))
    return told if in_bytes(str(job.spec.resources.limits["memory"])) < in_bytes(told) <= most else ""


def raised(limit: str, factor: float, most: str) -> str:
    """`limit` times `factor`, in whole Mi and no more than `most`; empty where that is not more than `limit`."""
    wanted = math.ceil(in_bytes(limit) * factor / 2**20) * 2**20
    if wanted >= in_bytes(most):
        return most if in_bytes(most) > in_bytes(limit) else ""
    return f"{wanted // 2**20}Mi"
