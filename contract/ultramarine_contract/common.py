"""Agreement of the operator and the images: paths, variables, exit codes, and what their documents have in common."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from math import isfinite
from typing import Annotated, Any, ClassVar, Self, TypeVar

import msgspec
from msgspec import Meta, Struct

# Folders of a training pod.
SOURCE_DIR = "/mnt/source"  # inline source, read-only; copied to WORK_DIR before the command starts
CREDENTIALS_DIR = "/mnt/git-credentials"  # of a private repository, where it is fetched and nowhere else
WORK_DIR = "/workspace"
INPUTS_DIR = "/mnt/inputs"
OUTPUTS_DIR = "/mnt/outputs"
CHECKPOINTS_DIR = "/mnt/checkpoints"
ENVIRONMENT_DIR = "/mnt/environment"  # a virtual environment, which works in this place alone; in serving pods too

# Variables of a command that name three of them: a local run has others.
ENV_INPUTS_DIR = "ULTRAMARINE_INPUTS_DIR"
ENV_OUTPUTS_DIR = "ULTRAMARINE_OUTPUTS_DIR"
ENV_CHECKPOINTS_DIR = "ULTRAMARINE_CHECKPOINTS_DIR"

# Port of the trainer of rank 0 for the other nodes, and the first port that a framework's ranks use among themselves.
GANG_PORT = 29400
FRAMEWORK_PORT = 29500

# Port on loopback of inputs that are not downloaded: /NAME/PATH.
STREAM_PORT = 29399

# Token that a training pod posts its progress with, and the only audience that accepts the token.
PROGRESS_TOKEN = "/var/run/ultramarine/token"
PROGRESS_AUDIENCE = "ultramarine-progress"

# Port of a sweep's coordinator for its workers, and the variable of the secret that they share.
SWEEP_PORT = 29600
ENV_SWEEP = "ULTRAMARINE_SWEEP"  # a SweepTask for the coordinator, a WorkerTask for a worker
ENV_TRIAL = "ULTRAMARINE_TRIAL"  # a TrialTask, if the trial is a TrainingJob
ENV_SWEEP_TOKEN = "ULTRAMARINE_SWEEP_TOKEN"
SUMMARY_NAME = "summary.json"  # below a sweep's prefix: its SweepSummary, written at its end
REPORT_NAME = "report.html"  # below a sweep's prefix: the report for users
JOURNAL_NAME = "journal"  # below a sweep's prefix: the segments of its journal

# Folders of a serving pod.
MODEL_DIR = "/mnt/model"
SCORING_DIR = "/mnt/scoring"  # the scoring script and its modules
COMPILED_DIR = "/mnt/compiled"  # of a compiling pod: COMPILED_NAME, and VERDICT_NAME beside it
COMPILED_NAME = "model.onnx"
VERDICT_NAME = "verdict.json"
KEYS_DIR = "/etc/ultramarine/keys"
CAPTURES_DIR = "/mnt/captures"  # captured requests, until the collector has stored them
CATALOGUE_DIR = "/etc/ultramarine/models"  # of a pool's pod: CATALOGUE_NAME, the list of its models
CATALOGUE_NAME = "models.json.gz"
UNNAMED_INPUT = "input"  # of a model whose features have no names, in its metadata

# Headers of requests whose answers are compared. COMPARED_HEADER is on the request and on its copy. It has the word of
# the gateway pod that will fetch the answer at ANSWERS_PATH, and the name of the request. COPY_HEADER is on the copy
# alone. Clients cannot send them through the gateway.
COMPARED_HEADER = "x-ultramarine-compared"
COPY_HEADER = "x-ultramarine-copy"
ANSWERS_PATH = "/ultramarine/answers"
# One or both entries of a Secret, by which a gateway authenticates to pods that answer gateways alone.
GATEWAY_HEADER = "x-ultramarine-gateway"

# Variables of both images: the address of the object storage, and one JSON document, the task.
# Credentials come in boto3's own variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).
ENV_STORAGE_ENDPOINT = "ULTRAMARINE_STORAGE_ENDPOINT"
ENV_STORAGE_REGION = "ULTRAMARINE_STORAGE_REGION"
INIT_SECONDS = 270  # for init() of a script; below the 300 s of the startup probe, so that the status gets the cause
ENV_TASK = "ULTRAMARINE_TASK"
ENV_CONTEXT = "ULTRAMARINE_CONTEXT"  # a second document, of what an older image may ignore
ENV_POD = "ULTRAMARINE_POD"  # the pod's name, which differs from the host name of a Job's pod

# Variables of the account that records in MLflow, by MLflow's own names. The container has each with this prefix, so
# that a command with another MLflow server does not send the account there.
MLFLOW_ACCOUNT = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
MLFLOW_PREFIX = "ULTRAMARINE_"

# With TLS inside the cluster: `ca.crt` in every pod, and `tls.crt` with `tls.key` in a pod that serves. The variable
# names the authority of the object storage, if it is not one of the system's.
TLS_DIR = "/etc/ultramarine/tls"
ENV_STORAGE_CA = "ULTRAMARINE_STORAGE_CA"
# Authorities of servers outside the cluster, if the installation has any; the chart's variables name this file.
CA_DIR, CA_FILE = "/etc/ultramarine/ca", "ca.crt"

TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LIMIT = 4096  # bytes; the kubelet keeps no more

# Exit codes of the trainer: another attempt would fail the same way, and the Job makes none; or the storage did not
# answer, and another attempt may succeed (EX_TEMPFAIL).
EXIT_DO_NOT_RETRY = 203
EXIT_TRY_AGAIN = 75
SAME_FAILURE = "SameFailureTwice"  # reason of an attempt that failed at once, as its predecessor did

MANIFEST_NAME = "manifest.json"  # beside an artifact's files
STARTED_NAME = "started.json"  # beside a job's outputs: proof, before the command starts, that the storage takes writes
FAILED_NAME = "failed-{index}.json"  # beside a job's outputs: the failure of each node's last attempt
RESULT_NAME = "result.json"  # beside a job's outputs: its TerminationRecord, whole
ATTEMPTS_NAME = "attempts"  # beside a job's outputs: POD.json, the provenance of each pod's attempt
RUNS_NAME = "mlruns"  # in the work folder, and below attempts/POD: what mlflow logged without a tracking server
LOGS_NAME = "logs"  # beside a job's outputs: POD/NNNNN.log, the output of each pod
METRICS_NAME = "metrics"  # beside a job's outputs: POD.parquet, all values of metrics of each pod of node 0
CHECKPOINTS_NAME = "checkpoints"  # beside a job's outputs: DIGEST16/...files..., manifest.json, and CHECKPOINT_NAME
CHECKPOINT_NAME = "latest.json"  # a CheckpointRecord, written when all of its files are there

AUTO = "auto"  # the format is detected from the model's files


T = TypeVar("T")
METRIC_LIMIT = 20  # names; a status and a termination record have room for no more
METRIC_NAME_LIMIT = 63  # characters
LARGEST = 2**53  # a number that every JSON parser can carry

Count = Annotated[int, Meta(ge=0, lt=LARGEST)]
CountOrUnknown = Annotated[int, Meta(ge=-1, lt=LARGEST)]  # -1: not known
Amount = Annotated[float, Meta(ge=0, lt=LARGEST)]

# Errors of reading a document that a stranger may have written; too deep and too large ones too.
UNREADABLE = (KeyError, TypeError, AttributeError, OverflowError, RecursionError, ValueError)


_SURROGATE = re.compile("[\ud800-\udfff]")


def readable(value: Any) -> Any:
    """Return JSON's values with U+FFFD for each lone surrogate, which UTF-8 cannot carry and many readers refuse."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {readable(name): readable(item) for name, item in value.items()}
    return [readable(item) for item in value] if isinstance(value, list | tuple) else value


