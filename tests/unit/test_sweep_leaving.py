"""The files that a sweep leaves, made by real processes of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from random import Random

import pytest
from ultramarine_contract.searchspace import read_space
from ultramarine_contract.sweep_records import SweepTask
from ultramarine_sweep.report.leaving import Leaving
from ultramarine_sweep.report.report import files
from ultramarine_sweep.report.results import Results
from ultramarine_sweep.report.study import STUDY_NAME, study_lines
from ultramarine_sweep.report.table import TABLE_NAME, table
from ultramarine_sweep.samplers.suggest import suggest
from ultramarine_sweep.state.points import Points
from ultramarine_sweep.state.trial import FAILED, STOPPED, SUCCEEDED, Trial

SPACE = {"x": {"uniform": {"min": 0, "max": 1}}, "kind": {"choice": ["a", "b", "c"]}}
TASK = SweepTask("team-a/hpo", "uid", "s3://lake/hpo/", ({"metric": "loss"},), SPACE)


def trials(many: int) -> list[Trial]:
    """Trials that have ended in each of the three ways, with a few points."""
    chance, ended = Random(3), []
    for suggested in suggest(read_space(SPACE), [], many, objectives=TASK.objectives, algorithm="random"):
        loss = float(suggested.params["x"]) + chance.random() / 10
        outcome = (SUCCEEDED, SUCCEEDED, STOPPED, SUCCEEDED, FAILED)[suggested.number % 5]
        values = (loss,) if outcome == SUCCEEDED else ()
        trial = Trial(
            suggested.number, suggested.params, outcome=outcome, values=values, worker="hpo-0", message="it ended"
        )
        trial.points = Points([(1, loss + 1), (5, loss)] if outcome != FAILED else [])
        ended.append(trial)
    return ended


def comparable(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files without Optuna's entries about the writing process."""
    of_process = rb'"worker_id":"[^"]*"|"datetime_[a-z]*":"[^"]*"'
    return files | {STUDY_NAME: re.sub(of_process, b"", files[STUDY_NAME])}


@pytest.mark.slow
@pytest.mark.parametrize("prepared", [True, False])
def test_other_processes_make_the_very_same_files(prepared: bool) -> None:
    """The files equal those of the library's own function, with and without a prepared process."""
    leaving, ended = Leaving(), trials(60)
    if prepared:
        leaving.prepare(TASK)

    made = {name: path.read_bytes() for name, path in leaving.files(TASK, ended)}
    results = Results(TASK.sweep, read_space(SPACE), TASK.objectives, ended)
    own = files(results) | {STUDY_NAME: b"".join(study_lines(results)), TABLE_NAME: table(results)}

    assert comparable(made) == comparable(own)


def test_without_a_trial_nothing_is_left() -> None:
    """A sweep that failed before its first trial ended has no report."""
    assert list(Leaving().files(TASK, [])) == []


def test_a_process_that_fails_is_told_of() -> None:
    """A report that cannot be drawn raises here, and the sweep ends without its files."""
    strange = SweepTask("team-a/hpo", "uid", "s3://lake/hpo/", ({"metric": "loss"},), {"x": {"unheard": {}}})

    with pytest.raises(subprocess.CalledProcessError):
        list(Leaving().files(strange, trials(10)))


def test_a_coordinator_that_is_killed_leaves_no_process() -> None:
    """A process that waits to draw a report ends with its coordinator."""
    program = (
        "import os; from ultramarine_sweep.report.leaving import Leaving, SweepTask; "
        f"Leaving().prepare(SweepTask.from_json({TASK.to_json()!r})); os._exit(9)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"],
        stdout=subprocess.PIPE,  # which the other process has too: this comes back when both have ended
        timeout=240,
        check=False,
    )

    assert (ran.returncode, ran.stdout) == (9, b"")


def test_a_coordinator_does_not_load_what_draws() -> None:
    """Other processes import the libraries that take several times its memory."""
    program = "import ultramarine_sweep.__main__; print({'sklearn', 'matplotlib', 'optuna', 'numpy'} & {*sys.modules})"
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"],
        stdout=subprocess.PIPE,
        check=True,
    )

    assert ran.stdout == b"set()\n"
