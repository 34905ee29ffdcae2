"""Documents of a sweep: tasks for its coordinator and its workers, and its summary."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from msgspec import Meta, field

from .cache_records import CacheTask
from .common import AUTO, LARGEST, Amount, Count, Document, OutputRecord, Task, without_empty
from .parameters import MOST_PODS
from .training_records import InputRecord, SourceRecord

# Reasons of a failed TrainingJob that is a trial: its sweep ended it, or had ended before it, or its time was up.
STOPPED_EARLY, TRIAL_OVER, TRIAL_TIMEOUT = "StoppedEarly", "TrialOver", "TrialTimeout"
FRONT = 100  # trials of a Pareto front that are remembered
# Fields of a TrainingJob's spec that a Sweep's spec lacks, and that messages name.
TEMPLATE_FIELDS = (
    *(
        "args",
        "backoffLimit",
        "checkpoint",
        "command",
        "elastic",
        "env",
        "envFrom",
        "environment",
        "framework",
        "image",
        "inputs",
    ),
    *("nodes", "onOutOfMemory", "outputs", "parameters", "pendingDeadlineSeconds", "podFailurePolicy", "podTemplate"),
    *("processesPerNode", "resources", "source"),
)
_FIELD = re.compile(
    rf"(?<![\w./-])(?:spec\.(?=(?:{'|'.join(TEMPLATE_FIELDS)})\b)|(?=resources\.(?:limits|requests)\b|onOutOfMemory\.))"
)


class SweepTask(Task, frozen=True):
    """Task of a sweep's coordinator: the operator writes it into ENV_SWEEP.

    `sweep` is NAMESPACE/NAME, and `prefix` the s3:// URI, with a slash at its end, of all that it stores.
    `objectives`, `algorithm`, `space` and `early_termination` are those of the Sweep's spec. `warm_start` has the
    prefixes of other sweeps, whose finished trials the algorithm learns from.
    `max_failed_trials`, `trial_timeout_seconds`, `deadline_seconds`, `budget_seconds`, `cpu_hours` and `gpu_hours` have
    no limit if 0; a trial takes `trial_cpus` and `trial_gpus`. `progress` is the URL to which a SweepSummary is posted,
    and `mlflow` the URI of a tracking server; both may be empty. `mlflow_tags` are those of all runs of the sweep.
    The outputs of the best `keep_outputs` trials stay.
    With `pod_per_trial` the operator starts a TrainingJob for each trial that the summary wants. `cache` is the step of
    a pipeline whose work the sweep does: its best trial is recorded there.
    """

    NOUN = "the task of a coordinator"

    sweep: str
    uid: str
    prefix: str
    objectives: tuple[dict[str, Any], ...]
    space: dict[str, Any]
    algorithm: dict[str, Any] = field(default_factory=dict)
    early_termination: dict[str, Any] | None = None
    warm_start: tuple[str, ...] = ()
    max_trials: int = 0
    max_failed_trials: int = 0
    trial_timeout_seconds: int = 0
    deadline_seconds: int = 0
    canary_trial: bool = False
    budget_seconds: int = 0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    trial_cpus: float = 0.0
    trial_gpus: float = 0.0
    outputs: tuple[str, ...] = ()
    keep_outputs: int = 1
    progress: str = ""
    mlflow: str = ""
    mlflow_tags: dict[str, str] = field(default_factory=dict)
    pod_per_trial: bool = False
    cache: CacheTask | None = None

    def to_json(self) -> str:
        document = self.document()
        if self.keep_outputs == 1:
            del document["keep_outputs"]
        return json.dumps({name: value for name, value in document.items() if value}, sort_keys=True)


class WorkerTask(Task, frozen=True):
    """Task of a worker of a sweep's pool, besides its TrainingTask: the operator writes it into ENV_SWEEP.

    The worker asks for trials at `coordinator`, a URL, and runs `command` for each, with $(params.NAME) filled in.
    """

    NOUN = "the task of a worker"

    coordinator: str
    command: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(self.document(), sort_keys=True)


class TrialTask(Document, frozen=True):
    """Task of the trainer of a trial that is a TrainingJob, besides its TrainingTask.

    The operator writes it into ENV_TRIAL. The trainer reports to `coordinator`, a URL, the values of `objectives` of
    this trial, of which the first one may end it, and its end. The command has `timeout_seconds`, if that is not 0. The
    output `register` is a model of `format`.
    """

    NOUN = "the task of a trial"

    trial: Count
    objectives: Annotated[tuple[str, ...], Meta(min_length=1)]
    timeout_seconds: Count = 0
    register: str = ""
    coordinator: str = ""
    format: str = AUTO

    def to_json(self) -> str:
        return json.dumps({name: value for name, value in self.document().items() if value or name == "trial"})


def coordinator_name(sweep: str) -> str:
    """Return the name of the Job and the Service of a sweep's coordinator."""
    return f"{sweep}-coordinator"


