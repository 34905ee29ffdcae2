"""Telling the operator how far the command is: what it prints, what it reports another way, its newest checkpoint."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs
from ultramarine_contract.common import LARGEST, METRIC_LIMIT
from ultramarine_contract.training_records import CheckpointRecord, Progress
from ultramarine_contract.transport import cause, inside
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from ultramarine_trainer.progress.metrics import PROGRESS_WORDS, metrics_in

_SAMPLE_SECONDS, _SAMPLES = 5.0, 60  # the rate of steps is that of the last five minutes
_LARGEST = LARGEST - 1  # a larger number is refused, and no count of anything


@dataclass(frozen=True)
class Times:
    """Seconds: between two looks, between two reports, what one may take, the pauses after failures, and the end.

    A failure that may pass is said when it has lasted for `patience`.
    """

    look: float = 1.0
    between: float = 10.0
    post: float = 5.0
    first_pause: float = 2.0
    longest_pause: float = 60.0
    patience: float = 60.0
    end: float = 2.0


class _Failure(Exception):
    """A report that was not taken: its kind, for saying it once, and when to try again, if the operator said so."""

    def __init__(self, kind: str, message: str, *, passing: bool, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.kind, self.passing, self.retry_after = kind, passing, retry_after


def resolved_image(url: str, token: Path, times: Times | None = None) -> str:
    """Ask the operator for this pod's image as its node resolved it; empty if it is not known in time."""
    times = times or Times()
    end = time.monotonic() + times.post
    while url:
        try:
            headers = {"Authorization": f"Bearer {token.read_text().strip()}"}
            with inside() as http:
                answer = http.request("GET", url, headers=headers, timeout=times.end)
            if answer.status != 200:
                return ""
            image = str(answer.json().get("image") or "")
        except (OSError, HTTPError, ValueError, AttributeError):
            return ""
        if image or time.monotonic() > end:
            return image
        time.sleep(times.look)  # a node tells of a container that is very young a second later
    return ""


