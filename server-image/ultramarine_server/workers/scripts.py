"""Scoring script of a deployment: its worker, the folder of the model as Azure has it, and its answers."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from ultramarine_contract.common import MANIFEST_NAME
from ultramarine_contract.serving_records import ServingTask

from ultramarine_server import frames
from ultramarine_server.errors import BadRequest, LoadError, Problem, UnfitAnswer
from ultramarine_server.models.model import Signature, TensorSpec, signature_from
from ultramarine_server.models.outputs import fit_output
from ultramarine_server.protocol.tensors import Array
from ultramarine_server.workers.processes import Start, Workers, python_of, worker_count

PLATFORM = "scoring_script"
_DIGEST = re.compile(r"[0-9a-f]{16}")  # last part of the URI of a job's output, after the output's name
_FOLDERS = ("model", "models")  # names that Azure's examples have below AZUREML_MODEL_DIR


class Question(msgspec.Struct, eq=False):
    """Request to run(); it is also a Model that answers only this request, so that it gets the server's limits."""

    script: Script
    header: Mapping[str, Any]
    body: bytes
    signature: Signature = Signature((), ())

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        return ()

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Any]:
        return {"": self.script.workers.ask(self.header, self.body)}


class Script:
    """Scoring script; as a Model it answers by its function predict(inputs), if it has one."""

    def __init__(self, workers: Workers, signature: Signature) -> None:
        self.workers = workers
        self.raw, self.schema = bool(workers.facts.get("raw")), workers.facts.get("schema")
        self.signature = signature if workers.facts.get("predict") else Signature((), ())

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """Inputs of the signature, whatever the request has."""
        return self.signature.inputs

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Call predict() of the script."""
        results, specs = asked(self.workers, inputs, outputs), {spec.name: spec for spec in self.signature.outputs}
        return {name: fit_output(specs[name], array, "predict()") for name, array in results.items()}

    def warm_up(self, request: str) -> None:
        """Call run() with a request. Raises LoadError if it fails."""
        header = {"method": "POST", "path": "/score", "query": "", "headers": {"content-type": "application/json"}}
        try:
            answer, _ = self.workers.ask(header, request.encode())
            problem = str(answer.get("error", ""))
        except (Problem, TimeoutError) as error:
            problem = str(error) or "it gave no answer in time"
        if problem:
            self.workers.close()
            raise LoadError(f"the script does not answer the warm-up request: {problem}", "WarmupFailed")


def asked(workers: Workers, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    """Return the outputs of a worker. Raises Problem with the worker's message, and TimeoutError."""
    described, body = frames.pack(inputs)
    answer, content = workers.ask({"predict": list(outputs), "arrays": described}, body)
    if "arrays" not in answer:
        message = str(answer.get("error", ""))
        if not message:
            raise RuntimeError("the model failed in its worker process; its trace is above")
        raise BadRequest(message) if answer.get("status") == 400 else UnfitAnswer(message)
    return frames.unpack(answer["arrays"], content)


def start_script(task: ServingTask, folder: Path, scoring: Path, environment: Path) -> Script:
    """Start the scoring script of a task, with the model in `folder`. Raises LoadError."""
    assert task.scoring is not None
    python = python_of(environment if task.environment else None)
    variables = {
        "AZUREML_MODEL_DIR": str(model_folder(folder, task.uri)),
        "AML_APP_ROOT": str(scoring),
        "AZUREML_ENTRY_SCRIPT": task.scoring.entry,
    }
    frame = {"entry": task.scoring.entry, "folder": str(scoring)}
    start = Start(task.scoring.entry, python, scoring, frame, variables)
    signature = signature_from(task.signature) if task.signature else Signature((), ())
    return Script(Workers(start, worker_count(), task.timeout_seconds), signature)


def model_folder(folder: Path, uri: str) -> Path:
    """Make a folder of links to the model's files, for AZUREML_MODEL_DIR, and return it.

    Azure keeps the name of a registered folder below AZUREML_MODEL_DIR. So the names `model`, `models` and the last of
    the URI lead to the model's files too. So does the name of the output whose content the URI names, and underscores
    may stand for dashes. A file of the model that has such a name wins.
    """
    own = Path(tempfile.mkdtemp(prefix="azureml-models-"))
    files = own / "files"
    files.mkdir()
    entries = [entry for entry in sorted(folder.iterdir()) if entry.name != MANIFEST_NAME]
    for entry in entries:
        (files / entry.name).symlink_to(entry)
    view = own / "1"
    view.mkdir()
    for entry in entries:
        (view / entry.name).symlink_to(entry)
    parts = uri.rstrip("/").split("/")[3:] if uri.endswith("/") else []
    names = {*_FOLDERS, *parts[-2 if _DIGEST.fullmatch(parts[-1]) else -1 :]} if parts else set(_FOLDERS)
    for name in names | {name.replace("-", "_") for name in names}:
        if not (view / name).is_symlink():
            (view / name).symlink_to(files)
    return view
