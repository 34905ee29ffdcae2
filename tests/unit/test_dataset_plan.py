"""Plans of Datasets and their versions: the artifact, the profile and the verdict, retention, users and refreshes."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from builders import condition
from pydantic import ValidationError
from ultramarine.resources.dataset import DatasetPin
from ultramarine.resources.dataset_versions import NotReady
from ultramarine.resources.trainingjob import TrainingJobSpec
from ultramarine_contract.dataset_records import (
    ColumnFacts,
    ImportSummary,
    ImportTask,
    ProfileSummary,
    ProfileTask,
    ViolationFacts,
)
from ultramarine_contract.errors import StorageError
from ultramarine_contract.meta import Manifest
from ultramarine_operator.kinds.dataset import DATASET_KIND, refreshing
from ultramarine_operator.kinds.dataset.jobs import job_name
from ultramarine_operator.kinds.dataset.plan import plan_dataset
from ultramarine_operator.kinds.dataset.testing import stored_dataset, stored_version
from ultramarine_operator.kinds.dataset.version import plan_version, questions_version
from ultramarine_operator.kinds.pipeline import RUN_KIND
from ultramarine_operator.kinds.trainingjob.plan import plan as plan_job
from ultramarine_operator.shared.conditions import timestamp
from ultramarine_operator.shared.datasets import pinned_by, resolve
from ultramarine_operator.shared.plan import Obj, Plan
from ultramarine_operator.shared.questions import CheckData, DataFacts, ReadMark, ReadText
from ultramarine_operator.shared.testing import DIGEST, NOW, child, seen, stored

ASK = CheckData("s3://lake/churn/1/")
FACTS = {ASK: DataFacts(DIGEST, 1000, 3, True)}
PLACE = "s3://lake/team-a/trainingjobs/churn-1-profile/u/profile/0123456789abcdef/"
SUMMARY = ReadText(f"{PLACE}summary.json")
SCHEMA: Manifest = {"columns": [{"name": "age", "type": "int64", "nullable": False}]}


def version(number: int, *, ready: bool = True, state: str = "", **spec: Any) -> Manifest:
    """A version as the API server returns it."""
    word = "True" if ready else "False"
    status = {
        "state": state or ("Ready" if ready else "Waiting"),
        "conditions": [{"type": "Ready", "status": word, "reason": "ArtifactFound", "message": "stored"}],
    }
    return stored_version(number, status, **spec).manifest


def run(name: str, reference: str, state: str = "Running", pin: str = "") -> Manifest:
    """A TrainingJob that reads a version."""
    pins = {"data": {"version": pin, "uri": "s3://lake/churn/1/", "digest": DIGEST}} if pin else {}
    spec = {"command": ["true"], "inputs": {"data": {"dataset": reference}}}
    return stored("TrainingJob", name, spec, {"state": state, "datasets": pins})


def settled(got: Plan, **spec: Any) -> Obj[Any]:
    """The version churn-1 with the status of a plan."""
    return stored_version(1, got.status, **spec)


def profile_job(owner: Obj[Any], state: str = "Succeeded", **status: Any) -> Manifest:
    """The TrainingJob that profiles a version, as it ended."""
    outputs = {"profile": {"uri": PLACE, "digest": DIGEST, "bytes": 10}} if state == "Succeeded" else {}
    return child("TrainingJob", "churn-1-profile", owner, status={"state": state, "outputs": outputs, **status})


# ---- Versions


def test_a_table_without_requirements_is_ready_before_its_profile():
    """The storage's answer makes it ready; its TrainingJob follows in the background."""
    assert questions_version(stored_version(), seen()) == (ASK,)
    got = plan_version(stored_version(), seen(answers=FACTS), NOW)

    assert (got.status["state"], got.status["type"]) == ("Ready", "table")
    assert (got.status["files"], got.status["bytes"]) == (3, 1000)
    (job,) = got.apply
    assert job["metadata"]["name"] == "churn-1-profile"
    assert job["spec"]["inputs"] == {"data": {"uri": "s3://lake/churn/1/", "digest": DIGEST}}
    task = ProfileTask.from_json(job["spec"]["source"]["inline"]["task.json"])
    assert (task.title, task.columns) == ("churn@1", ())
    assert condition(got, "Profiled")["reason"] == "Profiling"


