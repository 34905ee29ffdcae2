"""What the operator and the images have agreed on: paths, variables, exit codes and records.

Nothing here does I/O, and nothing but the standard library is imported: every image carries this file.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

# Where things are in a training pod.
SOURCE_DIR = "/mnt/source"  # inline source, read-only; copied to WORK_DIR before the command starts
WORK_DIR = "/workspace"
INPUTS_DIR = "/mnt/inputs"
OUTPUTS_DIR = "/mnt/outputs"
CHECKPOINTS_DIR = "/mnt/checkpoints"

# Where the trainer of rank 0 hears the others', and the first port that a framework's ranks use among themselves.
GANG_PORT = 29400
FRAMEWORK_PORT = 29500

# Where the trainer serves inputs that are not downloaded, on loopback: /NAME/PATH.
STREAM_PORT = 29399

# Where a training pod has the token that it posts its progress with, and whom that token is for: nobody else takes it.
PROGRESS_TOKEN = "/var/run/ultramarine/token"
PROGRESS_AUDIENCE = "ultramarine-progress"

# Where the coordinator of a sweep hears its workers, and the secret by which it knows them.
SWEEP_PORT = 29600
ENV_SWEEP = "ULTRAMARINE_SWEEP"  # a SweepTask for the coordinator, a WorkerTask for a worker
ENV_SWEEP_TOKEN = "ULTRAMARINE_SWEEP_TOKEN"
SUMMARY_NAME = "summary.json"  # below a sweep's prefix: its SweepSummary, written at its end
JOURNAL_NAME = "journal"  # below a sweep's prefix: the segments of its journal

# Where things are in a serving pod.
MODEL_DIR = "/mnt/model"
COMPILED_DIR = "/mnt/compiled"  # of a compiling pod: COMPILED_NAME, and VERDICT_NAME beside it
COMPILED_NAME = "model.onnx"
VERDICT_NAME = "verdict.json"
KEYS_DIR = "/etc/ultramarine/keys"
CAPTURES_DIR = "/mnt/captures"  # what the server has captured, until the collector has stored it
CATALOGUE_DIR = "/etc/ultramarine/models"  # of a pool's pod: CATALOGUE_NAME, which models there are
CATALOGUE_NAME = "models.json.gz"

# What the gateway says to a server of a request whose answer is compared: COMPARED_HEADER, on the request and on its
# copy alike, has the word of the gateway pod that will ask for the answer at ANSWERS_PATH, and the name of the request;
# COPY_HEADER is on the copy alone. Clients cannot send them through the gateway.
COMPARED_HEADER = "x-ultramarine-compared"
COPY_HEADER = "x-ultramarine-copy"
ANSWERS_PATH = "/ultramarine/answers"

# Variables of both images: where the object storage is, and one JSON document that says what to do.
# Credentials come in boto3's own variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).
ENV_STORAGE_ENDPOINT = "ULTRAMARINE_STORAGE_ENDPOINT"
ENV_STORAGE_REGION = "ULTRAMARINE_STORAGE_REGION"
ENV_TASK = "ULTRAMARINE_TASK"
ENV_CONTEXT = "ULTRAMARINE_CONTEXT"  # another, of what may be left undone
ENV_POD = "ULTRAMARINE_POD"  # the pod's own name: the host name of a Job's pod is another

TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LIMIT = 4096  # bytes; the kubelet keeps no more

# The trainer's own verdicts: another attempt would fail the same way, and the Job does not make one; or the storage
# did not answer, and another attempt may find it (EX_TEMPFAIL).
EXIT_DO_NOT_RETRY = 203
EXIT_TRY_AGAIN = 75

MANIFEST_NAME = "manifest.json"  # beside an artifact's files
STARTED_NAME = "started.json"  # beside a job's outputs, written before the command starts: the storage takes them
RESULT_NAME = "result.json"  # beside a job's outputs: its TerminationRecord, whole
ATTEMPTS_NAME = "attempts"  # beside a job's outputs: POD.json, the provenance of each pod's attempt
LOGS_NAME = "logs"  # beside a job's outputs: POD/NNNNN.log, what each pod printed
METRICS_NAME = "metrics"  # beside a job's outputs: POD.parquet, the values of metrics that each pod of node 0 told
CHECKPOINTS_NAME = "checkpoints"  # beside a job's outputs: DIGEST16/...files..., manifest.json, and CHECKPOINT_NAME
CHECKPOINT_NAME = "latest.json"  # a CheckpointRecord, written when all of its files are there

FRAMEWORKS = ("none", "torch", "tensorflow", "jax", "xgboost", "mpi")


# What a document of anybody's may raise when it is read as one of ours; too deep and too large ones too.
UNREADABLE = (KeyError, TypeError, AttributeError, OverflowError, RecursionError, json.JSONDecodeError)

T = TypeVar("T")
METRIC_LIMIT = 20  # names; a status and a termination record have room for no more
METRIC_NAME_LIMIT = 63  # characters
LARGEST = 2**53  # a number that anybody's JSON can carry
_Bytes = bytes  # for records that have a field of that name


def read_known(cls: type[T], document: dict[str, Any]) -> T:
    """Make a dataclass of a document. Fields that it lacks are a newer release's, and are left out."""
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in document.items() if name in known})


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact: its path below the artifact's root, its size in bytes and its SHA-256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ArtifactManifest:
    """The list of an artifact's files; stored beside them and last, so that it is there only when all of them are."""

    files: tuple[FileEntry, ...]
    format: str = ""  # a model format, or nothing for other folders

    def to_json(self) -> bytes:
        """Return the canonical bytes: sorted files, sorted keys, no spaces; equal artifacts give equal bytes."""
        document = asdict(self)
        document["files"] = sorted(document["files"], key=lambda entry: str(entry["path"]))
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> ArtifactManifest:
        """Read what `to_json` wrote. Raises ValueError, with the reason, for anything else."""
        try:
            document = json.loads(data)
            files = tuple(FileEntry(str(f["path"]), int(f["bytes"]), str(f["sha256"])) for f in document["files"])
            return cls(files=files, format=str(document.get("format", "")))
        except UNREADABLE as error:
            raise ValueError(f"not an artifact manifest: {error!r}") from error

    @property
    def digest(self) -> str:
        """`sha256:HEX` over the canonical bytes: it names the whole content of the artifact."""
        return "sha256:" + hashlib.sha256(self.to_json()).hexdigest()

    @property
    def bytes(self) -> int:
        """The size of all files together, in bytes."""
        return sum(entry.bytes for entry in self.files)


