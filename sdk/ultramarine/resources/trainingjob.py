"""TrainingJob: what its author writes and what the operator answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from ultramarine_contract.common import ATTEMPTS_NAME, CHECKPOINTS_NAME, LOGS_NAME, MAX_UNTRUSTED_TEXT, METRICS_NAME
from ultramarine_contract.score import MAX_SCORE

from .base import (
    IMMUTABLE,
    NAME_PATTERN,
    SAYS_NAME,
    SUBDOMAIN,
    Digest,
    DnsName,
    EnvVar,
    MlflowStatus,
    ParameterText,
    Quantity,
    Resources,
    RunStatus,
    Schema,
    Uri,
    rule,
    rules,
    says,
)
from .model import Compile

MAX_PARAMETERS = 128
LABEL_VALUE = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_KEY = f"({SUBDOMAIN}/)?{LABEL_VALUE}"
SAYS_VALUE = says("must be a label's value: letters, digits, '-', '_' and '.', with a letter or digit at both ends")
IS_NAME = rule(
    f"self.all(key, key.matches('{NAME_PATTERN}') && size(key) <= 40)",
    "each key must be lower-case letters, digits and '-', at most 40 characters: it becomes a folder's name",
)
KEYS_ARE_NAMES = rules(IS_NAME)
KEYS_ARE_FREE_NAMES = rules(
    IS_NAME,
    rule(
        f"!self.exists(key, key in ['{ATTEMPTS_NAME}', '{CHECKPOINTS_NAME}', '{LOGS_NAME}', '{METRICS_NAME}'])",
        f"{ATTEMPTS_NAME}, {CHECKPOINTS_NAME}, {LOGS_NAME} and {METRICS_NAME} are folders of the platform's; choose "
        "another name",
    ),
)


class ObjectName(Schema):
    """An object in the same namespace."""

    name: str = Field(
        pattern=f"^{SUBDOMAIN}$",
        max_length=253,
        description="Its name.",
        json_schema_extra=SAYS_NAME,
    )


GIT_HOST = "[A-Za-z0-9._-]+@[A-Za-z0-9][A-Za-z0-9.-]*"
GIT_URL = rf"^(https?://[^\s@]+|ssh://{GIT_HOST}(:[0-9]{{1,5}})?/[^\s@]+|{GIT_HOST}:[^\s:@-][^\s:@]*)$"


class GitSource(Schema):
    """A commit of a git repository."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!self.url.contains('@') || has(self.secretRef)",
                "ssh needs a key: set secretRef to a Secret with ssh-privatekey and known_hosts",
            )
        )
    )

    url: str = Field(
        pattern=GIT_URL,
        max_length=1024,
        description="The repository, by https, http or ssh (ssh://git@HOST/PATH or git@HOST:PATH). The namespace's "
        "network policies have to let pods reach it.",
        json_schema_extra=says(
            "must be https:// or http:// without a user, ssh://USER@HOST/PATH or USER@HOST:PATH; a password belongs "
            "into the Secret of secretRef"
        ),
    )
    ref: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._/-]*)?$",
        max_length=255,
        description="A branch, a tag or a whole commit id; the default branch if left out. "
        "Only this one commit is fetched, and status.provenance.gitCommit says which.",
        json_schema_extra=says("must be a branch, a tag or a commit id of 40 hexadecimal digits"),
    )
    path: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*)?$",
        max_length=1024,
        description="A folder of the repository, whose files are taken; all of them if left out.",
        json_schema_extra=says("must be a folder's path inside the repository, such as src/train"),
    )
    secret_ref: ObjectName | None = Field(
        default=None,
        description="A Secret with credentials for the repository. For https: password or token, and username if the "
        "server asks for a certain one; ca.crt for a private CA. For ssh: ssh-privatekey and known_hosts. The command "
        "does not see them.",
    )