def test_files_that_are_no_table_get_no_profile():
    """The names of the files decide, unless the Dataset does."""
    images = {ASK: DataFacts(DIGEST, 1000, 3, False)}
    got = plan_version(stored_version(), seen(answers=images), NOW)
    assert (got.status["type"], got.apply) == ("folder", ())

    owner = stored_dataset(type="folder").manifest
    got = plan_version(stored_version(), seen(answers=FACTS, related=(owner,)), NOW)
    assert (got.status["type"], got.apply) == ("folder", ())


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        (None, "Waiting", "Checking"),
        (StorageError("gone", "ObjectNotFound"), "Waiting", "ObjectNotFound"),
        (DataFacts("sha256:" + "b" * 64, 1), "Invalid", "DigestMismatch"),
    ],
)
def test_a_version_is_not_ready_before_its_files_are_right(answer, state, reason):
    """An absent answer, an absent artifact and another content each say so."""
    got = plan_version(stored_version(), seen(answers={ASK: answer}), NOW)
    assert (got.status["state"], condition(got, "Ready")["reason"]) == (state, reason)


@pytest.mark.parametrize(("on_violation", "state"), [("Quarantine", "Quarantined"), ("Refuse", "Refused")])
def test_a_version_that_breaks_a_requirement_is_not_ready(on_violation, state):
    """It waits for its profile first; the verdict has examples, and stays whatever becomes of the Dataset."""
    owner = stored_dataset(schema=SCHEMA, onViolation=on_violation).manifest
    waiting = plan_version(stored_version(), seen(answers=FACTS, related=(owner,)), NOW)
    assert (waiting.status["state"], condition(waiting, "Ready")["reason"]) == ("Profiling", "Profiling")

    obj = settled(waiting)
    job = profile_job(obj)
    assert questions_version(obj, seen(job, related=(owner,))) == (SUMMARY,)
    broken = ViolationFacts("age must not be missing", "age", 2, ('row 3: {"age": null}',))
    summary = ProfileSummary("csv", 10, 1, (ColumnFacts("age", "int64", 2),), (broken,))
    got = plan_version(obj, seen(job, related=(owner,), answers={SUMMARY: summary.to_json()}), NOW)

    assert got.status["state"] == state
    message = condition(got, "Ready")["message"]
    assert 'age must not be missing: 2 rows break it, such as row 3: {"age": null}' in message
    assert got.status["violations"][0]["examples"] == ['row 3: {"age": null}']
    assert got.status["profile"]["uri"] == PLACE
    assert [event.reason for event in got.events] == [state, "Profiled"]

    loose = stored_dataset().manifest
    later = plan_version(settled(got), seen(related=(loose,)), NOW)
    assert (later.status["state"], later.apply) == (state, ())


def test_a_version_that_meets_the_requirements_becomes_ready():
    """A later schema does not take that back."""
    owner = stored_dataset(schema=SCHEMA).manifest
    obj = settled(plan_version(stored_version(), seen(answers=FACTS, related=(owner,)), NOW))
    summary = ProfileSummary("csv", 10, 1, (ColumnFacts("age", "int64"),)).to_json()
    got = plan_version(obj, seen(profile_job(obj), related=(owner,), answers={SUMMARY: summary}), NOW)

    assert (got.status["state"], got.status["rows"], got.status["columnCount"]) == ("Ready", 10, 1)
    assert got.status["columns"] == [{"name": "age", "type": "int64", "nulls": 0}]
    stricter = stored_dataset(expectations=[{"name": "x", "condition": "false"}]).manifest
    assert plan_version(settled(got), seen(related=(stricter,)), NOW).status["state"] == "Ready"


