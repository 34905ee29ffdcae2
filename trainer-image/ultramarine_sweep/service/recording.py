"""Recording a sweep in MLflow: a run of its own, and below it one for each trial that has ended.

One thread does all that goes to MLflow, at its own pace. A trial is recorded once, also over the lives of several
coordinators: each life asks first which there are, and one that was begun is gone on with.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ultramarine_contract.sweep_records import SweepSummary, SweepTask
from ultramarine_trainer.tracking.api import (
    TEXT_LIMIT,
    UID,
    Complaints,
    Failure,
    MlflowApi,
    Run,
    is_metric,
    metric,
    output_tags,
)

from ultramarine_sweep.state.ended import packed, unpacked
from ultramarine_sweep.state.trial import FAILED, STOPPED, SUCCEEDED, Trial

SWEEP_UID, TRIAL = "ultramarine.sweep.uid", "ultramarine.trial"  # the tags by which a trial's run is found again

_STATUS = {SUCCEEDED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED"}  # of a trial, and of the sweep
_ROOM = 1000  # trials that wait whose metrics are kept, besides the objectives
_METRICS = 100  # of one trial
_DIGITS = 15  # of a trial's number


@dataclass(frozen=True)
class Times:
    """Seconds: of one request, between two looks for trials, after a failure, for what is left at the end, for a kill.

    Some more are for the end itself.
    """

    request: float = 5.0
    between: float = 0.5
    retry: float = 10.0
    rest: float = 5.0
    end: float = 3.0
    kill: float = 1.0


class Recorder:
    """Records a sweep at the tracking server that its task names; without one it does nothing.

    Whatever MLflow does, nothing here raises, and no trial waits for it.
    """

    def __init__(
        self,
        task: SweepTask,
        pod: str,
        say: Callable[[str], None],
        times: Times | None = None,
        account: Mapping[str, str] | None = None,
    ) -> None:
        self._task, self._say, self._times = task, say, times or Times()
        self._namespace, _, self._name = task.sweep.partition("/")
        self._account, self._complaints = account or {}, Complaints("the sweep", say)
        self._api = MlflowApi(task.mlflow, self._times.request, self._account)
        self._tags = {**task.mlflow_tags, "ultramarine.sweep": task.sweep}
        self._pod = {"ultramarine.pod": pod} if pod else {}
        self.run_id = ""  # until MLflow has told it
        self._parent = Run("")
        self._experiment_id = ""
        self._origin = time.time()  # time 0 of the sweep, if it has always had a coordinator.
        self._waiting: deque[bytes] = deque()  # packed, since MLflow may be slower than the sweep.
        self._metrics: dict[int, dict[str, float]] = {}  # of trials that wait.
        self._recorded: set[int] = set()  # by earlier coordinators, if not added yet.
        self._begun: dict[int, Run] = {}  # trials whose runs have not ended.
        self._is_doubtful = False  # whether the first of those that wait may have a run that is not known
        self._last = 0.0  # the latest end of a trial, in the sweep's own time
        self._refused = 0
        self._summary: SweepSummary | None = None
        self._until = 0.0
        self._is_over = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="recording", daemon=True)

    def start(self, now: float) -> None:
        """Begin; `now` is the sweep's own time."""
        self._origin = time.time() - now
        if self._task.mlflow:
            self._thread.start()

    def hear(self, number: int, metrics: Mapping[str, float | None]) -> None:
        """Take the last values of a trial that is added later."""
        if not self._task.mlflow:
            return
        if len(self._metrics) >= _ROOM:
            message = f"more than {_ROOM} trials wait for it; of the others only the objectives are recorded"
            self._complaints.add(Failure("room", message, passing=True))
            return
        values = [(name, value) for name, value in metrics.items() if value is not None and is_metric(name)]
        self._metrics[number] = dict(values[:_METRICS])

    def add(self, trial: Trial) -> None:
        """Take a trial that has ended for good, once in the life of a coordinator."""
        if self._task.mlflow:
            self._waiting.append(packed(trial))

    def end(self, summary: SweepSummary) -> None:
        """Begin to end: what waits has some seconds, and then the sweep's own run is ended."""
        if self._summary is None:
            self._summary, self._until = summary, time.monotonic() + self._times.rest
            self._ending.set()

    def close(self, summary: SweepSummary) -> None:
        """Come back when all is recorded or the time is over, and say what is not."""
        self.end(summary)
        if not self._thread.ident:
            return
        self._thread.join(max(self._until + self._times.end - time.monotonic(), 0.0))
        if left := len(self._waiting) + self._refused:
            self._say(f"{left} of its trials are not recorded in MLflow")
        if not self._is_over and not self._complaints:
            late = f"{self._api.uri} has not taken the end of the sweep in time"
            self._complaints.add(Failure("late", late, passing=True))

    def kill(self) -> None:
        """Say in a second at most that the sweep has lost its coordinator; the next one says that it goes on."""
        if self.run_id and not self._is_over:
            try:
                api = MlflowApi(self._task.mlflow, self._times.kill, self._account)
                api.update(self.run_id, "KILLED", int(time.time() * 1000))
            except Failure as failure:
                self._complaints.add(failure)

    def _work(self) -> None:
        while not self._ending.is_set():
            self._ending.wait(self._times.between if self._attempt(self._catch_up) else self._times.retry)
        while not self._attempt(self._conclude) and time.monotonic() < self._until:
            time.sleep(self._times.between)

    def _attempt(self, step: Callable[[], None]) -> bool:
        return self._complaints.attempt(*(() if self.run_id else (self._open,)), step)

    def _open(self) -> None:
        self._experiment_id = self._api.experiment(self._namespace)
        self._parent = self._find_run() or self._make_run()
        self._log(self._parent, params=self._params(), tags=self._tags | self._pod)
        for run in self._api.runs(self._experiment_id, {SWEEP_UID: self._task.uid}):
            # Whoever reaches MLflow can write tags.
            if (number := run.tags.get(TRIAL, "")).isdecimal() and len(number) <= _DIGITS:
                if run.status == "RUNNING":
                    self._begun[int(number)] = run
                else:
                    self._recorded.add(int(number))
        self.run_id = self._parent.id

    def _find_run(self) -> Run | None:
        """The run that an earlier coordinator has made, running again."""
        run = next(self._api.runs(self._experiment_id, {UID: self._task.uid}), None)
        if run:
            self._api.update(run.id, "RUNNING")
        return run

    def _make_run(self) -> Run:
        tags = {UID: self._task.uid}
        return self._api.create(self._experiment_id, self._name, tags, int(self._origin * 1000))

    def _params(self) -> dict[str, str]:
        """Return the parameters of the sweep."""
        task = self._task
        goals = [f"{objective.get('goal', 'minimize')} {objective['metric']}" for objective in task.objectives]
        params = {
            "algorithm": task.algorithm.get("type", ""),
            "seed": task.algorithm.get("seed", ""),
            "objective": ", ".join(goals),
            "maxTrials": task.max_trials or "",
            "earlyTermination": (task.early_termination or {}).get("type", ""),
            **{f"searchSpace.{name}": domain for name, domain in task.space.items()},
        }
        return {name: _text(value) for name, value in params.items() if value != ""}

    def _log(self, run: Run, **given: Any) -> None:
        """Log to a run; what MLflow refuses for good is left out."""
        try:
            self._api.log(run.id, **given)
        except Failure as failure:
            if failure.passing:
                raise
            self._complaints.add(failure)

    def _catch_up(self) -> None:
        """Record what waits, until there is nothing left or the time at the end is over."""
        while self._waiting and not (self._ending.is_set() and time.monotonic() >= self._until):
            trial = unpacked(self._waiting[0])
            self._last = max(self._last, trial.began + trial.seconds)
            try:
                if trial.number not in self._recorded:
                    self._record(trial)
            except Failure as failure:
                if failure.passing:
                    raise
                self._complaints.add(failure)
                self._refused += 1
            self._waiting.popleft()
            self._recorded.discard(trial.number)
            self._metrics.pop(trial.number, None)

    def _record(self, trial: Trial) -> None:
        """Make a trial's run, or go on with it."""
        tags = {SWEEP_UID: self._task.uid, TRIAL: str(trial.number)}
        run = self._begun.get(trial.number)
        if run is None and self._is_doubtful:
            run = next(self._api.runs(self._experiment_id, tags), None)
        if run is None:
            self._is_doubtful = True
            more = {**self._tags, "mlflow.parentRunId": self.run_id, "ultramarine.outcome": trial.outcome}
            began = int((self._origin + trial.began) * 1000)
            run = self._api.create(self._experiment_id, f"{self._name}-trial-{trial.number}", more | tags, began)
        self._is_doubtful = False
        self._begun[trial.number] = run
        # By MLflow's own start: another coordinator, whose times may differ, sends the very same values.
        ended = run.started + int(trial.seconds * 1000)
        params = {name: _text(value) for name, value in trial.params.items()}
        self._log(run, metrics=self._values(trial, ended), params=params)
        self._api.update(run.id, _STATUS[trial.outcome], ended)
        del self._begun[trial.number]

    def _values(self, trial: Trial, timestamp: int) -> list[dict[str, Any]]:
        """The first objective's points, and the last value of each other metric that is known."""
        names = [str(objective["metric"]) for objective in self._task.objectives]
        points, first = list(trial.points), names[0]
        last: dict[str, float] = {**self._metrics.get(trial.number, {}), **dict(zip(names, trial.values, strict=False))}
        if points and last.get(first, points[-1][1]) == points[-1][1]:
            last.pop(first, None)
        entries = [metric(first, value, timestamp, step) for step, value in points if is_metric(first)]
        step = points[-1][0] if points else 0
        # Later than the points: of one step the latest value is the run's.
        return entries + [metric(name, value, timestamp + 1, step) for name, value in last.items() if is_metric(name)]

    def _conclude(self) -> None:
        assert self._summary
        self._catch_up()
        summary, best = self._summary, self._summary.best[:1]
        tags = {"ultramarine.outcome": summary.outcome, "ultramarine.reason": summary.reason}
        metrics = []
        for trial in best:
            tags["ultramarine.best.trial"] = str(trial.trial)
            tags |= output_tags(trial.outputs)
            names = (f"best_{objective['metric']}" for objective in self._task.objectives)
            ended = self._parent.started + int(self._last * 1000)
            metrics = [metric(n, v, ended, 0) for n, v in zip(names, trial.values, strict=False) if is_metric(n)]
        self._log(self._parent, metrics=metrics, tags=tags)
        self._api.update(self.run_id, _STATUS[summary.outcome], int(time.time() * 1000))
        self._is_over = True


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))[:TEXT_LIMIT]