class Source(Schema):
    """The code to run: inline, configMap, git or uri."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.inline), has(self.configMap), has(self.git), has(self.uri)].filter(it, it).size() == 1",
                "give one of inline, configMap, git and uri",
            ),
            rule("!has(self.digest) || has(self.uri)", "digest is about the archive at uri; leave it out"),
            rule("!has(self.uri) || !self.uri.endsWith('/')", "uri must name one archive, not all below a prefix"),
        )
    )

    inline: dict[str, Annotated[str, Field(max_length=262144)]] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="File name to content; the files lie in the folder in which the command starts. 900 KB in all; "
        "above 256 KB, kubectl needs apply --server-side.",
        json_schema_extra=rules(
            rule(
                "self.all(key, key.matches('^[A-Za-z0-9._-]+$') && size(key) <= 253)",
                "each key must be a plain file name",
            ),
            rule(
                "self.all(key, key != '.' && !key.startsWith('..'))",
                "each key must be a plain file name, which does not begin with two dots",
            ),
            rule(
                "self.map(key, size(self[key])).sum() <= 900000",
                "the files together may have 900,000 characters; put larger ones into an image or an input",
            ),
        ),
    )

    config_map: ObjectName | None = Field(default=None, description="Files of a ConfigMap.")
    git: GitSource | None = Field(default=None, description="Files of a git repository.")
    uri: Uri | None = Field(
        default=None,
        description="A tar archive in the object storage, plain or compressed (.tar.gz); it is unpacked into the "
        "folder in which the command starts.",
    )
    digest: Digest | None = Field(
        default=None, description="The SHA-256 that the archive must have; the job fails for any other content."
    )


class Input(Schema):
    """Data for the command."""

    uri: Uri = Field(
        description="An object (s3://BUCKET/KEY), or all objects below a prefix that ends in a slash. "
        "It is put into /mnt/inputs/NAME."
    )
    mode: Literal["Download", "Stream"] = Field(
        default="Download",
        description="Download: the files are there before the command starts. Stream: nothing is copied; they are read "
        "over http from $(inputs.NAME), which is a URL then, in whole or in parts.",
    )


class TrialOutput(Schema):
    """A folder, /mnt/outputs/NAME, that is uploaded when the command has succeeded."""

    register_as: DnsName | None = Field(
        default=None,
        description="Register the folder as the next version of this Model, which is made if there is none.",
    )
    format: (
        Literal["auto", "sklearn", "onnx", "xgboost", "lightgbm", "mlflow", "torch", "python", "pickle", "joblib"]
        | None
    ) = Field(
        default=None,
        description="The model's format; auto (the default) tells it by the files: .skops, .onnx, .ubj, .lgb, .pt2, "
        ".pt, .pkl, .joblib, XGBoost's .json, LightGBM's .txt, MLmodel. python has to be named.",
    )
    compile: Compile | None = Field(
        default=None,
        description="Compile the registered version before it is served (to: onnx) or not at all (to: none); left out, "
        "it is compiled in the background, if it can be. A model of format onnx is not.",
    )
    allow_code_execution: bool = Field(
        default=False,
        description="Load each version that is registered of it even if that runs code of its maker's choice, as "
        "pickles and python do. status.codeExecution of the version says who asked for the training.",
    )


class Output(TrialOutput):
    """A folder, /mnt/outputs/NAME, that is uploaded when the command has succeeded."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.format) || has(self.registerAs)",
                "format is about a model; set registerAs too, or leave it out",
            ),
            rule(
                "!has(self.compile) || has(self.registerAs)",
                "compile is about a model; set registerAs too, or leave it out",
            ),
            rule(
                "!self.allowCodeExecution || has(self.registerAs)",
                "allowCodeExecution is about a model; set registerAs too, or leave it out",
            ),
        )
    )


class Elastic(Schema):
    """How far the number of nodes may sink."""

    min_nodes: int = Field(
        ge=1,
        le=999,
        description="The fewest nodes to go on with. When a pod is lost the others start again from the newest "
        "checkpoint, with this many at least; when it is back, with all. The pod of node 0 is always among them.",
    )