def test_a_profile_is_read_when_its_job_has_ended():
    """The mirror gives an outline of such a child, without outputs; the whole object is looked up."""
    obj = settled(plan_version(stored_version(), seen(answers=FACTS), NOW))
    whole = {"spec": {}, **profile_job(obj)}
    outline = {"kind": whole["kind"], "metadata": whole["metadata"], "status": {"state": "Succeeded"}}

    assert questions_version(obj, seen(outline, look=lambda kind, name: whole)) == (SUMMARY,)


def test_a_profile_that_fails_says_how_to_repeat_it():
    """With requirements the version stays unready; deleting the TrainingJob makes another."""
    owner = stored_dataset(schema=SCHEMA).manifest
    obj = settled(plan_version(stored_version(), seen(answers=FACTS, related=(owner,)), NOW))
    failed = {"type": "Failed", "status": "True", "reason": "OOMKilled", "message": "it exceeded its memory"}
    job = profile_job(obj, "Failed", conditions=[failed])
    got = plan_version(obj, seen(job, related=(owner,)), NOW)

    assert condition(got, "Ready")["reason"] == "ProfileFailed"
    assert "it exceeded its memory; delete it to try again" in condition(got, "Profiled")["message"]
    again = plan_version(settled(got), seen(related=(owner,)), NOW)
    assert [manifest["metadata"]["name"] for manifest in again.apply] == ["churn-1-profile"]


def test_long_names_of_jobs_are_cut_without_a_clash():
    """A TrainingJob's name has at most 40 characters; two long names of versions stay apart."""
    names = {job_name(f"{'a' * 38}-{number}", "profile") for number in (1, 2)}
    assert len(names) == 2
    assert all(len(name) <= 40 for name in names)


# ---- References


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("churn@latest", "churn-2"),
        ("churn@1", "churn-1"),
        ("churn@golden", "churn-1"),
        ("churn@4", "churn-4"),  # quarantined, and named by its number
    ],
)
def test_a_reference_leads_to_a_version(reference, expected):
    """latest is the newest ready one; a number also leads to a quarantined one."""
    owner = stored_dataset(aliases={"golden": "1"}).manifest
    versions = (version(1), version(2), version(3, ready=False), version(4, ready=False, state="Quarantined"))
    got = resolve(reference, seen(related=(owner, *versions)))
    assert isinstance(got, DatasetPin)
    assert got.version == expected


@pytest.mark.parametrize(
    ("reference", "words", "final"),
    [
        ("churn@bad", "DatasetVersion churn-4 is not ready", False),
        ("churn@nosuch", "has no alias nosuch (it has: bad)", False),
        ("churn@9", "DatasetVersion churn-9 does not exist (there are: 5, 4)", False),
        ("churn@latest", "no version of Dataset churn is ready", False),
        ("other@latest", "data put FILE --register other", False),
        ("other@golden", "Dataset other does not exist", False),
        ("churn@5", "DatasetVersion churn-5 is not ready", True),
    ],
)
def test_a_reference_without_a_version_says_why(reference, words, final):
    """Only a version that can never be read ends the wait."""
    owner = stored_dataset(aliases={"bad": "4"}).manifest
    versions = (version(4, ready=False, state="Quarantined"), version(5, ready=False, state="Refused"))
    got = resolve(reference, seen(related=(owner, *versions)))
    assert isinstance(got, NotReady)
    assert words in got.message
    assert got.is_final is final


# ---- Datasets


def test_versions_are_counted_and_aliases_checked():
    """An alias to a missing version makes the Dataset unready, with the numbers that exist."""
    versions = (version(1), version(2), version(3, ready=False))
    got = plan_dataset(stored_dataset(aliases={"golden": 1}), seen(related=versions), NOW)
    assert (got.status["versions"], got.status["latestVersion"], got.status["latestReadyVersion"]) == (3, "3", "2")
    assert got.status["inUse"] == {"churn-1": "alias golden"}

    got = plan_dataset(stored_dataset(aliases={"golden": "9"}), seen(related=versions), NOW)
    assert "golden -> 9 (there are: 3, 2, 1)" in condition(got, "Ready")["message"]


