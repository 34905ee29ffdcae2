"""Meaning and remedy of the reasons that Sweeps alone show."""

from __future__ import annotations

from ...shared.reasons import Table

TABLES = (
    Table(
        title="Sweep",
        conditions={},
        reasons={
            "Running": {
                "PodsStarting": ("The coordinator and the workers are starting.", ""),
                "TrialsStarting": ("The first trials are starting.", ""),
                "TrialsRunning": ("Trials run.", ""),
                "TokenMissing": ("The token's Secret was deleted; pods are recreated.", ""),
                "WarmStartMissing": ("A Sweep of warmStartFrom does not exist.", "Create it, or start without it."),
                "WarmStartUnfinished": ("A Sweep of warmStartFrom has not ended.", ""),
                "ReadingSummary": ("The result is being read from the storage.", "Check the storage if it lasts."),
            },
            "Succeeded": {
                "MaxTrialsReached": ("All trials have ended.", ""),
                "SearchSpaceExhausted": ("Each point of the search space was tried.", ""),
                "ObjectiveReached": ("A trial has reached objective.stopAt.", ""),
                "BudgetSpent": ("The budget is used up.", ""),
            },
            "Failed": {
                "SweepFailed": ("The coordinator ended the sweep without a reason.", "Read the coordinator's log."),
                "SummaryLost": ("The sweep's result is lost.", "Read the journal at status.journal.uri."),
                "NothingToRegister": ("The best trial has no output to register.", "Read the journal."),
                "NoTrialSucceeded": ("No trial has succeeded.", "Correct the cause of the last failure."),
                "CanaryFailed": ("The first trial failed.", "Correct the command; start a new Sweep."),
                "MaxFailedTrialsReached": ("limits.maxFailedTrials trials have failed.", "Correct the cause."),
                "MetricNotReported": ("Commands succeeded without printing the objective.", "Print it as name=value."),
                "CoordinatorCrashed": ("The coordinator crashed repeatedly: a bug.", "Report the bug with its log."),
                "CoordinatorRefused": ("A worker's token is outdated.", ""),
                "JournalDamaged": ("The journal cannot be read.", "Restore it, or start a new Sweep."),
                "WarmStartIncompatible": ("No trial of warmStartFrom fits the search space.", "Adapt either of them."),
                "WarmStartNotFound": ("The journal of a Sweep in warmStartFrom is gone.", "Start without it."),
            },
        },
    ),
)
