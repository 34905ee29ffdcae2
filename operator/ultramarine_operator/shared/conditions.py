"""Standard conditions: each pass builds them, and keeps the transition time of an unchanged status."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ultramarine_contract.meta import Manifest

MAX_REASON, MAX_MESSAGE = 1024, 2000  # characters
ENDED = ("Succeeded", "Failed", "Cancelled", "Stopped")  # states in which a run has ended
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Condition:
    """Condition in a plan; `status` None means Unknown."""

    type: str
    status: bool | None
    reason: str
    message: str = ""


def timestamp(moment: datetime) -> str:
    """Return a moment as the API writes it, in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    """Return the moment of an API timestamp, with or without fractions; LONG_AGO if Python cannot represent it.

    A status may have the year 0 or an offset of 99 hours, which the API accepts from any writer.
    """
    try:
        read = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return LONG_AGO


def in_words(seconds: int) -> str:
    """Return a span as kubectl writes ages: 42s, 3m10s, 2h5m."""
    hours, minutes, rest = seconds // 3600, seconds % 3600 // 60, seconds % 60
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def merge(old: Iterable[Manifest], new: Iterable[Condition], generation: int, now: datetime) -> list[Manifest]:
    """Return `new` as API conditions; a condition whose status did not change keeps its lastTransitionTime."""
    before = {c["type"]: c for c in old if isinstance(c, dict) and "type" in c}
    word = {True: "True", False: "False", None: "Unknown"}
    merged: list[Manifest] = []
    for condition in new:
        status = word[condition.status]
        previous = before.get(condition.type, {})
        unchanged = previous.get("status") == status and previous.get("lastTransitionTime")
        merged.append(
            {
                "type": condition.type,
                "status": status,
                "reason": condition.reason[:MAX_REASON],
                "message": condition.message[:MAX_MESSAGE],
                "observedGeneration": generation,
                "lastTransitionTime": previous["lastTransitionTime"] if unchanged else timestamp(now),
            }
        )
    return merged


def find(status: Manifest, type: str) -> Manifest | None:
    """Return the condition of that type in an object's status; None if it is absent."""
    for condition in status.get("conditions") or []:
        if isinstance(condition, dict) and condition.get("type") == type:
            return condition
    return None


def is_true(status: Manifest, type: str) -> bool:
    """True if the condition of that type is True."""
    condition = find(status, type)
    return condition is not None and condition.get("status") == "True"


def health(*, done: bool, failed: str = "", progress: str = "") -> tuple[Condition, ...]:
    """Return the condition by which kstatus (Argo CD, Flux, Helm) recognizes progress or failure; none if done.

    Each of the two conditions exists only while it is True, as kstatus requires.
    """
    if failed:
        return (Condition("Stalled", True, "Failed", failed),)
    if not done:
        return (Condition("Reconciling", True, "Progressing", progress),)
    return ()


def state_of(manifest: Manifest) -> str:
    """Return the state of an object in one word: status.state, or that of its condition Ready."""
    status = manifest.get("status")
    if not isinstance(status, dict) or not status:
        return "New"
    if state := status.get("state"):
        return str(state)
    ready = find(status, "Ready") or {}
    if ready.get("reason") == "Stopped":  # by its author, with replicas: 0
        return "Stopped"
    return {"True": "Ready", "False": "NotReady"}.get(str(ready.get("status")), "Unknown")
