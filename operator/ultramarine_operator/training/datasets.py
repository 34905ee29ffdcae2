"""Datasets of a run: resolved once, and then kept in the status, so that all of its pods read the same versions."""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError
from ultramarine.resources.dataset import DatasetPin
from ultramarine.resources.dataset_versions import NotReady
from ultramarine.resources.trainingjob import TrainingJobSpec

from ..runs import waiting
from ..shared.datasets import resolve
from ..shared.plan import Obj, Seen
from ..shared.pods import Verdict
from ..shared.states import pending
from .environment import Wait, waiting_since

Run = Obj[TrainingJobSpec]  # a TrainingJob, or a Sweep with the spec of its trials
NOT_READY, NOT_FOUND = "DatasetNotReady", "DatasetNotFound"  # reasons


def pins_of(run: Run) -> dict[str, DatasetPin]:
    """Return the versions in the status of a run, by the name of the input; damaged ones are resolved again."""
    pins: dict[str, DatasetPin] = {}
    documents = run.status.get("datasets")
    for name, document in (documents if isinstance(documents, dict) else {}).items():
        source = run.spec.inputs.get(name)
        try:
            if source is not None and source.dataset:
                pins[name] = DatasetPin.model_validate(document)
        except ValidationError:
            continue
    return pins


def lacks_datasets(run: Run) -> bool:
    """True if an input of a run names a dataset whose version is not in the status yet."""
    pins = pins_of(run)
    return any(source.dataset and name not in pins for name, source in run.spec.inputs.items())


def find_datasets(run: Run, seen: Seen, now: datetime) -> dict[str, DatasetPin] | Wait | Verdict:
    """Return the versions that a run reads, or why it waits, or why it fails.

    The wait ends by pendingDeadlineSeconds, as that for a pod does.
    """
    pins = pins_of(run)
    for name, source in sorted(run.spec.inputs.items()):
        if source.dataset is None or name in pins:
            continue
        match resolve(source.dataset, seen):
            case NotReady(message, is_final=True):
                return Verdict(NOT_FOUND, "", None, f"inputs.{name}: {message}", "", "name another version")
            case NotReady(message):
                message, limit = f"inputs.{name}: {message}", run.spec.pending_deadline_seconds
                left = waiting.left(limit, now - waiting_since(run.status, now))
                if not left and left is not None:
                    hint = waiting.deadline_hint(limit)
                    return Verdict("PendingDeadlineExceeded", "", None, message, "", hint)
                return Wait(pending(NOT_READY, message), after=left)
            case pin:
                pins[name] = pin
    return pins
