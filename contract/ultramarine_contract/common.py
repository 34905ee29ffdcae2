"""What the operator and the images have agreed on: paths, variables, exit codes and records.

Nothing here does I/O, and nothing but the standard library is imported: every image carries this file.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

# Where things are in a training pod.
SOURCE_DIR = "/mnt/source"  # inline source, read-only; copied to WORK_DIR before the command starts
CREDENTIALS_DIR = "/mnt/git-credentials"  # of a private repository, where it is fetched and nowhere else
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
ENV_TRIAL = "ULTRAMARINE_TRIAL"  # a TrialTask, where a trial is a TrainingJob
ENV_SWEEP_TOKEN = "ULTRAMARINE_SWEEP_TOKEN"
SUMMARY_NAME = "summary.json"  # below a sweep's prefix: its SweepSummary, written at its end
REPORT_NAME = "report.html"  # below a sweep's prefix: what people look at
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
# By what it has here, one of the entries of a Secret or both, a gateway proves itself to pods that answer it alone.
GATEWAY_HEADER = "x-ultramarine-gateway"

# Variables of both images: where the object storage is, and one JSON document that says what to do.
# Credentials come in boto3's own variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).
ENV_STORAGE_ENDPOINT = "ULTRAMARINE_STORAGE_ENDPOINT"
ENV_STORAGE_REGION = "ULTRAMARINE_STORAGE_REGION"
ENV_TASK = "ULTRAMARINE_TASK"
ENV_CONTEXT = "ULTRAMARINE_CONTEXT"  # another, of what may be left undone
ENV_POD = "ULTRAMARINE_POD"  # the pod's own name: the host name of a Job's pod is another

# The account at the MLflow server that records, by MLflow's own names. The container has each with this prefix, so that
# a command which names a server of its own does not send it there.
MLFLOW_ACCOUNT = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
MLFLOW_PREFIX = "ULTRAMARINE_"

# Where TLS is on inside the cluster: `ca.crt` in every pod, and `tls.crt` with `tls.key` where that pod serves. The
# variable names the authority of the object storage, if it is not one of the system's.
TLS_DIR = "/etc/ultramarine/tls"
ENV_STORAGE_CA = "ULTRAMARINE_STORAGE_CA"
# Authorities of what lies outside the cluster, where the installation has such; the chart's variables name this file.
CA_DIR, CA_FILE = "/etc/ultramarine/ca", "ca.crt"

TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LIMIT = 4096  # bytes; the kubelet keeps no more

# The trainer's own verdicts: another attempt would fail the same way, and the Job does not make one; or the storage
# did not answer, and another attempt may find it (EX_TEMPFAIL).
EXIT_DO_NOT_RETRY = 203
EXIT_TRY_AGAIN = 75
SAME_FAILURE = "SameFailureTwice"  # the reason of an attempt that failed at once, as the one before it

MANIFEST_NAME = "manifest.json"  # beside an artifact's files
STARTED_NAME = "started.json"  # beside a job's outputs, written before the command starts: the storage takes them
FAILED_NAME = "failed-{index}.json"  # beside a job's outputs: how the last attempt of each node failed
RESULT_NAME = "result.json"  # beside a job's outputs: its TerminationRecord, whole
ATTEMPTS_NAME = "attempts"  # beside a job's outputs: POD.json, the provenance of each pod's attempt
LOGS_NAME = "logs"  # beside a job's outputs: POD/NNNNN.log, what each pod printed
METRICS_NAME = "metrics"  # beside a job's outputs: POD.parquet, the values of metrics that each pod of node 0 told
CHECKPOINTS_NAME = "checkpoints"  # beside a job's outputs: DIGEST16/...files..., manifest.json, and CHECKPOINT_NAME
CHECKPOINT_NAME = "latest.json"  # a CheckpointRecord, written when all of its files are there

AUTO = "auto"  # the format of a model that its files tell
FRAMEWORKS = ("none", "torch", "tensorflow", "jax", "xgboost", "mpi")


# What a document of anybody's may raise when it is read as one of ours; too deep and too large ones too.
UNREADABLE = (KeyError, TypeError, AttributeError, OverflowError, RecursionError, json.JSONDecodeError)

T = TypeVar("T")
METRIC_LIMIT = 20  # names; a status and a termination record have room for no more
METRIC_NAME_LIMIT = 63  # characters
LARGEST = 2**53  # a number that anybody's JSON can carry


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


MAX_UNTRUSTED = 10  # types that a record names
MAX_UNTRUSTED_NAME = 100  # characters of each
MAX_UNTRUSTED_TEXT = MAX_UNTRUSTED * (MAX_UNTRUSTED_NAME + len(", "))  # characters of all of them


@dataclass(frozen=True)
class OutputRecord:
    """One uploaded output: the folder's s3:// URI, the manifest's digest, its size in bytes and its model format.

    `untrusted` names types in a .skops file that servers do not build without permission, MAX_UNTRUSTED of them at
    most, with ", " between them.
    """

    uri: str
    digest: str
    bytes: int
    format: str = ""
    untrusted: str = ""


# BUCKET/NAMESPACE/trainingjobs/NAME/UID/OUTPUT/DIGEST16/; a checkpoint is no output, and lies like one.
_NAME = "[-a-z0-9.]+"
_ARTIFACT = re.compile(
    f"s3://{_NAME}/{_NAME}/trainingjobs/{_NAME}/{_NAME}/(?!{CHECKPOINTS_NAME}/){_NAME}/[0-9a-f]{{16}}/"
)


def artifact_folder(uri: str) -> str:
    """The folder in which a TrainingJob's output was stored, of a URI that names it or lies in it; else nothing."""
    found = _ARTIFACT.match(uri)
    return found[0] if found else ""


# BUCKET/NAMESPACE/compiled/DIGEST16-SETTINGS8/, with the digest of the native model.
_COMPILED = re.compile(f"s3://{_NAME}/{_NAME}/compiled/([0-9a-f]{{16}})-[0-9a-f]{{8}}/")


def compiled_folder(uri: str) -> str:
    """The folder in which a compiled model and its verdict were stored, of a URI that lies in it; else nothing."""
    found = _COMPILED.match(uri)
    return found[0] if found else ""


def compiled_of(uri: str) -> str:
    """The beginning of the native model's digest, of a folder as `compiled_folder` returns it; else nothing."""
    found = _COMPILED.fullmatch(uri)
    return found[1] if found else ""
