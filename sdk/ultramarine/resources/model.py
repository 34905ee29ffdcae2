"""Model and ModelVersion: a name for a series of versions, and one immutable version."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema
from ultramarine_contract.common import MAX_UNTRUSTED, MAX_UNTRUSTED_NAME, METRIC_LIMIT
from ultramarine_contract.environment_records import MAX_REQUIREMENTS
from ultramarine_contract.score import MAX_SCORE

from .base import IMMUTABLE, Digest, DnsName, MlflowStatus, Schema, Status, Uri, rule, rules, says
from .environment import Requirement

MAX_ARTIFACTS = 500  # with URIs of maximum length, a third of the maximum size of an object
LATEST = "latest"  # always the newest ready version; no alias may have this name


def version_name(model: str, version: str) -> str:
    """Return the name of the ModelVersion object of a model's version."""
    return f"{model}-{version}"


def version_number(text: object) -> int:
    """Return a version's number; 0 for a text that is not a number, such as a status edited by hand."""
    return int(str(text)) if str(text).isdecimal() else 0


def trusts(model: dict[str, Any] | None) -> bool:
    """True if all versions of the Model, as it is in the API, may run code when they are loaded."""
    return (((model or {}).get("spec") or {}).get("trust") or {}).get("allowCodeExecution") is True


VERSION_PATTERN = r"^[1-9][0-9]{0,8}$"
VersionNumber = Annotated[
    str,
    Field(
        pattern=VERSION_PATTERN,
        max_length=9,
        json_schema_extra=says("must be a number from 1, in quotes, such as '7'"),
    ),
]


def _quoted(value: Any) -> Any:
    """Return the text of a whole number; pydantic refuses any other value."""
    return str(value) if type(value) is int else value


ALIAS_RULES = rules(
    rule(
        "self.all(key, key.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(key) <= 40)",
        "each alias must be a lower-case name of at most 40 characters",
    ),
    rule(
        f"!('{LATEST}' in self)",
        f"the alias {LATEST} always means the newest ready version; choose another name",
    ),
)
# A number is accepted, since users write champion: 7 without quotes.
AliasTarget = Annotated[
    str,
    BeforeValidator(_quoted),
    Field(pattern=VERSION_PATTERN, max_length=9),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "pattern": VERSION_PATTERN,
            "maxLength": 9,
            "minimum": 1,
            "maximum": 999_999_999,
            **says("must be a version's number from 1, such as 7"),
        }
    ),
]


class Retention(Schema):
    """Number of versions to keep."""

    versions: int = Field(
        ge=1,
        le=1000,
        description="Maximum number of ready versions. Older versions are deleted unless an alias or an endpoint "
        "names them. deletionPolicy decides about their files in the object storage.",
    )


class Card(Schema):
    """Model card: facts to know before using the model."""

    owner: str = Field(default="", max_length=253, description="Person or team to contact about the model.")
    license: str = Field(
        default="", max_length=253, description="License or permitted users, such as Apache-2.0 or internal."
    )
    intended_use: str = Field(default="", max_length=4096, description="Purpose that the model was made for.")
    limitations: str = Field(
        default="", max_length=4096, description="Cases in which the model fails or must not be used."
    )


class Trust(Schema):
    """Permissions of all versions of the model."""

    allow_code_execution: bool = Field(
        default=False,
        description="Permission to load every version, present and future, even if loading runs arbitrary code. "
        "status.codeExecution of a version names the user who granted it. Revoking it affects later "
        "deployments; deployments that already serve such a version continue.",
    )


class ModelSpec(Schema):
    """Description of a model, its aliases, and its retention."""

    description: str = Field(default="", max_length=4096, description="Purpose of the model.")
    card: Card = Field(default=Card(), description="Model card.")
    retention: Retention | None = Field(default=None, description="Number of versions to keep. Default: all.")
    deletion_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description="Fate of a version's artifact after the version is deleted, by retention or by hand. Retain: the"
        " files stay. Delete: the files are deleted if a TrainingJob of the namespace stored them and no"
        " other version of the namespace uses them. The compiled model is deleted too.",
    )
    trust: Trust | None = Field(default=None, description="Permissions of all versions. Default: none.")
    aliases: dict[str, AliasTarget] = Field(
        default={},
        max_length=64,
        description="Version number by alias, such as champion: 7. An endpoint that names an alias follows it.",
        json_schema_extra=ALIAS_RULES,
    )


