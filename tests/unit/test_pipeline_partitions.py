"""Steps that run for each partition of a dataset."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from builders import NOW, kinds_of, seen
from ultramarine_contract.common import ArtifactManifest, FileEntry
from ultramarine_contract.errors import StorageError
from ultramarine_contract.meta import Manifest
from ultramarine_contract.partitions import Partition, partitions_of
from ultramarine_contract.storage import Storage
from ultramarine_operator.kinds.pipeline import RUN_KIND
from ultramarine_operator.kinds.pipeline.plan import plan_run, questions_run
from ultramarine_operator.kinds.pipeline.testing.samples import after, answer, done, run_of
from ultramarine_operator.shared.plan import Plan
from ultramarine_operator.shared.questions import Clients, LookUpStep, Question, ReadPartitions
from ultramarine_operator.shared.testing import DIGEST, stored

JAN = Partition("month=2026-01", (("month", "2026-01"),), f"sha256:{'1' * 64}")
FEB = Partition("month=2026-02", (("month", "2026-02"),), f"sha256:{'2' * 64}")
JOB = {
    "command": ["month", "$(item.values.month)", "$(item.key)"],
    "inputs": {"orders": {"uri": "$(item.uri)", "digest": "$(item.digest)"}},
}


def months(partitions: str = "orders@latest", **fields: Any) -> Manifest:
    """A step for each partition, without the cache."""
    entries = {"partitions": partitions, "parallel": 1}
    return {"name": "months", "cache": False, "forEach": entries, "trainingJob": JOB, **fields}


def version(number: int, state: str = "Ready") -> tuple[Manifest, Manifest]:
    """The Dataset orders, whose newest version has that number and state."""
    place = f"s3://lake/orders/{number}/"
    conditions = [{"type": "Ready", "status": str(state == "Ready"), "message": "its profile is made"}]
    spec = {"dataset": "orders", "version": str(number), "uri": place, "digest": DIGEST}
    ready = {"latestReadyVersion": str(number)} if state == "Ready" else {}
    owner = stored("Dataset", "orders", {}, {"latestVersion": str(number), **ready})
    return owner, stored("DatasetVersion", f"orders-{number}", spec, {"state": state, "conditions": conditions})


def pinned(run: Any, related: tuple[Manifest, ...]) -> Any:
    """The run after the pass that keeps the versions of its datasets."""
    plan = None if run.status else plan_run(run, seen(related=related), NOW)
    return after(run, plan) if plan is not None and "datasets" in plan.status else run


def look(run: Any, *children: Manifest, related: tuple[Manifest, ...] = (), answers: Any = (JAN, FEB)) -> Plan:
    """One pass, in which the storage has these partitions; questions that follow from answers are asked, too.

    The version of the dataset was kept in the pass before.
    """
    run = pinned(run, related)
    replies: dict[Question, Any] = {}
    while missing := questions_run(run, seen(*children, related=related, answers=replies))[len(replies) :]:
        for question in missing:
            replies[question] = answer(question) if isinstance(question, LookUpStep) else answers
    return plan_run(run, seen(*children, related=related, answers=replies), NOW)


def test_each_partition_gets_its_place_its_digest_and_its_key() -> None:
    """A job reads the folder of its partition; the version is pinned, though a newer one becomes ready meanwhile."""
    run = run_of([months()])
    first = look(run, related=version(3))
    (january,) = first.apply
    folder = "s3://lake/orders/3/month=2026-01/"
    assert january["spec"]["inputs"] == {"orders": {"uri": folder, "digest": JAN.digest}}
    assert january["spec"]["command"] == ["month", "2026-01", "month=2026-01"]
    state = first.status["steps"][0]
    pin = {"dataset": "orders@latest", "version": "orders-3", "uri": "s3://lake/orders/3/", "digest": DIGEST}
    assert (state["items"], state["partitions"]) == (2, pin)

    second = look(after(run, first), done(run, january), related=(*version(3), *version(4)))
    assert [made["spec"]["inputs"]["orders"]["uri"] for made in second.apply] == ["s3://lake/orders/3/month=2026-02/"]
    last = look(after(run, second), done(run, january), done(run, second.apply[0]))
    assert last.status["state"] == "Succeeded"
    assert last.status["steps"][0]["partitions"] == pin


def test_the_version_is_pinned_before_the_storage_has_answered() -> None:
    """A newer version that becomes ready meanwhile is not the run's."""
    run = pinned(run_of([months()]), version(3))
    asking = plan_run(run, seen(related=version(3)), NOW)
    assert (asking.apply, asking.status["steps"][0]["partitions"]["version"]) == ((), "orders-3")
    begun = look(after(run, asking), related=(*version(3), *version(4)))
    assert begun.apply[0]["spec"]["inputs"]["orders"]["uri"].startswith("s3://lake/orders/3/")