def test_runs_that_read_a_version_are_named_until_they_end():
    """A run counts for the version in its status, or for the Dataset before it has one."""
    runs = (
        run("one", "churn@latest", pin="churn-2"),
        run("two", "churn@golden", state="Pending"),
        run("over", "churn@1", state="Succeeded", pin="churn-1"),
        run("other", "clean@1", pin="clean-1"),
    )
    got = plan_dataset(stored_dataset(aliases={"golden": "2"}), seen(related=(version(2), *runs)), NOW)

    assert got.status["inUse"] == {"churn": "TrainingJob two", "churn-2": "TrainingJob one, alias golden"}
    assert got.after == timedelta(seconds=30)


def pipeline_run(name: str, *pins: str, state: str = "Running") -> Manifest:
    """A PipelineRun with a step for the partitions of each version; that of an empty pin waits for one."""
    steps = [
        {"name": f"s{number}", "partitions": {"dataset": "churn@latest", "version": pin}}
        for number, pin in enumerate(pins)
    ]
    other = {"name": "other", "partitions": {"dataset": "clean@1", "version": "clean-1"}}
    return stored("PipelineRun", name, {"pipeline": "nightly"}, {"state": state, "steps": [*steps, other]})


def test_a_pipeline_run_protects_the_versions_of_its_pins():
    """Retention spares them until the run is deleted, and the refusal of a delete names it."""
    versions = tuple(version(number) for number in range(1, 5))
    runs = (
        pipeline_run("going", "churn-1", "churn-1", ""),
        pipeline_run("ended", "churn-2", "", state="Failed"),
        run("one", "churn@1", pin="churn-1"),
    )
    owner = stored_dataset(retention={"versions": 1})
    got = plan_dataset(owner, seen(related=(*versions, *runs)), NOW)
    assert got.status["inUse"] == {
        "churn": "PipelineRun going",
        "churn-1": "TrainingJob one, PipelineRun going",
        "churn-2": "PipelineRun ended",
    }
    assert [ref.name for ref in got.delete] == ["churn-3"]

    kept = plan_dataset(owner, seen(related=(*versions, runs[1])), NOW)
    assert (kept.status["inUse"], kept.after) == ({"churn-2": "PipelineRun ended"}, None)


@pytest.mark.parametrize(
    ("state", "users"), [("Running", {"churn": ["PipelineRun a"], "churn-1": ["PipelineRun a"]}), ("Succeeded", {})]
)
def test_a_pipeline_run_protects_the_versions_that_its_steps_will_read(state: str, users: Manifest):
    """From its begin to its end; then the records of its jobs say what they have read."""
    datasets = [{"reference": "churn@golden", "version": "churn-1"}, {"reference": "churn@latest"}]
    other = {"reference": "clean@1", "version": "clean-1"}
    made = stored("PipelineRun", "a", {"pipeline": "nightly"}, {"state": state, "datasets": [*datasets, other]})
    assert pinned_by("churn", [made]) == users
    assert RUN_KIND.topics(made) >= {"datasets/churn", "datasets/clean"}  # so that the Dataset sees the run's end


def test_a_dataset_sees_the_pins_of_pipeline_runs():
    """The run has the topic of the Dataset, whose plan is made again at each change of the run."""
    topics = RUN_KIND.topics(pipeline_run("ended", "churn-2", state="Succeeded"))
    assert topics >= DATASET_KIND.topics(stored_dataset().manifest)
    assert RUN_KIND.resource in DATASET_KIND.related
    assert RUN_KIND.resource in DATASET_KIND.rung_by


