"""Meaning and remedy of the reasons that TrainingJobs alone show."""

from __future__ import annotations

from ...shared.reasons import Table

TABLES = (
    Table(
        title="TrainingJob",
        conditions={},
        reasons={
            "Running": {
                "PodStarting": ("The first pod is starting.", ""),
                "PodRunning": ("The pod fetches code, inputs and environment, then the command runs.", ""),
                "ReadingResult": ("The result is being read from the storage.", "Check the storage if it lasts."),
            },
            "Failed": {
                "ResultLost": ("The command succeeded, but its result is lost.", "Run it again as a new TrainingJob."),
                "GangFailed": ("Nodes of the job could not connect.", "Read the log of node 0."),
                "PodGone": ("The pod was deleted; only in status.attemptHistory.", ""),
            },
        },
    ),
)