class Artifact(Schema):
    """Artifact of a version, recorded so that it can be deleted after the version."""

    version: str = Field(default="", max_length=9, description="Number of the version.")
    uri: str = Field(default="", max_length=1024, description="Folder to delete with the version.")
    deleting: bool = Field(default=False, description="True if the version is gone and its folder is being deleted.")


class ModelStatus(Status):
    """Summary of the model's versions."""

    versions: int = Field(default=0, ge=0, description="Number of versions.")
    latest_version: str = Field(default="", max_length=9, description="Highest version number ever assigned.")
    latest_ready_version: str = Field(
        default="", max_length=9, description="Newest version that can be served: @latest."
    )
    aliases: str = Field(default="", max_length=4096, description="Aliases, for display.")
    artifacts: list[Artifact] = Field(
        default=[],
        max_length=MAX_ARTIFACTS,
        description="Artifacts to delete with their versions, and those of deleted versions that are left; only with"
        " deletionPolicy Delete.",
    )


class ModelFormat(Schema):
    """Storage format of a model."""

    name: Literal[
        "sklearn", "onnx", "xgboost", "lightgbm", "mlflow", "torch", "python", "pickle", "joblib", "custom"
    ] = Field(
        description="Name of the format. Safe to load: sklearn (a .skops file), onnx, xgboost (.ubj or .json), "
        "lightgbm (.txt or .lgb), mlflow (a folder with MLmodel). Code runs at loading: torch (.pt2, or "
        "TorchScript in a .pt file), python (a folder with model.py), pickle, joblib. custom is any files, for "
        "deployments with scoring or container."
    )
    untrusted_types: list[Annotated[str, Field(max_length=MAX_UNTRUSTED_NAME)]] = Field(
        default=[],
        max_length=MAX_UNTRUSTED,
        description="Types in a .skops file that a server builds only if the version may run code. The trainer "
        "records them.",
    )


Datatype = Literal[
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
]


class Tensor(Schema):
    """Input or output of a model, in the terms of the Open Inference Protocol."""

    name: str = Field(min_length=1, max_length=253, description="Name of the tensor.")
    datatype: Datatype = Field(description="Element type.")
    shape: list[int] = Field(
        max_length=8, description="Dimensions; -1 for any length, usually of the first dimension, the batch."
    )


class Signature(Schema):
    """Inputs and outputs of a model."""

    inputs: list[Tensor] = Field(min_length=1, max_length=1024, description="Inputs of the model.")
    outputs: list[Tensor] = Field(default=[], max_length=1024, description="Outputs of the model.")


class Lineage(Schema):
    """Origin of a version."""

    training_job: str = Field(default="", max_length=253, description="TrainingJob that produced the version.")
    git_commit: str = Field(default="", max_length=64, description="Git commit of the training code.")
    requested_by: str = Field(default="", max_length=500, description="User who requested the training.")
    sweep: str = Field(default="", max_length=253, description="Sweep whose best trial produced the version.")
    trial: int | None = Field(default=None, ge=0, description="Number of the best trial.")
    mlflow: MlflowStatus | None = Field(default=None, description="Run in MLflow that recorded the training.")
    metrics: dict[str, float] = Field(default={}, max_length=METRIC_LIMIT, description="Last metrics of the training.")


class Parity(Schema):
    """Maximum difference between the answers of the compiled and the native model, on the same rows."""

    rtol: float = Field(
        default=1e-5,
        ge=0,
        le=1,
        description="Maximum relative difference of any value. It is relative to the value, or to the mean size of "
        "the output's values if that is larger.",
    )
    label_agreement: float = Field(
        default=1.0, ge=0, le=1, description="Minimum share of rows with equal labels, for models that return labels."
    )


class Compile(Schema):
    """Target of the compilation, and conditions on its result."""

    to: Literal["onnx", "none"] = Field(
        description="Target. onnx: models of scikit-learn, xgboost and lightgbm become one ONNX graph, which answers"
        " faster. none: the native model is served."
    )
    parity: Parity = Field(
        default=Parity(),
        description="Checks of the compiled model. They use the rows of input_example.json or input_example.npy "
        "beside the model, or rows drawn around the training data.",
    )
    on_failure: Literal["ServeNative", "Fail"] = Field(
        default="ServeNative",
        description="Action if compilation fails or the answers differ. ServeNative: the native model is served. "
        "Fail: the version does not become ready.",
    )


