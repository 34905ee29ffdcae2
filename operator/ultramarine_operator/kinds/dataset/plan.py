"""Plan of a Dataset: its versions counted, retired and protected."""

from __future__ import annotations

from datetime import datetime, timedelta

from ultramarine.resources.dataset import MAX_IN_USE, DatasetSpec, DatasetStatus
from ultramarine.resources.dataset_versions import number_of
from ultramarine.resources.model import version_name, version_number
from ultramarine_contract.common import artifact_folder, stored_folder
from ultramarine_contract.errors import listed
from ultramarine_contract.meta import DATASET_VERSION, Manifest, Ref

from ...runs import deleting
from ...shared import statuses
from ...shared.conditions import Condition, find, health, is_true, merge, parse_timestamp, timestamp
from ...shared.datasets import pinned_by, readers_of, versions_of
from ...shared.plan import Event, Obj, Plan, Seen
from . import refreshing
from .refreshing import Refresh

Dataset = Obj[DatasetSpec]
LOOK_AGAIN = timedelta(seconds=30)  # at the runs that read a version: no edit reports their end
MAX_NAMED = 5  # readers of a version


def plan_dataset(dataset: Dataset, seen: Seen, now: datetime) -> Plan:
    """Count the versions, check the aliases, and delete versions that retention gives up."""
    versions = versions_of(dataset.name, seen)
    numbers = [number_of(version) for version in versions]
    ready = [number_of(version) for version in versions if is_true(version.get("status") or {}, "Ready")]
    readers = readers_of(dataset.name, (*seen.others("TrainingJob"), *seen.others("Sweep")))
    users = {version: list(runs) for version, runs in readers.items()}
    for version, runs in pinned_by(dataset.name, seen.others("PipelineRun")).items():
        users.setdefault(version, []).extend(runs)
    series = _series(dataset, versions, users)
    deletion = deleting.deletion(series, seen, now)
    retired, expiry = _retired(dataset, versions, users, now)
    retired = [version for version in retired if deleting.may_go(series, version, seen.platform)]
    latest = max([version_number(dataset.status.get("latestVersion")), *numbers])
    status = DatasetStatus(
        observed_generation=dataset.generation,
        versions=len(numbers) - len(retired),
        latest_version=str(latest) if latest else "",
        latest_ready_version=str(ready[0]) if ready else "",
        aliases=", ".join(f"{alias}={to}" for alias, to in sorted(dataset.spec.aliases.items())),
    )
    if in_use := _in_use(dataset, users):
        status.in_use = in_use
    if deletion.artifacts:
        status.artifacts = [artifact.status for artifact in deletion.artifacts]
    conditions = (*_conditions(dataset, numbers), *deletion.conditions)
    step = refreshing.refresh(dataset, seen, now)
    if step is not None:
        status.refresh = step.status
        if step.next_time is not None:
            status.next_refresh_time = timestamp(step.next_time)
        conditions = (*conditions, step.condition)
    merged = merge(dataset.status.get("conditions") or [], conditions, dataset.generation, now)
    names = ", ".join(sorted(version["metadata"]["name"] for version in retired))
    waits = (LOOK_AGAIN if readers else None, expiry, step.after if step else None, deletion.after)
    return Plan(
        {**statuses.dumped(status), "conditions": merged},
        apply=(*(step.apply if step else ()), *deletion.apply),
        create=step.create if step else (),
        delete=(*deletion.delete, *(Ref.to(DATASET_VERSION, version) for version in retired)),
        absent=deletion.absent,
        events=(
            *((Event("VersionsRetired", f"deleted by spec.retention: {names}"),) if retired else ()),
            *deletion.events,
            *_refreshed(dataset, step),
        ),
        after=min((wait for wait in waits if wait is not None), default=None),
    )


def _series(dataset: Dataset, versions: list[Manifest], users: dict[str, list[str]]) -> deleting.Series:
    """Return the versions of a Dataset, which stay stored while a run uses them."""

    def places(version: Manifest) -> tuple[str, str]:
        profile = (version.get("status") or {}).get("profile") or {}
        return (str(version["spec"]["uri"]), artifact_folder(str(profile.get("uri", ""))))

    def user_of(number: str) -> str:
        runs = users.get(version_name(dataset.name, number)) or []
        return f"used by {listed(runs, MAX_NAMED)}" if runs else ""

    return deleting.Series(dataset, DATASET_VERSION, versions, places, (stored_folder,), user_of)


def _refreshed(dataset: Dataset, step: Refresh | None) -> tuple[Event, ...]:
    """Return an event for a refresh that has ended in another way than the last."""
    former = find(dataset.status, refreshing.CONDITION) or {}
    if step is None or step.condition.reason in (former.get("reason"), refreshing.LOOKING, refreshing.IMPORTING):
        return ()
    kind = "Normal" if step.condition.status else "Warning"
    return (Event(step.condition.reason, step.condition.message, kind),)


def _conditions(dataset: Dataset, numbers: list[int]) -> tuple[Condition, ...]:
    there = set(map(str, numbers))
    broken = {alias: to for alias, to in dataset.spec.aliases.items() if to not in there}
    if not broken:
        return (Condition("Ready", True, "AliasesResolved", f"{len(numbers)} versions"),)
    which = ", ".join(f"{alias} -> {to}" for alias, to in sorted(broken.items()))
    message = f"spec.aliases leads to versions that do not exist: {which} (there are: {listed(numbers, 20) or 'none'})"
    return (Condition("Ready", False, "VersionNotFound", message), *health(done=False, progress=message))


def _in_use(dataset: Dataset, runs: dict[str, list[str]]) -> dict[str, str]:
    """Return the users of each version, runs first; the key of runs without a version yet is the Dataset."""
    users = {version: list(names) for version, names in runs.items()}
    for alias, number in sorted(dataset.spec.aliases.items()):
        users.setdefault(version_name(dataset.name, number), []).append(f"alias {alias}")
    return {name: listed(users[name], MAX_NAMED)[:600] for name in sorted(users)[:MAX_IN_USE]}


def _retired(
    dataset: Dataset, versions: list[Manifest], runs: dict[str, list[str]], now: datetime
) -> tuple[list[Manifest], timedelta | None]:
    """Return the versions that retention gives up, and the time until the next one is too old.

    The newest ready version stays, and so does any that an alias names, a job reads or a PipelineRun is pinned to.
    """
    retention = dataset.spec.retention
    if retention is None:
        return [], None
    ready = [v for v in versions if is_true(v.get("status") or {}, "Ready")]
    # A version that the status still names as used cannot be deleted: the admission policy reads it.
    used = {*runs, *(dataset.status.get("inUse") or {})}
    used |= {version_name(dataset.name, number) for number in dataset.spec.aliases.values()}
    retired, ages = [], []
    for version in versions:
        name = version["metadata"]["name"]
        if (ready and version is ready[0]) or name in used or version["metadata"].get("deletionTimestamp"):
            continue
        younger = sum(number_of(other) > number_of(version) for other in ready)
        left = timedelta.max
        if retention.days is not None:
            created = parse_timestamp(str(version["metadata"].get("creationTimestamp")))
            left = created + timedelta(days=retention.days) - now
        if (retention.versions is not None and younger >= retention.versions) or left <= timedelta():
            retired.append(version)
        elif left < timedelta.max:
            ages.append(left)
    return retired, min(ages, default=None)
