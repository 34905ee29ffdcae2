"""Meaning and remedy of the reasons that Models and ModelVersions show."""

from __future__ import annotations

from ...runs.reasons import DELETED, DELETING
from ...shared.reasons import STORAGE, Lines, Table

# The server cannot load the model.
_UNLOADABLE: Lines = {
    "CodeExecutionRefused": ("Loading the model would run code.", "Allow it by allowCodeExecution, or use ONNX."),
    "DependencyMissing": ("The model needs a package that the server lacks.", "Save it as ONNX, or without it."),
    "DigestMismatch": ("The stored files differ from spec.digest.", "Register the files as a new version."),
    "FormatUnknown": ("The format cannot be recognized.", "Set spec.format.name in a new version."),
    "ModelCorrupt": ("The model's file is damaged.", "Upload it again as a new version."),
    "ModelInvalid": ("The model's file is not what its format says.", "Correct the format or the file."),
    "ModelUnsupported": ("The server does not support this model.", "Save it in a supported format."),
    "SignatureInvalid": ("The signature is invalid.", "Correct spec.signature in a new version."),
    "SignatureMismatch": ("The model's inputs differ from spec.signature.", "Correct it in a new version."),
}
_COMPILING: Lines = {
    "Compiling": ("The model is being compiled.", ""),
    "CompileFailed": ("Compilation failed.", "Read the message; register another version to retry."),
    "NotConvertible": ("The model cannot become an ONNX graph.", "Serve it natively."),
    "ParityFailed": ("Answers of the compiled model differ.", "Loosen compile.parity, or serve natively."),
}
_ARTIFACT: Lines = {
    "ArtifactFound": ("The artifact exists and agrees with spec.digest.", ""),
    "Checking": ("The storage is being asked for the artifact.", ""),
}

TABLES = (
    Table(
        title="Model",
        conditions={
            "Ready": "Each alias leads to an existing version.",
            "ArtifactsDeleted": "No artifact is left to delete.",
        },
        reasons={
            "Ready": {
                "AliasesResolved": ("Each alias leads to a version.", ""),
                "VersionNotFound": ("An alias leads to a missing version.", "Correct spec.aliases."),
            },
            "ArtifactsDeleted": DELETING,
        },
        events=DELETED,
    ),
    Table(
        title="ModelVersion",
        conditions={
            "Ready": "The version can be served.",
            "Compiled": "The compiled model is served.",
            "Compatible": "Shown only while False: the servers may read the model differently.",
        },
        reasons={
            "Ready": {
                **_ARTIFACT,
                **_COMPILING,
                **_UNLOADABLE,
                **STORAGE,
                "OperatorError": ("The operator could not ask the storage: a bug.", "Report it with its log."),
            },
            "Compiled": {
                **_COMPILING,
                **_UNLOADABLE,
                "Compiled": ("The compiled model answers as the native model does.", ""),
                "NotAsked": ("The model is served natively.", ""),
                "Superseded": ("A newer version came first.", "Name this version in an alias or endpoint."),
            },
            "Compatible": {
                "VersionMismatch": (
                    "Another version of the library saved the model.",
                    "Retrain, or check its answers.",
                ),
            },
        },
        events={
            **_ARTIFACT,
            **_COMPILING,
            **_UNLOADABLE,
            **STORAGE,
            "Compiled": ("The compiled model is served from now on.", ""),
            "VersionMismatch": ("Another version of the library saved the model.", "Retrain, or check its answers."),
        },
    ),
)
