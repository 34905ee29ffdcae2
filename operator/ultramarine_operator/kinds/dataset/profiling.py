"""Profile of a table's version: the TrainingJob that makes it, and its verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from msgspec import structs
from ultramarine.resources import dataset as resources
from ultramarine.resources.dataset import DatasetSpec, DatasetVersionSpec, DatasetVersionStatus
from ultramarine_contract import dataset_records as records
from ultramarine_contract.dataset_records import ColumnTask, ExpectationTask, ProfileSummary, ProfileTask
from ultramarine_contract.errors import StorageError, counted
from ultramarine_contract.meta import Manifest

from ...shared.conditions import Condition, find
from ...shared.plan import Obj, Seen
from ...shared.questions import Question, ReadText
from ...shared.statuses import cut
from .jobs import data_job, job_name, own_job

Version = Obj[DatasetVersionSpec]
CONDITION = "Profiled"
PROFILED, PROFILING, FAILED = "Profiled", "Profiling", "ProfileFailed"
LOOK_AGAIN = timedelta(seconds=30)


@dataclass(frozen=True)
class Profile:
    """The condition Profiled, fields of the status, the Job to make, and when to look again."""

    condition: Condition
    fields: dict[str, Any] = field(default_factory=dict)
    apply: tuple[Manifest, ...] = ()
    after: timedelta | None = None

    @property
    def is_done(self) -> bool:
        return self.condition.status is True


def is_done(version: Version) -> bool:
    """True if the status has the verdict, which nothing changes."""
    return (find(version.status, CONDITION) or {}).get("reason") == PROFILED


def has_requirements(dataset: DatasetSpec | None) -> bool:
    """True if a version can break a requirement of its Dataset."""
    return dataset is not None and bool(dataset.table_schema or dataset.expectations)


def questions(version: Version, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the summary of a profile that is stored."""
    if is_done(version):
        return ()
    question = _question(own_job(version, "profile", seen))
    return (question,) if question else ()


def profile(version: Version, dataset: DatasetSpec | None, seen: Seen) -> Profile:
    """Return the progress of a version whose artifact is verified."""
    if is_done(version):
        former = find(version.status, CONDITION) or {}
        return Profile(Condition(CONDITION, True, PROFILED, str(former.get("message", ""))))
    name = job_name(version.name, "profile")
    at_work = Condition(CONDITION, False, PROFILING, f"TrainingJob {name} reads it and writes its profile")
    job = own_job(version, "profile", seen)
    if job is None:
        return Profile(at_work, apply=(_job(version, dataset, seen),))
    question = _question(job)
    status = job.get("status") or {}
    if question is None:
        running = find(status, "Running") or {}
        failed = find(status, "Failed") or {}
        if failed.get("status") == "True":
            message = f"TrainingJob {name} failed: {failed.get('message')}; delete it to try again"
            return Profile(Condition(CONDITION, False, FAILED, message))
        if running.get("status") == "False" and running.get("message"):
            at_work = Condition(CONDITION, False, PROFILING, f"TrainingJob {name}: {running['message']}")
        return Profile(at_work)
    answer = seen.answers.get(question)
    if isinstance(answer, StorageError):
        message = f"the summary of TrainingJob {name} cannot be read: {answer.message}"
        return Profile(Condition(CONDITION, False, PROFILING, message), after=LOOK_AGAIN)
    if not isinstance(answer, str):
        return Profile(at_work)
    try:
        summary = ProfileSummary.from_json(answer)
    except ValueError as error:
        return Profile(Condition(CONDITION, False, FAILED, f"{question.uri} is {error}; delete TrainingJob {name}"))
    message = f"{counted(summary.rows, 'row')}, {counted(summary.column_count, 'column')}"
    return Profile(Condition(CONDITION, True, PROFILED, message), _fields(summary, status["outputs"]["profile"]))


def _question(job: Manifest | None) -> ReadText | None:
    """Return the question for the summary of a job that has stored its profile; None for any other."""
    status = (job or {}).get("status") or {}
    output = (status.get("outputs") or {}).get(records.PROFILE) or {}
    is_stored = status.get("state") == "Succeeded" and isinstance(output, dict) and output.get("uri")
    return ReadText(f"{output['uri']}{records.SUMMARY_NAME}") if is_stored else None


def _fields(summary: ProfileSummary, output: Manifest) -> dict[str, Any]:
    """Return the fields of the status, cut to their limits."""
    columns = [
        resources.ColumnStatus(**cut(resources.ColumnStatus, name=column.name, type=column.type), nulls=column.nulls)
        for column in summary.columns[: resources.MAX_SHOWN_COLUMNS]
    ]
    violations = [
        resources.Violation(
            **cut(resources.Violation, rule=violation.rule, column=violation.column),
            rows=violation.rows,
            examples=[text[: resources.MAX_EXAMPLE] for text in violation.examples[: resources.MAX_EXAMPLES]],
        )
        for violation in summary.violations[: resources.MAX_VIOLATIONS]
    ]
    profile = cut(resources.ProfileStatus, uri=str(output["uri"]), digest=str(output.get("digest", "")))
    fields = {
        **cut(DatasetVersionStatus, format=summary.format),
        "rows": summary.rows,
        "column_count": summary.column_count,
        "columns": columns,
        "profile": resources.ProfileStatus(**profile),
    }
    return {**fields, "violations": violations} if violations else fields


def _job(version: Version, dataset: DatasetSpec | None, seen: Seen) -> Manifest:
    task = ProfileTask(title=f"{version.spec.dataset}@{version.spec.version}")
    if dataset is not None:
        schema = dataset.table_schema
        task = structs.replace(
            task,
            columns=tuple(ColumnTask(**_given(column)) for column in schema.columns) if schema else (),
            other_columns=schema is None or schema.other_columns == "Allow",
            expectations=tuple(ExpectationTask(**item.model_dump()) for item in dataset.expectations),
        )
    return data_job(
        version,
        "profile",
        task.to_json(),
        seen.platform,
        inputs={records.DATA: {"uri": version.spec.uri, "digest": version.spec.digest}},
        outputs={records.PROFILE: {"optional": False}},
        resources=dataset.resources if dataset else None,
        requested_by=version.spec.lineage.requested_by,
    )


def _given(column: resources.Column) -> dict[str, Any]:
    return {**column.model_dump(exclude_none=True), "values": tuple(column.values)}
