"""Events that start runs: what the object of each trigger shows, and the event whose run has not begun."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from ultramarine.resources.model import LATEST
from ultramarine.resources.schedule import MAX_EVENT, ScheduleStatus, Trigger, TriggerStatus
from ultramarine_contract.meta import DATASET, MODEL, PIPELINE, PIPELINE_RUN, SCHEDULE, Manifest

from ...shared.conditions import parse_timestamp, timestamp
from ...shared.datasets import topic_of
from ...shared.plan import Seen
from .runs import Run, Schedule

SECOND = timedelta(seconds=1)


def topics_of(schedule: Manifest) -> frozenset[str]:
    """Return the topics of a Schedule: its own, its Pipeline's, and those of the objects that its triggers name."""
    topics = {f"schedule {schedule['metadata']['name']}"}
    for trigger in schedule["spec"].get("triggers") or []:
        if dataset := trigger.get("datasetVersion"):
            topics.add(topic_of(str(dataset)))
        elif model := trigger.get("modelAlias"):
            topics.add(str(model).partition("@")[0])
        elif pipeline := trigger.get("pipeline"):
            topics.add(f"pipeline {pipeline}")
        elif other := trigger.get("schedule"):
            topics.add(f"schedule {other}")
    template = schedule["spec"].get("template") or {}
    if template.get("kind") == PIPELINE_RUN.kind and (called := (template.get("spec") or {}).get("pipeline")):
        topics.add(f"pipeline {called}")
    return frozenset(topics)


def absent(schedule: Schedule, seen: Seen) -> Iterator[str]:
    """Yield the objects that triggers name, and that do not exist yet."""
    for trigger in schedule.spec.triggers:
        kind, name = next(
            (kind.kind, str(value).partition("@")[0])
            for kind, value in (
                (DATASET, trigger.dataset_version),
                (MODEL, trigger.model_alias),
                (PIPELINE, trigger.pipeline),
                (SCHEDULE, trigger.schedule),
            )
            if value
        )
        if seen.look(kind, name) is None:
            yield f"spec.triggers: {kind} {name} does not exist yet"


def settle(status: ScheduleStatus, runs: list[Run]) -> tuple[Run, str] | None:
    """Forget the event whose run exists; return the run and the event."""
    since = pending_since(status)
    run = next((run for run in runs if run.is_event and run.time == since), None)
    if run is None:
        return None
    event = status.pending_event
    status.last_event_time, status.pending_since, status.pending_event = status.pending_since, None, ""
    return run, event


def observe(schedule: Schedule, status: ScheduleStatus, seen: Seen, now: datetime, *, counts: bool) -> None:
    """Take what the objects of the triggers show into the status and, if events count, the first one since the run.

    What an object shows when its trigger is new is not an event.
    """
    former = {entry.trigger: entry.value for entry in status.triggers}
    entries: dict[str, TriggerStatus] = {}
    for trigger in schedule.spec.triggers:
        before = former.get(trigger.key)
        value, event = _shown(trigger, before or "", seen)
        entries[trigger.key] = TriggerStatus(trigger=trigger.key, value=value)
        if before is not None and event and counts and status.pending_since is None:
            last = parse_timestamp(status.last_event_time) + SECOND if status.last_event_time else now
            status.pending_since, status.pending_event = timestamp(max(now, last)), event[:MAX_EVENT]
    status.triggers = list(entries.values())
    if not entries:
        status.pending_since, status.pending_event = None, ""


def pending_since(status: ScheduleStatus) -> datetime | None:
    """Return the time of the event whose run has not begun."""
    return parse_timestamp(status.pending_since) if status.pending_since else None


def _shown(trigger: Trigger, former: str, seen: Seen) -> tuple[str, str]:
    """Return the value of a trigger's object, and the event in words if it is a new one."""
    if trigger.dataset_version:
        return _newest(seen.look(DATASET.kind, trigger.dataset_version), former, f"Dataset {trigger.dataset_version}")
    if trigger.model_alias:
        name, _, alias = trigger.model_alias.partition("@")
        model = seen.look(MODEL.kind, name)
        if alias == LATEST:
            return _newest(model, former, f"Model {name}")
        value = str((((model or {}).get("spec") or {}).get("aliases") or {}).get(alias, ""))
        return value or former, f"{trigger.model_alias} is version {value}" if value not in ("", former) else ""
    if trigger.pipeline:
        runs = [run for run in seen.others(PIPELINE_RUN.kind) if run["spec"].get("pipeline") == trigger.pipeline]
        ends = [run["status"] for run in runs if (run.get("status") or {}).get("state") == "Succeeded"]
        time = max((str(status.get("completionTime") or "") for status in ends), default="")
        return max(time, former), f"a run of Pipeline {trigger.pipeline} succeeded" if time > former else ""
    other = seen.look(SCHEDULE.kind, str(trigger.schedule)) or {}
    time = str((other.get("status") or {}).get("lastSuccessfulTime") or "")
    return max(time, former), f"a run of Schedule {trigger.schedule} succeeded" if time > former else ""


def _newest(holder: Manifest | None, former: str, name: str) -> tuple[str, str]:
    """Return the newest ready version of a Dataset or a Model; a deleted one begins again."""
    if holder is None:
        return "", ""
    value = str((holder.get("status") or {}).get("latestReadyVersion") or "")
    if not value.isdigit() or int(value) <= (int(former) if former.isdigit() else 0):
        return former, ""
    return value, f"{name} has version {value}"