@dataclass(frozen=True)
class SourceTask:
    """Where the code comes from that is not in the Job's own ConfigMap; one of the three.

    `config_map` is a ConfigMap's name: its files are mounted at SOURCE_DIR, if it is there.
    `uri` is a tar archive's s3:// URI, and `digest` the SHA-256 that it must have, if any is asked for.
    `git_url` is a repository, `git_ref` a branch, tag or commit (or empty: its default branch), `git_path` a folder.
    """

    config_map: str = ""
    uri: str = ""
    digest: str = ""
    git_url: str = ""
    git_ref: str = ""
    git_path: str = ""


@dataclass(frozen=True)
class CheckpointTask:
    """What is written to CHECKPOINTS_DIR is kept while the command runs, and put back before it starts again.

    `resume_from` is the s3:// URI of another job's checkpoint, for an attempt that finds none of this job.
    `grace_seconds` is the time from SIGTERM to the end of the pod.
    """

    resume: bool = True
    resume_from: str = ""
    grace_seconds: int = 30


@dataclass(frozen=True)
class GangTask:
    """How the pods of one job work together: `nodes` of them, or at least `min_nodes` where it is not 0.

    Each pod has its place in JOB_COMPLETION_INDEX; the one with 0 is found as `leader`, a host name.
    `processes` is how many ranks each node has.
    """

    framework: str = "none"
    processes: int = 1
    nodes: int = 1
    min_nodes: int = 0
    leader: str = ""


