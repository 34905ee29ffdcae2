"""Refreshes of a Dataset with a source: when to look at it, the TrainingJob that imports, and the version it makes.

The storage is asked first for a source that lies there: without a change no pod starts. The status goes first, so each
look has one import, whose name has its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from ultramarine.resources.base import KeySelector
from ultramarine.resources.cron import next_time, times_until
from ultramarine.resources.dataset import MAX_QUERY, DatasetSpec, DatasetStatus, RefreshStatus
from ultramarine_contract import dataset_records as records
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.dataset_records import ImportSummary, ImportTask
from ultramarine_contract.errors import StorageError
from ultramarine_contract.lineage import query_without_secrets, without_secrets
from ultramarine_contract.meta import GROUP, Manifest, content_hash

from ...runs.dataset_registration import Data, registered, to_register
from ...runs.registration import Maker
from ...shared import statuses
from ...shared.artifacts import Artifact
from ...shared.conditions import Condition, find, parse_timestamp, timestamp
from ...shared.plan import Obj, Seen
from ...shared.questions import Question, ReadMark, ReadText
from .jobs import data_job, job_name, own_job

Dataset = Obj[DatasetSpec]
CONDITION = "Refreshed"
LOOKING, IMPORTING, IMPORTED, UNCHANGED, FAILED = "Looking", "Importing", "Imported", "Unchanged", "Failed"
LABEL_DATASET_UID = f"{GROUP}/dataset-uid"
SOURCE = "source"  # the input with files of the storage
LOOK_AGAIN = timedelta(seconds=30)


@dataclass(frozen=True)
class Refresh:
    """The next status, the condition Refreshed, what to make, the next scheduled time, and when to look again."""

    status: RefreshStatus
    condition: Condition
    apply: tuple[Manifest, ...] = ()
    create: tuple[Manifest, ...] = ()
    next_time: datetime | None = None
    after: timedelta | None = None


def questions(dataset: Dataset, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage whether a source in it has changed, or for the summary of an import."""
    status = _former(dataset)
    if dataset.spec.source is None:
        return ()
    if status.outcome == LOOKING and (uri := _own_uri(dataset, seen)):
        return (ReadMark(uri),)
    question = _summary_question(own_job(dataset, _work(status), seen)) if status.outcome == IMPORTING else None
    return (question,) if question else ()


def refresh(dataset: Dataset, seen: Seen, now: datetime) -> Refresh | None:
    """Return the next step; None for a Dataset without a source."""
    if dataset.spec.source is None:
        return None
    status, coming = _former(dataset), _next_time(dataset, now)
    if status.outcome == LOOKING:
        step = _looked(dataset, status, seen)
    elif status.outcome == IMPORTING:
        step = _imported(dataset, status, seen)
    elif (due := _due(dataset, status, now)) is not None:
        status = _begun(status, timestamp(due), _source_hash(dataset))
        step = _looking(dataset, status, seen)
    else:
        former = find(dataset.status, CONDITION) or {}
        is_well = status.outcome in (IMPORTED, UNCHANGED)
        step = Refresh(status, Condition(CONDITION, is_well, status.outcome, str(former.get("message", ""))))
    waits = [wait for wait in (step.after, coming - now if coming else None) if wait is not None]
    return Refresh(step.status, step.condition, step.apply, step.create, coming, min(waits, default=None))


def _begun(status: RefreshStatus, time: str, source: str) -> RefreshStatus:
    """Return the status of a look that begins; the marks of another source are forgotten."""
    marks = {} if status.source == source else {"etag": "", "watermark": ""}
    return status.model_copy(update={"time": time, "source": source, **marks})


def _former(dataset: Dataset) -> RefreshStatus:
    without = dataset.status.keys() - {"refresh"}
    return statuses.former(dataset, DatasetStatus, without).refresh or RefreshStatus()


def _source_hash(dataset: Dataset) -> str:
    assert dataset.spec.source is not None
    return content_hash(dataset.spec.source.model_dump(mode="json"))[:16]


def _work(status: RefreshStatus) -> str:
    return f"import-{status.number}"


def _own_uri(dataset: Dataset, seen: Seen) -> str:
    """Return the source's URI if the operator may look at it for the namespace; empty for any other source."""
    uri = dataset.spec.source.uri if dataset.spec.source else None
    return "" if not uri or Artifact(dataset.namespace, uri, "", seen.platform).is_foreign else uri


