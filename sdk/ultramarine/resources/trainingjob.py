"""TrainingJob: one training in one or several pods; spec and status."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from ultramarine_contract.common import ATTEMPTS_NAME, CHECKPOINTS_NAME, LOGS_NAME, METRICS_NAME

from .base import (
    IMMUTABLE,
    NAME_PATTERN,
    Cancel,
    Digest,
    DnsName,
    EnvVar,
    ParameterText,
    Resources,
    Schema,
    Uri,
    rule,
    rules,
)
from .dataset import ONE_SOURCE, DatasetReference
from .environment import EnvironmentReference
from .model import Compile
from .pods import EnvFromSource, PodTemplate, Source
from .trainingjob_recovery import Checkpoint, Elastic, OnOutOfMemory, PodFailurePolicy

Framework = Literal["none", "torch", "tensorflow", "jax", "xgboost", "mpi"]
MAX_PARAMETERS = 128
IS_NAME = rule(
    f"self.all(key, key.matches('{NAME_PATTERN}') && size(key) <= 40)",
    "each key must be lower-case letters, digits and '-', at most 40 characters; it becomes a folder's name",
)
KEYS_ARE_NAMES = rules(IS_NAME)
KEYS_ARE_FREE_NAMES = rules(
    IS_NAME,
    rule(
        f"!self.exists(key, key in ['{ATTEMPTS_NAME}', '{CHECKPOINTS_NAME}', '{LOGS_NAME}', '{METRICS_NAME}'])",
        f"{ATTEMPTS_NAME}, {CHECKPOINTS_NAME}, {LOGS_NAME} and {METRICS_NAME} are reserved folders; "
        "choose another name",
    ),
)


class Input(Schema):
    """Input data of the command."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *ONE_SOURCE,
            rule(
                "self.mode == 'Download' || !(has(self.dataset) || has(self.digest))",
                "content with a digest is verified when it is downloaded; leave mode out",
            ),
        )
    )

    uri: Uri | None = Field(
        default=None,
        description="Object (s3://BUCKET/KEY), or all objects below a prefix that ends in a slash. It appears at "
        "/mnt/inputs/NAME.",
    )
    digest: Digest | None = Field(
        default=None,
        description="SHA-256 of the object, or of the list of files in a folder that a TrainingJob stored. The job "
        "fails if the content differs.",
    )
    dataset: DatasetReference | None = Field(
        default=None,
        description="Version of a Dataset: DATASET@VERSION, DATASET@ALIAS, or DATASET@latest for the newest ready one. "
        "It is resolved once, when the object begins, and status.datasets names it. Its content is verified.",
    )
    mode: Literal["Download", "Stream"] = Field(
        default="Download",
        description="Way to read the input. Download: the files are complete before the command starts. Stream: "
        "nothing is copied; $(inputs.NAME) is a URL from which the command reads files over http, whole "
        "or in parts.",
    )


class TrialOutput(Schema):
    """Output folder, /mnt/outputs/NAME, that is uploaded after the command succeeds."""

    register_as: DnsName | None = Field(
        default=None,
        description="Model that gets the folder as its next version; the Model is created if necessary.",
    )
    format: (
        Literal[
            "auto", "sklearn", "onnx", "xgboost", "lightgbm", "mlflow", "torch", "python", "pickle", "joblib", "custom"
        ]
        | None
    ) = Field(
        default=None,
        description="Format of the model. Default: auto, which infers it from the files: .skops, .onnx, .ubj, .lgb, "
        ".pt2, .pt, .pkl, .joblib, XGBoost's .json, LightGBM's .txt, MLmodel. python and custom cannot.",
    )
    from_mlflow: bool = Field(
        default=False,
        description="True to fill the output with the model that the command logged last by mlflow, such as with "
        "mlflow.sklearn.log_model or autolog.",
    )
    compile: Compile | None = Field(
        default=None,
        description="Compilation of the registered version: before serving (to: onnx) or never (to: none). By "
        "default the version compiles in the background if its format allows. A model of format onnx is "
        "never compiled.",
    )
    allow_code_execution: bool = Field(
        default=False,
        description="Permission to load each version registered from this output even if loading runs arbitrary "
        "code, as with pickle and python. status.codeExecution of the version names the user who "
        "requested the training.",
    )


