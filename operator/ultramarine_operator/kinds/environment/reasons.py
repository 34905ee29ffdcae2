"""Meaning and remedy of the reasons that Environments show."""

from __future__ import annotations

from ...runs.reasons import FAILURES
from ...shared.reasons import Lines, Table

_FAILURES: Lines = {
    **FAILURES,
    "BuildFailed": ("The build failed without a known reason.", "Read the message and the log of the pod."),
    "BuildTimeout": ("The build exceeded one hour.", "Require fewer packages, or packages with wheels."),
    "ResultLost": ("The build left no readable result.", "Wait; another attempt follows."),
}
TABLES = (
    Table(
        title="Environment",
        conditions={
            "Ready": "The archive is stored, and pods can use it.",
            "Failed": "Shown only while True: the build has failed for good.",
        },
        reasons={
            "Ready": {
                **_FAILURES,
                "Built": ("The archive is stored.", ""),
                "Building": ("The packages are being resolved, installed or stored.", ""),
                "Unused": ("No object used it for its time to live; it will be deleted.", ""),
                "Deleting": ("The archive is being deleted, then this object.", ""),
                "DeletionFailed": ("The archive cannot be deleted; it is retried.", "Follow the message."),
            },
            "Failed": _FAILURES,
        },
        events={
            "Built": ("The archive is stored.", ""),
            "Building": ("A build begins.", ""),
            "Unused": ("No object used it for its time to live; it will be deleted.", ""),
            "Deleting": ("The archive is being deleted, then this object.", ""),
            "DeletionFailed": ("The archive cannot be deleted; it is retried.", "Follow the message."),
        },
    ),
)
