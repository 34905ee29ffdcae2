"""The status of a run: read from what an earlier pass wrote, built as a model, and written with its events."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, TypeVar

from ultramarine.resources.base import Failure, RunStatus
from ultramarine_contract.meta import Manifest, Ref, Resource
from ultramarine_contract.sweep_records import STOPPED_EARLY

from ..shared import statuses
from ..shared.conditions import Condition, find, in_words, merge, parse_timestamp, timestamp
from ..shared.plan import Event, Obj, Plan
from ..shared.pods import TROUBLED_WAITING, Verdict
from ..shared.states import CANCELLED, State, is_stopped
from .views import JobView

SOON = timedelta(milliseconds=200)  # for a second step that has to wait until the status says so
# Fields that each pass decides again.
DECIDED = {"conditions", "state", "observedGeneration", "completionTime", "duration", "failure"}
TROUBLES = TROUBLED_WAITING | {"Unschedulable", "Retrying", "NoPod", "WarmStartMissing"}

StatusT = TypeVar("StatusT", bound=RunStatus)


def former(obj: Obj[Any], model: type[StatusT], without: Collection[str] = ()) -> StatusT:
    """Return the status of an earlier pass, without the fields that each pass decides again and those named."""
    return statuses.former(obj, model, {*DECIDED, *without})


def planned(
    obj: Obj[Any],
    state: State,
    status: RunStatus,
    now: datetime,
    *,
    apply: tuple[Manifest, ...] = (),
    create: tuple[Manifest, ...] = (),
    delete: tuple[Ref, ...] = (),
    after: timedelta | None = None,
    warning: str = "",
) -> Plan:
    """Return the plan of a pass that brings an object into `state`, with the events of that step.

    `warning` is what the author of an accepted spec may not have meant.
    """
    word, conditions = state
    accepted = Condition("Accepted", True, "Valid", warning)
    if not any(condition.type == "Suspended" for condition in conditions):
        conditions = (Condition("Suspended", False, "NotSuspended", ""), *conditions)
    former_conditions = obj.status.get("conditions") or []
    document = {
        **{name: value for name, value in statuses.dumped(status).items() if value not in ("", {}, [])},
        "observedGeneration": obj.generation,
        "state": word,
        "conditions": merge(former_conditions, (accepted, *conditions), obj.generation, now),
    }
    events = events_for(obj.status, document)
    return Plan(document, apply=apply, create=create, delete=delete, events=events, after=after)


def events_for(before: Manifest, after: Manifest) -> tuple[Event, ...]:
    """Return the events of the step from one status to the next."""
    events: list[Event] = []
    for type, word, level in (
        ("Running", "Started", "Normal"),
        ("Suspended", "Suspended", "Normal"),
        ("Succeeded", "Succeeded", "Normal"),
        ("Failed", "", "Warning"),
    ):
        former_condition, condition = find(before, type), find(after, type)
        if condition and condition["status"] == "True" and (former_condition or {}).get("status") != "True":
            # The clauses after the first may be a trouble, which does not belong into a normal event.
            message = condition["message"].partition("; ")[0] if word == "Started" else condition["message"]
            by_author = condition["reason"] == CANCELLED
            events.append(Event(word or condition["reason"], message, "Normal" if by_author else level))
    if is_stopped(after) and not is_stopped(before):
        events.append(Event(STOPPED_EARLY, str((find(after, "Succeeded") or {}).get("message"))))
    former_condition, condition = find(before, "Accepted"), find(after, "Accepted")
    if condition and condition["message"] and (former_condition or {}).get("message") != condition["message"]:
        events.append(Event("Doubtful", condition["message"], "Warning"))
    former_condition, condition = find(before, "Running"), find(after, "Running")
    has_trouble = condition and condition["status"] == "False" and condition["reason"] in TROUBLES
    if condition and has_trouble and (former_condition or {}).get("reason") != condition["reason"]:
        events.append(Event(condition["reason"], condition["message"], "Warning"))
    return tuple(events)


def failure(verdict: Verdict) -> Failure:
    """Return a verdict as status.failure, cut to the limits of the schema: a longer one would not be written."""
    fields = {name: value for name, value in asdict(verdict).items() if value not in (None, "")}
    return Failure(**statuses.cut(Failure, **fields))


def end(status: RunStatus, job: JobView | None, now: datetime, start: str = "") -> None:
    """Write the time of the end into a status, by the clock of its Job.

    `start` is the start of a run whose first pod was never seen.
    """
    completion = job.end(now) if job else timestamp(now)
    status.start_time = status.start_time or (job.first_started if job else "") or start or None
    status.completion_time = completion
    status.duration = in_words(seconds_between(status.start_time, completion))


def seconds_between(start: str | None, end: str) -> int:
    """Return the whole seconds between two times of the API; 0 without a start."""
    return max(int((parse_timestamp(end) - parse_timestamp(start)).total_seconds()), 0) if start else 0


def finish(
    obj: Obj[Any],
    state: State,
    status: RunStatus,
    now: datetime,
    *,
    job: JobView | None = None,
    goes_on: bool = False,
    warning: str = "",
) -> Plan:
    """Return the plan of the pass that ends a run; the status has the time of the end, by the clock of `job`.

    With `goes_on` children still run: the next pass deletes them, once the status says that the run has ended.
    """
    if status.completion_time is None:
        end(status, job, now)
    after = SOON if goes_on else time_to_live(obj, status.completion_time, now)
    return planned(obj, state, status, now, after=after, warning=warning)


def after_end(
    obj: Obj[Any], resource: Resource, now: datetime, leftovers: Iterable[tuple[Ref, timedelta]] = ()
) -> Plan:
    """Return the plan for a run that has ended, whatever becomes of its children: their deletion, and its own by TTL.

    `leftovers` are children that still go on, each with the time that it has left to end by itself.
    """
    # suspend and the like may still be edited: the status then speaks of the new generation.
    conditions = [c for c in obj.status.get("conditions") or [] if c.get("type") != "Reconciled"]
    status = {**obj.status, "observedGeneration": obj.generation, "conditions": conditions}
    ttl = time_to_live(obj, status.get("completionTime"), now)
    if ttl == timedelta():
        return Plan(status, delete=(Ref.to(resource, obj.manifest),))
    leftovers = list(leftovers)
    due = tuple(ref for ref, wait in leftovers if wait <= timedelta())
    looks = [wait for _, wait in leftovers if wait > timedelta()] + ([] if ttl is None else [ttl])
    return Plan(status, delete=due, after=min(looks, default=None))


def time_to_live(obj: Obj[Any], completion_time: str | None, now: datetime) -> timedelta | None:
    """Return the rest of ttlSecondsAfterFinished of a run that ended then; None if it stays."""
    ttl: int | None = obj.spec.ttl_seconds_after_finished
    if ttl is None or completion_time is None:
        return None
    return max(timedelta(seconds=ttl) - (now - parse_timestamp(completion_time)), timedelta())