# ---- Times


def _next_time(dataset: Dataset, now: datetime) -> datetime | None:
    refresh = dataset.spec.refresh
    return None if refresh is None or refresh.suspend else next_time(refresh.cron, refresh.time_zone, now)


def _due(dataset: Dataset, status: RefreshStatus, now: datetime) -> datetime | None:
    """Return the time of the look that is due; of several missed ones the last. A new source is looked at at once."""
    if not status.time or status.source != _source_hash(dataset):
        return now
    refresh = dataset.spec.refresh
    if refresh is None or refresh.suspend:
        return None
    last = next(times_until(refresh.cron, refresh.time_zone, now), None)
    return last if last is not None and parse_timestamp(status.time) < last else None


# ---- Steps


def _looking(dataset: Dataset, status: RefreshStatus, seen: Seen) -> Refresh:
    """Begin a look: ask the storage first, if the source lies there."""
    if not _own_uri(dataset, seen):
        return _importing(dataset, status, "", seen)
    status = status.model_copy(update={"outcome": LOOKING})
    message = f"the storage is asked whether {_own_uri(dataset, seen)} has changed"
    return Refresh(status, Condition(CONDITION, False, LOOKING, message), after=timedelta(0))


def _looked(dataset: Dataset, status: RefreshStatus, seen: Seen) -> Refresh:
    uri = _own_uri(dataset, seen)
    answer = seen.answers.get(ReadMark(uri)) if uri else ""
    if isinstance(answer, StorageError):
        return Refresh(status, Condition(CONDITION, False, answer.reason, answer.message), after=LOOK_AGAIN)
    if not isinstance(answer, str):
        return Refresh(status, Condition(CONDITION, False, LOOKING, f"the storage is asked whether {uri} has changed"))
    if answer and answer == status.etag:
        return _unchanged(status)
    return _importing(dataset, status, answer, seen)


def _unchanged(status: RefreshStatus) -> Refresh:
    done = status.model_copy(update={"outcome": UNCHANGED})
    return Refresh(done, Condition(CONDITION, True, UNCHANGED, "the source has not changed"))


def _importing(dataset: Dataset, status: RefreshStatus, mark: str, seen: Seen) -> Refresh:
    """Begin an import; the status has its number before the TrainingJob is made."""
    etag = mark or status.etag
    update = {"outcome": IMPORTING, "number": status.number + 1, "etag": etag}
    status = status.model_copy(update=update)
    message = f"TrainingJob {job_name(dataset.name, _work(status))} imports the source"
    return Refresh(status, Condition(CONDITION, False, IMPORTING, message), after=timedelta(0))


def _imported(dataset: Dataset, status: RefreshStatus, seen: Seen) -> Refresh:
    name = job_name(dataset.name, _work(status))
    at_work = Condition(CONDITION, False, IMPORTING, f"TrainingJob {name} imports the source")
    job = own_job(dataset, _work(status), seen)
    if job is None:
        return Refresh(status, at_work, apply=(_job(dataset, status, seen),))
    question = _summary_question(job)
    if question is None:
        return _unfinished(job, status, at_work)
    answer = seen.answers.get(question)
    if isinstance(answer, StorageError):
        message = f"the summary of TrainingJob {name} cannot be read: {answer.message}"
        return Refresh(status, Condition(CONDITION, False, answer.reason, message), after=LOOK_AGAIN)
    if not isinstance(answer, str):
        return Refresh(status, at_work)
    try:
        summary = ImportSummary.from_json(answer)
    except ValueError as error:
        return _failed(status, f"{question.uri} is {error}")
    return _finished(dataset, status, job, summary, seen)


def _unfinished(job: Manifest, status: RefreshStatus, at_work: Condition) -> Refresh:
    document, name = job.get("status") or {}, job["metadata"]["name"]
    failure = find(document, "Failed") or {}
    if failure.get("status") == "True":
        tail = str((document.get("failure") or {}).get("tail") or "").strip().splitlines()
        return _failed(status, f"TrainingJob {name} failed: {tail[-1] if tail else failure.get('message')}")
    running = find(document, "Running") or {}
    if running.get("status") == "False" and running.get("message"):
        at_work = Condition(CONDITION, False, IMPORTING, f"TrainingJob {name}: {running['message']}")
    return Refresh(status, at_work)


