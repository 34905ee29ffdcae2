"""Plan of a DatasetVersion: whether its files are right, its profile, and the verdict by its Dataset's requirements."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import ValidationError
from ultramarine.resources.dataset import DatasetSpec, DatasetVersionStatus
from ultramarine.resources.dataset_versions import INVALID, QUARANTINED, READY, REFUSED
from ultramarine_contract.meta import Manifest

from ...shared import statuses
from ...shared.artifacts import FOUND, Artifact
from ...shared.conditions import Condition, find, health, is_true, merge
from ...shared.plan import Event, Plan, Platform, Seen
from ...shared.questions import CheckData, DataFacts, Question
from . import profiling
from .profiling import Profile, Version

LOOK_AGAIN = timedelta(seconds=30)
READ_AGAIN = timedelta(minutes=5)  # what has another digest may have been read for it
BROKEN = ("Quarantined", "Refused")  # reasons of versions that break a requirement
DECIDED = ("conditions", "observedGeneration", "state")  # again in each pass


def questions_version(version: Version, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the artifact until it is verified, and then for the summary of the profile."""
    artifact = _artifact(version, seen.platform)
    if artifact.is_foreign:
        return ()
    if not _is_settled(version):
        return (_question(artifact),)
    return profiling.questions(version, seen) if version.status.get("type") == "table" else ()


def plan_version(version: Version, seen: Seen, now: datetime) -> Plan:
    """Return whether the version can be read, and otherwise the reason."""
    spec, artifact = version.spec, _artifact(version, seen.platform)
    status = statuses.former(version, DatasetVersionStatus, DECIDED)
    status.observed_generation = version.generation
    dataset = _dataset(version, seen)
    profile: Profile | None = None
    after: timedelta | None = None
    if artifact.is_foreign:
        message = f"spec.uri {spec.uri} is not this namespace's to read; copy the data to below {artifact.own}"
        state, ready = INVALID, Condition("Ready", False, "AccessDenied", message)
    elif not _is_settled(version):
        answer = seen.answers.get(_question(artifact))
        state, ready = artifact.assess(answer)
        after = None if ready.status else READ_AGAIN if ready.reason == "DigestMismatch" else LOOK_AGAIN
        if isinstance(answer, DataFacts):
            status.bytes, status.files = answer.bytes, answer.files
            status.type = _type(answer, dataset, is_folder=artifact.is_folder)
    else:
        former = find(version.status, "Ready") or {}
        message = (
            str(former.get("message")) if former.get("reason") == FOUND.reason else artifact.verified(status.bytes)
        )
        state, ready = READY, Condition("Ready", True, FOUND.reason, message)
    if ready.status and status.type == "table":
        profile = profiling.profile(version, dataset, seen)
        after = profile.after
        for name, value in profile.fields.items():
            setattr(status, name, value)
        state, ready = _verdict(version, status, profile, dataset, ready)
    status.state = state
    stuck = ready.message if state in (QUARANTINED, REFUSED, INVALID) else ""
    conditions = (
        ready,
        *((profile.condition,) if profile else ()),
        *health(done=ready.status is True, failed=stuck, progress=ready.message),
    )
    merged = merge(version.status.get("conditions") or [], conditions, version.generation, now)
    document = {name: value for name, value in statuses.dumped(status).items() if value not in ("", {}, [])}
    return Plan(
        {**document, "conditions": merged},
        apply=profile.apply if profile else (),
        events=_events(version, ready, profile),
        after=after,
    )


def _artifact(version: Version, platform: Platform) -> Artifact:
    return Artifact(version.namespace, version.spec.uri, version.spec.digest, platform, "the pods", "read")


def _question(artifact: Artifact) -> CheckData:
    return CheckData(artifact.uri, artifact.question.hashes)


def _type(facts: DataFacts, dataset: DatasetSpec | None, *, is_folder: bool) -> str:
    """Return the kind of data: that of the Dataset, or by the names of the files."""
    if dataset is not None and dataset.type is not None:
        return dataset.type
    return "table" if facts.is_table else "folder" if is_folder else "file"


def _is_settled(version: Version) -> bool:
    """True if the artifact was verified once: neither its uri nor its digest can change since."""
    ready = (find(version.status, "Ready") or {}).get("reason")
    return ready in (FOUND.reason, profiling.PROFILING, profiling.FAILED, *BROKEN)


def _dataset(version: Version, seen: Seen) -> DatasetSpec | None:
    """Return the spec of the Dataset; None if it does not exist or is invalid."""
    name = version.spec.dataset
    manifest: Manifest | None = next((d for d in seen.others("Dataset") if d["metadata"]["name"] == name), None)
    try:
        return DatasetSpec.model_validate(manifest.get("spec") or {}) if manifest else None
    except ValidationError:
        return None


def _verdict(
    version: Version, status: DatasetVersionStatus, profile: Profile, dataset: DatasetSpec | None, ready: Condition
) -> tuple[str, Condition]:
    """Return the state of a table whose artifact is verified.

    Without requirements it is ready before its profile is there. A version that was ready once, or was found to break
    a requirement, stays so, whatever is changed in its Dataset.
    """
    former = find(version.status, "Ready") or {}
    if former.get("reason") in BROKEN:
        reason = str(former["reason"])
        return reason, Condition("Ready", False, reason, str(former.get("message", "")))
    if is_true(version.status, "Ready") or not profiling.has_requirements(dataset):
        return READY, ready
    if not profile.is_done:
        return profiling.PROFILING, Condition("Ready", False, profile.condition.reason, profile.condition.message)
    if not status.violations:
        return READY, ready
    assert dataset is not None
    first = status.violations[0]
    more = f", and {len(status.violations) - 1} more in status.violations" if len(status.violations) > 1 else ""
    example = f", such as {first.examples[0]}" if first.examples else ""
    rows = f"{first.rows} rows break it{example}" if first.rows else "the version breaks it"
    message = f"{first.rule}: {rows}{more}; correct the data, or the schema of Dataset {version.spec.dataset}"
    state = QUARANTINED if dataset.on_violation == "Quarantine" else REFUSED
    return state, Condition("Ready", False, state, message)


def _events(version: Version, ready: Condition, profile: Profile | None) -> tuple[Event, ...]:
    """Return an event for each condition with another reason than before."""
    events = []
    for condition in (ready, *((profile.condition,) if profile else ())):
        before = (find(version.status, condition.type) or {}).get("reason")
        if condition.reason not in (before, profiling.PROFILING):
            events.append(Event(condition.reason, condition.message, "Normal" if condition.status else "Warning"))
    return tuple(events)