class Checkpoint(Schema):
    """What the command writes into /mnt/checkpoints outlives its pod."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.resumeFrom) || self.resumeFrom.endsWith('/')",
                "resumeFrom must be a checkpoint's folder and end in a slash, as status.lastCheckpoint.uri does",
            ),
            rule(
                "!has(self.resumeFrom) || self.resume == 'Auto'",
                "resumeFrom is where to resume; leave it out, or let resume be Auto",
            ),
        )
    )

    enabled: bool = Field(default=True, description="Keep checkpoints.")
    resume: Literal["Auto", "Never"] = Field(
        default="Auto",
        description="Auto: /mnt/checkpoints holds the newest complete checkpoint before each start of the command. "
        "Never: it is empty then.",
    )
    resume_from: Uri | None = Field(
        default=None,
        description="Another job's checkpoint (its status.lastCheckpoint.uri), for as long as this one has none.",
    )
    grace_period_seconds: int = Field(
        default=120,
        ge=5,
        le=3600,
        description="The time from SIGTERM to the end of the pod: for a last checkpoint, and for its upload.",
    )


class ExitCodes(Schema):
    """Exit codes of the command."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self.operator != 'In' || !(0 in self.values)", "values must not have 0, which is no failure")
        )
    )

    operator: Literal["In", "NotIn"] = Field(description="In: one of values. NotIn: none of them.")
    values: list[Annotated[int, Field(ge=0, le=255)]] = Field(
        min_length=1, max_length=255, description="Exit codes.", json_schema_extra={"x-kubernetes-list-type": "set"}
    )


class FailurePolicyRule(Schema):
    """What to do about a failed pod."""

    action: Literal["FailJob", "Ignore", "Count"] = Field(
        description="FailJob: no more attempts. Ignore: another attempt, which does not count against backoffLimit. "
        "Count: another attempt, which does."
    )
    on_exit_codes: ExitCodes = Field(description="Which failures the rule is about.")


class PodFailurePolicy(Schema):
    """What failures mean; the first rule that fits is taken. No rule is asked about an eviction for want of room."""

    rules: list[FailurePolicyRule] = Field(min_length=1, max_length=15, description="Rules, in order.")


class OnOutOfMemory(Schema):
    """Another attempt with more memory, when the command was killed for using more than its limit."""

    factor: float = Field(default=2, ge=1.1, le=10, description="How many times as much memory each attempt gets.")
    max_memory: Quantity = Field(description="The most that it gets; when that is not enough, the job fails.")


class EnvFromSource(Schema):
    """All keys of a Secret or ConfigMap as environment variables."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.secretRef) != has(self.configMapRef)", "give one of secretRef and configMapRef"),
        )
    )
    prefix: str = Field(
        default="",
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
        max_length=64,
        description="Put before each key.",
        json_schema_extra=says("must be letters, digits and '_', and must not begin with a digit")
        | rules(rule("!self.startsWith('ULTRAMARINE_')", "names that start with ULTRAMARINE_ are the platform's own")),
    )
    secret_ref: ObjectName | None = Field(default=None, description="A Secret.")
    config_map_ref: ObjectName | None = Field(default=None, description="A ConfigMap.")


class Toleration(Schema):
    """A taint that the pods tolerate, as in a pod."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
                "without a key, operator must be Exists: every taint is tolerated then",
            ),
            rule(
                "!has(self.value) || self.value == '' || !has(self.operator) || self.operator != 'Exists'",
                "operator Exists takes no value; leave value out, or let operator be Equal",
            ),
            rule(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "tolerationSeconds needs effect NoExecute",
            ),
        )
    )

    key: str = Field(
        default="",
        pattern=f"^({LABEL_KEY})?$",
        max_length=253,
        description="The taint's key; every taint if left out.",
        json_schema_extra=says("must be a taint's key, such as nvidia.com/gpu"),
    )
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="Equal (the default): the taint has this value. Exists: whatever its value is."
    )
    value: str = Field(
        default="",
        pattern=f"^({LABEL_VALUE})?$",
        max_length=63,
        description="The taint's value.",
        json_schema_extra=SAYS_VALUE,
    )
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="The taint's effect; all if left out."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, le=31536000, description="How long a NoExecute taint is tolerated; for ever if left out."
    )


