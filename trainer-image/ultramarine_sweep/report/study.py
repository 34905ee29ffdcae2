"""A sweep as a study of Optuna's: for its samplers, its pictures and its dashboard, on anybody's machine."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.storages.journal import BaseJournalBackend, JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from ultramarine_sweep.report.results import Results
from ultramarine_sweep.samplers.history import FAILED, RUNNING, STOPPED, SUCCEEDED, Told, Trial
from ultramarine_sweep.samplers.space import distribution

STUDY_NAME = "optuna-journal.log"

_AT_ONCE = 100  # trials
_STATES = {
    RUNNING: TrialState.RUNNING,
    SUCCEEDED: TrialState.COMPLETE,
    STOPPED: TrialState.PRUNED,
    FAILED: TrialState.FAIL,
}


def as_study(results: Results, storage: BaseStorage | None = None) -> Study:
    """The sweep as a study of its name, in memory or in a storage that has none of this name.

    A study's numbers are without gaps; the attribute `trial` of each trial is its number in the sweep.
    """
    study = _begun(results, storage)
    _add(study, results, _in_order(results))
    return study


def study_lines(results: Results) -> Iterator[bytes]:
    """A file that Optuna opens: load_study(study_name=NAME, storage=JournalStorage(JournalFileBackend(PATH))).

    Its lines come some trials' at a time: as a whole it takes kilobytes for each trial.
    """
    begun, trials = _Lines(), _in_order(results)
    _begun(results, JournalStorage(begun))
    yield from begun.lines
    for start in range(0, len(trials), _AT_ONCE):
        # In a storage of their own: one that has seen them keeps them.
        some = _Lines(begun.lines)
        study = optuna.load_study(study_name=results.name, storage=JournalStorage(some))
        _add(study, results, trials[start : start + _AT_ONCE])
        yield from some.lines[len(begun.lines) :]


def _begun(results: Results, storage: BaseStorage | None) -> Study:
    """The study without a trial."""
    with _quietly():
        study = optuna.create_study(
            storage=storage,
            study_name=results.name,
            directions=["maximize" if sign < 0 else "minimize" for sign in results.history.signs],
        )
        study.set_metric_names(results.metrics)
    return study


def _in_order(results: Results) -> list[Told]:
    return sorted(results.trials, key=lambda trial: trial.number)


def _add(study: Study, results: Results, trials: Iterable[Told]) -> None:
    distributions = {parameter.name: distribution(parameter.domain) for parameter in results.space.parameters}
    study.add_trials(
        _made(results.history.trials[trial.number], trial, distributions, len(results.objectives)) for trial in trials
    )


def _made(trial: Trial, source: Told, distributions: dict[str, BaseDistribution], objectives: int) -> FrozenTrial:
    """A trial as it counts here, with all points that were told of it."""
    return create_trial(
        state=_STATES[trial.outcome],
        values=trial.values if trial.outcome == SUCCEEDED else None,
        params=dict(trial.params),
        distributions={name: distributions[name] for name in trial.params},
        # Optuna has none if there are several objectives.
        intermediate_values={step: value for step, value in source.points if math.isfinite(value) and objectives == 1},
        user_attrs={"trial": trial.number},
    )


class _Lines(BaseJournalBackend):
    """The lines of a journal, in memory: Optuna's own file waits for the disk with each trial."""

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self.lines = [*lines]

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += (json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without a line about each study, and a warning that names of metrics are new."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