def _finite(text: str) -> float | str:
    """Return a number, or the text of one that is infinite, which no field for numbers takes."""
    return number if isfinite(number := float(text)) else text


_BUILT: set[Any] = set()
_BUILDING = threading.Lock()


def built(cls: type[T]) -> type[T]:
    """Return a type that msgspec has prepared for conversion.

    msgspec prepares a type at its first use, and crashes the process (0.22.0) if threads do so at the same time.
    """
    if cls not in _BUILT:
        with _BUILDING:
            msgspec.json.Decoder(cls)
            _BUILT.add(cls)
    return cls


def decode(
    cls: type[T],
    data: bytes | str,
    noun: str,
    prepare: Callable[[Any], Any] = lambda document: document,
    strict: bool = True,
) -> T:
    """Decode JSON. Raises ValueError with one sentence: the noun, what is wrong, and the path to it.

    `prepare` gets the parsed document first. Without `strict`, numbers may be texts. JSON is parsed by Python, which
    reads lone surrogates.
    """
    try:
        document = json.loads(data, parse_constant=str, parse_float=_finite)
        return msgspec.convert(prepare(readable(document)), built(cls), strict=strict)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not {noun}: {error}") from error


def without_empty(document: Any, *names: str) -> Any:
    """Return an object without those fields that are null or empty, so that their defaults hold."""
    if not isinstance(document, dict):
        return document
    return {name: value for name, value in document.items() if value or name not in names}


def read_known(cls: type[T], document: Any) -> T:
    """Convert a parsed document, without fields that `cls` lacks. Raises ValueError if a field has another type."""
    try:
        return msgspec.convert(document, built(cls))
    except RecursionError as error:
        raise ValueError(str(error)) from error


