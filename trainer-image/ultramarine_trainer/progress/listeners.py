"""All who listen to the command: the newest metrics, the operator, the series in the storage, MLflow."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ultramarine_contract import common as contract
from ultramarine_contract.errors import StorageError
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import STOPPED_EARLY
from ultramarine_contract.training_records import CheckpointRecord, Progress, TerminationRecord, TrainingContext

from ultramarine_trainer.progress.kubeflow import KubeflowServer
from ultramarine_trainer.progress.metrics import LatestMetrics, metrics_in
from ultramarine_trainer.progress.reporter import Reporter
from ultramarine_trainer.progress.series import Series
from ultramarine_trainer.tracking.api import UID, output_tags
from ultramarine_trainer.tracking.local import URI, LocalRuns, Point, no_model, store_runs, take_model, with_local_runs
from ultramarine_trainer.tracking.run import MlflowRun

_SERIES_SECONDS = 10.0  # for the last values of the metrics
_MLFLOW_SECONDS = 5.0  # for the end of the run
_MLFLOW_VARIABLES = frozenset(
    {"MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"}
)


class Listeners:
    """Hears what the command prints, and what it reports another way; only node 0's (`speaks`) tell anybody of it."""

    def __init__(
        self,
        context: TrainingContext,
        speaks: bool,
        series: Series | None,
        say: Callable[[str], None],
        checkpoint: Callable[[], CheckpointRecord | None],
    ) -> None:
        self._context, self._speaks, self._series, self._say = context, speaks, series, say
        self._latest = LatestMetrics()
        self._mlflow: MlflowRun | None = None
        self._logs_to_run = False  # the command's mlflow, too
        self._runs: Path | None = None  # folder into which the command's mlflow logs
        self._has_taken_model = False  # from there, into an output
        self._kubeflow: KubeflowServer | None = None
        token = Path(contract.PROGRESS_TOKEN)
        self._reporter = Reporter(
            context.progress, token, say, checkpoint, lambda: self._latest.values, mlflow_run=lambda: self.run_id
        )

    @property
    def step(self) -> int:
        """The last step that the command has told, or -1."""
        return self._reporter.step

    def hear(self, line: str) -> None:
        """Take a line that the command printed to stdout."""
        self._latest.read(line)
        self._reporter.hear(line)
        if self._mlflow is not None and "=" in line:
            self._mlflow.log(metrics_in(line), self.step)
        if self._series is not None:
            self._series.read(line, self.step)

    def take(self, progress: Progress) -> None:
        """Take what the command reported by Kubeflow's protocol."""
        self._latest.take(progress.metrics)
        self._reporter.take(progress)
        if self._mlflow is not None:
            self._mlflow.log(progress.metrics, self.step)
        if self._series is not None:
            self._series.add(progress.metrics, self.step)

    def take_logged(self, point: Point) -> None:
        """Take a value that the command logged by mlflow into its own folder."""
        self._latest.take({point.name: point.value})
        if self._series is not None:
            self._series.add({point.name: point.value}, point.step, 1000 * point.at)

    def open_run(
        self, pod: str, source: SourceTask, commit: str, command: Sequence[str], account: Mapping[str, str]
    ) -> None:
        """Begin the run in MLflow, or go on with that of an earlier attempt."""
        context = self._context
        if not context.mlflow or not self._speaks:
            return
        namespace, _, name = context.job.partition("/")
        tags = {
            UID: context.uid,
            "ultramarine.job": context.job,
            "ultramarine.pod": pod,
            "mlflow.source.type": "JOB",
            "mlflow.source.name": (source.git_url or source.uri or " ".join(command))[:500],
            "mlflow.source.git.commit": commit,
            "mlflow.user": context.requested_by,
        }
        given = {tag: value for tag, value in tags.items() if value}
        self._mlflow = MlflowRun(context.mlflow, namespace, name, context.parameters, given, self._say, account=account)
        if run := self._mlflow.start():
            self._say(f"MLflow: run {run} at {context.mlflow}")

    def start(self, environment: Mapping[str, str], runs: Path) -> dict[str, str]:
        """Begin to tell the operator, and return the environment with what the command needs to report.

        Without a tracking server, mlflow logs into the folder `runs`.
        """
        if self._speaks and self._context.progress:
            self._reporter.start()
            self._kubeflow = KubeflowServer(self.take, Path(tempfile.gettempdir()))
            self._kubeflow.start()
        kubeflow = self._kubeflow.environment if self._kubeflow else {}
        # A command with its own server or run means that one; half of the platform's variables would break both.
        mlflow = self._mlflow.environment if self._mlflow and not _MLFLOW_VARIABLES & environment.keys() else {}
        self._logs_to_run = bool(mlflow)
        variables = {**kubeflow, **mlflow, **environment}
        self._runs = None if URI in variables else runs
        return with_local_runs(variables, runs)

    def reading(self, take: Callable[[Point], None]) -> AbstractContextManager[object]:
        """Hand over what the command logs by mlflow without a tracking server, while the block runs."""
        return LocalRuns(self._runs, take) if self._runs and self._speaks else nullcontext()

    def take_model(self, name: str, output: Path) -> None:
        """Copy the model that the command logged last into an output. Raises StorageError."""
        if self._runs is not None:
            take_model(self._runs, name, output)
            self._has_taken_model = True
        elif self._mlflow is None or not self._logs_to_run:
            message = f"output {name} has fromMlflow, but {URI} in spec.env names another server"
            raise StorageError(f"{message}; remove the variable, or leave fromMlflow out", "OutputInvalid")
        elif not self._mlflow.copy_model(output):
            raise no_model(name)

    def store_runs(self, storage: Storage, uri: str, *, with_models: bool) -> None:
        """Store the folder that mlflow logged into, if it is not empty; a failure is only said.

        Models are left out if an output has one of them, or if there is no room for them.
        """
        if self._runs is None or not self._runs.is_dir():
            return
        for whole in (True, False) if with_models and not self._has_taken_model else (False,):
            try:
                stored = store_runs(self._runs, storage, uri, with_models=whole)
                self._say(f"MLflow: {stored.bytes} bytes of runs to {stored.uri}")
                return
            except StorageError as error:
                self._say(f"MLflow: the runs are not stored: {error.message}")
                if error.reason != "TooLarge":
                    return

    def stop(self, deadline: Callable[[float], float]) -> None:
        """Tell the operator the last of it, and store the series; `deadline(seconds)` is when that must be done."""
        if self._kubeflow is not None:
            self._kubeflow.stop()
            self._reporter.stop()
        if self._series is not None:
            self._series.close(deadline(_SERIES_SECONDS))

    def close_run(self, code: int, record: TerminationRecord, deadline: Callable[[float], float]) -> None:
        """End the run in MLflow, in a quarter of the time that is left at most: the log comes after."""
        if self._mlflow is None:
            return
        status = "FINISHED" if code == 0 else "KILLED" if record.reason in ("Stopped", STOPPED_EARLY) else "FAILED"
        tags = output_tags(record.outputs)
        left = deadline(4 * _MLFLOW_SECONDS) - time.monotonic()
        self._mlflow.finish(status, tags, min(left / 4, _MLFLOW_SECONDS))

    def record(self) -> TerminationRecord:
        """Return the termination record's share of what was heard."""
        return TerminationRecord(
            metrics=self._latest.values,
            unread=self._latest.unread[:200],
            step=self._reporter.step,
            total_steps=self._reporter.total_steps,
            mlflow_run=self.run_id,
            series=self._series.stored if self._series else "",
        )

    @property
    def run_id(self) -> str:
        """ID of the run in MLflow, or nothing."""
        return self._mlflow.run_id if self._mlflow else ""


def series_of(storage: Storage, prefix: str, pod: str, say: Callable[[str], None]) -> Series:
    """The series of one pod, below a job's prefix."""
    return Series(storage, f"{prefix}{contract.METRICS_NAME}/{pod}.parquet", say)