class ModelVersionSpec(Schema):
    """One version of a Model. Only allowCodeExecution can be changed later."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.compile) || self.compile.to == 'none' || self.format.name != 'onnx'",
                "a model of format onnx needs no compilation; leave compile out",
            )
        )
    )

    model: DnsName = Field(description="Model that the version belongs to.", json_schema_extra=IMMUTABLE)
    version: VersionNumber = Field(description="Number of the version.", json_schema_extra=IMMUTABLE)
    uri: Uri = Field(
        description="Location of the model: a folder that a TrainingJob uploaded (ends in a slash), or one object, "
        "such as s3://models/churn.onnx.",
        json_schema_extra=IMMUTABLE,
    )
    digest: Digest = Field(
        description="Digest that the TrainingJob reported, or the SHA-256 of the one object; verified at every load.",
        json_schema_extra=IMMUTABLE,
    )
    format: ModelFormat = Field(description="Storage format of the model.", json_schema_extra=IMMUTABLE)
    signature: Signature | None = Field(
        default=None,
        description="Inputs and outputs. By default the server infers them from the model.",
        json_schema_extra=IMMUTABLE,
    )
    allow_code_execution: bool = Field(
        default=False,
        description="Permission to load the version even if loading runs arbitrary code. It covers the formats "
        "torch, python, pickle and joblib, pickled parts of an mlflow folder, and untrusted types in a "
        ".skops file. spec.trust of the Model grants it for all versions. A refused compilation is tried"
        " again.",
    )
    compile: Compile | None = Field(
        default=None,
        description="Compilation before serving; the version becomes ready when compilation ends, successful or not."
        " By default models of scikit-learn, xgboost and lightgbm are ready at once and compile in the "
        "background. Endpoints move to the compiled model if its answers agree with those of the native "
        "model.",
        json_schema_extra=IMMUTABLE,
    )
    lineage: Lineage = Field(default=Lineage(), description="Origin of the version.", json_schema_extra=IMMUTABLE)


class Compiled(Schema):
    """Result of compiling the version. Without a uri the native model is served."""

    uri: str = Field(default="", max_length=2048, description="Folder of the compiled model, which is served.")
    digest: str = Field(default="", max_length=71, description="SHA-256 over the list of files.")
    bytes: int = Field(default=0, ge=0, description="Size of the compiled model in bytes.")
    opset: int = Field(default=0, ge=0, description="ONNX operator set version.")
    rows: int = Field(default=0, ge=0, description="Number of compared rows.")
    rows_from: str = Field(default="", max_length=256, description="Source of the compared rows.")
    worst_relative_error: float | None = Field(
        default=None,
        ge=0,
        description="Largest relative difference of any value, as defined by spec.compile.parity.rtol.",
    )
    label_agreement: float | None = Field(default=None, ge=0, le=1, description="Share of rows with equal labels.")


class CodeExecution(Schema):
    """Permission to run code at loading, and its author."""

    allowed_by: str = Field(
        default="",
        max_length=500,
        description="User who granted the permission; empty on Kubernetes before 1.36.",
    )
    through: str = Field(default="", max_length=400, description="Field that grants the permission, and its object.")
    since: str | None = Field(
        default=None,
        json_schema_extra={"format": "date-time"},
        description="Time at which the operator first saw the permission.",
    )


class ModelVersionStatus(Status):
    """Readiness of a version."""

    model_config = ConfigDict(title="ModelVersionStatus")

    state: str = Field(
        default="",
        max_length=32,
        description="Summary of the conditions, for display: Ready, Waiting, Compiling, Refused or Invalid.",
    )
    bytes: int = Field(default=0, ge=0, description="Size of the model in bytes.")
    score: str = Field(
        default="", max_length=MAX_SCORE, description="Metrics of the training, as many as fit into a column."
    )
    compiled: Compiled | None = Field(default=None, description="Result of compiling the version.")
    code_execution: CodeExecution | None = Field(
        default=None, description="Permission to run code at loading; absent if there is none."
    )
    requirements: list[Requirement] = Field(
        default=[],
        max_length=MAX_REQUIREMENTS,
        description="Lines of the requirements.txt of an MLflow model that the server image cannot load. If the version"
        " may run code, a deployment that names no environment gets a shared one of these lines.",
    )
