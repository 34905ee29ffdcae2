"""Why trials have failed: how many of them for which reason."""

from __future__ import annotations

import re

KINDS = 50  # of reasons that are told apart; more would be a list of trials
SHOWN = 3  # in a sentence
OTHERS = "other reasons"
_LONGEST = 200  # characters of one in a sentence
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


class Reasons:
    """Counts failed trials by what is said of them."""

    def __init__(self) -> None:
        self._trials: dict[str, tuple[str, int, int]] = {}  # the words, how many, and the first of them

    def add(self, number: int, message: str) -> None:
        """Take a failed trial. Errors that differ by numbers alone, such as the trial's parameters, are one reason."""
        reason = message.partition("\n")[0]
        what, colon, error = reason.partition(": ")
        kind = f"{what}{colon}{_NUMBER.sub('0', error)}"
        if kind not in self._trials and len(self._trials) >= KINDS:
            kind = reason = OTHERS
        words, count, first = self._trials.get(kind, (reason, 0, number))
        self._trials[kind] = (words, count + 1, first)

    @property
    def counted(self) -> list[tuple[str, int, int]]:
        """Each reason with the count of its trials and the first of them, the most frequent first, others last."""
        return sorted(self._trials.values(), key=lambda one: (one[0] == OTHERS, -one[1]))

    def __str__(self) -> str:
        """In a few words, or none where no trial has failed."""
        counted = self.counted
        told = [f"{count} x {reason[:_LONGEST]}" for reason, count, _ in counted[:SHOWN]]
        if left := sum(count for _, count, _ in counted[SHOWN:]):
            told.append(f"{left} x {OTHERS}")
        return f"{sum(count for _, count, _ in counted)} failed: {', '.join(told)}" if counted else ""