@dataclass(frozen=True)
class TrainingTask:
    """What the trainer has to do, besides the user's command: the operator writes it into ENV_TASK.

    `source` is code to fetch; without it what is mounted at SOURCE_DIR is all.
    `inputs` maps a name to an s3:// URI (an object, or all objects under a prefix that ends in a slash).
    `streams` are inputs too, which are not fetched but served at STREAM_PORT.
    `outputs` maps a name to the model format (`auto` when the trainer shall find it; empty for a plain folder).
    `output_prefix` is the s3:// URI under which NAME/DIGEST/ folders are written.
    `checkpoint` and `gang` are there where the job has checkpoints, and a framework or several nodes.
    """

    inputs: dict[str, str] = field(default_factory=dict)
    streams: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    output_prefix: str = ""
    source: SourceTask | None = None
    checkpoint: CheckpointTask | None = None
    gang: GangTask | None = None

    def to_json(self) -> str:
        """Return the task as JSON without what is not asked for: a trainer has to know only what it must do."""
        return json.dumps({name: value for name, value in asdict(self).items() if value}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TrainingTask:
        """Read what `to_json` wrote. Raises TypeError for a field that is not known here: it would not be done."""
        task = cls(**json.loads(text))
        parts = {"source": SourceTask, "checkpoint": CheckpointTask, "gang": GangTask}
        given = {name: getattr(task, name) for name in parts}
        return replace(task, **{name: parts[name](**part) for name, part in given.items() if isinstance(part, dict)})


@dataclass(frozen=True)
class TrainingContext:
    """Who and what the attempt is, and whom it tells how it goes: the operator writes it into ENV_CONTEXT.

    Other than of the task, a trainer may leave undone what it does not know of it: an image that was built from an
    older trainer goes on. `job` is NAMESPACE/NAME, `source_digest` that of an inline source.
    `progress` is the URL to which Progress is posted, and `mlflow` the URI of a tracking server, where there are any.
    """

    job: str = ""
    uid: str = ""
    requested_by: str = ""
    image: str = ""
    source_digest: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    progress: str = ""
    mlflow: str = ""

    def to_json(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TrainingContext:
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        try:
            return read_known(cls, json.loads(text))
        except UNREADABLE as error:
            raise ValueError(f"no context: {error!r}") from error


@dataclass(frozen=True)
class SourceRecord:
    """What code ran: the SHA-256 of an archive or over a ConfigMap's files, or the commit of a git repository."""

    digest: str = ""
    commit: str = ""


@dataclass(frozen=True)
class InputRecord:
    """One input as it was fetched: the digest of its list of files, as an artifact has it, and its size in bytes."""

    digest: str
    bytes: int
    files: int = 0


@dataclass(frozen=True)
class CheckpointRecord:
    """A complete checkpoint: an artifact's URI and digest, when it was complete (RFC 3339, UTC), and its size in bytes.

    `step` is the last one that the command had told then, or -1. `productive_seconds` is how long the command had
    worked for it, in all attempts together. `previous` is the checkpoint before it, whose own `previous` is left out.
    """

    uri: str
    digest: str
    time: str
    bytes: int = 0
    step: int = -1
    productive_seconds: float = 0.0
    previous: CheckpointRecord | None = None

    def to_json(self) -> _Bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: _Bytes) -> CheckpointRecord:
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        try:
            return cls.of(json.loads(data))
        except UNREADABLE as error:
            raise ValueError(f"not a checkpoint record: {error!r}") from error

    @classmethod
    def of(cls, document: dict[str, Any]) -> CheckpointRecord:
        """Make a record of a parsed document. Raises TypeError where a field is not of its type."""
        record = read_known(cls, document)
        texts, numbers = (
            (record.uri, record.digest, record.time),
            (record.bytes, record.step, record.productive_seconds),
        )
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is something else")
        if not all(type(number) in (int, float) and -1 <= number < LARGEST for number in numbers):
            raise TypeError("a number is something else, or too large")
        if record.bytes < 0 or record.productive_seconds < 0:
            raise TypeError("a size is below 0")
        previous = record.previous
        return replace(record, previous=cls.of(previous) if isinstance(previous, dict) else None)


@dataclass(frozen=True)
class OutputRecord:
    """One uploaded output: the folder's s3:// URI, the manifest's digest, its size in bytes and its model format."""

    uri: str
    digest: str
    bytes: int
    format: str = ""


@dataclass(frozen=True)
class SweepTask:
    """What the coordinator of a sweep has to do: the operator writes it into ENV_SWEEP.

    `sweep` is NAMESPACE/NAME, and `prefix` the s3:// URI, with a slash at its end, of all that it stores.
    `objectives`, `algorithm`, `space` and `early_termination` are those of the Sweep's spec, as the API has them;
    `warm_start` names the prefixes of other sweeps, whose finished trials count as known.
    0 stands for no bound of `max_failed_trials`, `trial_timeout_seconds`, `deadline_seconds`, `cpu_hours`, `gpu_hours`;
    a trial takes `trial_cpus` and `trial_gpus`. `progress` is the URL to which a SweepSummary is posted, if any.
    """

    sweep: str
    uid: str
    prefix: str
    objectives: tuple[dict[str, Any], ...]
    space: dict[str, Any]
    algorithm: dict[str, Any] = field(default_factory=dict)
    early_termination: dict[str, Any] | None = None
    warm_start: tuple[str, ...] = ()
    max_trials: int = 0
    max_failed_trials: int = 0
    trial_timeout_seconds: int = 0
    deadline_seconds: int = 0
    canary_trial: bool = False
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    trial_cpus: float = 0.0
    trial_gpus: float = 0.0
    outputs: tuple[str, ...] = ()
    progress: str = ""

    def to_json(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SweepTask:
        """Read what `to_json` wrote. Raises TypeError for a field that is not known here: it would not be done."""
        document = json.loads(text)
        lists = {name: tuple(document[name]) for name in ("objectives", "warm_start", "outputs") if name in document}
        return cls(**{**document, **lists})


@dataclass(frozen=True)
class WorkerTask:
    """What a worker of a sweep's pool does besides its TrainingTask: the operator writes it into ENV_SWEEP.

    It asks for trials at `coordinator`, a URL, and runs `command` for each, with $(params.NAME) filled in.
    """

    coordinator: str
    command: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> WorkerTask:
        """Read what `to_json` wrote. Raises TypeError for a field that is not known here: it would not be done."""
        document = json.loads(text)
        return cls(**{**document, "command": tuple(document["command"])})


@dataclass(frozen=True)
class BestTrial:
    """One of a sweep's best trials: its number, the objectives' values in their order, and its parameters."""

    trial: int
    values: tuple[float, ...]
    params: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, OutputRecord] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepSummary:
    """How far a sweep is: posted to the operator, stored at its end, and in short its coordinator's last words.

    `outcome` is empty, Succeeded or Failed; `reason` and the first line of `message` say why it ended, and further
    lines are what a trial that failed the sweep printed last. `stopped` trials were ended early by rule. `best` has ten
    trials at most, the best first, or those of the Pareto front.
    """

    outcome: str = ""
    reason: str = ""
    message: str = ""
    running: int = 0
    succeeded: int = 0
    stopped: int = 0
    failed: int = 0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    best: tuple[BestTrial, ...] = ()

    def to_json(self) -> _Bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: _Bytes | str) -> SweepSummary:
        """Read what `to_json` wrote. Raises ValueError for anything else: a trial's command could post it, too."""
        try:
            summary = read_known(cls, document := json.loads(data))
            best = tuple(_best(one) for one in document.get("best") or ())
            texts = (summary.outcome, summary.reason, summary.message)
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("a text is something else")
            counts = (summary.running, summary.succeeded, summary.stopped, summary.failed)
            if not all(type(count) is int and 0 <= count < LARGEST for count in counts):
                raise TypeError("a count is no whole number, or too large")
            if not all(type(n) in (int, float) and 0 <= n < LARGEST for n in (summary.cpu_hours, summary.gpu_hours)):
                raise TypeError("a number of hours is none")
        except UNREADABLE as error:
            raise ValueError(f"not a summary of a sweep: {error!r}") from error
        return replace(summary, best=best)


