"""Plan of a Schedule: the run whose time has come, the times that were missed, and the runs that are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile

from ultramarine.resources.cron import next_time, times_until, zone_of
from ultramarine.resources.pipeline_checks import template_faults
from ultramarine.resources.schedule import MAX_ACTIVE, RunReference, ScheduleSpec, ScheduleStatus
from ultramarine_contract.errors import InvalidSpec, UltramarineError
from ultramarine_contract.meta import PIPELINE, PIPELINE_RUN, Manifest

from ...runs import SOON
from ...shared import statuses
from ...shared.conditions import Condition, find, health, merge, parse_timestamp, timestamp
from ...shared.plan import Event, Plan, Seen
from ...shared.questions import AskAdmission, Question
from .runs import Run, Schedule, run_at, run_for, run_name, runs_of, surplus
from .triggers import absent, observe, pending_since, settle

SCHEDULED, RUN_ACTIVE, SUSPENDED, FINISHED = "Scheduled", "RunActive", "Suspended", "Finished"
AWAITS_EVENT = "AwaitsEvent"
DECIDED = ("conditions", "observedGeneration", "state", "nextScheduleTime", "lastRun", "lastRunState", "active")
MAX_MISSED = 100  # of the times that are counted
SHOWN = 3  # runs in a message
CAUSES = "the operator was away, the schedule was suspended, or an earlier run went on"
LOOK_AGAIN = timedelta(minutes=5)  # the timer does not see that the machine's clock was set
NEVER_USED = datetime(2000, 1, 1, tzinfo=UTC)  # of the run that the API server checks


@dataclass(frozen=True)
class Next:
    """Run that is to begin, and the time until it is too late; `purpose` says for what it is, `until` when it may."""

    purpose: str
    manifest: Manifest
    left: timedelta
    until: timedelta = timedelta()


@dataclass(frozen=True)
class Due:
    """Step of a pass. `newest` is the time whose run is to begin; `missed` are times that passed, the newest first."""

    newest: datetime | None = None
    started: Run | None = None
    missed: tuple[datetime, ...] = ()


def questions(schedule: Schedule, seen: Seen) -> tuple[Question, ...]:
    """Ask the API server whether it would admit a run, once for each version of the spec."""
    return () if _is_accepted(schedule) else (_admission(schedule, seen),)


def plan(schedule: Schedule, seen: Seen, now: datetime) -> Plan:
    """Start the run whose time has come, and delete runs that exceed the history. Raises InvalidSpec."""
    if not _is_accepted(schedule):
        objection = seen.answers[_admission(schedule, seen)]
        if isinstance(objection, UltramarineError):
            return Plan(dict(schedule.status), after=SOON)
        if objection:
            raise InvalidSpec(_of_template(objection))
    _check_circle(schedule.spec)
    status = statuses.former(schedule, ScheduleStatus, DECIDED)
    runs = runs_of(schedule, seen)
    due = Due() if schedule.spec.suspend else _due(schedule, status, runs, now)
    return _planned(schedule, status, runs, due, seen, now)


def _check_circle(spec: ScheduleSpec) -> None:
    """Raise InvalidSpec for runs that would start each other without end."""
    pipeline = spec.template.spec.get("pipeline") if spec.template.kind == PIPELINE_RUN.kind else None
    if pipeline and any(trigger.pipeline == pipeline for trigger in spec.triggers):
        raise InvalidSpec(
            f"spec.triggers names Pipeline {pipeline}, which the template runs: each run would start the next one. "
            "Remove that trigger."
        )


def _is_within(spec: ScheduleSpec, now: datetime) -> bool:
    start, end = spec.start, spec.end
    return (start is None or _aware(start) <= now) and (end is None or now <= _aware(end))


# ---- Template


def _is_accepted(schedule: Schedule) -> bool:
    accepted = find(schedule.status, "Accepted") or {}
    return accepted.get("status") == "True" and accepted.get("observedGeneration") == schedule.generation


def _admission(schedule: Schedule, seen: Seen) -> AskAdmission:
    return AskAdmission(json.dumps(run_at(schedule, NEVER_USED, seen.platform), sort_keys=True))


def _of_template(message: str) -> str:
    """Return the API server's message on a run, with the fields as they are called in the Schedule."""
    _, _, reason = message.partition(" is invalid: ")
    return re.sub(r"(?<![\w.])spec\.", "spec.template.spec.", reason or message)


