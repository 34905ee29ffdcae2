"""The status of a Sweep, read off its pods and what its coordinator reports."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from ultramarine.resources.sweep import MAX_PARAMETERS
from ultramarine.resources.sweep_space import MAX_TEXT
from ultramarine.resources.sweep_status import MAX_BEST, Best, BudgetUsed, Journal, Report, SweepStatus, Trials
from ultramarine_contract import common as contract
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.meta import TRAINING_JOB, controller_uid
from ultramarine_contract.score import score
from ultramarine_contract.sweep_records import BestTrial, SweepSummary

from ... import runs
from ...runs import JobView, PodView, waiting
from ...shared.conditions import Condition, health
from ...shared.plan import Platform, Seen
from ...shared.pods import TRAINER
from ...shared.states import State
from ...training import pods as training
from ...training.provenance import add_fetched, ran
from ...training.trials import trial_name
from .manifests import Sweep, has_pod_per_trial, objectives, prefix, stored, trial_of

MAX_COUNT = 10**10  # of trials, of hours: more would not fit the status
MAX_WARNING = 1000  # characters
MAX_PARAMS = 8192  # characters of one trial's parameters in the status; the journal has all
MAX_VALUE = 1e300


def running(workers: int, count: int, coordinator: PodView, warning: str) -> State:
    """State of a sweep whose `workers`, of `count`, run trials."""
    return trials_run(f"{workers} of {count} workers run; pod {coordinator.name} gives them trials", warning)


def trials_run(message: str, warning: str) -> State:
    """State of a sweep whose trials run; `warning` is what the coordinator warns of."""
    message = f"{message}; {warning}" if warning else message
    return "Running", (Condition("Running", True, "TrialsRunning", message), *health(done=False, progress=message))


def warning(summary: SweepSummary | None) -> str:
    """Return what the coordinator warns of while trials run."""
    return "" if summary is None or summary.outcome else summary.message.partition("\n")[0][:MAX_WARNING]


def gathered(sweep: Sweep, own_pods: Iterable[PodView], seen: Seen, most: int, now: datetime) -> SweepStatus:
    """Return what earlier passes wrote, with what can be read off the pods and the coordinator's report."""
    own_pods = list(own_pods)
    status = runs.former(sweep, SweepStatus, without={"imageErrorSince"})
    status.journal = Journal(uri=f"{prefix(sweep, seen.platform)}{contract.JOURNAL_NAME}/")
    starts = [pod.started for pod in own_pods if pod.started]
    if starts and status.start_time is None:
        status.start_time = min(starts)
    status.image_error_since = waiting.image_error_since(sweep.status.get("imageErrorSince"), own_pods, now)
    if seen.report:
        add_summary(sweep, status, seen.report, seen.platform, most)
    return status


def add_summary(sweep: Sweep, status: SweepStatus, summary: SweepSummary, platform: Platform, most: int) -> None:
    """Add the coordinator's summary of the trials, of which there can be `most`."""
    counts = Trials(
        **{name: min(getattr(summary, name), MAX_COUNT) for name in ("running", "succeeded", "stopped", "failed")}
    )
    over, former = counts.succeeded + counts.stopped + counts.failed, status.trials or Trials()
    if summary.outcome == "Failed" and not over and (former.succeeded or former.stopped or former.failed):
        stop_running(status)  # the coordinator could not read its journal, for example
        return
    names = [objective["metric"] for objective in objectives(sweep)]
    hours = {"cpu_hours": summary.cpu_hours, "gpu_hours": summary.gpu_hours}
    status.trials = counts
    status.progress = f"{over}/{most}" if most else str(over)
    status.mlflow = training.mlflow(status.mlflow, platform, [summary.mlflow_run])
    status.budget_used = BudgetUsed(**{name: round(used, 4) for name, used in hours.items() if 0 < used < MAX_COUNT})
    if summary.report:
        status.report = Report(uri=prefix(sweep, platform) + contract.REPORT_NAME)
    if summary.best:
        status.best = [_best(trial, names, stored(sweep, trial, platform)) for trial in summary.best[:MAX_BEST]]
        status.best_value = _value(summary.best[0], names)


def add_image(status: SweepStatus, workers: Sequence[PodView]) -> None:
    """Add the image of the newest worker, as the node resolved it."""
    if workers:
        ran(status, image_digest=workers[-1].image_digest(TRAINER))


def add_origin(sweep: Sweep, status: SweepStatus, best: BestTrial, seen: Seen) -> None:
    """Add the code and the inputs of the best trial, and the image of its TrainingJob if it has one."""
    ran(status, source_digest=training.source_digest(trial_of(sweep)))
    if best.fetched:
        add_fetched(status, best.fetched.source, best.fetched.inputs)
    if has_pod_per_trial(sweep):
        job = seen.look(TRAINING_JOB.kind, trial_name(sweep.name, best.trial))
        if job is not None and controller_uid(job) == sweep.uid:
            record = (job.get("status") or {}).get("provenance") or {}
            ran(status, image_digest=str(record.get("imageDigest") or ""))


def stop_running(status: SweepStatus) -> None:
    """Count no trial as running."""
    if status.trials:
        status.trials = status.trials.model_copy(update={"running": 0})


def _best(trial: BestTrial, names: list[str], outputs: dict[str, OutputRecord]) -> Best:
    fields: dict[str, Any] = {"trial": trial.trial, "values": dict(zip(names, trial.values, strict=False))}
    params = {name: _plain(value) for name, value in list(trial.params.items())[:MAX_PARAMETERS]}
    params = {name: value for name, value in params.items() if value is not None}
    if params and len(json.dumps(params)) <= MAX_PARAMS:
        fields["params"] = params
    if outputs:
        fields["outputs"] = {name: output.uri for name, output in outputs.items()}
    # Unchecked: the API server refuses what does not fit, such as the number of a trial below 0.
    return Best.model_construct(**fields)


def _plain(value: Any) -> str | int | float | bool | None:
    """Return a value that a status has room for; None for a value that no search space can have."""
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) < MAX_VALUE:
        return value
    return None


def _value(trial: BestTrial, names: list[str]) -> str:
    """Return the best value as a column of `kubectl get`."""
    if len(names) == 1:
        return f"{trial.values[0]:.6g}" if trial.values else ""
    return score(dict(zip(names, trial.values, strict=False)))


def end(status: SweepStatus, job: JobView | None, now: datetime) -> None:
    """Add the time of the end, by the clock of the Job that decided it."""
    runs.end(status, job, now)
    stop_running(status)
