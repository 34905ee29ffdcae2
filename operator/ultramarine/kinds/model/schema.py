"""Model and ModelVersion: a name under which versions are kept, and one immutable version."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from ...shared.schema import IMMUTABLE, Digest, DnsName, Schema, Status, Uri, rule, rules, says

LATEST = "latest"  # always means the newest ready version, so nobody may give that name to another


def version_name(model: str, version: str) -> str:
    """The name of the ModelVersion object of a model's version."""
    return f"{model}-{version}"


def version_number(text: object) -> int:
    """A version's number; 0 for what is none, such as a status that somebody wrote by hand."""
    return int(str(text)) if str(text).isdecimal() else 0


VersionNumber = Annotated[
    str,
    Field(
        pattern=r"^[1-9][0-9]{0,8}$",
        max_length=9,
        json_schema_extra=says("must be a number from 1, in quotes, such as '7'"),
    ),
]


class ModelSpec(Schema):
    """A model's names for its versions."""

    description: str = Field(default="", max_length=4096, description="What it is for, for people.")
    aliases: dict[str, VersionNumber] = Field(
        default={},
        max_length=64,
        description="Alias to version number, such as champion: '7'. An endpoint that names the alias follows it.",
        json_schema_extra=rules(
            rule(
                "self.all(key, key.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(key) <= 40)",
                "each alias must be a lower-case name",
            ),
            rule(
                f"!('{LATEST}' in self)", f"the alias {LATEST} is always the newest ready version; choose another name"
            ),
        ),
    )


class ModelStatus(Status):
    """What is known of the model's versions."""

    versions: int = Field(default=0, ge=0, description="How many versions there are.")
    latest_version: str = Field(default="", max_length=9, description="The highest version number ever given.")
    latest_ready_version: str = Field(
        default="", max_length=9, description="The newest version that can be served: @latest."
    )
    aliases: str = Field(default="", max_length=4096, description="The aliases, for people.")


class ModelFormat(Schema):
    """How the model is stored."""

    name: Literal["sklearn", "onnx", "xgboost", "lightgbm", "mlflow", "torch", "python", "pickle", "joblib"] = Field(
        description="sklearn (a .skops file), onnx, xgboost (.ubj or .json), lightgbm (.txt or .lgb), mlflow (a folder "
        "with MLmodel), or one of those that run code when they are loaded: torch (.pt2, or TorchScript in a .pt), "
        "python (a folder with model.py), pickle, joblib."
    )


class Tensor(Schema):
    """One input or output of a model, in the words of the Open Inference Protocol."""

    name: str = Field(min_length=1, max_length=253, description="Its name.")
    datatype: Literal[
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
        "BYTES",
    ] = Field(description="Its element type.")
    shape: list[int] = Field(
        max_length=8, description="Its dimensions; -1 for any length, usually the first, the batch."
    )


class Signature(Schema):
    """What goes in and what comes out."""

    inputs: list[Tensor] = Field(min_length=1, max_length=1024, description="The inputs.")
    outputs: list[Tensor] = Field(default=[], max_length=1024, description="The outputs.")


class Lineage(Schema):
    """Where the version comes from."""

    training_job: str = Field(default="", max_length=253, description="The TrainingJob whose output it is.")


class ModelVersionSpec(Schema):
    """One version. It cannot be changed later, but for allowCodeExecution."""

    model: DnsName = Field(description="The Model that it is a version of.", json_schema_extra=IMMUTABLE)
    version: VersionNumber = Field(description="Its number.", json_schema_extra=IMMUTABLE)
    uri: Uri = Field(
        description="The folder that a TrainingJob uploaded (ends in a slash), or one object, such as s3://models/churn.onnx.",
        json_schema_extra=IMMUTABLE,
    )
    digest: Digest = Field(
        description="The digest that the TrainingJob told, or the SHA-256 of the one object; checked at every load.",
        json_schema_extra=IMMUTABLE,
    )
    format: ModelFormat = Field(description="How it is stored.", json_schema_extra=IMMUTABLE)
    signature: Signature | None = Field(
        default=None,
        description="Its inputs and outputs; when absent the server infers them from the model.",
        json_schema_extra=IMMUTABLE,
    )
    allow_code_execution: bool = Field(
        default=False,
        description="Whether it may be loaded though its format runs code of its maker's choice: torch, python, "
        "pickle, joblib, and in a folder of mlflow what is pickled.",
    )
    lineage: Lineage = Field(default=Lineage(), description="Where it comes from.", json_schema_extra=IMMUTABLE)


class ModelVersionStatus(Status):
    """Whether the version can be served."""

    model_config = ConfigDict(title="ModelVersionStatus")

    state: str = Field(default="", max_length=32, description="Ready, Waiting, Refused or Invalid; for reading only.")
    bytes: int = Field(default=0, ge=0, description="Its size.")
