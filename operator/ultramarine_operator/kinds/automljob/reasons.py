"""Meaning and remedy of the reasons that AutoMLJobs show."""

from __future__ import annotations

from ...shared.reasons import Table

TABLES = (
    Table(
        title="AutoMLJob",
        conditions={},
        reasons={
            "Running": {
                "Preparing": ("A job reads the table, and detects types and weaknesses.", ""),
                "Searching": ("A Sweep tries candidates.", ""),
                "Finishing": ("A job fits, tests and explains the best.", ""),
                "ReadingResult": ("The result is being read from the storage.", "Check the storage if it lasts."),
            },
            "Failed": {
                "PreparationFailed": ("The table or a column is not as the spec says.", "Follow the message."),
                "SearchFailed": ("No candidate has succeeded.", "Follow the message; read the log of a trial."),
                "FinishFailed": ("The last job has failed.", "Follow the message; raise limits.timeoutSeconds."),
                "DeadlineExceeded": ("No model within limits.timeoutSeconds.", "Raise it, or do less."),
                "ResultLost": ("The summary of the last job is lost.", "Run it again as a new AutoMLJob."),
            },
        },
    ),
)
