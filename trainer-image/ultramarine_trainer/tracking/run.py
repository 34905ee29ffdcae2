"""Recording a job as one run in MLflow: what it was given, how its numbers went, what it made."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ultramarine_contract.common import LARGEST, UNREADABLE
from ultramarine_contract.errors import StorageError

from ultramarine_trainer.tracking.api import BATCH, PARAMS, UID, Complaints, Failure, MlflowApi, is_metric, metric

_ROOM = 50_000  # values that wait while MLflow is away, some 20 MB; the oldest go first
_COUNTS = frozenset({"step", "total_steps", "percent"})  # progress, which does not count as a metric


@dataclass(frozen=True)
class Times:
    """Seconds: what one request may take, what the start may wait for, and between two batches."""

    request: float = 5.0
    start: float = 10.0
    between: float = 10.0


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
        account: Mapping[str, str] | None = None,
    ) -> None:
        self._experiment, self._name, self._params, self._tags = experiment, name, params, tags
        self._times = times or Times()
        self._account, self._complaints = account or {}, Complaints("the job", say)
        self._api = MlflowApi(uri, self._times.request, self._account)
        self.run_id = ""  # until MLflow has told it
        self._experiment_id = ""
        self._waiting: deque[dict[str, Any]] = deque(maxlen=_ROOM)
        self._batch: list[dict[str, Any]] = []  # on its way
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
            "MLFLOW_TRACKING_URI": self._api.uri,
            "MLFLOW_EXPERIMENT_ID": self._experiment_id,
            "MLFLOW_RUN_ID": self.run_id,
            **self._account,
        }

    def copy_model(self, folder: Path) -> bool:
        """Copy the model that the run logged last; False if it logged none. Raises StorageError."""
        from ultramarine_trainer.tracking.importing import ImportFailed, Registry, copy_logged

        try:
            return copy_logged(Registry(self._api.uri, self._account), self.run_id, folder)
        except (ImportFailed, *UNREADABLE) as error:
            raise StorageError(
                f"the logged model cannot be copied: {error}", "ModelNotCopied", transient=True
            ) from error

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send these values with the next batch; if no step is known (-1), by the epoch."""
        where = step if step >= 0 else int(min(max(metrics.get("epoch", 0), 0), LARGEST - 1))
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if len(self._waiting) == _ROOM:
                message = f"more than {_ROOM} values wait for it; the oldest are lost"
                self._complaints.add(Failure("room", message, passing=True))
            if name not in _COUNTS and is_metric(name):
                self._waiting.append(metric(name, value, now, where))

    def finish(self, status: str, tags: Mapping[str, str], seconds: float) -> None:
        """Send what waits and end the run, FINISHED, FAILED or KILLED, with these tags; or give up."""
        self._end = (status, tags)
        self._ending.set()
        self._thread.join(max(seconds, 0))
        if self._thread.is_alive() and not self._complaints:
            message = f"{self._api.uri} has not taken the end of the run in time"
            self._complaints.add(Failure("late", message, passing=True))

    def _work(self) -> None:
        while not self._ending.is_set():
            self._attempt(self._send)
            self._tried.set()
            self._ending.wait(self._times.between)
        self._attempt(self._conclude)

    def _attempt(self, step: Callable[[], None]) -> None:
        self._complaints.attempt(*(() if self.run_id else (self._open,)), step)

    def _open(self) -> None:
        self._experiment_id = self._api.experiment(self._experiment)
        run_id = self._find_run() or self._make_run()
        params = iter(self._params.items())
        try:
            self._api.log(run_id, tags=self._tags)
            while some := dict(islice(params, PARAMS)):
                self._api.log(run_id, params=some)
        except Failure as failure:
            if failure.passing:
                raise
            self._complaints.add(failure)
        self.run_id = run_id

    def _find_run(self) -> str:
        """The run of an earlier attempt, running again."""
        for run in self._api.runs(self._experiment_id, {UID: self._tags[UID]}):
            self._api.update(run.id, "RUNNING")
            return run.id
        return ""

    def _make_run(self) -> str:
        # The tag comes with the run: if its id gets lost on the way, it is found by it.
        tags, now = {UID: self._tags[UID]}, int(time.time() * 1000)
        return self._api.create(self._experiment_id, self._name, tags, now).id

    def _send(self) -> None:
        while self._batch or self._waiting:
            while self._waiting and len(self._batch) < BATCH:
                self._batch.append(self._waiting.popleft())
            try:
                self._api.log(self.run_id, self._batch)
            except Failure as failure:
                if failure.passing:
                    raise
                self._complaints.add(failure)
            self._batch = []

    def _conclude(self) -> None:
        status, tags = self._end
        try:
            self._send()
            if tags:
                self._api.log(self.run_id, tags=tags)
        finally:
            self._api.update(self.run_id, status, int(time.time() * 1000))
