"""Schedule: runs that begin by themselves; spec and status."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from .base import DnsName, Extra, Schema, Status, rule, rules, says
from .cron import Cron, TimeZone

MAX_ACTIVE = 20
MAX_TRIGGERS = 20
MAX_EVENT = 500  # characters
MAX_SCHEDULE_NAME = 28  # a run's name adds 12 characters


_BY_TRIGGER: Extra = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["trigger"]}


class RunTemplate(Schema):
    """Kind and spec of the runs."""

    kind: str = Field(min_length=1, max_length=63, description="Kind of the runs, such as PipelineRun.")
    spec: dict[str, Any] = Field(
        max_length=100,
        description="Spec of the runs, as in an object of that kind. References such as churn@latest are resolved when "
        "a run starts.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


AliasReference = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?@[a-z]([-a-z0-9]*[a-z0-9])?$",
        max_length=104,
        json_schema_extra=says("must be a model's name with an alias or latest, such as churn@champion"),
    ),
]


class Trigger(Schema):
    """Event that starts a run."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.datasetVersion), has(self.modelAlias), has(self.pipeline), has(self.schedule)]"
                ".filter(it, it).size() == 1",
                "give one of datasetVersion, modelAlias, pipeline and schedule",
            )
        )
    )

    dataset_version: DnsName | None = Field(
        default=None, description="Name of a Dataset. Event: it has a new version that is ready."
    )
    model_alias: AliasReference | None = Field(
        default=None,
        description="MODEL@ALIAS. Event: the alias leads to another version. MODEL@latest: a new version is ready.",
    )
    pipeline: DnsName | None = Field(default=None, description="Name of a Pipeline. Event: a run of it has succeeded.")
    schedule: DnsName | None = Field(
        default=None, description="Name of another Schedule. Event: a run of it has succeeded."
    )

    @property
    def key(self) -> str:
        """Text that no other trigger of a Schedule has, such as datasetVersion/raw."""
        return "/".join(f"{name}/{value}" for name, value in self.model_dump(by_alias=True, exclude_none=True).items())


class ScheduleSpec(Schema):
    """Times and events, and the template of the runs that begin then."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.cron) || (has(self.triggers) && self.triggers.size() > 0)", "give cron, triggers or both"),
            rule("!has(self.start) || !has(self.end) || self.start < self.end", "end must be later than start"),
        )
    )

    cron: Cron | None = Field(
        default=None,
        description="Cron expression: minute, hour, day of month, month, day of week; or @hourly, @daily, @weekly, "
        "@monthly, @yearly. Default: runs begin by triggers alone.",
    )
    triggers: list[Trigger] = Field(
        default=[], max_length=MAX_TRIGGERS, description="Events of which each starts a run, beside the times."
    )
    debounce_seconds: int = Field(
        default=0,
        ge=0,
        le=86400,
        description="Time in seconds from an event to its run. Further events in that time have the same run.",
    )
    time_zone: TimeZone = Field(
        default="",
        description="Time zone of the expression, such as Europe/Berlin. A time that the clock skips in spring comes "
        "right after the gap; one that it repeats in autumn comes once. Default: UTC.",
    )
    start: datetime | None = Field(
        default=None, json_schema_extra={"maxLength": 64}, description="Moment before which no run begins."
    )
    end: datetime | None = Field(
        default=None, json_schema_extra={"maxLength": 64}, description="Moment after which no run begins."
    )
    suspend: bool = Field(default=False, description="With true, no run begins. Runs that have begun go on.")
    concurrency_policy: Literal["Allow", "Forbid", "Replace"] = Field(
        default="Allow",
        description="Handling of a time at which an earlier run still goes on. Allow: both run. Forbid: the new run "
        "begins when the earlier one has ended. Replace: the earlier run is deleted.",
    )
    starting_deadline_seconds: int | None = Field(
        default=None,
        ge=10,
        le=31536000,
        description="Time in seconds for which a run may be late; later, its time counts as missed. Default: no limit.",
    )
    successful_runs_history_limit: int = Field(
        default=3, ge=0, le=1000, description="Number of succeeded runs that are kept."
    )
    failed_runs_history_limit: int = Field(default=1, ge=0, le=1000, description="Number of failed runs that are kept.")
    template: RunTemplate = Field(description="Template of the runs.")


class RunReference(Schema):
    """A run."""

    kind: str = Field(max_length=63, description="Kind of the run.")
    name: str = Field(max_length=253, description="Name of the run.")


class TriggerStatus(Schema):
    """State of a trigger's object."""

    trigger: str = Field(max_length=128, description="Trigger, such as datasetVersion/raw.")
    value: str = Field(max_length=64, description="Version or time that was seen last; empty if there is none yet.")


class ScheduleStatus(Status):
    """Times and runs of the schedule."""

    state: str = Field(
        default="",
        max_length=32,
        description="Summary of the conditions, for display: Active, Suspended, Ended or Invalid.",
    )
    next_schedule_time: str | None = Field(
        default=None,
        json_schema_extra={"format": "date-time"},
        description="Time of the next run. Absent while none will begin.",
    )
    last_schedule_time: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Newest time whose run has begun."
    )
    last_successful_time: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="End of the newest run that succeeded."
    )
    last_missed_time: str | None = Field(
        default=None,
        json_schema_extra={"format": "date-time"},
        description="Newest time that passed without a run; an Event has the reason.",
    )
    triggers: list[TriggerStatus] = Field(
        default=[], max_length=MAX_TRIGGERS, json_schema_extra=_BY_TRIGGER, description="States of the triggers."
    )
    pending_event: str = Field(default="", max_length=MAX_EVENT, description="Event whose run has not begun.")
    pending_since: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Time at which that event was seen."
    )
    last_event_time: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Newest event whose run has begun."
    )
    last_run: str = Field(default="", max_length=253, description="Newest run.")
    last_run_state: str = Field(default="", max_length=32, description="State of the newest run.")
    active_runs: int = Field(default=0, ge=0, description="Number of runs that go on.")
    active: list[RunReference] = Field(
        default=[], max_length=MAX_ACTIVE, description=f"Runs that go on, the first {MAX_ACTIVE} of them."
    )
