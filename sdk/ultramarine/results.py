"""Results of runs: outputs in the object storage, and tables of metrics and trials."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultramarine_contract.common import LOGS_NAME, METRICS_NAME
from ultramarine_contract.errors import StorageError, UltramarineError

from .suggestions import suggest

if TYPE_CHECKING:
    from ultramarine_contract.storage import Storage

_MOST_BYTES = 1 << 30  # of one file of metrics
Row = dict[str, Any]


@dataclass(frozen=True)
class Output:
    """Output folder of a run, as it was uploaded."""

    name: str
    uri: str
    digest: str = ""
    bytes: int = 0
    format: str = ""
    model_version: str = ""
    _storage: Callable[[], Storage] | None = field(default=None, repr=False, compare=False)

    def download(self, folder: str | Path = "") -> Path:
        """Fetch the files into a folder, by default ./NAME, which appears when it is complete, and return it.

        Raises StorageError if a file differs from its digest, and FileInvalid if the folder has other content.
        """
        from .storage.artifacts import Artifact, download

        assert self._storage
        into = Path(folder or self.name)
        download(self._storage(), Artifact(self.uri, self.digest), into)
        return into


class OutputNotFound(UltramarineError, KeyError):
    """The run has no output of this name."""

    reason = "OutputNotFound"
    __str__ = UltramarineError.__str__  # that of KeyError quotes the message


class Outputs(dict[str, Output]):
    """Outputs of a run by name."""

    def __missing__(self, name: str) -> Output:
        existing = f"Outputs: {', '.join(self)}." if self else "A run has outputs once it has succeeded."
        raise OutputNotFound(f"the run has no output {name}. {suggest(name, self, existing)}")


def outputs_of(storage: Callable[[], Storage], status: Row) -> Outputs:
    """Return the outputs in the status of a TrainingJob, by name."""
    outputs = {
        name: Output(
            name,
            output["uri"],
            output.get("digest", ""),
            output.get("bytes", 0),
            output.get("format", ""),
            output.get("modelVersion") or "",
            storage,
        )
        for name, output in (status.get("outputs") or {}).items()
    }
    return Outputs(outputs)


def table(rows: list[Row], columns: Iterable[str]) -> Any:
    """Return rows as a pandas.DataFrame, or as they are without pandas."""
    if find_spec("pandas"):
        return import_module("pandas").DataFrame(rows, columns=list(columns))
    return rows


METRIC_COLUMNS = ("time", "step", "name", "value", "pod")


def metric_rows(storage: Storage, status: Row) -> list[Row]:
    """Return all values of the metrics of a TrainingJob, oldest first; without stored ones the latest of the status."""
    metrics = status.get("metrics") or {}
    logs = str((status.get("logs") or {}).get("uri", ""))
    # A running job stores its metrics beside its logs, and names the folder at its end.
    uri = metrics.get("uri") or (logs.removesuffix(f"{LOGS_NAME}/") + f"{METRICS_NAME}/" if logs else "")
    rows = [row for name, place in _files(storage, uri) for row in _rows(storage, name.removesuffix(".parquet"), place)]
    if rows:
        return sorted(rows, key=lambda row: (row["time"], row["step"] or 0))
    return [dict.fromkeys(METRIC_COLUMNS) | {"name": name, "value": value} for name, value in latest(status).items()]


def latest(status: Row) -> dict[str, float]:
    """Return the last value of each metric in the status of a TrainingJob."""
    return dict((status.get("metrics") or {}).get("latest") or {})


def _files(storage: Storage, uri: str) -> list[tuple[str, str]]:
    try:
        return [(name, place) for name, (place, _) in storage.objects(uri).items()] if uri else []
    except StorageError as error:
        if error.reason == "InputNotFound":  # no values yet
            return []
        raise


def _rows(storage: Storage, pod: str, uri: str) -> list[Row]:
    if not find_spec("pyarrow"):
        raise UltramarineError(
            "metrics are stored as Parquet, and pyarrow is not installed. Install it with"
            " `pip install 'ultramarine[pandas]'`, or use latest_metrics.",
            "PyarrowMissing",
        )
    parquet = import_module("pyarrow.parquet")
    return [{**row, "pod": pod} for row in parquet.read_table(io.BytesIO(storage.read(uri, _MOST_BYTES))).to_pylist()]
