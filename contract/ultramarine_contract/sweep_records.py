"""What is said of a sweep: tasks for its coordinator and its workers, and how far it is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .common import AUTO, LARGEST, UNREADABLE, OutputRecord, read_known

# Reasons of a failed TrainingJob that is a trial: its sweep has ended it, or was over for it, or its time was up.
STOPPED_EARLY, TRIAL_OVER, TRIAL_TIMEOUT = "StoppedEarly", "TrialOver", "TrialTimeout"
FRONT = 100  # trials of a Pareto front that are remembered
MOST_PODS = 1000  # trials of a sweep each of which has a TrainingJob of its own
_REFERENCE = re.compile(r"\$\(params\.([^)]*)\)")
# What the spec of a TrainingJob has and that of a Sweep has not, and is spoken of.
TEMPLATE_FIELDS = (
    *("args", "backoffLimit", "checkpoint", "command", "elastic", "env", "envFrom", "framework", "image", "inputs"),
    *("nodes", "onOutOfMemory", "outputs", "parameters", "pendingDeadlineSeconds", "podFailurePolicy", "podTemplate"),
    *("processesPerNode", "resources", "source"),
)
_FIELD = re.compile(
    rf"(?<![\w./-])(?:spec\.(?=(?:{'|'.join(TEMPLATE_FIELDS)})\b)|(?=resources\.(?:limits|requests)\b|onOutOfMemory\.))"
)


@dataclass(frozen=True)
class SweepTask:
    """What the coordinator of a sweep has to do: the operator writes it into ENV_SWEEP.

    `sweep` is NAMESPACE/NAME, and `prefix` the s3:// URI, with a slash at its end, of all that it stores.
    `objectives`, `algorithm`, `space` and `early_termination` are those of the Sweep's spec, as the API has them;
    `warm_start` names the prefixes of other sweeps, whose finished trials count as known.
    0 stands for no bound of `max_failed_trials`, `trial_timeout_seconds`, `deadline_seconds`, `cpu_hours`, `gpu_hours`;
    a trial takes `trial_cpus` and `trial_gpus`. `progress` is the URL to which a SweepSummary is posted,
    and `mlflow` the URI of a tracking server, where there are any; `mlflow_tags` are those of all runs of the sweep.
    With `pod_per_trial` nobody asks for trials: those that the summary wants are started by the operator.
    """

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
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    trial_cpus: float = 0.0
    trial_gpus: float = 0.0
    outputs: tuple[str, ...] = ()
    progress: str = ""
    mlflow: str = ""
    mlflow_tags: dict[str, str] = field(default_factory=dict)
    pod_per_trial: bool = False

    def to_json(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SweepTask:
        """Read what `to_json` wrote. Raises TypeError for a field that is not known here: it would not be done."""
        document = json.loads(text)
        lists = {name: tuple(document[name]) for name in ("objectives", "warm_start", "outputs") if name in document}
        return cls(**{**document, **lists})


@dataclass(frozen=True)
class WorkerTask:
    """What a worker of a sweep's pool does besides its TrainingTask: the operator writes it into ENV_SWEEP.

    It asks for trials at `coordinator`, a URL, and runs `command` for each, with $(params.NAME) filled in.
    """

    coordinator: str
    command: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> WorkerTask:
        """Read what `to_json` wrote. Raises TypeError for a field that is not known here: it would not be done."""
        document = json.loads(text)
        return cls(**{**document, "command": tuple(document["command"])})


@dataclass(frozen=True)
class TrialTask:
    """What the trainer of a trial that is a TrainingJob does besides its TrainingTask: the operator writes it into
    ENV_TRIAL.

    It tells `coordinator`, a URL, how the trial with this number goes: the values of `objectives`, of which the first
    one may end it, and that it has ended. The command has `timeout_seconds`, where that is not 0. The output `register`
    is to be a model of `format`.
    """

    trial: int
    objectives: tuple[str, ...]
    timeout_seconds: int = 0
    register: str = ""
    coordinator: str = ""
    format: str = AUTO

    def to_json(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value or name == "trial"})

    @classmethod
    def from_json(cls, text: str) -> TrialTask:
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        try:
            task = read_known(cls, document := json.loads(text))
            objectives = tuple(document["objectives"])
            if not objectives or not all(isinstance(text, str) for text in (*objectives, task.register, task.format)):
                raise TypeError("a name is something else")
            if not all(type(count) is int and 0 <= count < LARGEST for count in (task.trial, task.timeout_seconds)):
                raise TypeError("a number is something else")
        except UNREADABLE as error:
            raise ValueError(f"no task of a trial: {error!r}") from error
        return replace(task, objectives=objectives)


def coordinator_name(sweep: str) -> str:
    """The Job and the Service of a sweep's coordinator."""
    return f"{sweep}-coordinator"


def trial_worker(number: int) -> str:
    """What a trial that is a TrainingJob is called as its own worker; whichever pod of it speaks."""
    return f"trial-{number}"


def in_template(message: str) -> str:
    """A message about a TrainingJob, with its fields called as the author of a sweep finds them."""
    return _FIELD.sub("spec.trialTemplate.spec.", message)