class Document(Struct, frozen=True):
    """JSON document between the operator and an image. A reader ignores the fields of newer releases."""

    NOUN: ClassVar[str] = "a document"
    STRICT: ClassVar[bool] = True  # if false, numbers may be texts

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Read what `to_json` wrote. Raises ValueError with one sentence for anything else."""
        return decode(cls, data, cls.NOUN, cls.prepare, cls.STRICT)

    @classmethod
    def prepare(cls, document: Any) -> Any:
        """Return a parsed document with the values that older releases accepted too, as fields have them today."""
        return document

    def document(self) -> dict[str, Any]:
        """Return the fields as JSON has them, without lone surrogates."""
        document: dict[str, Any] = readable(msgspec.to_builtins(self))
        return document


class Task(Document, frozen=True, forbid_unknown_fields=True):
    """Document whose unknown fields are refused: an image that ignored one would leave a part of its task undone."""


class FileEntry(Document, frozen=True):
    """File of an artifact: its path below the artifact's root, its size in bytes and its SHA-256 in hex."""

    path: str
    bytes: Count
    sha256: str


class ArtifactManifest(Document, frozen=True):
    """List of an artifact's files. It is stored beside them and last, so it exists only if all of them do."""

    NOUN = "an artifact manifest"
    STRICT = False

    files: tuple[FileEntry, ...]
    format: str = ""  # a model format, or nothing for other folders

    @classmethod
    def prepare(cls, document: Any) -> Any:
        return without_empty(document, "format")

    def to_json(self) -> bytes:
        """Return the canonical bytes: sorted files, sorted keys, no spaces; equal artifacts give equal bytes."""
        document = self.document()
        document["files"] = sorted(document["files"], key=lambda entry: str(entry["path"]))
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """`sha256:HEX` over the canonical bytes: it names the whole content of the artifact."""
        return "sha256:" + hashlib.sha256(self.to_json()).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of all files together, in bytes."""
        return sum(entry.bytes for entry in self.files)


MAX_UNTRUSTED = 10  # types that a record names
MAX_UNTRUSTED_NAME = 100  # characters of each
MAX_UNTRUSTED_TEXT = MAX_UNTRUSTED * (MAX_UNTRUSTED_NAME + len(", "))  # characters of all of them


class OutputRecord(Document, frozen=True):
    """Uploaded output: the folder's s3:// URI, the manifest's digest, its size in bytes and its model format.

    `untrusted` names types in a .skops file that servers do not build without permission, at most MAX_UNTRUSTED,
    separated by ", ".
    """

    uri: str
    digest: str
    bytes: Count
    format: str = ""
    untrusted: str = ""


# BUCKET/NAMESPACE/trainingjobs/NAME/UID/OUTPUT/DIGEST16/; a checkpoint is not an output, although it lies like one.
_NAME = "[-a-z0-9.]+"
_ARTIFACT = re.compile(
    f"s3://{_NAME}/{_NAME}/trainingjobs/{_NAME}/{_NAME}/(?!{CHECKPOINTS_NAME}/){_NAME}/[0-9a-f]{{16}}/"
)


def artifact_folder(uri: str) -> str:
    """Return the folder of a TrainingJob's output, from a URI that names it or lies in it; empty for any other URI."""
    match = _ARTIFACT.match(uri)
    return match[0] if match else ""


# BUCKET/NAMESPACE/datasets/DATASET/DIGEST16/
_UPLOAD = re.compile(f"s3://{_NAME}/{_NAME}/datasets/{_NAME}/[0-9a-f]{{16}}/")


def upload_folder(uri: str) -> str:
    """Return the folder of a dataset's upload, from a URI that names it or lies in it; empty for any other URI."""
    match = _UPLOAD.match(uri)
    return match[0] if match else ""


def stored_folder(uri: str) -> str:
    """Return the folder of a TrainingJob's output or of an upload, from a URI in it; empty for any other URI."""
    return artifact_folder(uri) or upload_folder(uri)


# BUCKET/NAMESPACE/compiled/DIGEST16-SETTINGS8/, with the digest of the native model.
_COMPILED = re.compile(f"s3://{_NAME}/{_NAME}/compiled/([0-9a-f]{{16}})-[0-9a-f]{{8}}/")


def compiled_folder(uri: str) -> str:
    """Return the folder of a compiled model and its verdict, from a URI that lies in it; empty for any other URI."""
    match = _COMPILED.match(uri)
    return match[0] if match else ""


def compiled_of(uri: str) -> str:
    """Return the beginning of the native model's digest, from a folder as `compiled_folder` returns it, or nothing."""
    match = _COMPILED.fullmatch(uri)
    return match[1] if match else ""