def _best(document: dict[str, Any]) -> BestTrial:
    values = tuple(document["values"])
    if type(document["trial"]) is not int or not all(type(v) in (int, float) and math.isfinite(v) for v in values):
        raise TypeError("a trial's number or value is something else")
    outputs = {str(name): read_known(OutputRecord, one) for name, one in (document.get("outputs") or {}).items()}
    return BestTrial(document["trial"], values, dict(document.get("params") or {}), outputs)


@dataclass(frozen=True)
class CollectTask:
    """Which requests are kept, and where: a share of `sampling_rate` of them, below the s3:// URI of a folder.

    `endpoint` and `deployment` say whose they are. The values of inputs, outputs and features named in `redact` are
    left out.
    """

    endpoint: str
    deployment: str
    uri: str
    sampling_rate: float
    redact: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServingTask:
    """What a serving pod has to do: the operator writes it into ENV_TASK of its fetching and its serving container.

    `digest` is the manifest's when `uri` ends in a slash, else the SHA-256 of the one object.
    `signature` is ModelVersion.spec.signature, or nothing when the server shall infer it from the model.
    At most `max_concurrent_requests` are answered at once (0: any number); others wait `max_queue_milliseconds`.
    `timeout_seconds` is the time for one answer (0: any time). Requests are computed together up to `max_batch_size`
    rows, and wait at most `max_latency_milliseconds` for each other. `warmup` is a V2 request as JSON, or nothing.
    `access_log_sampling` is the share of good answers that the access log shows; it shows all others.
    `collect` is there where requests are kept.
    With `pool_bytes` the pod answers with the models of the catalogue, which may take so much memory together; then
    what the first five fields and `signature` say of one model is empty.
    """

    model: str
    version: str
    uri: str
    digest: str
    format: str
    allow_code_execution: bool = False
    auth: str = "key"  # key | none
    signature: dict[str, Any] | None = None
    max_concurrent_requests: int = 0
    max_queue_milliseconds: float = 500
    timeout_seconds: float = 60
    max_batch_size: int = 1
    max_latency_milliseconds: float = 0
    warmup: str = ""
    access_log_sampling: float = 0.01
    collect: CollectTask | None = None
    pool_bytes: int = 0

    def to_json(self) -> str:
        """Return the task as JSON, without bounds that are as usual: they change no endpoint's revision."""
        always = ("model", "version", "uri", "digest", "format", "allow_code_execution", "auth", "signature")
        usual = asdict(ServingTask("", "", "", "", ""))
        task = {name: value for name, value in asdict(self).items() if name in always or value != usual[name]}
        return json.dumps(task, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ServingTask:
        task, collect = read_known(cls, document := json.loads(text)), document.get("collect")
        if collect is None:
            return task
        return replace(task, collect=read_known(CollectTask, {**collect, "redact": tuple(collect.get("redact", ()))}))


@dataclass(frozen=True)
class CompileTask:
    """What a compiling pod has to do: the operator writes it into ENV_TASK of its containers.

    The first fields are those of the ServingTask of the same version. `prefix` is the s3:// URI under which
    DIGEST16/ is written, and RESULT_NAME: the CompileRecord. Of the rows that are compared a share of
    `label_agreement` must have the same labels, and no other value may differ by more than `rtol`.
    """

    model: str
    version: str
    uri: str
    digest: str
    format: str
    prefix: str
    to: str = "onnx"
    rtol: float = 1e-5
    label_agreement: float = 1.0
    allow_code_execution: bool = False
    signature: dict[str, Any] | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CompileTask:
        """Read what `to_json` wrote. Raises TypeError for a field that is not known here: it would not be done."""
        return cls(**json.loads(text))

    @property
    def native(self) -> ServingTask:
        """What a server of the version as it is has to load."""
        return read_known(ServingTask, asdict(self))


@dataclass(frozen=True)
class CompileRecord:
    """What became of a CompileTask: the last words of its pod, and stored as PREFIX/result.json.

    Where all went well, `uri`, `digest` and `bytes` are those of the compiled artifact and `reason` is empty; else
    that is ParityFailed or NotConvertible, and `message` says what to do. Of `rows` rows, which came from where
    `rows_from` says, a share of `label_agreement` had the same labels, and the values differed by
    `worst_relative_error` at most; both are -1 where nothing was compared. `opset` is the version of ONNX's operators.
    """

    uri: str = ""
    digest: str = ""
    bytes: int = 0
    opset: int = 0
    rows: int = 0
    rows_from: str = ""
    worst_relative_error: float = -1.0
    label_agreement: float = -1.0
    reason: str = ""
    message: str = ""

    def to_json(self) -> _Bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: _Bytes | str) -> CompileRecord:
        """Read what `to_json` wrote. Raises ValueError for anything else: a model that runs code can write it too."""
        try:
            document = json.loads(data)
            if "rows_from" not in document:  # somebody else's words
                raise KeyError("rows_from")
            record = read_known(cls, document)
            texts = (record.uri, record.digest, record.rows_from, record.reason, record.message)
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("a text is something else")
            counts = (record.bytes, record.opset, record.rows)
            if not all(type(count) is int and 0 <= count < LARGEST for count in counts):
                raise TypeError("a count is no whole number, or too large")
            figures = (record.worst_relative_error, record.label_agreement)
            if not all(type(n) in (int, float) and -1 <= n < LARGEST for n in figures):
                raise TypeError("a figure is no number, or too large")
        except UNREADABLE as error:
            raise ValueError(f"not a verdict on a compiled model: {error!r}") from error
        return record


