"""The runs of a Schedule: the objects to create, and those that exist."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from ultramarine.resources.schedule import ScheduleSpec
from ultramarine_contract.meta import (
    API_VERSION,
    GROUP,
    VERSION,
    Manifest,
    Ref,
    Resource,
    asked_by,
    child_metadata,
)

from ...runs import queues
from ...shared.conditions import ENDED, timestamp
from ...shared.plan import Obj, Platform, Seen

Schedule = Obj[ScheduleSpec]

ANNOTATION_TIME = f"{GROUP}/scheduled-for"  # of a run: its time
ANNOTATION_EVENT = f"{GROUP}/triggered-by"  # of a run that an event started: the event in words
OVER = (*ENDED, "Invalid")
# Of a run's name: seconds since 1970; m stands for a run that a user started, e for one of an event.
SUFFIX = re.compile(r"-([me]?)(\d{10,})")


@dataclass(frozen=True)
class Run:
    """A run that exists. `time` is that in its name, None if the name has none."""

    kind: str
    name: str
    time: datetime | None
    is_manual: bool
    is_event: bool
    state: str
    completed: str
    is_going: bool  # deleted already
    ref: Ref

    @property
    def is_over(self) -> bool:
        return self.state in OVER


def run_name(schedule: str, time: datetime) -> str:
    """Return the name of the run for a time, which no second run can have."""
    return f"{schedule}-{int(time.timestamp()):010}"


def event_run_name(schedule: str, since: datetime) -> str:
    """Return the name of the run for an event, which no second run can have."""
    return f"{schedule}-e{int(since.timestamp()):010}"


def run_at(schedule: Schedule, time: datetime, platform: Platform) -> Manifest:
    """Return the run for a time."""
    return _run_called(schedule, run_name(schedule.name, time), {ANNOTATION_TIME: timestamp(time)}, platform)


def run_for(schedule: Schedule, event: str, since: datetime, platform: Platform) -> Manifest:
    """Return the run for an event."""
    return _run_called(schedule, event_run_name(schedule.name, since), {ANNOTATION_EVENT: event}, platform)


def _run_called(schedule: Schedule, name: str, annotations: Mapping[str, str], platform: Platform) -> Manifest:
    metadata = queues.labelled(child_metadata(schedule.manifest, name), schedule.manifest)
    template = schedule.spec.template
    return {
        "apiVersion": API_VERSION,
        "kind": template.kind,
        "metadata": {
            **metadata,
            "annotations": {**annotations, **asked_by(platform.requester(schedule.manifest))},
        },
        "spec": template.spec,
    }


def runs_of(schedule: Schedule, seen: Seen) -> list[Run]:
    """Return the runs that exist, the oldest first; those without a time in their name come before all others."""
    runs = [_run(schedule, child) for child in seen.children]
    return sorted(runs, key=lambda run: (run.time or datetime.min.replace(tzinfo=UTC), run.name))


def _run(schedule: Schedule, child: Manifest) -> Run:
    kind, meta, status = child["kind"], child["metadata"], child.get("status") or {}
    match = SUFFIX.fullmatch(meta["name"].removeprefix(schedule.name))
    return Run(
        kind=kind,
        name=meta["name"],
        time=datetime.fromtimestamp(int(match[2]), UTC) if match else None,
        is_manual=not match or match[1] == "m",
        is_event=match is not None and match[1] == "e",
        state=str(status.get("state") or ""),
        completed=str(status.get("completionTime") or ""),
        is_going=bool(meta.get("deletionTimestamp")),
        ref=Ref.to(Resource(GROUP, VERSION, f"{kind.lower()}s", kind), child),
    )


def surplus(schedule: Schedule, runs: Iterable[Run], started: datetime | None, pending: datetime | None) -> list[Run]:
    """Return the runs that have ended and exceed the limits of the history.

    A run counts once the status names its time, `started` being the newest of them, or names its event no more as
    `pending`: it would otherwise run again.
    """

    def counts(run: Run) -> bool:
        if run.time is None or not run.is_over:
            return False
        if run.is_event:
            return run.time != pending
        return run.is_manual or (started is not None and run.time <= started)

    ended = [run for run in runs if counts(run)]
    succeeded = [run for run in ended if run.state == "Succeeded"]
    failed = [run for run in ended if run.state != "Succeeded"]
    limits = (
        (succeeded, schedule.spec.successful_runs_history_limit),
        (failed, schedule.spec.failed_runs_history_limit),
    )
    return [run for some, limit in limits for run in some[: max(len(some) - limit, 0)] if not run.is_going]
