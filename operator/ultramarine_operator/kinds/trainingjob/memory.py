"""Memory of the next attempt, after one ran out of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ultramarine_contract.quantities import QUANTITY, amount

from ...runs import PodView
from ...shared.pods import Verdict
from .manifests import Job, worth_retrying

KILLED = 137  # exit code of a command that the kernel killed
_HINT = (
    "raise resources.limits.memory, let onOutOfMemory raise it, or make it use less; to have it tried more often, add "
    f"a rule with action Count for exit code {KILLED} to spec.podFailurePolicy"
)


def killed_again(job: Job, killed: Sequence[PodView]) -> Verdict | None:
    """Return the verdict on a job of which two attempts of a node ran out of the same memory; None for fewer.

    None, too, if its author asks for more attempts by a rule for the exit code.
    """
    attempts = Counter(pod.index for pod in killed)
    if not attempts or max(attempts.values()) < 2 or KILLED in worth_retrying(job):
        return None
    verdict = killed[-1].verdict
    return replace(verdict, message=f"two attempts ran out of memory: {verdict.message}", hint=_HINT)


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
