"""Telling the operator how far a sweep is, hearing its answer, and leaving the sweep's last words."""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs
from ultramarine_contract.common import TERMINATION_LIMIT
from ultramarine_contract.sweep_records import BestTrial, SweepSummary
from ultramarine_contract.transport import cause, inside
from urllib3.exceptions import HTTPError

_POST_LIMIT = 200 * 1024  # bytes; the operator takes some more


@dataclass(frozen=True)
class Times:
    """Seconds: between two posts, between two that differ in spent hours only, what one may take, and the last one.

    `least` is for posts that want other trials, and `asking` for those that only want an answer. `again` is added
    if the last post was refused. A failure is logged after `patience`.
    """

    between: float = 10.0
    least: float = 0.12
    asking: float = 1.5
    again: float = 0.1
    patience: float = 10.0
    hours: float = 60.0
    post: float = 5.0
    end: float = 5.0


class SummaryReporter:
    """Posts the newest summary to `url` in a thread of its own; without a URL it does nothing.

    Once its answers have a receiver it asks for them repeatedly.
    """

    def __init__(self, url: str, token: Path, say: Callable[[str], None], times: Times | None = None) -> None:
        self._url, self._token, self._say, self._times = url, token, say, times or Times()
        self._newest = self._posted = SweepSummary()
        self._has_news = self._complained = False
        self._failing_since: float | None = None
        self._hear: Callable[[Any], object] | None = None
        self._ending, self._news = False, threading.Event()
        self._thread = threading.Thread(target=self._run, name="telling", daemon=True)
        if url:
            self._thread.start()

    @property
    def newest(self) -> SweepSummary:
        """The newest summary."""
        return self._newest

    def tell(self, summary: SweepSummary) -> None:
        """Take a summary, which is posted soon unless a newer one comes; at once where it wants other trials."""
        news = summary.urgent != self._newest.urgent
        self._newest, self._has_news = summary, True
        if news:
            self._news.set()

    def answer_to(self, hear: Callable[[Any], object]) -> None:
        """Have the operator's answers from now on; called in the teller's thread, with what the JSON says."""
        self._hear = hear
        self._news.set()

    def close(self, summary: SweepSummary) -> None:
        """Post the last summary, marked as over, within the time for the end."""
        self._newest = structs.replace(summary, over=True)
        self._ending = True
        self._news.set()
        if self._url:
            self._thread.join(self._times.end)

    def _run(self) -> None:
        at = -self._times.hours
        while not self._ending:
            self._news.wait(self._pause(time.monotonic() - at))
            self._news.clear()
            newest, now = self._newest, time.monotonic()
            if not self._ending and self._is_due(newest, now - at):
                at = now if self._post(newest) or self._hear is None else now + self._times.again
        until = time.monotonic() + self._times.end
        while not self._post(self._newest) and time.monotonic() < until:
            time.sleep(self._times.again)

    def _pause(self, since: float) -> float:
        """Return the seconds until the next look, `since` seconds after the last post."""
        if self._hear is None:
            return min(1.0, self._times.between)
        return max(self._wait(self._newest) - since, 0.05)

    def _wait(self, newest: SweepSummary) -> float:
        """Seconds between two posts, if the answers have a receiver."""
        return self._times.asking if newest.urgent == self._posted.urgent else self._times.least

    def _is_due(self, newest: SweepSummary, since: float) -> bool:
        """True if a post is due, `since` seconds after the last one."""
        if self._hear is not None:
            return self._has_news and since >= self._wait(newest)
        differs = _without_hours(newest) != _without_hours(self._posted)
        return since >= self._times.between and (differs or (newest != self._posted and since >= self._times.hours))

    def _post(self, summary: SweepSummary) -> bool:
        try:
            token = self._token.read_text().strip()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            body = within(summary, _POST_LIMIT)
            with inside() as http:
                answer = http.request("POST", self._url, body=body, headers=headers, timeout=self._times.post)
        except (OSError, HTTPError, ValueError) as error:
            self._complain(cause(error) if isinstance(error, HTTPError) else str(error))
            return False
        if answer.status >= 300:
            self._complain(f"{answer.status} {answer.reason}")
            return False
        self._posted, self._complained, self._failing_since = summary, False, None
        if answer.data and self._hear is not None:
            with contextlib.suppress(ValueError, RuntimeError):  # no JSON, and a loop that has ended
                self._hear(answer.json())
        return True

    def _complain(self, problem: str) -> None:
        """Say once that it lasts: of two replicas one refuses, a young pod is not known yet, or we come too soon."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if self._complained or now - self._failing_since < self._times.patience:
            return
        self._complained = True
        follows = "which does not disturb it" if self._hear is None else "and no trial begins before it is"
        self._say(f"the operator cannot be told how far the sweep is, {follows}: {problem}")


def _without_hours(summary: SweepSummary) -> SweepSummary:
    return structs.replace(summary, cpu_hours=0.0, gpu_hours=0.0)


def last_words(summary: SweepSummary) -> bytes:
    """The summary as the kubelet keeps it."""
    return within(summary, TERMINATION_LIMIT)


def within(summary: SweepSummary, limit: int) -> bytes:
    """The summary in `limit` bytes: without the last ones of the best trials, then with a shorter message.

    What the first one fetched goes before the trial itself does.
    """
    while summary.best and len(summary.to_json()) > limit:
        summary = structs.replace(summary, best=_fewer(summary.best))
    words = summary.message
    # A character may take one byte of JSON or twelve.
    kept = bisect_right(range(1, len(words) + 1), limit, key=lambda n: len(_saying(summary, words[:n]).to_json()))
    return _saying(summary, words[:kept]).to_json()


def _fewer(best: tuple[BestTrial, ...]) -> tuple[BestTrial, ...]:
    first, *others = best
    return best[:-1] if others or first.fetched is None else (structs.replace(first, fetched=None),)


def _saying(summary: SweepSummary, message: str) -> SweepSummary:
    return structs.replace(summary, message=message)
