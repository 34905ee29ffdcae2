"""Environment of a run: awaited once, and then kept in the status, so that all of its pods get the same packages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from ultramarine.resources.environment import EnvironmentPin
from ultramarine.resources.trainingjob import TrainingJobSpec
from ultramarine_contract.environment_records import EnvironmentArchive
from ultramarine_contract.meta import GROUP, Manifest

from ..runs import waiting
from ..shared import conditions, environments
from ..shared.conditions import parse_timestamp
from ..shared.environments import Awaited, Failed, Usable
from ..shared.plan import Obj, Platform, Seen
from ..shared.pods import Verdict
from ..shared.states import State, pending
from .trials import task_of

Run = Obj[TrainingJobSpec]  # a TrainingJob, or a Sweep with the spec of its trials

ANNOTATION = f"{GROUP}/environment"  # of a trial's TrainingJob: the EnvironmentPin of its Sweep
NOT_READY, NOT_BUILT = "EnvironmentNotReady", "EnvironmentFailed"  # reasons


@dataclass(frozen=True)
class Wait:
    """State of a run whose environment is not built yet, the Environment to create, and when to look again."""

    state: State
    create: tuple[Manifest, ...] = ()
    after: timedelta | None = None


def pin_of(run: Run) -> EnvironmentPin | None:
    """Return the environment that the status of a run has, or that a trial has from its Sweep; None without any."""
    if run.spec.environment is None:
        return None
    document = run.status.get("provenance")
    if task_of(run.manifest) is not None:
        annotations = run.manifest["metadata"].get("annotations") or {}
        document = _json(str(annotations.get(ANNOTATION, ""))) or document
    try:
        pin = EnvironmentPin.model_validate(document or {})
    except ValidationError:  # others may write annotations and statuses
        return None
    return pin if pin.environment and pin.environment_uri and pin.environment_digest else None


def archive_of(run: Run) -> EnvironmentArchive | None:
    """Return the archive for the pods of a run; None without any."""
    pin = pin_of(run)
    return EnvironmentArchive(pin.environment_uri, pin.environment_digest, pin.environment_bytes) if pin else None


def image_of(run: Run, platform: Platform) -> str:
    """Return the image of the pods: that of the spec, of the environment, or of the platform."""
    pin = pin_of(run)
    return run.spec.image or (pin.environment_image if pin else "") or platform.trainer_image


def document_of(pin: EnvironmentPin) -> Manifest:
    """Return a pin as it is in statuses and annotations, without what is empty."""
    return pin.model_dump(by_alias=True, exclude_defaults=True)


def lacks_environment(run: Run) -> bool:
    """True if a run needs an environment and has none yet."""
    return run.spec.environment is not None and pin_of(run) is None


def find_environment(run: Run, seen: Seen, now: datetime) -> EnvironmentPin | Wait | Verdict:
    """Return the environment of a run that lacks one, or why it waits, or why it fails.

    The wait ends by pendingDeadlineSeconds, as that for a pod does.
    """
    spec = run.spec
    assert spec.environment is not None
    answer = environments.find_environment(run, spec.environment, seen, image=spec.image or "", source=spec.source)
    match answer:
        case Failed(_, problem, remedy):
            return Verdict(NOT_BUILT, "", None, problem, "", f"{remedy}; then start again")
        case Awaited(_, message, create):
            left = waiting.left(spec.pending_deadline_seconds, now - waiting_since(run.status, now))
            if left == timedelta():
                hint = waiting.deadline_hint(spec.pending_deadline_seconds)
                return Verdict("PendingDeadlineExceeded", "", None, message, "", hint)
            return Wait(pending(NOT_READY, message), (create,) if create else (), left)
        case Usable(name, archive, image):
            fields = {"environment": name, "environment_uri": archive.uri, "environment_digest": archive.digest}
            fields |= {"environment_image": image} if image else {}
            return EnvironmentPin(**fields, environment_bytes=archive.bytes)


def waiting_since(status: Manifest, now: datetime) -> datetime:
    """Return the time since which a run has waited: from its first pass, or from its last suspension."""
    condition = conditions.find(status, "Suspended")
    if condition is None or condition.get("status") != "False":
        return now
    return parse_timestamp(str(condition.get("lastTransitionTime")))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