def applicable(command: Sequence[str], known: Collection[str]) -> list[str]:
    """The arguments of a trial's command: one that refers to a parameter which the trial does not have is left out."""
    return [argument for argument in command if all(name in known for name in _REFERENCE.findall(argument))]


def fill(command: Sequence[str], params: Mapping[str, Any]) -> list[str]:
    """The command of a trial with its $(params.NAME) filled in, and without arguments that do not apply."""
    known = applicable(command, params)
    return [_REFERENCE.sub(lambda match: as_text(params[match[1]]), argument) for argument in known]


def as_text(value: Any) -> str:
    """A parameter's value in a command: numbers as Python writes them, true and false as YAML does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


@dataclass(frozen=True)
class WantedTrial:
    """A trial that is to run, or to go on, as a TrainingJob of its own."""

    trial: int
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BestTrial:
    """One of a sweep's best trials: its number, the objectives' values in their order, and its parameters."""

    trial: int
    values: tuple[float, ...]
    params: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, OutputRecord] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepSummary:
    """How far a sweep is: posted to the operator, stored at its end, and in short its coordinator's last words.

    `outcome` is empty, Succeeded or Failed; `reason` and the first line of `message` say why it ended, and further
    lines are what a trial that failed the sweep printed last, with `exit_code`, in `pod`. While it goes on `message` is
    what its author should know. `stopped` trials were ended early by rule. `best` has ten
    trials at most, the best first, or those of the Pareto front. `mlflow_run` is the id of the run that records
    the sweep. `wanted` are those trials that the operator should see to, where each has a TrainingJob, and `paused` the
    numbers of those whose jobs it should hold until they are wanted again. `report` says
    that REPORT_NAME is stored, and `over` that all is and that the coordinator does nothing more: Kubernetes tells the
    end of its pod a second later.
    """

    outcome: str = ""
    reason: str = ""
    message: str = ""
    exit_code: int = 0
    pod: str = ""
    running: int = 0
    succeeded: int = 0
    stopped: int = 0
    failed: int = 0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    best: tuple[BestTrial, ...] = ()
    mlflow_run: str = ""
    wanted: tuple[WantedTrial, ...] = ()
    paused: tuple[int, ...] = ()
    report: bool = False
    over: bool = False

    @property
    def urgent(self) -> tuple[object, ...]:
        """What the operator should look at as soon as it changes."""
        return self.wanted, self.paused, self.over

    def to_json(self) -> bytes:
        document = asdict(self)
        for name in ("wanted", "paused", "report", "over"):
            if not document[name]:
                del document[name]
        return json.dumps(document, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes | str) -> SweepSummary:
        """Read what `to_json` wrote. Raises ValueError for anything else: a trial's command could post it, too."""
        try:
            summary = read_known(cls, document := json.loads(data))
            best = tuple(_best(one) for one in document.get("best") or ())
            wanted = tuple(_wanted(one) for one in document.get("wanted") or ())
            paused = tuple(document.get("paused") or ())
            if not all(type(number) is int and 0 <= number < MOST_PODS for number in paused):
                raise TypeError("what is paused is no trial's number")
            texts = (summary.outcome, summary.reason, summary.message, summary.pod, summary.mlflow_run)
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("a text is something else")
            counts = (summary.running, summary.succeeded, summary.stopped, summary.failed)
            if not all(type(count) is int and 0 <= count < LARGEST for count in counts):
                raise TypeError("a count is no whole number, or too large")
            if type(summary.exit_code) is not int or abs(summary.exit_code) > LARGEST:
                raise TypeError("an exit code is none")
            if not all(type(n) in (int, float) and 0 <= n < LARGEST for n in (summary.cpu_hours, summary.gpu_hours)):
                raise TypeError("a number of hours is none")
            if not all(type(answer) is bool for answer in (summary.report, summary.over)):
                raise TypeError("yes or no is something else")
        except UNREADABLE as error:
            raise ValueError(f"not a summary of a sweep: {error!r}") from error
        return replace(summary, best=best, wanted=wanted, paused=paused)


def _wanted(document: dict[str, Any]) -> WantedTrial:
    number, params = document["trial"], dict(document.get("params") or {})
    if type(number) is not int or not 0 <= number < MOST_PODS:
        raise TypeError(f"{number!r} is no trial's number")
    if not all(isinstance(value, str | bool | int | float) for value in params.values()):
        raise TypeError("a parameter is no text, number or boolean")
    return WantedTrial(number, params)


def _best(document: dict[str, Any]) -> BestTrial:
    values = tuple(document["values"])
    if type(document["trial"]) is not int or not all(type(v) in (int, float) and math.isfinite(v) for v in values):
        raise TypeError("a trial's number or value is something else")
    outputs = {str(name): read_known(OutputRecord, one) for name, one in (document.get("outputs") or {}).items()}
    texts = [text for one in outputs.values() for text in (one.uri, one.digest, one.format, one.untrusted)]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("what is told of an output is no text")
    return BestTrial(document["trial"], values, dict(document.get("params") or {}), outputs)
