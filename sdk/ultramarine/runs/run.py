"""Runs: objects that end by themselves, followed through states and logs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ultramarine_contract.common import RUNS_NAME
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import TRAINING_JOB, Manifest, Resource

from ..display.causes import decisive, diagnosis
from ..kube.errors import NotFound
from ..results import METRIC_COLUMNS, Output, latest, metric_rows, outputs_of, table
from .logs import log_lines
from .parts import Part

if TYPE_CHECKING:
    from ..client import Client

ENDED = ("Succeeded", "Failed", "Cancelled", "Stopped", "Invalid")
BUILT = "Ready"  # state of an Environment whose build has succeeded


class RunFailed(UltramarineError):
    """The run ended without success; the message has the cause that its object names."""

    reason = "RunFailed"


class HasEnded(UltramarineError):
    """The run has ended, so that it can neither end nor go on."""

    reason = "HasEnded"


class Update(NamedTuple):
    """News of a run: a state with its explanation, a line of a pod's log, or metrics that no log line shows."""

    type: Literal["state", "log", "metrics"]
    text: str
    pod: str = ""
    state: str = ""


@dataclass(frozen=True, repr=False)
class Run:
    """A TrainingJob, a Sweep or another object that ends by itself.

    Each property and method reads the object as it is at that moment. In a notebook a run shows its state, progress
    and metrics.
    """

    client: Client
    resource: Resource
    name: str

    @property
    def reference(self) -> str:
        """The run as commands name it, such as churn or sweep/churn."""
        return reference_of(self.resource.kind, self.name)

    @property
    def object(self) -> Manifest:
        """The object as it is now."""
        return self.client.cluster.get(self.resource, self.name)

    @property
    def status(self) -> dict[str, Any]:
        """Status of the object as it is now; empty if the operator has not seen it."""
        return dict(self.object.get("status") or {})

    @property
    def state(self) -> str:
        """Pending, Running, Suspended, Succeeded, Failed, Cancelled, Stopped or Invalid."""
        return str(self.status.get("state") or "Pending")

    @property
    def duration(self) -> timedelta | None:
        """Time from the start to the end, or until now; None before the start."""
        return duration_of(self.status)

    @property
    def model_version(self) -> str:
        """Name of the ModelVersion that the run registered, such as churn-7; empty without any."""
        return str(self.status.get("modelVersion") or "")

    @property
    def outputs(self) -> dict[str, Output]:
        """Uploaded outputs by name; empty before the end. A wrong name raises OutputNotFound, which is a KeyError."""
        return outputs_of(lambda: self.client.storage, self.status)

    @property
    def mlflow_runs(self) -> Output | None:
        """Files that the command logged by mlflow without a tracking server, models among them; None without any."""
        from ..storage.artifacts import mlflow_of

        artifact = mlflow_of(self)
        return Output(RUNS_NAME, artifact.uri, _storage=lambda: self.client.storage) if artifact else None

    @property
    def latest_metrics(self) -> dict[str, float]:
        """Last value of each metric, as the status has it: at most 20 metrics, seconds old in a running job."""
        return latest(self.status)

    def metrics(self) -> Any:
        """Return all values of the metrics as a pandas.DataFrame, or as a list of dicts without pandas.

        Columns: time (UTC), step (None if the command printed none), name, value, pod. Before the first values are
        stored there is a row for each metric of the status. Raises UltramarineError without pyarrow.
        """
        return table(metric_rows(self.client.storage, self.status), METRIC_COLUMNS)

    def wait(self, timeout: float | None = None) -> Run:
        """Return after success. Raises RunFailed with the cause, or TimeoutError after `timeout` seconds."""
        return self._wait(timeout, threading.Event())

    def _wait(self, timeout: float | None, stop: threading.Event) -> Run:
        try:
            for event in self.client.cluster.watch(self.resource, self.name, seconds=timeout, stop=stop):
                if self._over(event.type, event.object):
                    return self
        except NotFound:
            self._over("DELETED", {})
        raise TimeoutError(f"{self.resource.kind} {self.name} has not ended within {timeout} seconds. Wait again.")

    def _over(self, type: str, object: Manifest) -> bool:
        """Return True after success. Raises RunFailed."""
        if type == "DELETED":
            raise RunFailed(f"{self.resource.kind} {self.name} was deleted before it ended. Submit it again.")
        state = state_of(object)
        if state in ENDED and state != "Succeeded":
            raise RunFailed(explanation(object))
        return state == "Succeeded"

    def stream(self, part: Part | None = None) -> Iterator[Update]:
        """Yield states, log lines and metrics until the run ends, across lost connections; all from the start."""
        from .following import Follower

        return Follower(self, part).updates()

    def logs(self, part: Part | None = None) -> Iterator[Update]:
        """Yield the log lines that exist: those of living pods, and stored ones of others."""
        return log_lines(self, part or Part())

    def cancel(self) -> None:
        """End the run for good: its pods end, its object and what it has stored stay. suspend() can be undone."""
        self.client.cluster.patch(self.resource, self.name, {"spec": {"cancel": True}})

    def suspend(self) -> None:
        """End the running pods and hold the run until resume()."""
        self.client.cluster.patch(self.resource, self.name, {"spec": {"suspend": True}})

    def resume(self) -> None:
        """Continue a suspended run."""
        self.client.cluster.patch(self.resource, self.name, {"spec": {"suspend": False}})

    def delete(self) -> None:
        """Delete the object and its pods. Registered models and stored results stay."""
        self.client.cluster.delete(self.resource, self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.resource.kind} {self.client.namespace}/{self.name})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from ..display.notebook import bundle

        return bundle(self)


def reference_of(kind: str, name: str) -> str:
    """Return a run as commands name it: NAME for a TrainingJob, KIND/NAME for others."""
    return name if kind == TRAINING_JOB.kind else f"{kind.lower()}/{name}"


def duration_of(status: Mapping[str, Any]) -> timedelta | None:
    """Return the time from the start to the end that a status has, or until now; None before the start."""
    start, end = status.get("startTime"), status.get("completionTime")
    if not start:
        return None
    return (datetime.fromisoformat(end) if end else datetime.now(UTC)) - datetime.fromisoformat(start)


def state_of(object: Manifest) -> str:
    """Return the state that an object's status shows; Pending before the operator has seen it."""
    return str((object.get("status") or {}).get("state") or "Pending")


def explanation(object: Manifest) -> str:
    """Return a sentence about the state: the failure's cause, or what the run does or waits for."""
    what = f"{object['kind']} {object['metadata']['name']}"
    state = state_of(object)
    text = diagnosis(object).what if state in ENDED else decisive(object.get("status") or {}).get("message", "")
    return f"{what}{' failed' if state == 'Failed' else ''}: {text}" if text else f"{what} is {state}"
