"""The trials of a sweep as one table, for whoever goes on with pandas, Polars or DuckDB."""

from __future__ import annotations

import io

import pyarrow as pa
from pyarrow import parquet

from ultramarine_sweep.report.results import Results
from ultramarine_sweep.state.trial import Trial

TABLE_NAME = "trials.parquet"


def table(results: Results) -> bytes:
    """Parquet with a row for each trial; empty if there is none.

    The columns are number, outcome, params.NAME, values.METRIC, and of a trial of this sweep reason (why it failed or
    was stopped), exitCode, start and end: seconds since the sweep began, in which it had a coordinator.
    """
    trials = sorted(results.trials, key=lambda trial: trial.number)
    own = [trial if isinstance(trial, Trial) and trial.outcome else None for trial in trials]
    columns: dict[str, pa.Array] = {
        "number": pa.array([trial.number for trial in trials], pa.int64()),
        "outcome": pa.array([trial.outcome for trial in trials], pa.string()),
    }
    for name in results.space.names:
        params = [trial.params.get(name) for trial in trials]
        if any(isinstance(value, float) for value in params):  # a choice may have integers beside floats
            params = [value if value is None else float(value) for value in params]
        columns[f"params.{name}"] = pa.array(params)
    for place, metric in enumerate(results.metrics):
        values = [trial.values[place] if len(trial.values) > place else None for trial in trials]
        columns[f"values.{metric}"] = pa.array(values, pa.float64())
    columns["reason"] = pa.array([(trial.message if trial else "") or None for trial in own], pa.string())
    columns["exitCode"] = pa.array([trial.exit_code if trial else None for trial in own], pa.int64())
    columns["start"] = pa.array([trial.began if trial else None for trial in own], pa.float64())
    # An older release's journal has no end.
    columns["end"] = pa.array([(trial.ended if trial else 0.0) or None for trial in own], pa.float64())
    stream = io.BytesIO()
    parquet.write_table(pa.table(columns), stream, compression="zstd")
    return stream.getvalue()