def test_retention_spares_what_is_named_read_or_newest():
    """Older versions go; those that the status still names as used wait for the next pass."""
    versions = tuple(version(number) for number in range(1, 7))
    related = (*versions, run("one", "churn@2", pin="churn-2"))
    status = {"inUse": {"churn-1": "TrainingJob that has just ended"}}
    owner = stored_dataset(status, retention={"versions": 2}, aliases={"golden": "3"})
    got = plan_dataset(owner, seen(related=related), NOW)

    assert [ref.name for ref in got.delete] == ["churn-4"]
    assert got.events[0].message == "deleted by spec.retention: churn-4"


def test_retention_by_age_keeps_the_newest_ready_version():
    """The plan looks again when the next version is too old."""
    versions = tuple(version(number) for number in (1, 2, 3))
    versions[0]["metadata"]["creationTimestamp"] = timestamp(NOW - timedelta(days=8))
    versions[1]["metadata"]["creationTimestamp"] = timestamp(NOW - timedelta(days=6))
    versions[2]["metadata"]["creationTimestamp"] = timestamp(NOW - timedelta(days=9))
    got = plan_dataset(stored_dataset(retention={"days": 7}), seen(related=versions), NOW)

    assert [ref.name for ref in got.delete] == ["churn-1"]
    assert got.after == timedelta(days=1)


# ---- Refreshes

FILE = "s3://lake/team-a/raw/churn.csv"
MARK = ReadMark(FILE)
FACTS_PLACE = "s3://lake/team-a/trainingjobs/churn-import-1/u/facts/0123456789abcdef/"
STORED = {"uri": "s3://lake/team-a/trainingjobs/churn-import-1/u/data/0123456789abcdef/", "digest": DIGEST, "bytes": 5}


def passed(spec: Manifest, got: Plan | None = None, *children: Manifest, now: Any = NOW, **more: Any) -> Plan:
    """The next pass over the Dataset churn with a source."""
    return plan_dataset(stored_dataset(got.status if got else None, **spec), seen(*children, **more), now)


def import_job(summary: ImportSummary, spec: Manifest) -> tuple[Manifest, Manifest]:
    """The first TrainingJob of a Dataset, which has imported, and the answer with its summary."""
    outputs = {"facts": {"uri": FACTS_PLACE, "digest": DIGEST}} | ({"data": STORED} if summary.changed else {})
    begun = passed(spec)
    begun = passed(spec, begun, answers={MARK: "a"}) if begun.status["refresh"]["outcome"] == "Looking" else begun
    (made,) = passed(spec, begun).apply
    status = {"state": "Succeeded", "outputs": outputs}
    job = child("TrainingJob", "churn-import-1", stored_dataset(**spec), made["spec"], status)
    return job, {ReadText(f"{FACTS_PLACE}summary.json"): summary.to_json()}


def test_a_source_in_the_storage_is_imported_once_and_then_only_if_its_mark_changes():
    """The storage is asked first; the same mark starts no pod."""
    spec = {"source": {"uri": FILE}, "refresh": {"cron": "0 3 * * *"}}
    looking = passed(spec)
    assert looking.status["refresh"]["outcome"] == "Looking"
    owner = stored_dataset(looking.status, **spec)
    assert refreshing.questions(owner, seen()) == (MARK,)
    begun = passed(spec, looking, answers={MARK: '"a"'})
    assert (begun.status["refresh"]["outcome"], begun.status["refresh"]["number"], begun.apply) == ("Importing", 1, ())
    (job,) = passed(spec, begun).apply
    assert job["metadata"]["name"] == "churn-import-1"
    assert job["spec"]["inputs"] == {"source": {"uri": FILE}}

    over, answers = import_job(ImportSummary(changed=True, etag='"a"'), spec)
    registering = passed(spec, begun, over, answers=answers)
    (made,) = registering.create
    assert made["metadata"]["name"] == "churn-1"
    assert made["spec"]["lineage"] == {"trainingJob": "churn-import-1", "output": "data", "source": FILE}
    first = stored("DatasetVersion", "churn-1", made["spec"], labels=made["metadata"]["labels"])
    done = passed(spec, registering, over, answers=answers, related=(first,))
    assert (done.status["refresh"]["outcome"], done.status["refresh"]["etag"], done.create) == ("Imported", '"a"', ())
    assert done.status["nextRefreshTime"] == "2030-01-02T03:00:00Z"

    tomorrow = NOW + timedelta(hours=16)
    again = passed(spec, done, now=tomorrow, related=(first,))
    assert (again.status["refresh"]["outcome"], again.status["refresh"]["time"]) == ("Looking", "2030-01-02T03:00:00Z")
    unchanged = passed(spec, again, now=tomorrow, related=(first,), answers={MARK: '"a"'})
    assert (unchanged.status["refresh"]["outcome"], unchanged.status["refresh"]["number"]) == ("Unchanged", 1)
    assert unchanged.apply == unchanged.create == ()


