"""Why trials have failed: how many of them for which reason."""

from __future__ import annotations

KINDS = 50  # of reasons that are told apart; more would be a list of trials
SHOWN = 3  # in a sentence
OTHERS = "other reasons"
_LONGEST = 120  # characters of one in a sentence


class Reasons:
    """Counts failed trials by what is said of them."""

    def __init__(self) -> None:
        self._trials: dict[str, tuple[int, int]] = {}  # how many, and the first of them

    def add(self, number: int, message: str) -> None:
        """Take a failed trial."""
        reason = message.partition("\n")[0]
        if reason not in self._trials and len(self._trials) >= KINDS:
            reason = OTHERS
        count, first = self._trials.get(reason, (0, number))
        self._trials[reason] = (count + 1, first)

    @property
    def counted(self) -> list[tuple[str, int, int]]:
        """Each reason with the count of its trials and the first of them, the most frequent first, others last."""
        found = [(reason, count, first) for reason, (count, first) in self._trials.items()]
        return sorted(found, key=lambda one: (one[0] == OTHERS, -one[1]))

    def __str__(self) -> str:
        """In a few words, or none where no trial has failed."""
        counted = self.counted
        told = [f"{count} x {reason[:_LONGEST]}" for reason, count, _ in counted[:SHOWN]]
        if left := sum(count for _, count, _ in counted[SHOWN:]):
            told.append(f"{left} x {OTHERS}")
        return f"{sum(count for _, count, _ in counted)} failed: {', '.join(told)}" if counted else ""
