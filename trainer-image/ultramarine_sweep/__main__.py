"""`ultramarine-sweep`: coordinate a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.searchspace import read_space
from ultramarine_contract.sweep_records import SweepTask

from ultramarine_sweep.report.leaving import Leaving
from ultramarine_sweep.samplers import stopping, suggest
from ultramarine_sweep.samplers.history import adopt
from ultramarine_sweep.service.sweep import Parts, run, say
from ultramarine_sweep.state.trial import Known, Stopper, Suggester

_TOLD = 10  # of the reasons why trials of other sweeps are left out


def main() -> NoReturn:
    """Coordinate the sweep that the environment names, and end with the exit code of the container."""
    leaving = Leaving()
    code = run(os.environ, Parts(_suggester, _stopper, leaving.files, leaving.prepare))
    sys.stderr.flush()
    # All that counts is stored. To take down a sampler's libraries would take another half a second of the sweep's.
    os._exit(code)


def _suggester(task: SweepTask, trials: Sequence[Known]) -> Suggester:
    space = read_space(task.space)
    adopted, reasons = adopt(space, trials, task.objectives)
    for reason in reasons[:_TOLD]:
        say(reason)
    if len(reasons) > _TOLD:
        say(f"{len(reasons) - _TOLD} more are left out")
    if reasons and not adopted:
        message = f"spec.algorithm.warmStartFrom: none of its {len(reasons)} trials that succeeded lies in this space"
        remedy = "name sweeps over the same parameters, or leave it out"
        raise InvalidSpec(f"{message} ({reasons[0]}); {remedy}", "WarmStartIncompatible")
    return suggest.Suggester(space, task.objectives, task.algorithm, adopted=adopted)


def _stopper(task: SweepTask) -> Stopper | None:
    return stopping.Stopper(task.early_termination, task.objectives[0]) if task.early_termination else None


if __name__ == "__main__":
    main()
