"""Standard conditions: built fresh in every pass, with the old transition time kept where the state is the old one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ultramarine_contract.meta import Manifest

MAX_MESSAGE = 2000
ENDED = ("Succeeded", "Failed", "Stopped")  # states of what runs to its end
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Condition:
    """One condition as a plan states it; `status` None means Unknown."""

    type: str
    status: bool | None
    reason: str
    message: str = ""


def timestamp(moment: datetime) -> str:
    """A moment as the API writes it, in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    """Read what the API wrote, with or without fractions; what the API takes for a time, and Python not, is LONG_AGO.

    Anybody who may write a status can write the year 0 or an offset of 99 hours into it.
    """
    try:
        read = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return LONG_AGO


def in_words(seconds: int) -> str:
    """A span as kubectl writes ages: 42s, 3m10s, 2h5m."""
    hours, minutes, rest = seconds // 3600, seconds % 3600 // 60, seconds % 60
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def merge(old: Iterable[Manifest], new: Iterable[Condition], generation: int, now: datetime) -> list[Manifest]:
    """Write `new` as API conditions; one whose status did not change keeps its lastTransitionTime."""
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
                "reason": condition.reason,
                "message": condition.message[:MAX_MESSAGE],
                "observedGeneration": generation,
                "lastTransitionTime": previous["lastTransitionTime"] if unchanged else timestamp(now),
            }
        )
    return merged


def find(status: Manifest, type: str) -> Manifest | None:
    """The condition of that type in an object's status, or nothing."""
    for condition in status.get("conditions") or []:
        if isinstance(condition, dict) and condition.get("type") == type:
            return condition
    return None


def is_true(status: Manifest, type: str) -> bool:
    """Whether the condition of that type is there and True."""
    condition = find(status, type)
    return condition is not None and condition.get("status") == "True"


def health(*, done: bool, failed: str = "", progress: str = "") -> tuple[Condition, ...]:
    """The two conditions by which kstatus (Argo CD, Flux, Helm) tells done, in progress and failed apart.

    Both are there only while they are true, as kstatus wants it.
    """
    if failed:
        return (Condition("Stalled", True, "Failed", failed),)
    if not done:
        return (Condition("Reconciling", True, "Progressing", progress),)
    return ()


def state_of(manifest: Manifest) -> str:
    """The state of an object in one word: its own, or what its condition Ready says."""
    status = manifest.get("status")
    if not isinstance(status, dict) or not status:
        return "New"
    if state := status.get("state"):
        return str(state)
    ready = find(status, "Ready") or {}
    if ready.get("reason") == "Stopped":  # by its author, who asked for no pods
        return "Stopped"
    return {"True": "Ready", "False": "NotReady"}.get(str(ready.get("status")), "Unknown")
