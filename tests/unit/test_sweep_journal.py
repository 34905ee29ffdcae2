"""The journal of a sweep, against a real S3 server: what was appended is there, and only one coordinator appends."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ultramarine_contract.storage import Storage
from ultramarine_sweep.state import journal
from ultramarine_sweep.state.journal import Fenced, Journal, JournalError, Segment
from unit.conftest import eventually, serving_store


@pytest.fixture
def uri(bucket: str) -> str:
    """Where a journal is that has not begun."""
    return f"s3://{bucket}/sweeps/hpo/journal/"


def opened(storage: Storage, uri: str, writer: str = "one") -> Journal:
    """Begin as a new coordinator."""
    return Journal(storage, uri, writer, lambda line: None, waits=(0.01,))


def entries(*numbers: int) -> list[dict[str, Any]]:
    """Records that differ."""
    return [{"kind": "entry", "number": number} for number in numbers]


def test_what_was_appended_is_read_in_its_order(storage: Storage, uri: str) -> None:
    """A coordinator that begins finds all that earlier ones have appended, and adds to it."""
    opened(storage, uri).append(entries(1, 2))
    second = opened(storage, uri, "two")
    second.append(entries(3))

    assert list(second.records) == entries(1, 2)
    assert journal.read(storage, uri) == entries(1, 2, 3)


def test_nothing_is_read_where_no_journal_is(storage: Storage, uri: str) -> None:
    """A prefix without a journal is an empty one, not a fault."""
    assert journal.read(storage, uri) == []


@pytest.mark.parametrize("compactions", [0, 1, 3])
def test_of_two_coordinators_the_late_one_loses(storage: Storage, uri: str, compactions: int) -> None:
    """One that was thought dead writes nothing more, however much its successor has put together and deleted since."""
    late = opened(storage, uri)
    late.append(entries(1))
    successor = opened(storage, uri, "two")
    for i in range(compactions):
        successor.append(entries(10 + i))
        successor.delete(successor.compact(entries(20 + i)))

    with pytest.raises(Fenced):
        late.append(entries(2))

    assert {"kind": "entry", "number": 2} not in journal.read(storage, uri)


def test_many_who_begin_at_once_have_an_order(storage: Storage, uri: str) -> None:
    """Of coordinators that begin in the same moment only the last one goes on."""
    begun: list[Journal] = []
    threads = [threading.Thread(target=lambda n=n: begun.append(opened(storage, uri, f"{n}"))) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    written = 0
    for one in begun:
        try:
            one.append(entries(1))
            written += 1
        except Fenced:
            continue

    assert written == 1
    assert journal.read(storage, uri) == entries(1)


def test_an_answer_that_was_lost_is_no_other_coordinator(storage: Storage, uri: str) -> None:
    """The client tries again when it hears nothing, and then finds the segment that it has written itself."""

    class Deaf(Storage):
        def create(self, uri: str, data: bytes) -> bool:
            super().create(uri, data)
            return super().create(uri, data)

    opened(Deaf(storage.name), uri).append(entries(1))

    assert journal.read(storage, uri) == entries(1)


def test_a_storage_that_cannot_fence_is_told(storage: Storage, uri: str) -> None:
    """A sweep runs on a storage without conditional writes, too, but whoever reads the log knows what is missing."""

    class Old(Storage):
        def create(self, uri: str, data: bytes) -> bool:
            self.write(uri, data)
            return True

    said: list[str] = []
    Journal(storage, uri, "one", said.append)
    assert said == []
    Journal(Old(storage.name), uri, "two", said.append)

    assert "ignores If-None-Match" in said[0]


@pytest.mark.parametrize("deleted", [0, 1, 3])
def test_a_compaction_that_breaks_off_loses_nothing(storage: Storage, uri: str, deleted: int) -> None:
    """Dying after the snapshot, or while old segments are deleted, leaves some that nobody reads; they go next time."""
    first = opened(storage, uri)
    for i in range(5):
        first.append(entries(i))
    superfluous = first.compact(entries(100))
    first.delete(superfluous[:deleted])
    second = opened(storage, uri, "two")
    second.append(entries(6))

    assert journal.read(storage, uri) == entries(100, 6)
    assert set(superfluous[deleted:]) <= set(second.compact(entries(101)))


def test_few_objects_stay_of_a_long_journal(storage: Storage, uri: str) -> None:
    """After a compaction there are the snapshot and the openings."""
    for life in range(2):
        book = opened(storage, uri, f"{life}")
        for i in range(20):
            book.append(entries(i))
        book.delete(book.compact(entries(life)))

    assert len(storage.objects(uri)) == 3


def test_it_becomes_long_by_segments_and_by_bytes(storage: Storage, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot is due after so many segments or as many bytes as the last one has, also of an earlier coordinator."""
    monkeypatch.setattr(journal, "_COMPACT_SEGMENTS", 3)
    book = opened(storage, uri)
    assert not book.is_long
    book.append(entries(1))
    book.append(entries(2))
    assert book.is_long
    assert opened(storage, uri, "two").is_long

    book = opened(storage, uri, "three")
    book.compact(entries(3))
    assert not book.is_long
    book.append([{"text": "x" * (1 << 20)}])
    assert book.is_long


