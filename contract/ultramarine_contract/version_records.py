"""What pods that compile a model version or delete its artifact are told, and the verdict on a compiled one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from .common import LARGEST, UNREADABLE, artifact_folder, compiled_folder, read_known
from .serving_records import ServingTask

Bytes = bytes  # for records that have a field of that name


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
    that is ParityFailed or NotConvertible, and `message` says why. Where no server can load the native model,
    `load_error` is the server's word for that, and `message` its sentence. `mismatch` says by which version of a
    library the model was saved, if the server has another one. Of `rows` rows, which came from where
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
    load_error: str = ""
    mismatch: str = ""

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
            texts = [record.uri, record.digest, record.rows_from, record.reason, record.message]
            texts += [record.load_error, record.mismatch]
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
        if task.uri not in (artifact_folder(task.uri), compiled_folder(task.uri)):
            raise ValueError(f"{task.uri!r} is no folder that a TrainingJob's output or a compiled model was stored in")
        return task