def _warning(schedule: Schedule, seen: Seen) -> str:
    """Return what would fail now, or start nothing; another object may change it before the next run."""
    faults = template_faults(schedule.spec.template, lambda name: seen.look(PIPELINE.kind, name))
    warnings = [*faults, *absent(schedule, seen)]
    more = [f"and {len(warnings) - SHOWN} more"] if len(warnings) > SHOWN else []
    return "; ".join(warnings[:SHOWN] + more)


# ---- Times


def _earliest(schedule: Schedule, status: ScheduleStatus) -> datetime:
    """Return the moment after which a time counts."""
    created = str(schedule.manifest["metadata"].get("creationTimestamp", ""))
    return parse_timestamp(status.last_schedule_time or created)


def _due(schedule: Schedule, status: ScheduleStatus, runs: list[Run], now: datetime) -> Due:
    spec, names = schedule.spec, {run.name: run for run in runs}
    times = tuple(islice(_times(spec, _earliest(schedule, status), now), MAX_MISSED + 2))
    missed = tuple(time for time in times[1:] if run_name(schedule.name, time) not in names)
    if not times:
        return Due()
    if (run := names.get(run_name(schedule.name, times[0]))) is not None:
        return Due(started=run, missed=missed)
    if _left(spec, times[0], now) < timedelta():
        return Due(missed=(times[0], *missed))
    return Due(newest=times[0], missed=missed)


def _left(spec: ScheduleSpec, time: datetime, now: datetime) -> timedelta:
    """Return the time until a run is too late."""
    deadline = spec.starting_deadline_seconds
    return timedelta.max if deadline is None else time + timedelta(seconds=deadline) - now


def _times(spec: ScheduleSpec, earliest: datetime, now: datetime) -> Iterator[datetime]:
    """Yield the times that have come since, the newest first."""
    if spec.cron is None:
        return iter(())
    until = min(now, _aware(spec.end)) if spec.end else now
    since = max(earliest, _aware(spec.start) - timedelta(seconds=1)) if spec.start else earliest
    return takewhile(lambda time: time > since, times_until(spec.cron, spec.time_zone, until))


def _next(spec: ScheduleSpec, now: datetime) -> datetime | None:
    if spec.cron is None:
        return None
    since = max(now, _aware(spec.start) - timedelta(seconds=1)) if spec.start else now
    time = next_time(spec.cron, spec.time_zone, since)
    return None if time is None or (spec.end and time > _aware(spec.end)) else time


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# ---- Step


def _planned(schedule: Schedule, status: ScheduleStatus, runs: list[Run], due: Due, seen: Seen, now: datetime) -> Plan:
    spec, going = schedule.spec, [run for run in runs if not run.is_over]
    events = list(_events(schedule, status, due))
    if (settled := settle(status, runs)) is not None:
        events.append(Event("Started", f"{settled[0].kind} {settled[0].name} is the run because {settled[1]}"))
    counted = parse_timestamp(status.last_schedule_time) if status.last_schedule_time else None
    delete = [run.ref for run in surplus(schedule, runs, counted, pending_since(status))]
    upcoming = None if spec.suspend else _next(spec, now)
    coming = _coming(schedule, status, due, seen, now)
    apply: tuple[Manifest, ...] = ()
    waits, looks = "", [upcoming - now] if upcoming else []
    if coming is not None and coming.left < timedelta():
        events.append(Event("MissedTimes", f"no run began although {status.pending_event}; {CAUSES}", "Warning"))
        status.pending_since, status.pending_event, coming = None, "", None
    if coming is not None and coming.until > timedelta():
        looks.append(coming.until)
    elif coming is not None and going and spec.concurrency_policy != "Allow":
        names = ", ".join(f"{run.kind} {run.name}" for run in going[:SHOWN])
        waits = f"the run {coming.purpose} waits for the end of {names}"
        looks.append(coming.left)
        if spec.concurrency_policy == "Replace":
            delete += [run.ref for run in going if not run.is_going]
    elif coming is not None:
        apply = (coming.manifest,)
        looks.append(timedelta())  # the operator is not notified of its own writes
    if due.started is not None or settled is not None:
        looks.append(SOON)  # the history counts this run from now on
    if waits and (find(schedule.status, "Ready") or {}).get("reason") != RUN_ACTIVE:
        events.append(Event(RUN_ACTIVE, waits))
    _record(status, runs, due)
    if not apply:  # an event that comes while its run is being made has a run of its own
        former = status.pending_since
        observe(schedule, status, seen, now, counts=_is_within(spec, now))
        if status.pending_since != former:
            looks.append(timedelta())
    status.next_schedule_time = timestamp(upcoming) if upcoming else None
    state, ready = _state(spec, upcoming, waits, now)
    conditions = (Condition("Accepted", True, "Valid", _warning(schedule, seen)), ready, *health(done=True))
    document = {
        **{name: value for name, value in statuses.dumped(status).items() if value not in ("", [])},
        "observedGeneration": schedule.generation,
        "state": state,
        "conditions": merge(schedule.status.get("conditions") or [], conditions, schedule.generation, now),
    }
    after = max(min(*looks, LOOK_AGAIN), timedelta()) if looks else None
    return Plan(document, apply=apply, delete=tuple(delete), events=tuple(events), after=after)