def _failed(status: RefreshStatus, message: str) -> Refresh:
    # Without the mark, the next look imports again.
    done = status.model_copy(update={"outcome": FAILED, "etag": ""})
    return Refresh(done, Condition(CONDITION, False, FAILED, f"{message}; the next refresh tries again"))


def _finished(dataset: Dataset, status: RefreshStatus, job: Manifest, summary: ImportSummary, seen: Seen) -> Refresh:
    """Register what was imported, and remember the marks of the source."""
    update = {"etag": summary.etag[:1024], "watermark": summary.watermark[:256]}
    output = (job["status"].get("outputs") or {}).get(records.DATA) or {}
    if not summary.changed or not output:
        return _unchanged(status.model_copy(update=update))
    record = OutputRecord(str(output["uri"]), str(output["digest"]), int(output.get("bytes") or 0))
    lineage: Manifest = {"trainingJob": job["metadata"]["name"], "output": records.DATA, **origin(job)}
    if summary.watermark:
        lineage["watermark"] = summary.watermark[:256]
    maker = Maker(dataset.namespace, LABEL_DATASET_UID, dataset.uid, seen.platform.requester(dataset.manifest))
    data = [Data(job["metadata"]["name"], dataset.name, record, lineage)]
    seen = replace(seen, related=(*seen.related, dataset.manifest))
    if create := to_register(maker, data, seen):
        message = f"registering {create[-1]['metadata']['name']}"
        return Refresh(status, Condition(CONDITION, False, IMPORTING, message), create=create, after=timedelta(0))
    version = registered(maker, data, seen)[job["metadata"]["name"]]
    done = status.model_copy(update={**update, "outcome": IMPORTED})
    return Refresh(done, Condition(CONDITION, True, IMPORTED, f"{version} has the content of the source"))


def _summary_question(job: Manifest | None) -> ReadText | None:
    status = (job or {}).get("status") or {}
    output = (status.get("outputs") or {}).get(records.FACTS) or {}
    is_stored = status.get("state") == "Succeeded" and isinstance(output, dict) and output.get("uri")
    return ReadText(f"{output['uri']}{records.SUMMARY_NAME}") if is_stored else None


def origin(job: Manifest) -> Manifest:
    """Return source and query of an import, without what may be secret: the Dataset may have another one by now."""
    spec = job["spec"]
    try:
        task = ImportTask.from_json(spec["source"]["inline"][records.TASK_NAME])
    except (KeyError, TypeError, ValueError):
        return {}
    uri = str(((spec.get("inputs") or {}).get(SOURCE) or {}).get("uri") or "")
    if task.query:
        source = f"query {content_hash(task.query)[:16]} on {uri or 'PostgreSQL'}"
        return {"source": source, "query": query_without_secrets(task.query)[:MAX_QUERY]}
    return {"source": without_secrets(task.url)[:2048] or uri}


def _job(dataset: Dataset, status: RefreshStatus, seen: Seen) -> Manifest:
    source = dataset.spec.source
    assert source is not None
    marks: Mapping[str, Any] = {"etag": status.etag, "watermark": status.watermark}
    uri, secret = source.uri, None
    if source.sql is not None:
        uri, secret = source.sql.uri, source.sql.connection_secret_ref
        task = ImportTask(
            folder=SOURCE if uri else "",
            query=source.sql.query,
            partition_by=source.sql.partition_by or "",
            watermark_column=source.sql.watermark or "",
            timeout_seconds=source.sql.timeout_seconds,
            **marks,
        )
    elif source.https is not None:
        secret = source.https.token_secret_ref
        task = ImportTask(url=source.https.url, **marks)
    else:
        task = ImportTask(folder=SOURCE, **marks)
    return data_job(
        dataset,
        _work(status),
        task.to_json(),
        seen.platform,
        inputs={SOURCE: {"uri": uri}} if uri else None,
        outputs={records.DATA: {"optional": True}, records.FACTS: {"optional": False}},
        resources=dataset.spec.resources,
        env=(_secret(secret),) if secret else (),
    )


def _secret(selector: KeySelector) -> Manifest:
    reference = {"name": selector.name, "key": selector.key}
    return {"name": records.PLACE_OF_SECRET, "valueFrom": {"secretKeyRef": reference}}