def test_an_import_with_the_content_of_the_newest_version_makes_none():
    """The mark has changed, the digest has not."""
    spec = {"source": {"uri": FILE}}
    begun = passed(spec, passed(spec), answers={MARK: '"b"'})
    over, answers = import_job(ImportSummary(changed=True, etag='"b"'), spec)
    newest = version(4, digest=DIGEST)
    got = passed(spec, begun, over, answers=answers, related=(newest,))
    assert (got.status["refresh"]["outcome"], got.create) == ("Imported", ())
    assert "churn-4 has the content" in condition(got, "Refreshed")["message"]


QUERY = {"connectionSecretRef": {"name": "crm", "key": "url"}, "watermark": "updated_at"}


def task_of(job: Manifest) -> ImportTask:
    """The task of an import."""
    return ImportTask.from_json(job["spec"]["source"]["inline"]["task.json"])


def test_a_query_gets_its_secret_and_its_watermark():
    """Only the pod of the import has the address of the database; an unchanged watermark makes no version."""
    spec = {"source": {"sql": {**QUERY, "query": "select 1"}}}
    begun = passed(spec)
    assert begun.status["refresh"]["outcome"] == "Importing"
    (job,) = passed(spec, begun).apply
    reference = {"secretKeyRef": {"name": "crm", "key": "url"}}
    assert job["spec"]["env"] == [{"name": "DATA_SOURCE_SECRET", "valueFrom": reference}]
    assert job["spec"]["outputs"]["data"] == {"optional": True}

    over, answers = import_job(ImportSummary(watermark="2029"), spec)
    done = passed(spec, begun, over, answers=answers)
    assert (done.status["refresh"]["outcome"], done.status["refresh"]["watermark"]) == ("Unchanged", "2029")
    daily = {**spec, "refresh": {"cron": "0 3 * * *"}}
    tomorrow = NOW + timedelta(hours=16)
    (next_job,) = passed(daily, passed(daily, done, now=tomorrow), now=tomorrow).apply
    assert task_of(next_job).watermark == "2029"


@pytest.mark.parametrize(
    ("former", "edited", "marks"),
    [
        ({"sql": {**QUERY, "query": "select 1"}}, {"sql": {**QUERY, "query": "select 2"}}, {"watermark": "2029"}),
        ({"https": {"url": "https://a.org/1.csv"}}, {"https": {"url": "https://b.org/1.csv"}}, {"etag": '"1"'}),
    ],
)
def test_an_edited_source_is_imported_whatever_the_marks_of_the_former_one(former, edited, marks):
    """Another query has other rows up to the same watermark, and another address another file of the same ETag."""
    spec = {"source": former}
    begun = passed(spec)
    over, answers = import_job(ImportSummary(**marks), spec)
    done = passed(spec, begun, over, answers=answers)
    assert {name: done.status["refresh"].get(name) for name in marks} == marks
    changed = {"source": edited}
    (job,) = passed(changed, passed(changed, done)).apply
    assert (task_of(job).watermark, task_of(job).etag) == ("", "")


