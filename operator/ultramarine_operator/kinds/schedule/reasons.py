"""Meaning and remedy of the reasons that Schedules show."""

from __future__ import annotations

from ...shared.reasons import Table

TABLES = (
    Table(
        title="Schedule",
        conditions={"Ready": "Further runs will begin."},
        reasons={
            "Ready": {
                "Scheduled": ("The message has the time of the next run.", ""),
                "AwaitsEvent": ("A run begins after an event of a trigger.", ""),
                "RunActive": ("A run waits for the end of an earlier one.", ""),
                "Suspended": ("`spec.suspend` is true.", "Set it to false."),
                "Finished": ("No further time comes before `spec.end`.", "Change `spec.end` or `spec.cron`."),
            },
        },
        events={
            "Started": ("A run began at its time, or after an event.", ""),
            "RunActive": ("A run waits for the end of an earlier one.", ""),
            "MissedTimes": (
                "Times or an event passed without a run.",
                "Start the run by `ultramarine schedule trigger NAME` if you need it.",
            ),
        },
    ),
)
