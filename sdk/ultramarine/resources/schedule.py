"""Schedule: runs that begin by themselves; spec and status."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from .base import Schema, Status, rule, rules
from .cron import Cron, TimeZone

MAX_ACTIVE = 20
MAX_SCHEDULE_NAME = 28  # a run's name adds 12 characters


class RunTemplate(Schema):
    """Kind and spec of the runs."""

    kind: str = Field(min_length=1, max_length=63, description="Kind of the runs, such as PipelineRun.")
    spec: dict[str, Any] = Field(
        max_length=100,
        description="Spec of the runs, as in an object of that kind. References such as churn@latest are resolved when "
        "a run starts.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class ScheduleSpec(Schema):
    """Times, and the template of the runs that begin then."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("!has(self.start) || !has(self.end) || self.start < self.end", "end must be later than start"),
        )
    )

    cron: Cron = Field(
        description="Cron expression: minute, hour, day of month, month, day of week; or @hourly, @daily, @weekly, "
        "@monthly, @yearly."
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
    last_run: str = Field(default="", max_length=253, description="Newest run.")
    last_run_state: str = Field(default="", max_length=32, description="State of the newest run.")
    active_runs: int = Field(default=0, ge=0, description="Number of runs that go on.")
    active: list[RunReference] = Field(
        default=[], max_length=MAX_ACTIVE, description=f"Runs that go on, the first {MAX_ACTIVE} of them."
    )
