"""Documents of a training: tasks and contexts for its pods, and the pods' reports while they run and at their end."""

from __future__ import annotations

import json
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from .cache_records import CacheTask
from .common import (
    TERMINATION_LIMIT,
    Amount,
    Count,
    CountOrUnknown,
    Document,
    OutputRecord,
    Task,
    read_known,
    without_empty,
)
from .environment_records import EnvironmentArchive
from .source_records import SourceTask

Bytes = bytes  # for records that have a field of that name


class CheckpointTask(Task, frozen=True):
    """Checkpoints: files in CHECKPOINTS_DIR are stored while the command runs, and restored before it starts again.

    `resume_from` is the s3:// URI of another job's checkpoint, for an attempt that finds none of this job.
    `grace_seconds` is the time from SIGTERM to the end of the pod.
    """

    resume: bool = True
    resume_from: str = ""
    grace_seconds: int = 30


class GangTask(Task, frozen=True):
    """Gang of a job's pods: `nodes` of them, or at least `min_nodes` if that is not 0.

    Each pod has its place in JOB_COMPLETION_INDEX; `leader` is the host name of the one with 0.
    `processes` is the number of ranks on each node.
    """

    framework: str = "none"
    processes: int = 1
    nodes: int = 1
    min_nodes: int = 0
    leader: str = ""


class TrainingTask(Task, frozen=True):
    """Task of the trainer, besides the user's command: the operator writes it into ENV_TASK.

    `source` is code to fetch; without it the code is in SOURCE_DIR alone.
    `inputs` maps a name to an s3:// URI (an object, or all objects under a prefix that ends in a slash).
    `digests` are those that the content of inputs must have, by the name of the input.
    `streams` are inputs too, which are not fetched but served at STREAM_PORT.
    `outputs` maps a name to the model format (`auto`: the trainer detects it; empty for a plain folder).
    `output_prefix` is the s3:// URI under which NAME/DIGEST/ folders are written.
    `optional` are the outputs that are not stored if they are empty.
    `from_mlflow` are the outputs that get the model which the command logged last by mlflow.
    `checkpoint` is set if the job has checkpoints, `gang` if it has a framework or several nodes.
    `environment` is unpacked before the command starts, which runs in it.
    """

    NOUN = "the task of a trainer"

    inputs: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    streams: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    output_prefix: str = ""
    source: SourceTask | None = None
    checkpoint: CheckpointTask | None = None
    gang: GangTask | None = None
    environment: EnvironmentArchive | None = None
    from_mlflow: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the task as JSON without empty fields: an older trainer need not know them."""
        document = {name: value for name, value in self.document().items() if value}
        if self.source and not self.source.git_secret:
            del document["source"]["git_secret"]  # images with an older trainer do not know it
        return json.dumps(document, sort_keys=True)


class TrainingContext(Document, frozen=True):
    """Identity of the attempt, and the addresses of its reports: the operator writes it into ENV_CONTEXT.

    A trainer ignores fields that it does not know, other than those of the task: an image with an older trainer goes
    on. `job` is NAMESPACE/NAME, `source_digest` that of an inline source.
    `worth_retrying` are exit codes that the author wants retried, however often they come.
    `progress` is the URL to which Progress is posted, and `mlflow` the URI of a tracking server; both may be empty.
    `reserved` are the resources of each pod: cpu, gpu and memoryGib.
    With `scoped_keys` the storage takes keys that the trainer derives from the namespace's for its task alone.
    `cache` is the cache key of a pipeline's step, under which the outcome is recorded at its success.
    """

    NOUN = "the context of an attempt"

    job: str = ""
    uid: str = ""
    requested_by: str = ""
    image: str = ""
    source_digest: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    worth_retrying: tuple[int, ...] = ()
    progress: str = ""
    mlflow: str = ""
    reserved: dict[str, float] = field(default_factory=dict)
    scoped_keys: bool = False
    cache: CacheTask | None = None

    def to_json(self) -> str:
        return json.dumps({name: value for name, value in self.document().items() if value}, sort_keys=True)


class SourceRecord(Document, frozen=True):
    """Identity of the code that ran: the SHA-256 of an archive or of a ConfigMap's files, or a commit."""

    digest: str = ""
    commit: str = ""


class InputRecord(Document, frozen=True):
    """Input as it was fetched: the digest of its list of files, as an artifact has it, and its size in bytes."""

    digest: str
    bytes: Count
    files: Count = 0