class Reporter:
    """The progress of one command; without a `url` it only knows the step. `hear` and `take` may come from any thread.

    `metrics()` are the newest values of what the command prints, `checkpoint()` its newest complete checkpoint,
    `mlflow_run()` the id of the run that records the job.
    """

    def __init__(
        self,
        url: str,
        token: Path,
        say: Callable[[str], None],
        checkpoint: Callable[[], CheckpointRecord | None],
        metrics: Callable[[], dict[str, float]],
        times: Times | None = None,
        mlflow_run: Callable[[], str] = lambda: "",
    ) -> None:
        self._url, self._token, self._say, self._checkpoint, self._metrics = url, token, say, checkpoint, metrics
        self._times, self._mlflow_run = times or Times(), mlflow_run
        self._lock = threading.Lock()
        self._progress = Progress()  # with metrics that were reported another way, and without the eta, see _arrival.
        self._arrival: float | None = None  # the command's own estimate of its end, monotonic.
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)  # times of steps.
        self._stepped = 0.0  # time of the newest step.
        self._posted = Progress()  # without its eta, which changes with every second
        self._reported: set[str] = set()  # kinds of failures
        self._failing_since: float | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    @property
    def step(self) -> int:
        """The last step that the command has told, or -1."""
        return self._progress.step

    @property
    def total_steps(self) -> int:
        """Total number of steps, as the command reported it, or -1."""
        return self._progress.total_steps

    def hear(self, line: str) -> None:
        """Take over `step=`, `total_steps=` and `percent=` from a line that the command printed."""
        if "step" not in line and "percent=" not in line:
            return
        values = metrics_in(line)
        counts: dict[str, Any] = {
            word: int(values[word]) for word in PROGRESS_WORDS if 0 <= values.get(word, -1) <= _LARGEST
        }
        if counts:
            self.take(Progress(**counts))

    def take(self, progress: Progress) -> None:
        """Take over what is known in `progress`, which was reported another way."""
        counts = {word: getattr(progress, word) for word in PROGRESS_WORDS if getattr(progress, word) >= 0}
        if "percent" in counts:
            counts["percent"] = min(counts["percent"], 100)
        now = time.monotonic()
        with self._lock:
            metrics = dict(list((self._progress.metrics | progress.metrics).items())[:METRIC_LIMIT])
            if "step" in counts:
                self._sample(counts["step"], now)
            if progress.eta_seconds >= 0:
                self._arrival = now + progress.eta_seconds
            self._progress = structs.replace(self._progress, **counts, metrics=metrics)

    def start(self) -> None:
        """Begin to report, if the operator has an address."""
        if self._url:
            self._thread.start()

    def stop(self) -> None:
        """Report the last state, if it has not been, and end; in two seconds at most."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(self._times.end)

    def _sample(self, step: int, now: float) -> None:
        if step < self._progress.step:  # started again, from a checkpoint or from the beginning
            self._samples.clear()
        if step != self._progress.step:
            self._stepped = now
            if not self._samples or now - self._samples[-1][0] >= _SAMPLE_SECONDS:
                self._samples.append((now, step))

    def _state(self) -> Progress:
        """All that is known, except the time that is left."""
        with self._lock:
            progress = self._progress
        percent = progress.percent
        if percent < 0 and progress.step >= 0 and progress.total_steps > 0:
            percent = min(100 * progress.step // progress.total_steps, 100)
        metrics = dict(list((progress.metrics | dict(self._metrics())).items())[:METRIC_LIMIT])
        others: dict[str, Any] = {"checkpoint": self._checkpoint(), "mlflow_run": self._mlflow_run()}
        return structs.replace(progress, percent=percent, metrics=metrics, **others)

    def _eta(self, now: float) -> int:
        """Return the seconds until the end, by the rate of the steps or as the command reports; -1 without either."""
        with self._lock:
            progress, arrival, stepped = self._progress, self._arrival, self._stepped
            first, step = self._samples[0] if self._samples else (now, progress.step)
        if progress.percent == 100:
            return 0
        if progress.total_steps >= 0 and progress.step > step:
            # Measured here: what a resumed command says counts the steps of earlier attempts as made in no time.
            arrival = stepped + (progress.total_steps - progress.step) * (stepped - first) / (progress.step - step)
        return -1 if arrival is None else min(max(round(arrival - now), 0), _LARGEST)

    def _run(self) -> None:
        due, pause = 0.0, 0.0
        while not self._ending.wait(self._times.look):
            if time.monotonic() < due or (state := self._state()) == self._posted:
                continue
            try:
                self._post(state, self._times.post)
                pause, wait, self._failing_since = 0.0, self._times.between, None
            except _Failure as failure:
                self._complain(failure)
                pause = min(max(2 * pause, self._times.first_pause), self._times.longest_pause)
                wait = min(failure.retry_after, self._times.longest_pause) or pause
            due = time.monotonic() + wait
        if (state := self._state()) != self._posted:
            try:
                self._post(state, self._times.end)
            except _Failure as failure:
                self._complain(failure)

    def _complain(self, failure: _Failure) -> None:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        lasts = now - self._failing_since >= self._times.patience
        if failure.kind not in self._reported and (lasts or not failure.passing):
            self._reported.add(failure.kind)
            self._say(f"the progress cannot be reported, which does not disturb the job: {failure}")

    def _post(self, state: Progress, timeout: float) -> None:
        body = structs.replace(state, eta_seconds=self._eta(time.monotonic())).to_json()
        try:
            headers = {"Authorization": f"Bearer {self._token.read_text().strip()}", "Content-Type": "application/json"}
        except OSError as error:
            raise _Failure("token", f"its token cannot be read: {error}", passing=False) from error
        try:
            with inside() as http:
                answer = http.request("POST", self._url, body=body, headers=headers, timeout=timeout)
        except (HTTPError, ValueError) as error:
            raise _Failure("unreachable", f"{self._url} does not answer: {cause(error)}", passing=True) from error
        if answer.status >= 300:
            raise _refused(answer)
        self._posted = state


def _refused(answer: BaseHTTPResponse) -> _Failure:
    text = answer.data[:1000].decode(errors="replace").strip()
    after = answer.headers.get("Retry-After") or ""
    passing = answer.status in (408, 429) or answer.status >= 500
    message = f"the operator answered {answer.status}: {text or answer.reason}"
    return _Failure(
        str(answer.status), message, passing=passing, retry_after=float(after) if after.isdecimal() else 0.0
    )