def _as_in_a_pod(description: str) -> Any:
    """A part of Kubernetes' own schema, which is long and grows: the API server judges it when it gets the Job."""
    return Field(
        default=None,
        max_length=2,
        description=description,
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class Affinity(Schema):
    """To which nodes, and to which other pods, the pods are drawn, as in a pod."""

    node_affinity: dict[str, Any] | None = _as_in_a_pod("Nodes that they must be on, or are best on.")
    pod_affinity: dict[str, Any] | None = _as_in_a_pod("Pods that they must be near, or are best near.")
    pod_anti_affinity: dict[str, Any] | None = _as_in_a_pod("Pods that they must not be near, or are best away from.")


class PodTemplate(Schema):
    """Where and as whom the pods run. What else a pod can have is the platform's to decide."""

    node_selector: dict[
        str, Annotated[str, Field(pattern=f"^({LABEL_VALUE})?$", max_length=63, json_schema_extra=SAYS_VALUE)]
    ] = Field(
        default={},
        max_length=32,
        description="Labels that the node must have.",
        json_schema_extra=rules(
            rule(
                f"self.all(key, key.matches('^{LABEL_KEY}$') && size(key) <= 253)",
                "each key must be a label's, such as topology.kubernetes.io/zone",
            )
        ),
    )
    tolerations: list[Toleration] = Field(default=[], max_length=32, description="Taints that the pods tolerate.")
    affinity: Affinity | None = Field(
        default=None,
        description="To which nodes and pods they are drawn, as in a pod. What the API server refuses of it, unknown "
        "fields too, the condition Reconciled says in its words.",
    )
    priority_class_name: str = Field(
        default="",
        pattern=f"^({SUBDOMAIN})?$",
        max_length=253,
        description="Their PriorityClass: who goes first where room is scarce.",
        json_schema_extra=SAYS_NAME
        | rules(
            rule("!self.startsWith('system-')", "classes that begin with system- are the cluster's; name another"),
            rule(
                "!self.startsWith('ultramarine-platform')",
                "classes that begin with ultramarine-platform are the platform's own; name another",
            ),
        ),
    )
    service_account_name: str = Field(
        default="",
        pattern=f"^({SUBDOMAIN})?$",
        max_length=253,
        description="The ServiceAccount whose token the pods get; they have none if this is left out.",
        json_schema_extra=SAYS_NAME,
    )


class TrainingJobSpec(Schema):
    """What to run, on what, and what to keep of it. It cannot be changed later, but for suspend, limits and the TTL."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.elastic) || self.elastic.minNodes < self.nodes",
                "elastic.minNodes must be less than nodes; leave elastic out where all nodes are needed",
            ),
            rule(
                "!has(self.processesPerNode) || (has(self.framework) && self.framework in ['torch', 'mpi'])",
                "processesPerNode is for the frameworks torch and mpi; leave it out",
            ),
            rule(
                "self.nodes <= 1 || has(self.framework)",
                "several nodes need a framework, by which they find each other; framework: none only numbers them",
            ),
            rule(
                "!has(self.onOutOfMemory) || (has(self.resources) && has(self.resources.limits) && "
                "'memory' in self.resources.limits)",
                "onOutOfMemory needs resources.limits.memory to begin with",
            ),
        )
    )

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=500,
        description="The container image. The default is the platform's trainer image, with scikit-learn, skops, "
        "pandas, pyarrow, xgboost, lightgbm, statsmodels, mlflow-skinny, matplotlib and optuna; docs/images.md has "
        "their versions. Another image must be built from that one. Where no source is given, the command starts in "
        "the image's WORKDIR if there is code in it.",
        json_schema_extra=IMMUTABLE,
    )
    source: Source | None = Field(default=None, description="The code to run.", json_schema_extra=IMMUTABLE)
    command: list[Annotated[str, Field(max_length=32768)]] = Field(
        min_length=1,
        max_length=64,
        description="The command and its first arguments. $(params.NAME), $(inputs.NAME) and $(outputs.NAME) "
        "stand for a parameter and for the folders of an input or output.",
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
        default=[], max_length=256, description="More arguments.", json_schema_extra=IMMUTABLE
    )
    parameters: dict[str, ParameterText] = Field(
        default={},
        max_length=MAX_PARAMETERS,
        description="Values for $(params.NAME): texts, numbers or booleans. A number or a boolean is taken as its "
        "text, 0.10 as 0.1 and 1e-5 as 1e-05; put in quotes what has to stay as it is written.",
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
        description="More environment variables; those of env win.",
        json_schema_extra=IMMUTABLE,
    )
    framework: Literal["none", "torch", "tensorflow", "jax", "xgboost", "mpi"] | None = Field(
        default=None,
        description="How the processes find each other: torch sets what torchrun and init_process_group read, "
        "tensorflow TF_CONFIG, jax JAX_COORDINATOR_ADDRESS and the like; xgboost runs the tracker, mpi runs the "
        "command by mpirun. none only numbers the nodes: NODE_RANK, NNODES, MASTER_ADDR.",
        json_schema_extra=IMMUTABLE,
    )
    nodes: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="How many pods work together. They start together, and start again together when one of them fails "
        "or is lost. Outputs and checkpoints are those of node 0.",
        json_schema_extra=IMMUTABLE,
    )
    processes_per_node: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="How many processes each node runs; by default one for each GPU of resources.limits, or one.",
        json_schema_extra=IMMUTABLE,
    )
    elastic: Elastic | None = Field(default=None, description="Go on when nodes are lost.", json_schema_extra=IMMUTABLE)
    resources: Resources = Field(
        default=Resources(), description="What each pod's container reserves and may use.", json_schema_extra=IMMUTABLE
    )
    on_out_of_memory: OnOutOfMemory | None = Field(
        default=None,
        description="Try again with more memory when there was too little; it does not count against backoffLimit.",
        json_schema_extra=IMMUTABLE,
    )
    checkpoint: Checkpoint | None = Field(
        default=None,
        description="Keep what the command writes into /mnt/checkpoints, and resume from it after a failed attempt, an "
        "eviction, the loss of a node, or a suspension. checkpoint: {} is enough.",
        json_schema_extra=IMMUTABLE,
    )
    pod_failure_policy: PodFailurePolicy | None = Field(
        default=None, description="Which exit codes are worth another attempt.", json_schema_extra=IMMUTABLE
    )
    pod_template: PodTemplate = Field(
        default=PodTemplate(), description="Where and as whom the pods run.", json_schema_extra=IMMUTABLE
    )
    inputs: dict[str, Input] = Field(
        default={}, max_length=32, description="Data by name.", json_schema_extra=IMMUTABLE | KEYS_ARE_NAMES
    )
    outputs: dict[str, Output] = Field(
        default={}, max_length=16, description="Results by name.", json_schema_extra=IMMUTABLE | KEYS_ARE_FREE_NAMES
    )
    suspend: bool = Field(
        default=False, description="True ends the running pod and holds the job until it is false again."
    )
    backoff_limit: int = Field(default=3, ge=0, le=100, description="How often a failed attempt is tried again.")
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=31536000,
        description="Fail the job when it has been active for this long; suspension does not count.",
    )
    pending_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=31536000,
        description="Fail the job when one of its pods has waited for this long for a node, an image or a volume; the "
        "scheduler's own words say why. By default it waits for ever, but two minutes for an image that is not there, "
        "and ten for a registry that does not answer.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=315360000,
        description="Delete the finished TrainingJob after this time; its results stay.",
    )


class OutputStatus(Schema):
    """One uploaded output."""

    uri: str = Field(max_length=2048, description="The folder in the object storage.")
    digest: Digest = Field(description="SHA-256 over the list of its files; it names the whole content.")
    bytes: int = Field(ge=0, description="The size of all its files.")
    format: str = Field(default="", max_length=63, description="The model's format, if it is a model.")
    untrusted: str = Field(
        default="",
        max_length=MAX_UNTRUSTED_TEXT,
        description="Types in a .skops file that a server builds only if the version may run code.",
    )
    model_version: str | None = Field(default=None, max_length=253, description="The ModelVersion made of it.")


class Metrics(Schema):
    """Numbers that the command printed as name=value."""

    latest: dict[str, float] = Field(default={}, max_length=20, description="The last value of each.")
    uri: str = Field(
        default="", max_length=2048, description="The folder in the object storage with all values: POD.parquet."
    )


class Failure(Schema):
    """Why the job failed, in the words of the pod that was the cause, and what to do."""

    reason: str = Field(max_length=256, description="A word for programs.")
    pod: str = Field(default="", max_length=253, description="The pod.")
    exit_code: int | None = Field(default=None, description="Its exit code.")
    message: str = Field(default="", max_length=4096, description="What happened.")
    tail: str = Field(default="", max_length=8192, description="The last lines that it printed.")
    hint: str = Field(default="", max_length=1024, description="What to do.")


class InputStatus(Schema):
    """One input as it was fetched."""

    digest: str = Field(
        default="",
        max_length=100,
        description="SHA-256 over the list of its files and their digests, if it was downloaded.",
    )
    bytes: int = Field(ge=0, description="The size of all its files.")
    files: int = Field(default=0, ge=0, description="How many files it has.")


class Attempt(Schema):
    """One pod's run."""

    pod: str = Field(max_length=253, description="The pod.")
    node: int = Field(default=0, ge=0, description="Which of the job's nodes it was.")
    start_time: str | None = Field(default=None, json_schema_extra={"format": "date-time"}, description="Its start.")
    end_time: str | None = Field(default=None, json_schema_extra={"format": "date-time"}, description="Its end.")
    reason: str = Field(default="", max_length=256, description="Succeeded, or why it ended, as a word for programs.")
    exit_code: int | None = Field(default=None, description="Its exit code.")
    message: str = Field(default="", max_length=512, description="What happened.")


class ProgressStatus(Schema):
    """How far the command is, as it printed it (step=, total_steps=) or reported it."""

    step: int | None = Field(default=None, ge=0, description="The step that it is at.")
    total_steps: int | None = Field(default=None, ge=0, description="How many there are.")
    percent: int | None = Field(default=None, ge=0, le=100, description="How much is done.")
    eta_seconds: int | None = Field(default=None, ge=0, description="How long the rest will take, in seconds.")


class CheckpointStatus(Schema):
    """A complete checkpoint."""

    uri: str = Field(max_length=2048, description="Its folder in the object storage; good for checkpoint.resumeFrom.")
    time: str = Field(default="", max_length=64, description="When it was complete.")
    step: int | None = Field(default=None, ge=0, description="The last step that the command had told then.")
    bytes: int = Field(default=0, ge=0, description="The size of all its files.")


class Logs(Schema):
    """What the pods printed."""

    uri: str = Field(max_length=2048, description="The folder in the object storage: POD/00001.log and so on.")


class Goodput(Schema):
    """What the time was worth."""

    productive_seconds: int = Field(
        default=0, ge=0, description="Time of the command's work that is kept: up to a checkpoint, or to the end."
    )
    lost_seconds: int = Field(
        default=0, ge=0, description="The rest of the active time: waiting, starting, and work that was done again."
    )


class Provenance(Schema):
    """What exactly ran."""

    image_digest: str = Field(default="", max_length=500, description="The image, as the node resolved it.")
    source_digest: str = Field(
        default="", max_length=100, description="SHA-256 of the source: of the archive, or over its files."
    )
    git_commit: str = Field(default="", max_length=64, description="The commit of the source's repository.")
    requested_by: str = Field(
        default="", max_length=500, description="Who made the object, where Kubernetes is 1.36 or newer."
    )


class TrainingJobStatus(RunStatus):
    """What is known of the job."""

    attempts: int = Field(
        default=0, ge=0, description="How many pods were started; of a job with several nodes, how often it was begun."
    )
    attempt_history: list[Attempt] = Field(
        default=[], max_length=20, description="The newest pods: each of node 0, and of the others those that failed."
    )
    active_since: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="When it last became active."
    )
    active_seconds: int = Field(
        default=0, ge=0, description="How long it was active before that, or until its end; suspension does not count."
    )
    image_error_since: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Since when a pod has no image."
    )
    memory: str = Field(default="", max_length=20, description="The memory limit that onOutOfMemory has raised.")
    progress: ProgressStatus | None = Field(default=None, description="How far it is.")
    percent: str = Field(default="", max_length=16, description="How far it is, for people.")
    last_checkpoint: CheckpointStatus | None = Field(default=None, description="The newest complete checkpoint.")
    logs: Logs | None = Field(default=None, description="What the pods printed, readable when they are gone.")
    goodput: Goodput | None = Field(default=None, description="What the time was worth; known at the end.")
    pod: str = Field(
        default="",
        max_length=253,
        description="The newest pod; of a job that has failed, the one that failure is about.",
    )
    inputs: dict[str, InputStatus] = Field(default={}, max_length=32, description="The inputs as they were fetched.")
    outputs: dict[str, OutputStatus] = Field(default={}, max_length=16, description="The uploaded outputs.")
    model_version: str = Field(default="", max_length=1000, description="The ModelVersions made, for people.")
    metrics: Metrics | None = Field(default=None, description="Numbers that the command printed.")
    score: str = Field(
        default="", max_length=MAX_SCORE, description="As many of those numbers as a column has room for."
    )
    failure: Failure | None = Field(
        default=None, description="Why it failed; while it is tried again, why its last attempt failed."
    )
    provenance: Provenance | None = Field(default=None, description="What exactly ran.")
    mlflow: MlflowStatus | None = Field(
        default=None, description="The run that records the job, where the platform has MLflow."
    )
