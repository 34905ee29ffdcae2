"""One trial of a sweep while its command runs: what it prints of the objectives, and the word that it should end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ultramarine_contract.common import OutputRecord, read_known

from ultramarine_trainer.attempt.lines import Tail
from ultramarine_trainer.progress.metrics import LatestMetrics, metrics_in, not_finite_in, unmeasured, unread_of
from ultramarine_trainer.tracking.local import Point
from ultramarine_trainer.trials.connection import Connection, Refused, Unreachable

STOP, LOST, TIMEOUT = "stop", "lost", "timeout"

_MAX_POINTS = 200  # that wait to be sent; of more every second one is left out
_LARGEST_STEP = 2**53


@dataclass(frozen=True)
class Times:
    """Seconds: between two reports if there is nothing new, and at least between any two."""

    heartbeat: float = 1.0
    between: float = 0.2


@dataclass(frozen=True)
class Trial:
    """Trial as the coordinator hands it out; a paused one goes on from `checkpoint`, of this `step`."""

    number: int
    attempt: int
    params: Mapping[str, Any]
    objectives: tuple[str, ...]
    timeout: float = 0.0  # seconds; 0 is any time
    checkpoint: OutputRecord | None = None
    step: int = -1

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Trial:
        """Read it as the protocol has it."""
        checkpoint = document.get("checkpoint")
        return cls(
            document["number"],
            document["attempt"],
            document["params"],
            tuple(document["objectives"]),
            float(document.get("timeoutSeconds", 0)),
            read_known(OutputRecord, checkpoint) if checkpoint else None,
            document.get("step", -1),
        )


class TrialObserver:
    """Hears what a trial's command prints: the newest metrics, the last lines, and the first objective's values."""

    def __init__(self, objectives: Sequence[str]) -> None:
        self.tail, self.news = Tail(), threading.Event()
        self._objectives, self._latest = objectives, LatestMetrics()
        self._values: dict[str, float | None] = {}  # of objectives; None if it is not a finite number
        self._elsewhere: set[str] = set()  # objectives that stderr had
        self._unread = ""  # what to say of one that stdout had in another form
        self._lock = threading.Lock()
        self._points: list[tuple[int, int, float]] = []  # a number of its own, step and value
        self._step, self._sent = -1, 0
        self._before = 0  # the step that the command goes on from

    @property
    def metrics(self) -> dict[str, float | None]:
        """The last value of each metric; of the objectives in any case."""
        return {**self._latest.values, **self._values}

    @property
    def unmeasured(self) -> str:
        """Why a trial whose command has ended well has failed, or nothing."""
        why = unmeasured(self._objectives, self.metrics)
        strayed = sorted(self._elsewhere - self._values.keys())
        strays = f"stderr had {', '.join(strayed)}: print metrics to stdout" if strayed else ""
        return "; ".join(filter(None, (why, why and (strays or self._unread))))

    def go_on(self, step: int) -> None:
        """Count values without a step from this one on: they are a command's that goes on from there."""
        self._before = max(step, 0)

    def hear(self, line: str, is_stdout: bool) -> None:
        """Take a line that the command printed."""
        self.tail.add(line, is_stdout)
        if is_stdout and (missing := [name for name in self._objectives if name not in self._values]):
            self._unread = unread_of(missing, line) or self._unread
        if "=" not in line:
            return
        values = metrics_in(line)
        if not is_stdout:
            self._elsewhere.update(values.keys() & set(self._objectives))
            return
        self._latest.take(values)
        if 0 <= values.get("step", -1) < _LARGEST_STEP:
            self._step = int(values["step"])
        for name in self._objectives:
            if name in values:
                self._values[name] = values[name]
            elif name in line and name in not_finite_in(line):
                self._values[name] = None
        first = self._objectives[0]
        if first in values:
            self._add(values[first])

    def take_logged(self, point: Point) -> None:
        """Take a value that the command logged by mlflow; a step of 0 may stand for none."""
        self._latest.take({point.name: point.value})
        if point.name in self._objectives:
            self._values[point.name] = point.value
        if point.name == self._objectives[0]:
            self._step = max(self._step, point.step) if point.step else self._step
            self._add(point.value)

    def _add(self, value: float) -> None:
        with self._lock:
            self._sent += 1
            self._points.append((self._sent, self._step if self._step >= 0 else self._before + self._sent, value))
            if len(self._points) > _MAX_POINTS:
                del self._points[-2::-2]
        self.news.set()

    def unsent(self) -> list[tuple[int, int, float]]:
        """Return the values that the coordinator has not taken yet."""
        with self._lock:
            return list(self._points)

    def mark_sent(self, points: Sequence[tuple[int, int, float]]) -> None:
        """Forget values that the coordinator has taken."""
        newest = points[-1][0] if points else 0
        with self._lock:
            self._points = [point for point in self._points if point[0] > newest]

    def as_points(self, points: Sequence[tuple[int, int, float]]) -> list[dict[str, Any]]:
        """Return values as the protocol has them."""
        return [{"name": self._objectives[0], "step": step, "value": value} for _, step, value in points]


class Heartbeat:
    """Reports a trial while the block runs; `broken` is set when it should end, and `cause` and `why` say for what.

    `pauses` is true where it may go on later.
    """

    def __init__(
        self,
        connection: Connection,
        worker: str,
        trial: Trial,
        observer: TrialObserver,
        say: Callable[[str], None],
        times: Times | None = None,
    ) -> None:
        self._connection, self._worker, self._trial, self._observer = connection, worker, trial, observer
        self._say, self._times = say, times or Times()
        self.broken = threading.Event()
        self.cause = self.why = ""
        self.pauses = False
        self._began = time.monotonic()
        self._ended = False

    def __enter__(self) -> Heartbeat:
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended = True
        self._observer.news.set()

    def _break(self, cause: str, why: str) -> None:
        if not self.cause:
            self.cause, self.why = cause, why
            self.broken.set()

    def _run(self) -> None:
        posted, failing = self._began, False
        while True:
            self._observer.news.wait(self._left(posted + self._times.heartbeat))
            while not self._ended and (left := self._left(posted + self._times.between)) > 0:
                time.sleep(min(left, 0.05))
            if self._ended:
                return
            self._observer.news.clear()
            if self._trial.timeout and time.monotonic() >= self._began + self._trial.timeout:
                self._break(TIMEOUT, f"it ran for longer than {self._trial.timeout:g} s (limits.trialTimeoutSeconds)")
            posted = time.monotonic()
            try:
                self._report()
                failing = False
            except (Unreachable, Refused) as error:
                if not failing:
                    self._say(f"trial {self._trial.number} goes on, though its coordinator is away: {error}")
                failing = True

    def _left(self, until: float) -> float:
        if self._trial.timeout and not self.cause:
            until = min(until, self._began + self._trial.timeout)
        return max(until - time.monotonic(), 0.0)

    def _report(self) -> None:
        points = self._observer.unsent()
        answer = self._connection.post(
            "/report",
            {
                "worker": self._worker,
                "trial": self._trial.number,
                "attempt": self._trial.attempt,
                "points": self._observer.as_points(points),
            },
        )
        self._observer.mark_sent(points)
        self.hear(answer)

    def hear(self, answer: Mapping[str, Any]) -> None:
        """Take what the coordinator has answered to a report."""
        if answer.get("lost"):
            self._break(LOST, "its lease went to another worker")
        elif answer.get("stop"):
            self.pauses = bool(answer.get("pause"))
            self._break(STOP, str(answer["stop"]))
