"""What a kind whose objects come to an end says of them: a word, the conditions that go with it, and the diary."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ultramarine_contract.meta import Manifest
from ultramarine_contract.sweep_records import STOPPED_EARLY

from . import pods
from .conditions import Condition, find, health, is_true, merge
from .plan import Event, Obj

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
    told = find(status, "Succeeded") or {}
    return (told.get("status"), told.get("reason")) == ("False", STOPPED_EARLY) and not is_true(status, "Failed")


def build(obj: Obj[Any], state: State, facts: Manifest, now: datetime, doubt: str = "") -> Manifest:
    """The whole status: the state's conditions over `facts`, which are the other fields.

    `doubt` is what its author may not have meant, in a spec that is accepted all the same.
    """
    word, conditions = state
    accepted = Condition("Accepted", True, "Valid", doubt)
    if not any(c.type == "Suspended" for c in conditions):
        conditions = (Condition("Suspended", False, "NotSuspended", ""), *conditions)
    old = obj.status.get("conditions") or []
    return {
        **{name: value for name, value in facts.items() if value not in (None, "", {}, [])},
        "observedGeneration": obj.generation,
        "state": word,
        "conditions": merge(old, (accepted, *conditions), obj.generation, now),
    }


def diary(obj: Obj[Any], new: Manifest) -> tuple[Event, ...]:
    """The events that the step from the old status to the new one deserves."""
    lines: list[Event] = []
    for type, word, level in (
        ("Running", "Started", "Normal"),
        ("Suspended", "Suspended", "Normal"),
        ("Succeeded", "Succeeded", "Normal"),
        ("Failed", "", "Warning"),
    ):
        before, after = find(obj.status, type), find(new, type)
        if after and after["status"] == "True" and (before or {}).get("status") != "True":
            # What follows the first clause may be trouble, which is no matter of a normal event.
            said = after["message"].partition("; ")[0] if word == "Started" else after["message"]
            lines.append(Event(word or after["reason"], said, level))
    if is_stopped(new) and not is_stopped(obj.status):
        lines.append(Event(STOPPED_EARLY, str((find(new, "Succeeded") or {}).get("message"))))
    before, after = find(obj.status, "Accepted"), find(new, "Accepted")
    if after and after["message"] and (before or {}).get("message") != after["message"]:
        lines.append(Event("Doubtful", after["message"], "Warning"))
    before, after = find(obj.status, "Running"), find(new, "Running")
    troubled = (
        after
        and after["status"] == "False"
        and after["reason"] in pods.TROUBLED_WAITING | {"Unschedulable", "Retrying", "NoPod", "WarmStartMissing"}
    )
    if after and troubled and (before or {}).get("reason") != after["reason"]:
        lines.append(Event(after["reason"], after["message"], "Warning"))
    return tuple(lines)
