"""Meaning and remedy of the conditions, reasons and events that every kind may show.

docs/reference/conditions.md shows this table, that of the runs, and those in `reasons.py` of each kind's package. A
test holds the tables against the code: each reason has a line, and each line a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Line = tuple[str, str]  # meaning and remedy; the remedy is empty if there is nothing to do
Lines = Mapping[str, Line]  # by reason


@dataclass(frozen=True)
class Table:
    """Conditions, reasons and events of the kinds that `title` names."""

    title: str
    conditions: Mapping[str, str]  # meaning of True, by type
    reasons: Mapping[str, Lines]  # by type of condition
    events: Lines = field(default_factory=dict)


# Answers of the object storage, which several conditions pass on.
STORAGE: Lines = {
    "Unreachable": ("The object storage does not answer.", "Check its address and the network."),
    "Unavailable": ("The object storage is overloaded or failing.", "Wait; check the storage if it lasts."),
    "StorageFull": ("The disk of the object storage is full.", "Delete what is not needed, or enlarge the disk."),
    "NameTaken": ("A file and a folder of the bucket would have one name.", "Choose another name."),
    "AccessDenied": (
        "The storage refuses the keys for this URI.",
        "Correct the URI or the keys in the storage Secret.",
    ),
    "CredentialsMissing": ("The storage keys are missing.", "Put both keys into the storage Secret."),
    "BucketNotFound": ("The bucket does not exist.", "Create the bucket or correct the URI."),
    "WrongRegion": ("The bucket is in another region.", "Set the storage region in the chart."),
    "ObjectNotFound": ("No object exists at the URI.", "Upload it or correct the URI."),
    "ClockWrong": ("The clocks of node and storage differ.", "Synchronize the clock, for example with chrony."),
    "InvalidRange": ("An object is shorter than expected.", "Upload it again."),
    "Refused": ("The storage refused the request.", "Follow its message."),
    "ManifestInvalid": ("The list of files of an artifact is damaged.", "Upload the artifact again."),
    "TooLarge": ("A document in the storage exceeds its maximum size.", "Delete the document."),
    "AuthorityNotFound": ("The CA certificate of the storage is missing.", "Correct storage.caSecret in the chart."),
}

COMMON = Table(
    title="All kinds",
    conditions={
        "Accepted": "The spec is valid. A message warns of a probable mistake.",
        "Reconciled": "Shown only while False: the operator cannot carry out its plan.",
        "Reconciling": "Shown only while True, for kstatus: the object is on its way.",
        "Stalled": "Shown only while True, for kstatus: the object needs a change.",
    },
    reasons={
        "Accepted": {
            "Valid": ("The spec is valid.", ""),
            "InvalidSpec": ("The spec contradicts itself or names something impossible.", "Correct the field."),
        },
        "Ready": {"Pending": ("The operator has not observed the object yet.", "")},
        "Reconciled": {
            "Waiting": ("Something that the object needs does not exist yet.", ""),
            "ObjectChanged": ("An object that is to be changed was changed by another client just now.", ""),
            "MirrorBehind": ("The operator's view of an object is outdated.", ""),
            "WaitingForDeletion": ("An object of an earlier owner is still being deleted.", ""),
            "Conflict": ("Another owner has the name or the field.", "Rename this object or the other one."),
            "AlreadyExists": ("Another object was created with the same name.", ""),
            "Forbidden": ("Kubernetes refuses a child: quota, policy or missing rights.", "Follow the message."),
            "Invalid": ("Kubernetes refuses a child as invalid.", "Correct the field in the message."),
            "Refused": ("Kubernetes refuses a child.", "Follow the message."),
            "RequestFailed": ("A request to Kubernetes failed.", ""),
            "Unreachable": ("Kubernetes did not answer.", ""),
            "OperatorError": ("The operator failed: a bug.", "Report the bug with the operator's log."),
        },
        "Reconciling": {"Progressing": ("The object is on its way; the message tells the step.", "")},
        "Stalled": {"Failed": ("The object failed, or its spec is invalid.", "Follow the message.")},
    },
    events={
        "InvalidSpec": ("The spec is invalid.", "Correct the field in the message."),
        "Conflict": ("Another owner has the name or the field.", "Rename this object or the other one."),
        "Forbidden": ("Kubernetes refuses a child: quota, policy or missing rights.", "Follow the message."),
        "Invalid": ("Kubernetes refuses a child as invalid.", "Correct the field in the message."),
    },
)