class CheckpointRecord(Document, frozen=True):
    """Complete checkpoint: an artifact's URI and digest, the time of completion (RFC 3339, UTC), and its size in bytes.

    `step` is the last one that the command had reported then, or -1. `productive_seconds` is the command's working
    time for it, in all attempts together. `previous` is the checkpoint before it, without its own `previous`.
    """

    NOUN = "a checkpoint record"

    uri: str
    digest: str
    time: str
    bytes: Count = 0
    step: CountOrUnknown = -1
    productive_seconds: Amount = 0.0
    previous: CheckpointRecord | None = None

    @classmethod
    def prepare(cls, document: Any) -> Any:
        """Return the document with whole numbers for `bytes` and `step`, and without a `previous` of another type."""
        if not isinstance(document, dict):
            return document
        document = dict(document)
        for name in ("bytes", "step"):
            if isinstance(value := document.get(name), float):
                document[name] = int(value)
        previous = document.get("previous")
        return document | {"previous": cls.prepare(previous) if isinstance(previous, dict) else None}

    def to_json(self) -> Bytes:
        return json.dumps(self.document(), sort_keys=True).encode()


class TerminationRecord(Document, frozen=True):
    """Termination message of a container: at most TERMINATION_LIMIT bytes of JSON in TERMINATION_LOG.

    On success it has `outputs` and `metrics`. The whole record is also stored as OUTPUT_PREFIX/result.json
    before the container ends, in case the pod is deleted too early.
    `source` is the code that ran, if the trainer fetched it; `inputs` are the inputs as they were fetched.
    `checkpoint` is the newest one that is complete. `productive_seconds` is the command's working time for what is
    kept: up to that checkpoint or, on success, to the end, with that of earlier attempts.
    `step` is the last one that the command reported, of `total_steps`; -1 without a report.
    `mlflow_run` is the id of the run that records the job.
    `series` is the URI of all values of the pod's metrics, if any are stored.
    `cpu_seconds` is the container's measured CPU time; 0 if not measured.
    `unread` is a hint about a line that has a metric in another form, if there are no metrics.
    On failure `reason` is a CamelCase word, and `message` a sentence that names the field and the remedy.
    `tail` has the last lines of the command's output, and `words` the part of it that names the cause.
    `exit_code` is the command's if it differs from the container's.
    """

    NOUN = "a termination record"

    outputs: dict[str, OutputRecord] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    message: str = ""
    tail: str = ""
    words: str = ""
    exit_code: Annotated[int, Meta(ge=0, le=255)] = 0
    source: SourceRecord = SourceRecord()
    inputs: dict[str, InputRecord] = field(default_factory=dict)
    checkpoint: CheckpointRecord | None = None
    productive_seconds: Amount = 0.0
    step: CountOrUnknown = -1
    total_steps: CountOrUnknown = -1
    mlflow_run: str = ""
    series: str = ""
    unread: str = ""
    cpu_seconds: Amount = 0.0

    def to_json(self, limit: int = TERMINATION_LIMIT) -> str:
        """Return the record as JSON of at most `limit` bytes: the tail is cut first, from its front, then words.

        Outputs are never cut: with very many of them the record stays longer, and its reader takes RESULT_NAME.
        """
        always = ("outputs", "metrics", "reason", "message", "tail", "source")
        nothing = TerminationRecord().document()
        record = {name: value for name, value in self.document().items() if name in always or value != nothing[name]}
        while len(text := json.dumps(record, sort_keys=True)) > limit:
            excess = len(text) - limit
            if record["tail"]:
                record["tail"] = record["tail"][excess:]
            elif record.get("words"):
                record["words"] = record["words"][:-excess]
            elif record.get("unread"):
                del record["unread"]
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
    def prepare(cls, document: Any) -> Any:
        """Return the document as fields have it. Raises ValueError for a log tail, say, or an image's own words."""
        read_known(_Marks, document)
        return _with_checkpoint(without_empty(document, "source", "inputs"))


class _Marks(Struct):
    """Fields of every termination record, which a line of a program's JSON log lacks."""

    outputs: dict[str, OutputRecord]
    reason: str


class Progress(Document, frozen=True):
    """Progress of a running attempt: a trainer posts it to the operator; Kubeflow's protocol has it in other words.

    `step`, `total_steps`, `percent` and `eta_seconds` are -1 if they are not known; `metrics` are the newest values.
    `mlflow_run` is the id of the run that records the job.
    """

    NOUN = "a progress report"

    step: CountOrUnknown = -1
    total_steps: CountOrUnknown = -1
    percent: Annotated[int, Meta(ge=-1, le=100)] = -1
    eta_seconds: CountOrUnknown = -1
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: CheckpointRecord | None = None
    mlflow_run: str = ""

    @classmethod
    def prepare(cls, document: Any) -> Any:
        return _with_checkpoint(document)

    def to_json(self) -> bytes:
        return json.dumps(self.document(), sort_keys=True).encode()


def _with_checkpoint(document: Any) -> Any:
    """Return a report with its checkpoint as the fields of a CheckpointRecord have it."""
    if not isinstance(document, dict) or "checkpoint" not in document:
        return document
    return document | {"checkpoint": CheckpointRecord.prepare(document["checkpoint"])}
