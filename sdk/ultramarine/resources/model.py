"""Model and ModelVersion: a name under which versions are kept, and one immutable version."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema
from ultramarine_contract.common import MAX_UNTRUSTED, MAX_UNTRUSTED_NAME, METRIC_LIMIT
from ultramarine_contract.score import MAX_SCORE

from .base import IMMUTABLE, Digest, DnsName, MlflowStatus, Schema, Status, Uri, rule, rules, says

MAX_ARTIFACTS = 500  # with URIs as long as may be, a third of what an object may have
LATEST = "latest"  # always means the newest ready version, so nobody may give that name to another


def version_name(model: str, version: str) -> str:
    """The name of the ModelVersion object of a model's version."""
    return f"{model}-{version}"


def version_number(text: object) -> int:
    """A version's number; 0 for what is none, such as a status that somebody wrote by hand."""
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
    """Turn a number into the text that it stands for; anything else is left for pydantic to refuse."""
    return str(value) if type(value) is int else value


# Where people write champion: 7, and mean it.
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
    """How many versions are kept."""

    versions: int = Field(
        ge=1,
        le=1000,
        description="Maximum number of ready versions. The newest are kept; older ones are deleted unless an alias or "
        "an endpoint names them. deletionPolicy decides about their files in the storage.",
    )


class Card(Schema):
    """What people should know who want to use the model."""

    owner: str = Field(default="", max_length=253, description="Person or team to contact about the model.")
    license: str = Field(default="", max_length=253, description="Who may use it, such as internal or Apache-2.0.")
    intended_use: str = Field(default="", max_length=4096, description="What it was made for.")
    limitations: str = Field(default="", max_length=4096, description="Where it fails, or must not be used.")


class Trust(Schema):
    """Permissions of all versions of the model."""

    allow_code_execution: bool = Field(
        default=False,
        description="Load every version, present and future, even if that runs code of its maker's choice. "
        "status.codeExecution of a version says who allowed it. Taken away, it holds for later decisions: deployments "
        "that serve such a version go on.",
    )


