"""What is said of a training: tasks and contexts for its pods, and what they say while it runs and at its end."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .common import LARGEST, TERMINATION_LIMIT, UNREADABLE, OutputRecord, read_known

Bytes = bytes  # for records that have a field of that name


@dataclass(frozen=True)
class SourceTask:
    """Where the code comes from that is not in the Job's own ConfigMap; one of the three.

    `config_map` is a ConfigMap's name: its files are mounted at SOURCE_DIR, if it is there.
    `uri` is a tar archive's s3:// URI, and `digest` the SHA-256 that it must have, if any is asked for.
    `git_url` is a repository, `git_ref` a branch, tag or commit (or empty: its default branch), `git_path` a folder.
    With `git_secret`, a Secret's name, an init container fetches it to SOURCE_DIR with the Secret's credentials.
    """

    config_map: str = ""
    uri: str = ""
    digest: str = ""
    git_url: str = ""
    git_ref: str = ""
    git_path: str = ""
    git_secret: str = ""


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
        document = {name: value for name, value in asdict(self).items() if value}
        if self.source and not self.source.git_secret:
            del document["source"]["git_secret"]  # images with an older trainer do not know it
        return json.dumps(document, sort_keys=True)

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
    `worth_retrying` are exit codes that the author asks to be tried again, however often they come.
    `progress` is the URL to which Progress is posted, and `mlflow` the URI of a tracking server, where there are any.
    `reserved` are the resources of each pod: cpu, gpu and memoryGib.
    With `scoped_keys` the storage takes keys that the trainer derives from the namespace's for its task alone.
    """

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

    def to_json(self) -> Bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: Bytes) -> CheckpointRecord:
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
    `cpu_seconds` is the container's measured CPU time; 0 if not measured.
    `unread` is what to say of a line that has a metric in another form, if there are no metrics.
    On failure `reason` is a CamelCase word, `message` a sentence that names the field and the remedy,
    `tail` the last lines that the user's command wrote, `words` what they, or lines before them, say of the cause.
    `exit_code` is the command's if the container's is another.
    """

    outputs: dict[str, OutputRecord] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    message: str = ""
    tail: str = ""
    words: str = ""
    exit_code: int = 0
    source: SourceRecord = SourceRecord()
    inputs: dict[str, InputRecord] = field(default_factory=dict)
    checkpoint: CheckpointRecord | None = None
    productive_seconds: float = 0.0
    step: int = -1
    total_steps: int = -1
    mlflow_run: str = ""
    series: str = ""
    unread: str = ""
    cpu_seconds: float = 0.0

    def to_json(self, limit: int = TERMINATION_LIMIT) -> str:
        """Return the record as JSON of at most `limit` bytes: the tail is cut first, from its front, then words.

        Outputs are never cut: with very many of them it stays longer, and its reader has to go to RESULT_NAME.
        """
        always = ("outputs", "metrics", "reason", "message", "tail", "source")
        nothing = asdict(TerminationRecord())
        record = {name: value for name, value in asdict(self).items() if name in always or value != nothing[name]}
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
        texts += [self.series, self.words, self.unread]
        texts += [text for output in self.outputs.values() for text in (output.uri, output.digest, output.format)]
        texts += [output.untrusted for output in self.outputs.values()]
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
        if type(self.exit_code) is not int or not 0 <= self.exit_code <= 255:
            raise TypeError("an exit code is none")
        if not all(type(step) is int and -1 <= step < LARGEST for step in (self.step, self.total_steps)):
            raise TypeError("a step is no whole number, or too large")
        for amount in (self.productive_seconds, self.cpu_seconds):
            if type(amount) not in (int, float) or not 0 <= amount < LARGEST:
                raise TypeError("a time is below 0, too large, or not a number")


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