class Output(TrialOutput):
    """Output folder, /mnt/outputs/NAME, that is uploaded after the command succeeds."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.format) || has(self.registerAs)",
                "format applies to a model; set registerAs too, or leave it out",
            ),
            rule(
                "!has(self.compile) || has(self.registerAs)",
                "compile applies to a model; set registerAs too, or leave it out",
            ),
            rule(
                "!self.allowCodeExecution || has(self.registerAs)",
                "allowCodeExecution applies to a model; set registerAs too, or leave it out",
            ),
            rule(
                "!self.fromMlflow || !has(self.format) || self.format in ['auto', 'mlflow']",
                "fromMlflow gives a model of format mlflow; leave format out",
            ),
            rule(
                "!has(self.dataset) || !(has(self.registerAs) || self.fromMlflow)",
                "an output is a model or a version of a dataset; remove dataset, or registerAs and fromMlflow",
            ),
        )
    )

    optional: bool = Field(
        default=False, description="True to store nothing if the folder is empty. Default: the job fails."
    )
    dataset: DnsName | None = Field(
        default=None,
        description="Dataset that gets the folder as its next version, unless its newest version has the same content; "
        "the Dataset is created if necessary.",
    )


class TrainingJobSpec(Schema):
    """Code, data and resources of a training. Mutable: suspend, cancel, limits on time and retries, TTL."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.elastic) || self.elastic.minNodes < self.nodes",
                "elastic.minNodes must be less than nodes; leave elastic out if all nodes are needed",
            ),
            rule(
                "!has(self.processesPerNode) || (has(self.framework) && self.framework in ['torch', 'mpi'])",
                "processesPerNode needs framework torch or mpi; leave it out",
            ),
            rule(
                "self.nodes <= 1 || has(self.framework)",
                "several nodes need a framework to connect them; set one, or framework: none to only number the nodes",
            ),
            rule(
                "!has(self.onOutOfMemory) || (has(self.resources) && has(self.resources.limits) && "
                "'memory' in self.resources.limits)",
                "onOutOfMemory needs a first limit; set resources.limits.memory",
            ),
        )
    )

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=500,
        description="Container image. Default: the platform's trainer image, with scikit-learn, skops, pandas, "
        "pyarrow, xgboost, lightgbm, statsmodels, mlflow-skinny, matplotlib and optuna; docs/images.md "
        "lists the versions. Another image must be built from the trainer image. Without a source, the "
        "command starts in the image's WORKDIR if there is code in it.",
        json_schema_extra=IMMUTABLE,
    )
    source: Source | None = Field(default=None, description="Source of the code.", json_schema_extra=IMMUTABLE)
    command: list[Annotated[str, Field(max_length=32768)]] = Field(
        min_length=1,
        max_length=64,
        description="Command and its first arguments. $(params.NAME), $(inputs.NAME) and $(outputs.NAME) stand for a"
        " parameter and for the folders of an input and an output.",
        json_schema_extra=IMMUTABLE
        | rules(
            rule("self[0] != ''", "command must name a program"),
            rule(
                "size(self) != 1 || !self[0].contains(' ')",
                'command must be a list, such as [python, train.py]; use [sh, -c, "python train.py"] for a shell',
            ),
        ),
    )
    args: list[Annotated[str, Field(max_length=32768)]] = Field(
        default=[], max_length=256, description="Additional arguments.", json_schema_extra=IMMUTABLE
    )
    parameters: dict[str, ParameterText] = Field(
        default={},
        max_length=MAX_PARAMETERS,
        description="Values of $(params.NAME): strings, numbers or booleans. Numbers and booleans become strings, "
        "0.10 becomes 0.1 and 1e-5 becomes 1e-05; quote a value to keep its spelling.",
        json_schema_extra=IMMUTABLE,
    )
    env: list[EnvVar] = Field(
        default=[],
        max_length=128,
        description="Environment variables of the command.",
        json_schema_extra=IMMUTABLE | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    env_from: list[EnvFromSource] = Field(
        default=[],
        max_length=32,
        description="Additional environment variables; env takes precedence.",
        json_schema_extra=IMMUTABLE,
    )
    framework: Framework | None = Field(
        default=None,
        description="Framework that connects the processes. torch: variables for torchrun and init_process_group. "
        "tensorflow: TF_CONFIG. jax: JAX_COORDINATOR_ADDRESS and others. xgboost: runs the tracker. mpi:"
        " starts the command by mpirun. none: NODE_RANK, NNODES and MASTER_ADDR only.",
        json_schema_extra=IMMUTABLE,
    )
    nodes: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Number of pods that work together. They start together, and restart together if one fails or is"
        " lost. Outputs and checkpoints are those of node 0.",
        json_schema_extra=IMMUTABLE,
    )
    processes_per_node: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Number of processes per node. Default: the number of GPUs in resources.limits, or 1.",
        json_schema_extra=IMMUTABLE,
    )
    elastic: Elastic | None = Field(
        default=None, description="Elastic training: continuing with fewer nodes.", json_schema_extra=IMMUTABLE
    )
    resources: Resources = Field(
        default=Resources(), description="Resources of each pod's container.", json_schema_extra=IMMUTABLE
    )
    on_out_of_memory: OnOutOfMemory | None = Field(
        default=None,
        description="Retry with more memory after an attempt ran out of it; the retry does not count against "
        "backoffLimit.",
        json_schema_extra=IMMUTABLE,
    )
    environment: EnvironmentReference | None = Field(
        default=None,
        description="Python packages of the command, beside those of the image.",
        json_schema_extra=IMMUTABLE,
    )
    checkpoint: Checkpoint | None = Field(
        default=None,
        description="Checkpoints in /mnt/checkpoints, from which the job resumes after a failed attempt, an "
        "eviction, the loss of a node, or a suspension. checkpoint: {} is enough.",
        json_schema_extra=IMMUTABLE,
    )
    pod_failure_policy: PodFailurePolicy | None = Field(
        default=None,
        description="Policy on failed pods: exit codes that deserve another attempt.",
        json_schema_extra=IMMUTABLE,
    )
    pod_template: PodTemplate = Field(
        default=PodTemplate(), description="Scheduling and identity of the pods.", json_schema_extra=IMMUTABLE
    )
    inputs: dict[str, Input] = Field(
        default={}, max_length=32, description="Input data by name.", json_schema_extra=IMMUTABLE | KEYS_ARE_NAMES
    )
    outputs: dict[str, Output] = Field(
        default={},
        max_length=16,
        description="Output folders by name.",
        json_schema_extra=IMMUTABLE | KEYS_ARE_FREE_NAMES,
    )
    suspend: bool = Field(
        default=False, description="True to end the running pod and hold the job until it is false again."
    )
    cancel: Cancel = False
    backoff_limit: int = Field(default=3, ge=0, le=100, description="Maximum number of retries after failed attempts.")
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=31536000,
        description="Maximum time in seconds that the job is active; then it fails. Suspension does not count.",
    )
    pending_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=31536000,
        description="Maximum time in seconds that the job waits for its environment, and then that a pod waits for a "
        "node, an image or a volume. After that the job fails with the last message. Default: no limit, except two "
        "minutes for an image that does not exist, and ten for a registry that does not answer.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=315360000,
        description="Time in seconds after which the finished TrainingJob is deleted; its results stay.",
    )