# BUCKET/NAMESPACE/trainingjobs/NAME/UID/OUTPUT/DIGEST16/; a checkpoint is no output, and lies like one.
_NAME = "[-a-z0-9.]+"
_ARTIFACT = re.compile(
    f"s3://{_NAME}/{_NAME}/trainingjobs/{_NAME}/{_NAME}/(?!{CHECKPOINTS_NAME}/){_NAME}/[0-9a-f]{{16}}/"
)


def artifact_folder(uri: str) -> str:
    """The folder in which a TrainingJob's output was stored, of a URI that names it or lies in it; else nothing."""
    found = _ARTIFACT.match(uri)
    return found[0] if found else ""


@dataclass(frozen=True)
class DeleteTask:
    """What a deleting pod has to do: take away the artifact in the folder `uri`. It is in ENV_TASK."""

    uri: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DeleteTask:
        """Read what `to_json` wrote. Raises TypeError or ValueError for anything else, and for what is no artifact."""
        task = cls(**json.loads(text))
        if artifact_folder(task.uri) != task.uri:
            raise ValueError(f"{task.uri!r} is no folder that a TrainingJob's output was stored in")
        return task


@dataclass(frozen=True)
class TerminationRecord:
    """The last words of a container, at most TERMINATION_LIMIT bytes of JSON in TERMINATION_LOG.

    On success `outputs` and `metrics` say what was made; the same record, whole, is stored as
    OUTPUT_PREFIX/result.json before the container ends, for the case that the pod is gone before anyone has read it.
    `source` is what code ran, if the trainer fetched it; `inputs` are the inputs as they were fetched.
    `checkpoint` is the newest one that is complete, and `productive_seconds` the time that the command has worked for
    what is kept: up to that checkpoint or, on success, to the end, with what earlier attempts left to it.
    `step` is the last one that the command told, of `total_steps`; -1 where it told none.
    `mlflow_run` is the id of the run that records the job.
    `series` is the URI of all that the pod's metrics were, if any of that is stored.
    On failure `reason` is a CamelCase word, `message` a sentence that names the field and the remedy,
    `tail` the last lines that the user's command wrote.
    """

    outputs: dict[str, OutputRecord] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    message: str = ""
    tail: str = ""
    source: SourceRecord = SourceRecord()
    inputs: dict[str, InputRecord] = field(default_factory=dict)
    checkpoint: CheckpointRecord | None = None
    productive_seconds: float = 0.0
    step: int = -1
    total_steps: int = -1
    mlflow_run: str = ""
    series: str = ""

    def to_json(self, limit: int = TERMINATION_LIMIT) -> str:
        """Return the record as JSON of at most `limit` bytes: the tail is cut first, from its front, then metrics.

        Outputs are never cut: with very many of them it stays longer, and its reader has to go to RESULT_NAME.
        """
        always = ("outputs", "metrics", "reason", "message", "tail", "source")
        nothing = asdict(TerminationRecord())
        record = {name: value for name, value in asdict(self).items() if name in always or value != nothing[name]}
        while len(text := json.dumps(record, sort_keys=True)) > limit:
            excess = len(text) - limit
            if record["tail"]:
                record["tail"] = record["tail"][excess:]
            elif record.get("inputs"):
                del record["inputs"]
            elif record["metrics"]:
                record["metrics"].popitem()
            else:
                record["message"] = record["message"][: -max(excess, 1)]
                if not record["message"]:
                    break
        return text

    @classmethod
    def from_json(cls, text: str) -> TerminationRecord:
        """Read what `to_json` wrote. Raises ValueError for anything else (a log tail, say, or an image's own words)."""
        try:
            document = json.loads(text)
            outputs = {name: read_known(OutputRecord, record) for name, record in document["outputs"].items()}
            if "reason" not in document:  # a line of somebody's JSON log
                raise KeyError("reason")
            source = read_known(SourceRecord, document.get("source") or {})
            inputs = {name: read_known(InputRecord, record) for name, record in (document.get("inputs") or {}).items()}
            told = document.get("checkpoint")
            checkpoint = CheckpointRecord.of(told) if told is not None else None
            parts = {"outputs": outputs, "source": source, "inputs": inputs, "checkpoint": checkpoint}
            record = read_known(cls, {**document, **parts})
            record._check()
        except UNREADABLE as error:
            raise ValueError(f"not a termination record: {error}") from error
        return record

    def _check(self) -> None:
        """Raise TypeError where a field is not of its type: the user's command can write here too."""
        texts = [self.reason, self.message, self.tail, self.source.digest, self.source.commit, self.mlflow_run]
        texts.append(self.series)
        texts += [text for output in self.outputs.values() for text in (output.uri, output.digest, output.format)]
        texts += [record.digest for record in self.inputs.values()]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is something else")
        numbers = [*self.metrics.values(), self.productive_seconds]
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise TypeError("a metric is no finite number")
        sizes = [output.bytes for output in self.outputs.values()]
        sizes += [size for one in self.inputs.values() for size in (one.bytes, one.files)]
        if not all(type(size) is int and 0 <= size < LARGEST for size in sizes):
            raise TypeError("a size is no whole number, or too large")
        if not all(type(step) is int and -1 <= step < LARGEST for step in (self.step, self.total_steps)):
            raise TypeError("a step is no whole number, or too large")
        if not 0 <= self.productive_seconds < LARGEST:
            raise TypeError("a time is below 0, or too large")


