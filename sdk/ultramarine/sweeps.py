"""Runs of Sweeps: the trials as a table, the best one, learning curves, the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultramarine_contract.common import JOURNAL_NAME
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.sweep_records import SweepTask

from .results import Output, Row, table
from .runs import Run

if TYPE_CHECKING:
    from ultramarine_contract.storage import Storage


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep: its parameters, its outcome, and the values of the objectives.

    outcome is Running, Succeeded, Stopped or Failed. seconds is the duration of its last attempt, and points are
    steps and values of the first objective. message is the reason of a failure or a stop.
    """

    number: int
    outcome: str
    params: dict[str, Any]
    values: dict[str, float]
    seconds: float = 0.0
    message: str = ""
    points: tuple[tuple[int, float], ...] = ()
    outputs: dict[str, str] | None = None


@dataclass(frozen=True, repr=False)
class SweepRun(Run):
    """A Sweep that was submitted."""

    @property
    def objectives(self) -> list[tuple[str, bool]]:
        """Name of each objective, and True if it is maximized."""
        return objectives_of(self.object)

    @property
    def best(self) -> Trial | None:
        """The best trial so far, or the first one of the Pareto front; None before a success."""
        best = (self.status.get("best") or [None])[0]
        if best is None:
            return None
        return Trial(
            best["trial"],
            "Succeeded",
            dict(best.get("params") or {}),
            dict(best.get("values") or {}),
            outputs=dict(best.get("outputs") or {}),
        )

    @property
    def outputs(self) -> dict[str, Output]:
        """Stored outputs of the best trial, by name."""
        best = self.best
        uris = (best.outputs if best else None) or {}
        return {name: Output(name, uri, _storage=lambda: self.client.storage) for name, uri in uris.items()}

    def trials(self) -> Any:
        """Return all trials so far as a pandas.DataFrame, or as a list of dicts without pandas.

        Columns: number, outcome, params.NAME, values.METRIC, seconds, message.
        """
        rows = [row_of(trial) for trial in self.trial_list()]
        names = dict.fromkeys(name for row in rows for name in row)
        first = ("number", "outcome", *(name for name in names if "." in name))
        return table(rows, (*first, "seconds", "message"))

    def trial_list(self) -> list[Trial]:
        """Return all trials so far by number, from the sweep's journal in the object storage."""
        return list(trials_of(self.client.storage, self.object))

    def metrics(self) -> Any:
        """Return the learning curves: rows of trial, step, name and value, of the first objective."""
        name = self.objectives[0][0]
        columns = ("trial", "step", "name", "value")
        curves = ((trial.number, point) for trial in self.trial_list() for point in trial.points)
        return table(
            [dict(zip(columns, (number, step, name, value), strict=True)) for number, (step, value) in curves], columns
        )

    def report(self, file: str | Path = "") -> Path:
        """Fetch the report of an ended sweep, by default to ./NAME-report.html, and return its path."""
        uri = (self.status.get("report") or {}).get("uri")
        if not uri:
            raise UltramarineError(
                f"Sweep {self.name} has no report yet; it is written when the sweep ends.", "NoReport"
            )
        path = Path(file or f"{self.name}-report.html")
        path.write_bytes(self.client.storage.read(uri, 1 << 28))
        return path


def objectives_of(sweep: Row) -> list[tuple[str, bool]]:
    """Return the objectives of a Sweep: each metric, and True if it is maximized."""
    spec = sweep["spec"]
    objectives = [spec["objective"]] if spec.get("objective") else spec.get("objectives") or []
    return [(objective["metric"], objective.get("goal") == "maximize") for objective in objectives]


def row_of(trial: Trial) -> Row:
    """Return a trial as a row of a table."""
    return {
        "number": trial.number,
        "outcome": trial.outcome,
        **{f"params.{name}": value for name, value in trial.params.items()},
        **{f"values.{name}": value for name, value in trial.values.items()},
        "seconds": trial.seconds,
        "message": trial.message,
    }


def bests_so_far(trials: list[Trial], metric: str, maximize: bool) -> list[tuple[int, float, float]]:
    """Return number, value and best value so far of each trial that succeeded, by number."""
    best: float | None = None
    points = []
    for trial in trials:
        if trial.outcome == "Succeeded" and metric in trial.values:
            value = trial.values[metric]
            best = value if best is None else (max if maximize else min)(best, value)
            points.append((trial.number, value, best))
    return points


def trials_of(storage: Storage, sweep: Row) -> Iterator[Trial]:
    """Yield the trials of a Sweep by number, as its journal has them; none before the journal exists."""
    from ultramarine_sweep.state import journal
    from ultramarine_sweep.state.replay import Replayed

    uri = ((sweep.get("status") or {}).get("journal") or {}).get("uri")
    if not uri:
        return
    spec, meta = sweep["spec"], sweep["metadata"]
    objectives = tuple([spec["objective"]] if spec.get("objective") else spec["objectives"])
    metrics = [objective["metric"] for objective in objectives]
    state = Replayed(
        SweepTask(
            f"{meta['namespace']}/{meta['name']}",
            meta["uid"],
            uri.removesuffix(f"{JOURNAL_NAME}/"),
            objectives,
            spec["searchSpace"],
            pod_per_trial=spec.get("execution") == "PodPerTrial",
        )
    )
    for record in journal.read(storage, uri):
        state.apply(record)
    for trial in sorted(state, key=lambda trial: trial.number):
        yield Trial(
            trial.number,
            trial.outcome or "Running",
            dict(trial.params),
            dict(zip(metrics, trial.values, strict=False)),
            trial.seconds,
            trial.message,
            tuple(trial.points),
            {name: output.uri for name, output in trial.outputs.items()},
        )
