"""What is said of models that serve: tasks for pods that serve, compile and delete them, and a verdict."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from .contract import LARGEST, UNREADABLE, artifact_folder, read_known

Bytes = bytes  # for records that have a field of that name


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

    def to_json(self) -> Bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: Bytes | str) -> CompileRecord:
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
