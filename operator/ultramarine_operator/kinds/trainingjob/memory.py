"""Memory of the next attempt, after one ran out of it."""

from __future__ import annotations

import math

from ultramarine_contract.quantities import QUANTITY, amount

from .manifests import Job


def in_bytes(quantity: str) -> int:
    """Return a quantity of memory in bytes."""
    return math.ceil(amount(quantity))


def limit_in_status(job: Job, memory: str) -> str:
    """Return the limit in the status, if an earlier pass can have raised it: other writers of a status may not."""
    if job.spec.on_out_of_memory is None or not QUANTITY.fullmatch(memory):
        return ""
    most = in_bytes(str(job.spec.on_out_of_memory.max_memory))
    return memory if in_bytes(str(job.spec.resources.limits["memory"])) < in_bytes(memory) <= most else ""


def raised(limit: str, factor: float, most: str) -> str:
    """Return `limit` times `factor`, in whole Mi and at most `most`; empty if that is not more than `limit`."""
    size = math.ceil(in_bytes(limit) * factor / 2**20) * 2**20
    if size >= in_bytes(most):
        return most if in_bytes(most) > in_bytes(limit) else ""
    return f"{size // 2**20}Mi"
