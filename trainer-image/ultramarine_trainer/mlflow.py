"""Recording a job as one run in MLflow: what it was given, how its numbers went, what it made. No mlflow needed here.

Source: MLflow's REST API 2.0, which every release since 1.0 answers.
"""

from __future__ import annotations

import http.client
import json
import posixpath
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ultramarine.shared.contract import LARGEST

UID = "ultramarine.uid"  # the tag by which a job's next attempt finds the run
OUTPUT = "ultramarine.output."  # and an output's name: the tag with its URI

_BATCH, _PARAMS = 1000, 100  # what one runs/log-batch takes
_ROOM = 50_000  # values that wait while MLflow is away, some 20 MB; the oldest go first
_COUNTS = frozenset({"step", "total_steps", "percent"})  # how far it is, which is no metric
# What all releases take as a metric's name; one bad name would cost its whole batch.
_NAME = re.compile(r"\w[\w.\-/ ]{0,249}", re.ASCII)
_ID = re.compile(r"[0-9a-zA-Z]{1,64}")


@dataclass(frozen=True)
class Times:
    """Seconds: what one request may take, what the start may wait for, and between two batches."""

    request: float = 5.0
    start: float = 10.0
    between: float = 10.0


class _Failure(Exception):
    """A request that failed: MLflow's own code or a word of ours, and whether it may succeed later."""

    def __init__(self, kind: str, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.kind, self.passing = kind, passing


class MlflowRun:
    """The run of a job, the same one for all of its attempts; one thread does all that goes to MLflow.

    `tags` has UID. Whatever MLflow does, nothing here raises, and nothing waits for it longer than it says.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        name: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        say: Callable[[str], None],
        times: Times | None = None,
    ) -> None:
        self._uri, self._experiment, self._name, self._params, self._tags = (
            uri.rstrip("/"),
            experiment,
            name,
            params,
            tags,
        )
        self._say, self._times = say, times or Times()
        self.run_id = ""  # until MLflow has told it
        self._experiment_id = ""
        self._waiting: deque[dict[str, Any]] = deque(maxlen=_ROOM)
        self._batch: list[dict[str, Any]] = []  # on its way
        self._said: set[str] = set()
        self._tried, self._ending = threading.Event(), threading.Event()
        self._end: tuple[str, Mapping[str, str]] = ("FAILED", {})
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> str:
        """Make or find the run, and return its id; nothing if MLflow has not told it within ten seconds, yet."""
        self._thread.start()
        self._tried.wait(self._times.start)
        return self.run_id

    @property
    def environment(self) -> dict[str, str]:
        """The command's variables, by which its own `mlflow.log_*` lands in this run; none while there is no run."""
        if not self.run_id:
            return {}
        return {
            "MLFLOW_TRACKING_URI": self._uri,
            "MLFLOW_EXPERIMENT_ID": self._experiment_id,
            "MLFLOW_RUN_ID": self.run_id,
        }

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send these values with the next batch; where no step is known (-1), by the epoch."""
        where = step if step >= 0 else int(min(max(metrics.get("epoch", 0), 0), LARGEST - 1))
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if len(self._waiting) == _ROOM:
                self._complain(
                    _Failure("room", f"more than {_ROOM} values wait for it; the oldest are lost", passing=True)
                )
            if name not in _COUNTS and _NAME.fullmatch(name) and posixpath.normpath(name) == name:
                self._waiting.append({"key": name, "value": value, "timestamp": now, "step": where})

    def finish(self, status: str, outputs: Mapping[str, str], seconds: float) -> None:
        """Send what waits and end the run, FINISHED, FAILED or KILLED, with each output's URI as a tag; or give up."""
        self._end = (status, outputs)
        self._ending.set()
        self._thread.join(max(seconds, 0))
        if self._thread.is_alive() and not self._said:
            self._complain(_Failure("late", f"{self._uri} has not taken the end of the run in time", passing=True))

    def _work(self) -> None:
        while not self._ending.is_set():
            self._attempt(self._send)
            self._tried.set()
            self._ending.wait(self._times.between)
        self._attempt(self._conclude)

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            if not self.run_id:
                self._open()
            step()
        except _Failure as failure:
            self._complain(failure)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            self._complain(_Failure("answer", f"{self._uri} answers what MLflow would not: {error!r}", passing=False))

    def _complain(self, failure: _Failure) -> None:
        if failure.kind not in self._said:
            self._said.add(failure.kind)
            self._say(f"the job is not wholly recorded in MLflow, which does not disturb it: {failure}")

    def _open(self) -> None:
        self._experiment_id = self._find_experiment()
        run_id = self._find_run() or self._make_run()
        params = [{"key": name, "value": value} for name, value in self._params.items()]
        tags = [{"key": name, "value": value} for name, value in self._tags.items()]
        try:
            self._post("runs/log-batch", {"run_id": run_id, "tags": tags})
            for first in range(0, len(params), _PARAMS):
                self._post("runs/log-batch", {"run_id": run_id, "params": params[first : first + _PARAMS]})
        except _Failure as failure:
            if failure.passing:
                raise
            self._complain(failure)
        self.run_id = run_id

    def _find_experiment(self) -> str:
        query = urllib.parse.urlencode({"experiment_name": self._experiment})
        try:
            return str(self._call(f"experiments/get-by-name?{query}")["experiment"]["experiment_id"])
        except _Failure as failure:
            if failure.kind != "RESOURCE_DOES_NOT_EXIST":
                raise
        try:
            return str(self._post("experiments/create", {"name": self._experiment})["experiment_id"])
        except _Failure as failure:
            if failure.kind != "RESOURCE_ALREADY_EXISTS":  # another job was quicker
                raise
        return str(self._call(f"experiments/get-by-name?{query}")["experiment"]["experiment_id"])

    def _find_run(self) -> str:
        """The run of an earlier attempt, running again."""
        wanted = f"tags.`{UID}` = '{self._tags[UID]}'"
        found = self._post("runs/search", {"experiment_ids": [self._experiment_id], "filter": wanted, "max_results": 1})
        if not (runs := found.get("runs")):
            return ""
        run_id = _checked(runs[0]["info"]["run_id"])
        self._post("runs/update", {"run_id": run_id, "status": "RUNNING"})
        return run_id

    def _make_run(self) -> str:
        # The tag comes with the run: if its id gets lost on the way, it is found by it.
        made = self._post(
            "runs/create",
            {
                "experiment_id": self._experiment_id,
                "run_name": self._name,
                "start_time": int(time.time() * 1000),
                "tags": [{"key": UID, "value": self._tags[UID]}],
            },
        )
        return _checked(made["run"]["info"]["run_id"])

    def _send(self) -> None:
        while self._batch or self._waiting:
            while self._waiting and len(self._batch) < _BATCH:
                self._batch.append(self._waiting.popleft())
            try:
                # Sent once more after a lost answer, it is the same values, which MLflow keeps once.
                self._post("runs/log-batch", {"run_id": self.run_id, "metrics": self._batch})
            except _Failure as failure:
                if failure.passing:
                    raise
                self._complain(failure)
            self._batch = []

    def _conclude(self) -> None:
        status, outputs = self._end
        try:
            self._send()
            tags = [{"key": f"{OUTPUT}{name}", "value": uri} for name, uri in outputs.items()]
            if tags:
                self._post("runs/log-batch", {"run_id": self.run_id, "tags": tags})
        finally:
            end = {"run_id": self.run_id, "status": status, "end_time": int(time.time() * 1000)}
            self._post("runs/update", end)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._call(path, json.dumps(body).encode())

    def _call(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self._uri}/api/2.0/mlflow/{path}", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self._times.request) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(path, error) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Failure("unreachable", f"{self._uri} does not answer: {error}", passing=True) from error


def _checked(run_id: Any) -> str:
    if not isinstance(run_id, str) or not _ID.fullmatch(run_id):
        raise ValueError(f"{run_id!r} as a run's id")
    return run_id


def _refused(path: str, error: urllib.error.HTTPError) -> _Failure:
    try:
        text = error.read(2000).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        text = ""
    try:
        said = json.loads(text)
        kind, text = str(said["error_code"]), str(said.get("message", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        kind = str(error.code)
    passing = error.code in (408, 429) or error.code >= 500
    message = f"it answered {error.code} to {path.partition('?')[0]}: {text.strip()[:300] or error.reason}"
    return _Failure(kind, message, passing=passing)
