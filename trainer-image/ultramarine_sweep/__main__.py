"""`ultramarine-sweep`: coordinate a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ultramarine.shared.contract import SweepTask
from ultramarine.shared.errors import InvalidSpec

from ultramarine_sweep.sweep import Parts, run
from ultramarine_sweep.trial import Known, Stopper, Suggester


def main() -> int:
    """Coordinate the sweep that the environment names, and return the exit code of the container."""
    return run(os.environ, Parts(_suggester, _stopper))


def _suggester(task: SweepTask, known: Sequence[Known]) -> Suggester:
    raise InvalidSpec("no algorithm is bound to this coordinator yet")


def _stopper(task: SweepTask) -> Stopper | None:
    return None


if __name__ == "__main__":
    sys.exit(main())