def trial_worker(number: int) -> str:
    """Return the name under which all pods of a trial that is a TrainingJob report."""
    return f"trial-{number}"


def in_template(message: str) -> str:
    """Return a message about a TrainingJob with the paths of its fields in the Sweep."""
    return _FIELD.sub("spec.trialTemplate.spec.", message)


TrialNumber = Annotated[int, Meta(ge=0, lt=MOST_PODS)]


class WantedTrial(Document, frozen=True):
    """Trial that is to run, or to go on, as a TrainingJob of its own."""

    trial: TrialNumber
    params: dict[str, str | bool | int | float] = field(default_factory=dict)


class Fetched(Document, frozen=True):
    """Code and inputs of a trial, as its trainer fetched them."""

    source: SourceRecord = SourceRecord()
    inputs: dict[str, InputRecord] = field(default_factory=dict)


class BestTrial(Document, frozen=True):
    """One of a sweep's best trials: its number, the objectives' values in their order, and its parameters.

    The first one of a summary has what it fetched, if it has stored outputs.
    """

    trial: int
    values: tuple[float, ...]
    params: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, OutputRecord] = field(default_factory=dict)
    fetched: Fetched | None = None


class SweepSummary(Document, frozen=True):
    """Summary of a sweep: posted to the operator, stored at its end, and its coordinator's termination message.

    `outcome` is empty, Succeeded or Failed; `reason` and the first line of `message` say why it ended. Further
    lines are the last output of a trial that failed the sweep, with `exit_code`, in `pod`. Until the end `message` is
    what the author should know. `stopped` trials were ended early by rule. `best` has ten
    trials at most, the best first, or those of the Pareto front. `mlflow_run` is the id of the run that records
    the sweep. If each trial has a TrainingJob, `wanted` are the trials that the operator starts. `paused` are the
    numbers of those whose jobs it holds until they are wanted again. `report` is true once
    REPORT_NAME is stored, and `over` once the coordinator does nothing more: Kubernetes reports the
    end of its pod a second later.
    """

    NOUN = "a summary of a sweep"

    outcome: str = ""
    reason: str = ""
    message: str = ""
    exit_code: Annotated[int, Meta(ge=-LARGEST, le=LARGEST)] = 0
    pod: str = ""
    running: Count = 0
    succeeded: Count = 0
    stopped: Count = 0
    failed: Count = 0
    cpu_hours: Amount = 0.0
    gpu_hours: Amount = 0.0
    best: tuple[BestTrial, ...] = ()
    mlflow_run: str = ""
    wanted: tuple[WantedTrial, ...] = ()
    paused: tuple[TrialNumber, ...] = ()
    report: bool = False
    over: bool = False

    @classmethod
    def prepare(cls, document: Any) -> Any:
        document = without_empty(document, "best", "wanted", "paused")
        for name in ("best", "wanted"):
            if isinstance(document, dict) and isinstance(trials := document.get(name), list):
                document[name] = [without_empty(trial, "params", "outputs") for trial in trials]
        return document

    @property
    def urgent(self) -> tuple[object, ...]:
        """Fields whose change the operator acts on at once."""
        return self.wanted, self.paused, self.over

    def to_json(self) -> bytes:
        document = self.document()
        for name in ("wanted", "paused", "report", "over"):
            if not document[name]:
                del document[name]
        for trial in document["best"]:
            if trial["fetched"] is None:
                del trial["fetched"]
        return json.dumps(document, sort_keys=True).encode()