def _coming(schedule: Schedule, status: ScheduleStatus, due: Due, seen: Seen, now: datetime) -> Next | None:
    """Return the run of the time that has come or, without one, of the event that an earlier pass saw."""
    spec, since = schedule.spec, pending_since(status)
    if due.newest is not None:
        purpose = f"for {_local(due.newest, spec)}"
        return Next(purpose, run_at(schedule, due.newest, seen.platform), _left(spec, due.newest, now))
    if since is None or spec.suspend or not spec.triggers:
        return None
    at = since + timedelta(seconds=spec.debounce_seconds)
    run = run_for(schedule, status.pending_event, since, seen.platform)
    return Next(f"because {status.pending_event}", run, _left(spec, at, now), at - now)


def _record(status: ScheduleStatus, runs: list[Run], due: Due) -> None:
    """Write the runs and the times of this pass into the status."""
    if due.started is not None and due.started.time is not None:
        status.last_schedule_time = timestamp(due.started.time)
    if due.missed:
        status.last_missed_time = max(timestamp(due.missed[0]), status.last_missed_time or "")
    ends = [run.completed for run in runs if run.state == "Succeeded" and run.completed]
    status.last_successful_time = max([*ends, status.last_successful_time or ""]) or None
    going = [run for run in runs if not run.is_over]
    status.active_runs = len(going)
    status.active = [RunReference(kind=run.kind, name=run.name) for run in going[:MAX_ACTIVE]]
    if runs:
        status.last_run, status.last_run_state = runs[-1].name, runs[-1].state or "New"


def _events(schedule: Schedule, status: ScheduleStatus, due: Due) -> Iterator[Event]:
    spec = schedule.spec
    if due.started is not None and due.started.time is not None:
        yield Event("Started", f"{due.started.kind} {due.started.name} is the run for {_local(due.started.time, spec)}")
    named = parse_timestamp(status.last_missed_time) if status.last_missed_time else None
    if missed := [time for time in due.missed if named is None or time > named]:
        last = _local(missed[0], spec)
        count = f"more than {MAX_MISSED}" if len(missed) > MAX_MISSED else str(len(missed))
        passed = (
            f"{count} times passed without a run, the last of them {last}" if missed[1:] else f"no run began at {last}"
        )
        yield Event("MissedTimes", f"{passed}; {CAUSES}", "Warning")


def _state(spec: ScheduleSpec, upcoming: datetime | None, waits: str, now: datetime) -> tuple[str, Condition]:
    if spec.suspend:
        message = "spec.suspend is true; set it to false to go on"
        return "Suspended", Condition("Ready", False, SUSPENDED, message)
    if waits:
        return "Active", Condition("Ready", True, RUN_ACTIVE, waits)
    is_over = spec.end is not None and _aware(spec.end) < now
    if upcoming is None and (is_over or not spec.triggers):
        message = "no further time comes; change spec.end or spec.cron to go on"
        return "Ended", Condition("Ready", False, FINISHED, message)
    keys = ", ".join(trigger.key for trigger in spec.triggers)
    if upcoming is None:
        return "Active", Condition("Ready", True, AWAITS_EVENT, f"a run begins after an event of {keys}")
    also = f", or after an event of {keys}" if keys else ""
    return "Active", Condition("Ready", True, SCHEDULED, f"the next run begins at {_local(upcoming, spec)}{also}")


def _local(time: datetime, spec: ScheduleSpec) -> str:
    return time.astimezone(zone_of(spec.time_zone)).isoformat()