def test_a_damaged_segment_is_told(storage: Storage, uri: str) -> None:
    """No sweep goes on from half of what was known: the segment is named, with what can be done."""
    book = opened(storage, uri)
    book.append(entries(1))
    key = f"{uri}00000002.jsonl"
    storage.write(key, storage.read(key).replace(b'"number":1', b'"number":7'))

    with pytest.raises(JournalError, match=r"segment 2 of the journal .* is damaged: its checksum is another; restore"):
        opened(storage, uri, "two")


def test_a_missing_segment_is_told(storage: Storage, uri: str) -> None:
    """A gap between two numbers is one in the memory."""
    book = opened(storage, uri)
    book.append(entries(1))
    book.append(entries(2))
    storage.delete(f"{uri}00000002.jsonl")

    with pytest.raises(JournalError, match=r"segment 2 of the journal .* is missing"):
        journal.read(storage, uri)


@pytest.mark.parametrize("data", [b"", b"[]\n", b"{}\n", b"null", b'{"segment": 1}\n{}\n', b"\xff\n"])
def test_what_is_no_segment_is_refused(data: bytes) -> None:
    """Anybody's object under a segment's name is told, and does no harm."""
    with pytest.raises(ValueError):
        Segment.from_bytes(1, data)


def test_a_storage_that_is_away_is_waited_for(
    storage_to_come: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator begins, and appends, as soon as the storage answers."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "root")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    storage = Storage(storage_to_come.name, attempts=1)
    said: list[str] = []
    done = threading.Event()

    def begin() -> None:
        Journal(storage, "s3://sweeps/journal/", "one", said.append, waits=(0.05,)).append(entries(1))
        done.set()

    (tmp_path / "sweeps").mkdir()
    threading.Thread(target=begin, daemon=True).start()
    eventually(lambda: bool(said))
    assert not done.is_set()
    with serving_store(tmp_path):
        assert done.wait(60)
        assert journal.read(storage, "s3://sweeps/journal/") == entries(1)

    assert "trying until it answers" in said[0]


def test_reading_bears_a_compaction_beside_it(storage: Storage, uri: str) -> None:
    """Whoever reads while segments are deleted sees the state before or after, never half of one."""
    book = opened(storage, uri)
    ended = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not ended.is_set():
            seen.append(len({record["number"] for record in journal.read(storage, uri)}))

    reader = threading.Thread(target=read)
    reader.start()
    numbers: list[int] = []
    for _ in range(10):
        for _ in range(10):
            numbers.append(len(numbers))
            book.append(entries(numbers[-1]))
        book.delete(book.compact(entries(*numbers)))
    ended.set()
    reader.join()

    assert seen == sorted(seen)
    assert journal.read(storage, uri) == entries(*numbers)


Step = tuple[str, int]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["append", "compact", "restart", "late"]), st.integers(0, 3)), max_size=20))
def test_nothing_is_lost_whatever_happens(storage: Storage, uri: str, steps: list[Step]) -> None:
    """Appends, compactions that delete some or nothing, restarts and coordinators come back: all that was appended is
    read, once and in its order."""
    place = f"{uri}{abs(hash(tuple(steps)))}/"
    book, old, expected = opened(storage, place), [], []
    for i, (what, count) in enumerate(steps):
        if what == "append":
            book.append(entries(i))
            expected.append(i)
        elif what == "compact":
            book.delete(book.compact(entries(*expected))[:count])
        elif what == "restart":
            old.append(book)
            book = opened(storage, place, f"{i}")
            assert list(book.records) == entries(*expected)
        elif old:
            with pytest.raises(Fenced):
                old[count % len(old)].append(entries(-1))

    assert journal.read(storage, place) == entries(*expected)
