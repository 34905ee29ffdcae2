"""Meaning and remedy of the reasons that Environments show."""

from __future__ import annotations

from ...runs.reasons import FAILURES
from ...shared.reasons import Lines, Table

_FAILURES: Lines = {
    **FAILURES,
    "BuildFailed": ("A package has no wheel and cannot be built, or uv failed.", "Follow the message."),
    "CertificateUnknown": ("No known authority signed the index's certificate.", "Set the chart's value ca."),
    "DiskFull": ("The node's disk is full.", "Free space, or use fewer packages; another attempt follows."),
    "IndexUnauthorized": ("The index refused the credentials.", "Correct the Secret environments.secretName."),
    "IndexUnreachable": ("The package index does not answer.", "Check environments.indexUrl; another attempt follows."),
    "NotFound": ("A package, or its version, does not exist.", "Correct the name or the version."),
    "PythonMismatch": (
        "The image has another Python version.",
        "Apply it under another name, with that version or another image.",
    ),
    "RequirementsInvalid": (
        "A line of the requirements cannot be used.",
        "Apply it under another name with a correct line.",
    ),
    "RequirementsMissing": ("The ConfigMap or the file is missing.", "Create it, or correct the reference."),
    "TooLarge": ("The packages exceed the chart's environments.maxSize.", "Remove packages, or raise the limit."),
    "Unsatisfiable": ("The requirements contradict each other.", "Apply it under another name with looser ones."),
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
