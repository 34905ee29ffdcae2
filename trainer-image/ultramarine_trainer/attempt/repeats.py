"""Failures that repeat: an attempt that fails at once and just as the one before it is the last.

Each failed attempt leaves a line in the storage by which the next one knows it. A failure that another attempt may well
survive does not count as a repeat: a command that has worked for a while, a signal, an outage of a storage or server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from contextlib import suppress

from ultramarine_contract.common import EXIT_DO_NOT_RETRY, SAME_FAILURE, UNREADABLE
from ultramarine_contract.errors import StorageError
from ultramarine_contract.lastwords import is_of_the_network, tells_error
from ultramarine_contract.storage import Storage

from ultramarine_trainer.attempt.runner import Failed

QUICK = 60.0  # seconds of the command's work; what fails later may have met something new
MAX_LINE = 300  # characters
_ADDRESS = re.compile(r"0x[0-9a-f]+")  # of an object in memory: another one in each process
_TIME = re.compile(  # of day, or that something took: another one in each attempt, too
    r"\d{4}-\d\d-\d\d|\d+:\d\d(?::\d\d)?(?:[.,]\d+)?|\d+(?:\.\d+)? ?(?:ms|s|secs?|seconds?|min|minutes?)\b"
)
_BUSY = re.compile(r"\b(429|50[0234])\b")
_PASSING = re.compile(
    r"connect|reset by peer|broken pipe|time(d |-)?out|temporar|unavailable|resol(ve|ution)|too many|try again|retry"
    r"|address already in use|cuda|nccl|no space left|cannot allocate|out of memory",
    re.IGNORECASE,
)


class Repeats:
    """Record of the last failure, at `uri`; exit codes in `worth_retrying` are never a repeat."""

    def __init__(self, storage: Storage, uri: str, worth_retrying: Collection[int], say: Callable[[str], None]) -> None:
        self._storage, self._uri, self._worth_retrying, self._say = storage, uri, worth_retrying, say

    def judge(self, failed: Failed, words: str, own_line: str, seconds: float) -> Failed:
        """Return the failure, or one that ends the job if the attempt before has failed alike.

        `words` are the command's words for the cause, and `own_line` the line for the comparison. The command worked
        for `seconds`.
        """
        if failed.code == EXIT_DO_NOT_RETRY or failed.reason == "Stopped":
            return failed
        line = self._line(failed, words, own_line, seconds)
        compared = _ADDRESS.sub("0x", line)
        if failed.reason != "CommandFailed" or tells_error(line):  # "took 3 s" alone would be alike for every failure
            compared = _TIME.sub("0", compared)
        mine = {"reason": failed.reason, "exitCode": failed.code, "line": compared}
        if line and self._before() == mine:
            code = failed.code if failed.reason == "CommandFailed" else 0
            what = f"exit code {code}" if code else failed.reason
            message = f"two attempts in a row failed at once and alike, with {what}: {line}"
            return Failed(EXIT_DO_NOT_RETRY, SAME_FAILURE, message, code)
        try:
            self._storage.write(self._uri, json.dumps(mine).encode())
        except StorageError as error:
            self._say(f"the next attempt will not know how this one failed: {error.message}")
        return failed

    def _line(self, failed: Failed, words: str, own_line: str, seconds: float) -> str:
        """The words by which the same failure is known, or nothing where another attempt is worth its time."""
        if failed.reason == "SourceUnreachable":
            return "" if _BUSY.search(failed.message) else failed.message[:MAX_LINE]
        quick = failed.reason == "CommandFailed" and failed.code < 128 and seconds < QUICK
        if not quick or failed.code in self._worth_retrying:
            return ""
        passes = _PASSING.search(words) or _BUSY.search(words) or is_of_the_network(words)
        return "" if passes else own_line[:MAX_LINE]

    def _before(self) -> object:
        with suppress(StorageError, *UNREADABLE, ValueError):
            return json.loads(self._storage.read(self._uri))
        return None