def test_a_step_waits_for_a_version_and_hears_of_it() -> None:
    """The message says why; the run has the dataset as a topic, so that a ready version wakes it."""
    run = run_of([months()])
    waiting = look(run, related=version(1, "Profiling"))
    state = waiting.status["steps"][0]
    assert (waiting.apply, state["state"]) == ((), "Waiting")
    assert "DatasetVersion orders-1 is not ready: its profile is made" in state["message"]
    waiting_run = after(run, waiting)
    assert "datasets/orders" in RUN_KIND.topics(waiting_run.manifest)
    begun = look(waiting_run, related=version(1))
    assert kinds_of(begun.apply) == ["TrainingJob/nightly-months-0"]
    assert "datasets/orders" in RUN_KIND.topics(after(run, begun).manifest)  # so that the Dataset sees the pin


def test_a_parameter_names_the_dataset() -> None:
    """A run chooses the version; a text that is none fails the step."""
    run = run_of([months("$(params.data)")])
    run.manifest["spec"]["pipelineSpec"]["parameters"] = {"data": {"type": "string", "default": "orders@3"}}
    run = type(run)(run.manifest, type(run.spec).model_validate(run.manifest["spec"]))
    assert look(run, related=version(3)).status["steps"][0]["partitions"]["version"] == "orders-3"
    run.manifest["spec"]["parameters"] = {"data": "orders"}
    run = type(run)(run.manifest, type(run.spec).model_validate(run.manifest["spec"]))
    assert "expected DATASET@VERSION, got 'orders'" in look(run).status["steps"][0]["message"]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ((), "DatasetVersion orders-3 has no folders such as month=2026-01; set partitionBy"),
        (StorageError("a.csv lies outside of the partitions", "PartitionsInvalid"), "a.csv lies outside"),
        ((Partition("city=New York", (("city", "New York"),), DIGEST),), "'city=New York' of orders-3 has a space"),
        ((JAN,) * 1001, "forEach has 1001 entries; use at most 1000"),
    ],
)
def test_unsuitable_partitions_fail_the_step(answers: Any, words: str) -> None:
    """Before any job starts, with the version and what is wrong with it."""
    failed = look(run_of([months()]), related=version(3), answers=answers)
    assert (failed.apply, failed.status["steps"][0]["state"]) == ((), "Failed")
    assert words in failed.status["steps"][0]["message"]


def test_a_partition_with_the_same_files_has_the_same_key() -> None:
    """In another version at another place only the partitions that changed run again."""

    def keys(number: int, *partitions: Partition) -> list[str]:
        entries = {"partitions": "orders@latest"}
        run = run_of([months(cache=True, forEach=entries)])
        begun = look(run, related=version(number), answers=partitions)
        return [state["key"] for state in begun.status["steps"] if "key" in state]

    march = Partition("month=2026-02", FEB.values, f"sha256:{'3' * 64}")
    before, now = keys(3, JAN, FEB), keys(4, JAN, march)
    assert before[0] == now[0]
    assert before[1] != now[1]


def entry(path: str, content: str = "a") -> FileEntry:
    """A file of an artifact."""
    return FileEntry(path, 1, content * 64)


def test_partitions_are_read_from_the_list_of_files() -> None:
    """Nested columns, names as they were written, and digests that other files do not change."""
    files = (
        entry("_SUCCESS"),
        entry("year=2026/city=K%C3%B6ln/0.parquet"),
        entry("year=2026/city=Bonn/deep/0.parquet"),
        entry("year=2026/city=Bonn/1.parquet"),
    )
    bonn, koeln = partitions_of(ArtifactManifest(files, ""))
    assert (bonn.key, bonn.values) == ("year=2026/city=Bonn", (("year", "2026"), ("city", "Bonn")))
    assert koeln.values == (("year", "2026"), ("city", "Köln"))
    alone = ArtifactManifest((entry("1.parquet"), entry("deep/0.parquet")))
    assert bonn.digest == alone.digest
    assert partitions_of(ArtifactManifest((entry("cats/a.png"), entry("a=/b.png")))) == ()


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("a=1/x.csv", "x.csv"), "x.csv lies outside of the partitions"),
        (("a=1/x.csv", "a=2/b=1/x.csv"), "a=1 and a=2/b=1 have different columns"),
        (("a=1/b=1/x", "a=2/c=1/x", "a=3/b=1/x"), "a=1/b=1 and a=2/c=1 have different columns"),
    ],
)
def test_files_that_no_partition_has_are_refused(paths: tuple[str, ...], words: str) -> None:
    """No file of a version is left out in silence."""
    with pytest.raises(StorageError, match=words) as caught:
        partitions_of(ArtifactManifest(tuple(entry(path) for path in paths)))
    assert not caught.value.transient


def test_a_changed_list_of_files_is_noticed(storage: Storage, bucket: str, tmp_path: Any) -> None:
    """The question compares the list of files with the digest of the version."""
    (tmp_path / "data/month=2026-01").mkdir(parents=True)
    (tmp_path / "data/month=2026-01/0.csv").write_text("a")
    record = storage.upload_folder(tmp_path / "data", f"s3://{bucket}/orders/")

    async def unasked(*_: Any) -> Any:
        raise AssertionError

    clients = Clients(storage, lambda *_: (), unasked, unasked)
    (january,) = asyncio.run(ReadPartitions(record.uri, record.digest).ask(clients))
    assert january.key == "month=2026-01"
    with pytest.raises(StorageError, match="has changed since its version was made"):
        asyncio.run(ReadPartitions(record.uri, DIGEST).ask(clients))
