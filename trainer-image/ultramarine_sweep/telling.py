"""Telling the operator how far a sweep is, and leaving its last words."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ultramarine.shared.contract import TERMINATION_LIMIT
from ultramarine.shared.sweep_records import SweepSummary


@dataclass(frozen=True)
class Times:
    """Seconds: between two posts, between two that differ in spent hours only, what one may take, and the last one."""

    between: float = 10.0
    hours: float = 60.0
    post: float = 5.0
    end: float = 5.0


class Teller:
    """Posts the newest summary to `url` in a thread of its own; without a URL it does nothing."""

    def __init__(self, url: str, token: Path, say: Callable[[str], None], times: Times | None = None) -> None:
        self._url, self._token, self._say, self._times = url, token, say, times or Times()
        self._newest = self._posted = SweepSummary()
        self._said = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telling", daemon=True)
        if url:
            self._thread.start()

    def tell(self, summary: SweepSummary) -> None:
        """Take a summary, which is posted soon unless a newer one comes."""
        self._newest = summary

    def close(self, summary: SweepSummary) -> None:
        """Post the last one; in so many seconds as the times say, at most."""
        self._newest = summary
        self._ending.set()
        if self._url:
            self._thread.join(self._times.end)

    def _run(self) -> None:
        due = at = 0.0
        while not self._ending.wait(min(1.0, self._times.between)):
            newest, now = self._newest, time.monotonic()
            differs = _without_hours(newest) != _without_hours(self._posted)
            if now >= due and (differs or (newest != self._posted and now - at >= self._times.hours)):
                self._post(newest)
                due, at = now + self._times.between, now
        until = time.monotonic() + self._times.end
        while not self._post(self._newest) and time.monotonic() < until:
            time.sleep(0.5)

    def _post(self, summary: SweepSummary) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # proxies are for the world outside
        try:
            token = self._token.read_text().strip()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            request = urllib.request.Request(self._url, summary.to_json(), headers, method="POST")
            opener.open(request, timeout=self._times.post).close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if not self._said:
                self._say(f"the operator cannot be told how far the sweep is, which does not disturb it: {error}")
            self._said = True
            return False
        self._posted, self._said = summary, False
        return True


def _without_hours(summary: SweepSummary) -> SweepSummary:
    return replace(summary, cpu_hours=0.0, gpu_hours=0.0)


def last_words(summary: SweepSummary, limit: int = TERMINATION_LIMIT) -> bytes:
    """The summary in `limit` bytes: without the last ones of the best trials, then with a shorter message."""
    while summary.best and len(summary.to_json()) > limit:
        summary = replace(summary, best=summary.best[:-1])
    words = summary.message
    # A character may take one byte of JSON or twelve.
    kept = bisect_right(range(1, len(words) + 1), limit, key=lambda n: len(_saying(summary, words[:n]).to_json()))
    return _saying(summary, words[:kept]).to_json()


def _saying(summary: SweepSummary, message: str) -> SweepSummary:
    return replace(summary, message=message)
