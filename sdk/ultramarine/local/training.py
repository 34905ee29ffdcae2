"""One TrainingJob on this machine: the trainer's own steps, without a cluster and without a storage."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError
from ultramarine_contract.common import AUTO, CHECKPOINTS_NAME, RUNS_NAME, OutputRecord
from ultramarine_contract.errors import InvalidSpec, StorageError
from ultramarine_contract.locations import files_below
from ultramarine_contract.meta import Manifest
from ultramarine_contract.references import filled
from ultramarine_contract.training_records import GangTask, TrainingContext, TrainingTask
from ultramarine_trainer.attempt.child import Signals, Stopped, activated, environment_for_command
from ultramarine_trainer.attempt.lines import Tail
from ultramarine_trainer.attempt.places import Places
from ultramarine_trainer.attempt.runner import Ending, Failed, Part, Persistence, Runner
from ultramarine_trainer.attempt.variables import job_variables
from ultramarine_trainer.data.outputs import empty, format_of, untrusted_types
from ultramarine_trainer.progress.listeners import Listeners
from ultramarine_trainer.tracking.local import Point

from ultramarine.resources.trainingjob import TrainingJobSpec

from . import packages
from .material import Documents, Say, bring_inputs, code_folder, variables

_GRACE = 10.0  # seconds from Ctrl-C to SIGKILL
_BETWEEN = 1.0  # seconds between two lines about a metric that mlflow logs
_INTERRUPTED = 130


@dataclass(frozen=True)
class Result:
    """End of a local run: exit code, reason of a failure, metrics, and outputs, whose `uri` is their folder."""

    code: int
    seconds: float
    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, OutputRecord] = field(default_factory=dict)


def train(job: Manifest, folder: Path, others: Sequence[Manifest], outputs: Path, say: Say) -> Result:
    """Run the command of a TrainingJob to its end; what it prints goes to this program's output.

    `folder` is that of the manifest, and `others` are the other objects of its file. Each output gets a folder in
    `outputs`. Raises UltramarineError if the command cannot begin.
    """
    raw, spec = _spec(job)
    name, documents = str((job.get("metadata") or {}).get("name") or "run"), Documents(others)
    with tempfile.TemporaryDirectory(prefix="ultramarine-") as scratch:
        base, results = Path(scratch), outputs.resolve()
        checkpoints = (base if spec.checkpoint is None else results) / CHECKPOINTS_NAME
        places = Places(work=base, inputs=base / "inputs", outputs=results, checkpoints=checkpoints)
        code = code_folder(raw, folder, base / "code", documents)
        inputs = raw.get("inputs") or {}
        files = bring_inputs(inputs, folder, places.inputs, say)
        command = _command(spec, places, inputs)
        own = environment_for_command(os.environ) | variables(spec, documents)
        own["PATH"] = os.pathsep.join((own.get("PATH", os.defpath), str(Path(sys.executable).parent)))
        if spec.environment is not None:
            own = activated(own, packages.environment(spec.environment, code, documents, say))
        task = TrainingTask(
            inputs=files,
            outputs={name: (out.format or AUTO) if out.register_as else "" for name, out in spec.outputs.items()},
            gang=_gang(spec, say),
            from_mlflow=tuple(name for name, out in spec.outputs.items() if out.from_mlflow),
        )
        run = _Run(name, task, places, say)
        if spec.checkpoint is not None and spec.checkpoint.resume == "Never":
            run.fresh.append(places.checkpoints)
        return run.to_end(command, code, own)


def _spec(job: Manifest) -> tuple[Manifest, TrainingJobSpec]:
    """Return the spec as it is, and its model without code and data, which are local paths here."""
    if job.get("kind") != "TrainingJob":
        remedy = "Submit it to the cluster, or write its command as a TrainingJob."
        raise InvalidSpec(f"{job.get('kind')}: only a TrainingJob runs on this machine. {remedy}")
    raw: Manifest = job.get("spec") or {}
    try:
        return raw, TrainingJobSpec.model_validate({**raw, "source": None, "inputs": {}})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in ("spec", *first["loc"]))
        raise InvalidSpec(f"{place}: {first['msg']}. Correct the field.") from error


def _command(spec: TrainingJobSpec, places: Places, inputs: Mapping[str, Manifest]) -> list[str]:
    def place(name: str) -> str:
        path = places.inputs / name
        return f"{path.as_uri()}/" if inputs[name].get("mode") == "Stream" else str(path)

    values = {
        "params": spec.parameters,
        "inputs": {name: place(name) for name in inputs},
        "outputs": {name: str(places.outputs / name) for name in spec.outputs},
    }
    fields = {"params": "spec.parameters", "inputs": "spec.inputs", "outputs": "spec.outputs"}
    return [*filled(spec.command, "spec.command", values, fields), *filled(spec.args, "spec.args", values, fields)]


def _gang(spec: TrainingJobSpec, say: Say) -> GangTask:
    if spec.nodes > 1:
        say(f"one node of {spec.nodes} runs here")
    return GangTask(framework=spec.framework or "none", processes=spec.processes_per_node or 1)


class _Run:
    """A command and its receivers; `fresh` are the folders that are emptied before it starts."""

    def __init__(self, name: str, task: TrainingTask, places: Places, say: Say) -> None:
        self._name, self._task, self._places, self._say = name, task, places, say
        self._tail, self._shown = Tail(), dict[str, float]()
        self._listeners = Listeners(TrainingContext(), True, None, say, lambda: None)
        self.fresh = [places.outputs / output for output in task.outputs]

    def to_end(self, command: Sequence[str], code: Path, variables: Mapping[str, str]) -> Result:
        """Run the command in a folder, then read its outputs."""
        began = time.monotonic()
        all_variables = {**job_variables(self._task, self._places, self._name), **variables}
        runs = self._places.outputs / RUNS_NAME
        if runs.exists():
            empty(runs)  # of an earlier run
        environment = self._listeners.start(all_variables, runs)
        self._places.checkpoints.mkdir(parents=True, exist_ok=True)
        _leave_out_of_code(self._places.outputs)
        part = Part(command, code, environment, self._hear, lambda chunk: None, self._say)
        persistence = Persistence(None, self._restore, True, time.monotonic)
        exit_code, message, outputs = 0, "", dict[str, OutputRecord]()
        try:
            with _signals() as signals:
                ending = Ending(signals, _GRACE, lambda: False, threading.Event())
                with self._listeners.reading(self._take_logged):
                    Runner(self._task.gang or GangTask(), part, None, persistence, ending).run()
            outputs = self._outputs()
        except Stopped:
            exit_code, message = _INTERRUPTED, "interrupted"
        except Failed as failed:
            exit_code, message = (failed.code, str(failed)) if failed.reason == "CommandFailed" else (1, str(failed))
            if failed.reason == "Stopped":
                exit_code, message = _INTERRUPTED, "interrupted"
            elif failed.reason == "CommandNotFound":
                message = message.replace("the image", "this machine")
            elif self._tail.words:
                message = f"{message}: {self._tail.words}"
        except StorageError as error:
            exit_code, message = 1, error.message
        metrics = self._listeners.record().metrics
        return Result(exit_code, time.monotonic() - began, message, metrics, outputs)

    def _restore(self) -> None:
        for folder in self.fresh:
            empty(folder)

    def _hear(self, line: str, is_stdout: bool) -> None:
        self._tail.add(line, is_stdout)
        if is_stdout:
            self._listeners.hear(line)

    def _take_logged(self, point: Point) -> None:
        self._listeners.take_logged(point)
        now = time.monotonic()
        if now - self._shown.get(point.name, -_BETWEEN) >= _BETWEEN:
            self._shown[point.name] = now
            self._say(f"mlflow: {point.name}={point.value:g} step={point.step}")

    def _outputs(self) -> dict[str, OutputRecord]:
        """Return the outputs with their formats, as the trainer finds them. Raises StorageError."""
        records = {}
        for name, asked in self._task.outputs.items():
            folder = self._places.outputs / name
            if name in self._task.from_mlflow:
                self._listeners.take_model(name, folder)
            format = format_of(name, folder, asked)
            size = sum(path.stat().st_size for _, path in files_below(folder))
            records[name] = OutputRecord(str(folder), "", size, format, untrusted_types(folder, format))
        return records


def _leave_out_of_code(outputs: Path) -> None:
    """Write an ignore file into the folder of the outputs: git and `ultramarine submit` then leave the folder out."""
    outputs.mkdir(parents=True, exist_ok=True)
    if not (file := outputs / ".gitignore").exists():
        file.write_text("*\n")


@contextmanager
def _signals() -> Iterator[Signals]:
    """Pass SIGTERM on to the command, and Ctrl-C as SIGTERM, as the end of a pod is told."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signals = Signals()
    signals.install()
    signal.signal(signal.SIGINT, lambda number, frame: signal.raise_signal(signal.SIGTERM))
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
