"""Tasks of pods that compile a model version or delete its artifact, and the verdict on a compiled one."""

from __future__ import annotations

import json
from typing import Annotated, Any

from msgspec import Meta, Struct

from .common import LARGEST, Count, Document, Task, compiled_folder, decode, read_known, stored_folder
from .serving_records import ServingTask

Bytes = bytes  # for records that have a field of that name
Figure = Annotated[float, Meta(ge=-1, lt=LARGEST)]  # -1: nothing was compared


class CompileTask(Task, frozen=True):
    """Task of a compiling pod: the operator writes it into ENV_TASK of its containers.

    The first fields are those of the ServingTask of the same version. The compiled model is written to DIGEST16/ below
    the s3:// URI `prefix`, and the CompileRecord to RESULT_NAME beside it. Of the rows that are compared a share of
    `label_agreement` must have the same labels, and no other value may differ by more than `rtol`.
    """

    NOUN = "the task of a compiling pod"

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
        return json.dumps(self.document(), sort_keys=True)

    @property
    def native(self) -> ServingTask:
        """Task of a server of the version as it was trained."""
        return read_known(ServingTask, self.document())


class CompileRecord(Document, frozen=True):
    """Result of a CompileTask: the termination message of its pod, and stored as PREFIX/result.json.

    On success, `uri`, `digest` and `bytes` are those of the compiled artifact and `reason` is empty. Otherwise
    `reason` is ParityFailed or NotConvertible, and `message` says why. If no server can load the native model,
    `load_error` is the server's reason, and `message` its sentence. `mismatch` names the version of a library that
    saved the model, if the server has another one. `rows` rows were compared, and `rows_from` names their origin. A
    share of `label_agreement` of them had the same labels, and the values differed by `worst_relative_error` at most;
    both are -1 if nothing was compared. `opset` is the version of ONNX's operators. `requirements` are the lines of
    an MLflow folder's requirements.txt, if the server lacks a package of the model.
    """

    NOUN = "a verdict on a compiled model"

    uri: str = ""
    digest: str = ""
    bytes: Count = 0
    opset: Count = 0
    rows: Count = 0
    rows_from: str = ""
    worst_relative_error: Figure = -1.0
    label_agreement: Figure = -1.0
    reason: str = ""
    message: str = ""
    load_error: str = ""
    mismatch: str = ""
    requirements: tuple[str, ...] = ()

    def to_json(self) -> Bytes:
        return json.dumps(self.document(), sort_keys=True).encode()

    @classmethod
    def prepare(cls, document: Any) -> Any:
        """Return the document. Raises ValueError for another program's: a model that runs code can write it too."""
        read_known(_Marks, document)
        return document


class _Marks(Struct):
    """Field of every verdict, which other JSON lacks."""

    rows_from: str


class DeleteTask(Task, frozen=True):
    """Task of a deleting pod, in ENV_TASK: delete the artifact in the folder `uri`."""

    NOUN = "the task of a deleting pod"

    uri: str

    def to_json(self) -> str:
        return json.dumps(self.document())

    @classmethod
    def from_json(cls, data: bytes | str) -> DeleteTask:
        """Read what `to_json` wrote. Raises ValueError for anything else, and for a folder without an artifact."""
        task = decode(cls, data, cls.NOUN)
        if task.uri not in (stored_folder(task.uri), compiled_folder(task.uri)):
            raise ValueError(f"{task.uri!r} is neither the folder of an output, of an upload nor of a compiled model")
        return task