class ModelSpec(Schema):
    """A model's names for its versions, how many are kept, and what people should know of it."""

    description: str = Field(default="", max_length=4096, description="What it is for, for people.")
    card: Card = Field(default=Card(), description="What people should know who want to use it.")
    retention: Retention | None = Field(default=None, description="How many versions are kept; without it all are.")
    deletion_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description="What becomes of a version's artifact when the version is gone, deleted by retention or by hand. "
        "Retain: it stays. Delete: it is deleted, if a TrainingJob of the namespace has stored it and no other version "
        "of the namespace is of the same files; what was compiled of it goes too.",
    )
    trust: Trust | None = Field(default=None, description="Permissions of all versions; by default none.")
    aliases: dict[str, AliasTarget] = Field(
        default={},
        max_length=64,
        description="Alias to version number, such as champion: 7. An endpoint that names the alias follows it.",
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


class Artifact(Schema):
    """What a version has stored, remembered for when the version is gone."""

    version: str = Field(default="", max_length=9, description="The version's number.")
    uri: str = Field(default="", max_length=1024, description="The folder that is deleted with it.")
    deleting: bool = Field(default=False, description="The version is gone, and the folder is to be deleted.")


class ModelStatus(Status):
    """What is known of the model's versions."""

    versions: int = Field(default=0, ge=0, description="How many versions there are.")
    latest_version: str = Field(default="", max_length=9, description="The highest version number ever given.")
    latest_ready_version: str = Field(
        default="", max_length=9, description="The newest version that can be served: @latest."
    )
    aliases: str = Field(default="", max_length=4096, description="The aliases, for people.")
    artifacts: list[Artifact] = Field(
        default=[],
        max_length=MAX_ARTIFACTS,
        description="With deletionPolicy Delete: what goes with the versions, and what is left of those that are gone.",
    )


class ModelFormat(Schema):
    """How the model is stored."""

    name: Literal["sklearn", "onnx", "xgboost", "lightgbm", "mlflow", "torch", "python", "pickle", "joblib"] = Field(
        description="sklearn (a .skops file), onnx, xgboost (.ubj or .json), lightgbm (.txt or .lgb), mlflow (a folder "
        "with MLmodel), or one of those that run code when they are loaded: torch (.pt2, or TorchScript in a .pt), "
        "python (a folder with model.py), pickle, joblib."
    )
    untrusted_types: list[Annotated[str, Field(max_length=MAX_UNTRUSTED_NAME)]] = Field(
        default=[],
        max_length=MAX_UNTRUSTED,
        description="Types in a .skops file that a server builds only if the version may run code, as the trainer "
        "found them.",
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
    """One input or output of a model, in the words of the Open Inference Protocol."""

    name: str = Field(min_length=1, max_length=253, description="Its name.")
    datatype: Datatype = Field(description="Its element type.")
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
    git_commit: str = Field(default="", max_length=64, description="The commit of the code that made it.")
    requested_by: str = Field(default="", max_length=500, description="The user who asked for the training.")
    sweep: str = Field(default="", max_length=253, description="The Sweep whose best trial made it.")
    trial: int | None = Field(default=None, ge=0, description="The number of that trial.")
    mlflow: MlflowStatus | None = Field(default=None, description="The run in MLflow that records the training.")
    metrics: dict[str, float] = Field(
        default={}, max_length=METRIC_LIMIT, description="The last metrics of the training that made it."
    )


class Parity(Schema):
    """How far the answers of the compiled model may lie from those of the native one, on the same rows."""

    rtol: float = Field(
        default=1e-5,
        ge=0,
        le=1,
        description="The largest difference of any value, relative to it or, where that is larger, to the mean size of "
        "the output's values.",
    )
    label_agreement: float = Field(
        default=1.0, ge=0, le=1, description="The share of rows that must get the same labels, of models that give any."
    )


class Compile(Schema):
    """Into what the version is compiled, and what must be true of the result."""

    to: Literal["onnx", "none"] = Field(
        description="onnx: models of scikit-learn, xgboost and lightgbm become one ONNX graph, which answers faster. "
        "none: the version is served as it is."
    )
    parity: Parity = Field(
        default=Parity(),
        description="What is checked, on the rows of input_example.json or .npy beside the model or, where there is "
        "none, on rows that are drawn around what the model has learned.",
    )
    on_failure: Literal["ServeNative", "Fail"] = Field(
        default="ServeNative",
        description="When it cannot be compiled or its answers differ: ServeNative serves it as it is, Fail lets the "
        "version not become ready.",
    )


class ModelVersionSpec(Schema):
    """One version. It cannot be changed later, but for allowCodeExecution."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.compile) || self.compile.to == 'none' || self.format.name != 'onnx'",
                "a model of format onnx needs no compiling; leave compile out",
            )
        )
    )

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
        description="Load it even if that runs code of its maker's choice: torch, python, pickle, joblib, types in a "
        ".skops file that are not known to be safe, and in a folder of mlflow what is pickled. spec.trust of its Model "
        "says the same of all versions. Compiling that was refused is tried again.",
    )
    compile: Compile | None = Field(
        default=None,
        description="Compile it before it is served: the version is ready when that has ended, well or not. Left out, "
        "models of scikit-learn, xgboost and lightgbm are served as they are at once, and compiled in the background; "
        "endpoints move to the compiled model if it answers as the native one.",
        json_schema_extra=IMMUTABLE,
    )
    lineage: Lineage = Field(default=Lineage(), description="Where it comes from.", json_schema_extra=IMMUTABLE)


class Compiled(Schema):
    """What came of compiling the version. Without a uri the native model is served."""

    uri: str = Field(default="", max_length=2048, description="The folder of the compiled model, which is served.")
    digest: str = Field(default="", max_length=71, description="SHA-256 over the list of its files.")
    bytes: int = Field(default=0, ge=0, description="Its size.")
    opset: int = Field(default=0, ge=0, description="The version of ONNX's operators that it uses.")
    rows: int = Field(default=0, ge=0, description="How many rows were compared.")
    rows_from: str = Field(default="", max_length=256, description="Where these came from.")
    worst_relative_error: float | None = Field(
        default=None, ge=0, description="The largest difference of any value, in the words of spec.compile.parity.rtol."
    )
    label_agreement: float | None = Field(
        default=None, ge=0, le=1, description="The share of rows with the same labels."
    )


class CodeExecution(Schema):
    """Permission to run code at loading, and its author."""

    allowed_by: str = Field(
        default="",
        max_length=500,
        description="The user, as the API server knows them; empty on Kubernetes before 1.36.",
    )
    through: str = Field(default="", max_length=400, description="The field that gives the permission, and its object.")
    since: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Time at which the operator first saw it."
    )


class ModelVersionStatus(Status):
    """Whether the version can be served."""

    model_config = ConfigDict(title="ModelVersionStatus")

    state: str = Field(
        default="", max_length=32, description="Ready, Waiting, Compiling, Refused or Invalid; for reading only."
    )
    bytes: int = Field(default=0, ge=0, description="Its size.")
    score: str = Field(
        default="", max_length=MAX_SCORE, description="As many of its training's metrics as a column has room for."
    )
    compiled: Compiled | None = Field(default=None, description="What came of compiling it.")
    code_execution: CodeExecution | None = Field(
        default=None, description="Permission to run code at loading; absent if there is none."
    )
