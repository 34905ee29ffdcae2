"""Schedule: runs of any kind that begin by themselves."""

from __future__ import annotations

from ultramarine.resources.schedule import MAX_SCHEDULE_NAME, ScheduleSpec, ScheduleStatus
from ultramarine_contract.meta import DATASET, MODEL, PIPELINE, PIPELINE_RUN, SCHEDULE

from ...shared.kind import NO_DOT, Column, Kind
from .plan import plan, questions
from .triggers import topics_of

KIND = Kind(
    short="sched",
    description="Schedule starts runs of one template at the times of a cron expression, and after events.",
    spec=ScheduleSpec,
    status=ScheduleStatus,
    columns=(
        Column("State", ".status.state"),
        Column("Kind", ".spec.template.kind"),
        Column("Cron", ".spec.cron"),
        Column("Zone", ".spec.timeZone", priority=1),
        Column("Active", ".status.activeRuns", "integer"),
        Column("Last", ".status.lastScheduleTime", "date"),
        Column("Result", ".status.lastRunState"),
        Column("Next", ".status.nextScheduleTime"),
        Column("Run", ".status.lastRun", priority=1),
        Column("Event", ".status.lastEventTime", "date", priority=1),
    ),
    plan=plan,
    questions=questions,
    related=(PIPELINE, PIPELINE_RUN),
    rung_by=(DATASET, MODEL, PIPELINE_RUN, SCHEDULE),
    rung_by_edits=(PIPELINE,),
    topics=topics_of,
    names=(
        (
            f"size(self.metadata.name) <= {MAX_SCHEDULE_NAME}",
            f"metadata.name must have at most {MAX_SCHEDULE_NAME} characters: the name of each run begins with it",
        ),
        NO_DOT,
    ),
    rules=(
        (
            "!has(self.spec.triggers) || !self.spec.triggers.exists(trigger, has(trigger.schedule) && "
            "trigger.schedule == self.metadata.name)",
            "spec.triggers must not name the Schedule itself: each of its runs would start the next one",
        ),
    ),
    runs=True,
)
