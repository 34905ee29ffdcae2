"""States of an object that runs to its end: a word, and the conditions that go with it."""

from __future__ import annotations

from ultramarine_contract.meta import Manifest
from ultramarine_contract.sweep_records import STOPPED_EARLY

from .conditions import Condition, find, health, is_true

CANCELLED = "Cancelled"  # state, and reason of the condition Failed
State = tuple[str, tuple[Condition, ...]]


def pending(reason: str, message: str) -> State:
    """Accepted, and nothing runs yet."""
    return "Pending", (
        Condition("Running", False, reason, message),
        *health(done=False, progress=message),
    )


def suspended(message: str = "spec.suspend is true; set it to false to go on") -> State:
    """Held by its author, or for what the message says."""
    return "Suspended", (
        Condition("Suspended", True, "Suspended", message),
        Condition("Running", False, "Suspended", message),
    )


def finishing(reason: str, message: str) -> State:
    """The work is done; its result is being taken in."""
    return "Running", (Condition("Running", False, reason, message), *health(done=False, progress=message))


def succeeded(message: str, reason: str = "Finished") -> State:
    """Done, and everything registered."""
    return "Succeeded", (
        Condition("Running", False, "Finished", ""),
        Condition("Succeeded", True, reason, message),
    )


def failed(reason: str, message: str) -> State:
    """Over, without result."""
    return "Failed", (
        Condition("Running", False, "Finished", ""),
        Condition("Succeeded", False, reason, message),
        Condition("Failed", True, reason, message),
        *health(done=True, failed=message),
    )


def cancelled() -> State:
    """Over, because its author has cancelled it: Failed for programs, and neither an alert nor a trouble."""
    _, conditions = failed(CANCELLED, "ended by spec.cancel")
    return CANCELLED, conditions


def stopped(message: str) -> State:
    """Ended early by its sweep, which knows its result: neither a success nor a failure."""
    return "Stopped", (
        Condition("Running", False, "Finished", ""),
        Condition("Succeeded", False, STOPPED_EARLY, message),
    )


def is_over(status: Manifest) -> bool:
    """True if the work has ended for good; a spec that was refused may still become one that runs."""
    refused = (find(status, "Accepted") or {}).get("status") == "False"
    return is_true(status, "Succeeded") or is_stopped(status) or (is_true(status, "Failed") and not refused)


def is_stopped(status: Manifest) -> bool:
    """True if a trial's job was ended early by its sweep."""
    condition = find(status, "Succeeded") or {}
    return (condition.get("status"), condition.get("reason")) == ("False", STOPPED_EARLY) and not is_true(
        status, "Failed"
    )