def test_a_version_has_the_query_that_made_it():
    """The source is that of its import, though the Dataset has another one by now."""
    spec = {"source": {"sql": {**QUERY, "query": "select * from dblink('password=hidden', 'select 1') as t(a int)"}}}
    over, answers = import_job(ImportSummary(changed=True), spec)
    edited = {"source": {"sql": {**QUERY, "query": "select 2"}}}
    (made,) = passed(edited, passed(spec), over, answers=answers).create
    lineage = made["spec"]["lineage"]
    assert lineage["query"] == "select * from dblink('password=***', 'select 1') as t(a int)"
    assert re.fullmatch("query [0-9a-f]{16} on PostgreSQL", lineage["source"])


def test_only_the_container_of_an_import_gets_the_secret():
    """Neither the other containers of its pod, nor the profile, nor another job that reads the version."""
    sql = {"connectionSecretRef": {"name": "crm", "key": "url"}, "query": "select 1"}
    spec = {"source": {"sql": sql}}
    (imports,) = passed(spec, passed(spec)).apply
    job = Obj({**imports, "metadata": {**imports["metadata"], "uid": "u"}}, TrainingJobSpec(**imports["spec"]))
    made = plan_job(job, seen(), NOW).apply
    (pod,) = [manifest["spec"]["template"]["spec"] for manifest in made if manifest["kind"] == "Job"]
    holders = [c["name"] for c in (*pod["containers"], *pod.get("initContainers", ())) if "'crm'" in str(c)]
    assert holders == ["trainer"]
    assert "'crm'" not in str({**pod, "containers": [], "initContainers": []})

    obj = settled(plan_version(stored_version(), seen(answers=FACTS), NOW))
    (profiles,) = plan_version(obj, seen(related=(stored_dataset(**spec).manifest,)), NOW).apply
    assert "crm" not in str(profiles)


def test_a_failed_import_waits_for_the_next_refresh():
    """The condition has the last line of the import, and the mark is forgotten."""
    spec = {"source": {"https": {"url": "https://data.example.com/a.csv?token=secret"}}, "refresh": {"cron": "@hourly"}}
    begun = passed(spec)
    failed = {"type": "Failed", "status": "True", "reason": "CommandFailed", "message": "it failed"}
    status = {"state": "Failed", "conditions": [failed], "failure": {"tail": "a\nHTTP 404\n"}}
    job = child("TrainingJob", "churn-import-1", stored_dataset(**spec), status=status)
    got = passed(spec, begun, job)
    assert got.status["refresh"]["outcome"] == "Failed"
    assert "churn-import-1 failed: HTTP 404; the next refresh tries again" in condition(got, "Refreshed")["message"]
    assert passed(spec, got, now=NOW + timedelta(hours=1)).status["refresh"]["number"] == 2
    (importing,) = passed(spec, begun).apply
    assert refreshing.origin(importing) == {"source": "https://data.example.com/a.csv"}


@pytest.mark.parametrize(
    ("refresh", "words"),
    [
        ({"cron": "61 3 * * *"}, "is not a cron"),
        ({"cron": "0 3 * * *", "timeZone": "Mars/Base"}, "no time zone is named"),
    ],
)
def test_a_wrong_schedule_is_refused(refresh, words):
    """The message names the field, and an example."""
    with pytest.raises(ValidationError, match=words):
        passed({"source": {"uri": FILE}, "refresh": refresh})


def test_a_schedule_follows_its_time_zone():
    """03:00 in Berlin is 01:00 UTC in summer."""
    spec = {"source": {"uri": FILE}, "refresh": {"cron": "0 3 * * *", "timeZone": "Europe/Berlin"}}
    summer = NOW.replace(month=7)
    assert passed(spec, now=summer).status["nextRefreshTime"] == "2030-07-02T01:00:00Z"
