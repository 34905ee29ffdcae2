"""Meaning and remedy of the reasons that Datasets and DatasetVersions show."""

from __future__ import annotations

from ...runs.reasons import DELETED, DELETING
from ...shared.reasons import STORAGE, Lines, Table

_VERSION: Lines = {
    "ArtifactFound": ("The files exist and agree with spec.digest.", ""),
    "DigestMismatch": ("The stored files differ from spec.digest.", "Register the files as a new version."),
    "Quarantined": ("The version breaks a requirement; only its number leads to it.", "Read status.violations."),
    "ProfileFailed": ("The profile could not be made.", "Follow the message."),
}
_BROKEN: Lines = {
    **STORAGE,
    "Refused": ("The version breaks a requirement, or storage refused.", "Follow the message."),
}
_REFRESHED: Lines = {
    "Imported": ("The newest version has the content of the source.", ""),
    "Unchanged": ("The source has not changed since the last version.", ""),
    "Failed": ("The source could not be imported.", "Follow the message; the next refresh tries again."),
    "OperatorError": ("The operator could not ask the storage: a bug.", "Report it with its log."),
}

TABLES = (
    Table(
        title="Dataset",
        conditions={
            "Ready": "Each alias leads to an existing version.",
            "Refreshed": "The newest version has the content of the source.",
            "ArtifactsDeleted": "No artifact is left to delete.",
        },
        reasons={
            "Ready": {
                "AliasesResolved": ("Each alias leads to a version.", ""),
                "VersionNotFound": ("An alias leads to a missing version.", "Correct spec.aliases."),
            },
            "Refreshed": {
                **STORAGE,
                **_REFRESHED,
                "Looking": ("The storage is being asked whether the source has changed.", ""),
                "Importing": ("The source is being imported.", ""),
            },
            "ArtifactsDeleted": DELETING,
        },
        events={**DELETED, **STORAGE, **_REFRESHED},
    ),
    Table(
        title="DatasetVersion",
        conditions={"Ready": "The version can be read.", "Profiled": "The profile of the table is stored."},
        reasons={
            "Ready": {
                **_BROKEN,
                **_VERSION,
                "Checking": ("The storage is being asked for the files.", ""),
                "Profiling": ("The requirements of the Dataset are being checked.", ""),
                "OperatorError": ("The operator could not ask the storage: a bug.", "Report it with its log."),
            },
            "Profiled": {
                "Profiled": ("The profile of the table is stored.", ""),
                "Profiling": ("The table is being read.", ""),
                "ProfileFailed": ("The profile could not be made.", "Follow the message."),
            },
        },
        events={
            **_BROKEN,
            **_VERSION,
            "Checking": ("The storage is being asked for the files.", ""),
            "OperatorError": ("The operator could not ask the storage: a bug.", "Report it with its log."),
            "Profiled": ("The profile of the table is stored.", ""),
        },
    ),
)
