"""Runs that mlflow's own client writes into a folder, if no tracking server is named: metrics as they come, and models.

Source: the layout of MLflow's FileStore: EXPERIMENT/RUN/metrics/NAME with lines of milliseconds, value and step, and
EXPERIMENT/RUN/tags/NAME. A logged model is a folder with a file MLmodel.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ultramarine_contract.common import LARGEST, METRIC_NAME_LIMIT, OutputRecord
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage

URI = "MLFLOW_TRACKING_URI"
MODEL_FILE = "MLmodel"
MAX_BYTES = 1 << 30  # of the files that are stored of a command's runs
_CHUNK = 1 << 20  # bytes of a metric's file that one look reads
_LOOK_SECONDS = 1.0
_SHARE = 20  # pauses are this many times as long as a look


class Point(NamedTuple):
    """Value of a metric as mlflow logs it; `at` is in milliseconds since 1970."""

    at: int
    name: str
    value: float
    step: int


def with_local_runs(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the command's variables; if they name no tracking server, mlflow logs below `folder`, and ends with it.

    Without them mlflow writes where the command starts, which may be a folder of the image, and read-only.
    """
    local = {URI: folder.as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    return dict(environment) if URI in environment else {**local, **environment}


class LocalRuns:
    """Reader of the metrics below `folder` while the block runs: `take` gets each value, in the order of their times.

    Runs below another run, as of a search for parameters, do not count, nor do runs that were there before.
    """

    def __init__(self, folder: Path, take: Callable[[Point], None], look_seconds: float = _LOOK_SECONDS) -> None:
        self._folder, self._take, self._look_seconds = folder, take, look_seconds
        self._counts: dict[Path, bool] = dict.fromkeys(_runs(folder), False)  # by run
        self._read: dict[Path, int] = {}  # bytes by file
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-runs", daemon=True)

    def __enter__(self) -> LocalRuns:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        self._thread.join()
        self._look()

    def _work(self) -> None:
        pause = self._look_seconds
        while not self._ending.wait(pause):
            began = time.monotonic()
            self._look()
            pause = max(self._look_seconds, _SHARE * (time.monotonic() - began))

    def _look(self) -> None:
        points: list[Point] = []
        for run in _runs(self._folder):
            with suppress(OSError):  # the command may delete what it has logged
                points += self._new_points(run)
        for point in sorted(points, key=lambda point: point.at):
            self._take(point)

    def _new_points(self, run: Path) -> Iterator[Point]:
        metrics = run / "metrics"
        files = [path for path in metrics.rglob("*") if path.is_file()]
        if files and run not in self._counts:  # its tags are written before its first metric
            self._counts[run] = not (run / "tags" / "mlflow.parentRunId").exists()
        for path in files if self._counts.get(run) else ():
            yield from self._points(path, path.relative_to(metrics).as_posix())

    def _points(self, path: Path, name: str) -> Iterator[Point]:
        start = self._read.get(path, 0)
        while path.stat().st_size > start:
            with path.open("rb") as file:
                file.seek(start)
                whole, end, _ = file.read(_CHUNK).rpartition(b"\n")
            if not end:
                return
            start = self._read[path] = start + len(whole) + 1
            yield from filter(None, (_point(name, line) for line in whole.splitlines()))


def _runs(folder: Path) -> list[Path]:
    with suppress(OSError):
        return [metrics.parent for metrics in folder.glob("*/*/metrics")]
    return []


def _point(name: str, line: bytes) -> Point | None:
    """Return the point of a line; None if its value is not finite, or name or time do not fit into a record."""
    try:
        at, value, step = line.split()[:3]
        point = Point(int(at), name, float(value), min(max(int(step), 0), LARGEST - 1))
    except ValueError:
        return None
    fits = len(name) <= METRIC_NAME_LIMIT and name.isprintable() and 0 < point.at < LARGEST
    return point if fits and math.isfinite(point.value) else None


def logged_model(folder: Path) -> Path | None:
    """Return the folder of the model that was logged last below `folder`; None without any."""
    files = sorted(folder.rglob(MODEL_FILE), key=lambda path: len(path.parts))
    outer: list[Path] = []
    for file in files:
        if not any(file.is_relative_to(model) for model in outer):
            outer.append(file.parent)
    return max(outer, key=lambda model: (model / MODEL_FILE).stat().st_mtime_ns, default=None)


def take_model(runs: Path, name: str, output: Path) -> Path:
    """Copy the model that was logged last into an output, and return its own folder. Raises StorageError."""
    model = logged_model(runs)
    if model is None:
        raise no_model(name)
    try:
        shutil.copytree(model, output, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        message = f"output {name}: the logged model cannot be copied to {output}: {error}"
        raise StorageError(message, "LocalDiskError") from error
    return model


def store_runs(runs: Path, storage: Storage, uri: str, *, with_models: bool) -> OutputRecord:
    """Store the runs of a folder, with the files of logged models or without. Raises StorageError."""
    models = set() if with_models else {path.parent for path in runs.rglob(MODEL_FILE)}
    files = {
        path.relative_to(runs).as_posix(): path
        for path in sorted(runs.rglob("*"))
        if path.is_file() and not path.is_symlink() and models.isdisjoint(path.parents)
    }
    size = sum(path.stat().st_size for path in files.values())
    if size > MAX_BYTES:
        what = "files and models" if with_models else "files"
        message = f"their {what} have {size >> 20} MiB, and at most {MAX_BYTES >> 20} MiB are kept; write large files"
        raise StorageError(f"{message} into an output", "TooLarge")
    return storage.upload_folder(runs, uri, files=files)


def no_model(name: str) -> StorageError:
    """Return the error of an output that should have a logged model."""
    remedy = "call log_model of a flavor, such as mlflow.sklearn.log_model, or leave fromMlflow out"
    return StorageError(f"output {name} has fromMlflow, but the command logged no model; {remedy}", "OutputEmpty")
