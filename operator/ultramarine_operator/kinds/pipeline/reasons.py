"""Meaning and remedy of the reasons that Pipelines and PipelineRuns show."""

from __future__ import annotations

from ...shared.reasons import Table

TABLES = (
    Table(
        title="Pipeline",
        conditions={"Ready": "The pipeline was checked, and can run."},
        reasons={"Ready": {"Checked": ("The pipeline was checked.", "")}},
    ),
    Table(
        title="PipelineRun",
        conditions={},
        reasons={
            "Running": {
                "PipelineMissing": ("The Pipeline does not exist.", "Apply it, or correct spec.pipeline."),
                "RerunMissing": ("The run in spec.rerun.of does not exist.", "Correct the name."),
                "RerunUnfinished": ("The run in spec.rerun.of has not ended.", ""),
                "Beginning": ("The spec of the Pipeline, or the versions of its datasets, are being kept.", ""),
                "StepsRunning": ("Steps run.", ""),
            },
            "Failed": {
                "PartitionsInvalid": (
                    "The files of a dataset lie in no partitions, or in partitions of different columns.",
                    "Write a version whose files are all partitioned by the same columns.",
                ),
                "StepFailed": ("A step has failed.", "Correct its cause; resume the run."),
            },
        },
    ),
)