@dataclass(frozen=True)
class Progress:
    """How far a running attempt is: what a trainer posts to the operator, and Kubeflow's protocol says in other words.

    `step` and `total_steps` are -1 where they are not known, `eta_seconds` too; `metrics` are the newest values.
    `mlflow_run` is the id of the run that records the job.
    """

    step: int = -1
    total_steps: int = -1
    percent: int = -1
    eta_seconds: int = -1
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: CheckpointRecord | None = None
    mlflow_run: str = ""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Progress:
        """Read what `to_json` wrote. Raises ValueError for anything else: anybody in the pod can post."""
        try:
            document = json.loads(data)
            told = document.get("checkpoint")
            progress = read_known(
                cls, {**document, "checkpoint": CheckpointRecord.of(told) if told is not None else None}
            )
            counts = (progress.step, progress.total_steps, progress.percent, progress.eta_seconds)
            if not all(type(count) is int and -1 <= count < LARGEST for count in counts) or progress.percent > 100:
                raise TypeError("a count is no whole number, or too large")
            if not all(type(n) in (int, float) and math.isfinite(n) for n in progress.metrics.values()):
                raise TypeError("a metric is no finite number")
            if not isinstance(progress.mlflow_run, str):
                raise TypeError("a text is something else")
        except UNREADABLE as error:
            raise ValueError(f"not a progress report: {error!r}") from error
        return progress
