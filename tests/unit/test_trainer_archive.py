"""The archive of a pod's log: all of it, in order, in the storage; or a line that says how much is missing."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from pathlib import Path

import pytest
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage
from ultramarine_trainer.progress.archive import Archive, Limits
from unit.conftest import eventually, serving_store

AT_THE_END = Limits(first_send=600, first_pause=0.05, longest_pause=0.1)


class Pod:
    """A pod that prints, and what the trainer has said in it."""

    def __init__(self, storage: Storage, bucket: str) -> None:
        self.storage = storage
        self.uri = f"s3://{bucket}/runs/churn/logs/churn-0-abcde/"
        self.said: list[str] = []

    def archive(self, limits: Limits = AT_THE_END) -> Archive:
        return Archive(self.storage, self.uri, self.said.append, limits)

    def segments(self, into: Path) -> dict[str, bytes]:
        """Fetch what is stored now, in the order of the names."""
        try:
            entries = self.storage.download(self.uri, into)
        except StorageError as error:
            assert error.reason == "InputNotFound"  # noqa: PT017
            return {}
        return {entry.path: (into / entry.path).read_bytes() for entry in entries}


def close(archive: Archive, seconds: float = 20) -> bool:
    return archive.close(time.monotonic() + seconds)


@pytest.fixture
def pod(storage: Storage, bucket: str) -> Pod:
    """A pod whose storage is the test's S3 server."""
    return Pod(storage, bucket)


@pytest.fixture
def away(pod: Pod, storage_to_come: Storage) -> Pod:
    """A pod whose storage is not there before the test serves it."""
    pod.storage = storage_to_come
    return pod


# Segments


def test_all_output_is_stored_in_order(pod: Pod, tmp_path: Path) -> None:
    """Segments have the size that is asked for, names in their order, and together every byte."""
    archive = pod.archive(Limits(segment=1000))
    chunks = [f"line {number:4}\n".encode() for number in range(500)]
    for chunk in chunks:
        archive.add(chunk)

    assert close(archive)
    segments = pod.segments(tmp_path)
    assert list(segments) == [f"{number:05}.log" for number in range(1, 6)]
    assert [len(content) for content in segments.values()] == [1000] * 5
    assert b"".join(segments.values()) == b"".join(chunks)
    assert pod.said == []


def test_a_killed_pod_loses_little(pod: Pod, tmp_path: Path) -> None:
    """What is there is sent when it is old enough, without any end; the first lines soon, later ones less often."""
    archive = pod.archive(Limits(first_send=0.05, longest_send=0.2))
    ages = []
    for number in range(1, 9):
        added = time.monotonic()
        archive.add(b"line\n")
        eventually(lambda number=number: len(pod.segments(tmp_path)) == number)  # type: ignore[misc]
        ages.append(time.monotonic() - added)

    assert all(age >= least for age, least in zip(ages, [0.05, 0.1] + [0.2] * 6, strict=True))
    assert ages[7] < 3  # and not 6.4
    assert close(archive)


def test_a_pod_that_prints_nothing_stores_nothing(pod: Pod, tmp_path: Path) -> None:
    """No output, no objects."""
    archive = pod.archive(Limits(first_send=0.01))
    archive.add(b"")
    time.sleep(0.1)

    assert close(archive)
    assert pod.segments(tmp_path) == {}


def test_bytes_are_kept_as_they_came(pod: Pod, tmp_path: Path) -> None:
    """Colours, progress bars and broken UTF-8 are the reader's business."""
    archive = pod.archive()
    archive.add(b"\x1b[31m 10%\r 20%\r\xff\x00")

    assert close(archive)
    assert pod.segments(tmp_path) == {"00001.log": b"\x1b[31m 10%\r 20%\r\xff\x00"}


def test_several_threads_can_print(pod: Pod, tmp_path: Path) -> None:
    """Stdout and stderr do not cut each other's chunks."""
    archive = pod.archive(Limits(segment=5000))

    def print_lines(name: str) -> None:
        for number in range(1000):
            archive.add(f"{name}{number:05}\n".encode())

    printers = [threading.Thread(target=print_lines, args=(name,)) for name in "abcd"]
    for printer in printers:
        printer.start()
    for printer in printers:
        printer.join()

    assert close(archive)
    lines = b"".join(pod.segments(tmp_path).values()).decode().split()
    for name in "abcd":
        assert [line for line in lines if line[0] == name] == [f"{name}{number:05}" for number in range(1000)]
    assert len(lines) == 4000


# A storage that is away


def test_output_waits_for_a_storage_that_is_away(away: Pod, tmp_path: Path) -> None:
    """Printing goes on, the failure is said once and in the log too, and all of it arrives when the storage is back."""
    (tmp_path / "buckets" / away.uri.split("/")[2]).mkdir(parents=True)
    archives: list[Archive] = []

    def say(line: str) -> None:
        archives[0].add(line.encode() + b"\n")
        away.said.append(line)

    archive = Archive(away.storage, away.uri, say, Limits(segment=100, first_pause=0.05, longest_pause=0.1))
    archives.append(archive)
    archive.add(b"a" * 100)
    eventually(lambda: away.said != [])
    archive.add(b"b" * 50)
    time.sleep(1)
    with serving_store(tmp_path / "buckets"):
        assert close(archive)
        content = b"".join(away.segments(tmp_path / "back").values())

    [said] = away.said
    assert "does not answer" in said
    assert content == b"a" * 100 + said.encode() + b"\n" + b"b" * 50


def test_what_waits_is_bounded_and_what_is_dropped_is_counted(away: Pod, tmp_path: Path) -> None:
    """The oldest output goes first, and in its place is a line with the number of bytes."""
    (tmp_path / "buckets" / away.uri.split("/")[2]).mkdir(parents=True)
    archive = away.archive(Limits(segment=100, waiting=1000, first_pause=0.05, longest_pause=0.1))
    printed = "".join(f"line {number:4}\n" for number in range(1000))
    for start in range(0, len(printed), 10):
        archive.add(printed[start : start + 10].encode())
    with serving_store(tmp_path / "buckets"):
        assert close(archive)
        content = b"".join(away.segments(tmp_path / "back").values()).decode()

    # What was on its way when it was dropped may arrive after all, so there can be two gaps.
    texts = re.split(r"\nultramarine-trainer: (\d+) bytes of the log are missing here; .*\n", content)
    kept, gaps = texts[::2], [int(count) for count in texts[1::2]]
    position = 0
    for text, gap in zip(kept, gaps + [0], strict=True):
        assert text == printed[position : position + len(text)]
        position += len(text) + gap
    assert position == len(printed)
    assert gaps
    assert 900 <= len(kept[-1]) <= 1000
    assert sum(map(len, kept)) <= 1100


def test_a_bucket_that_is_made_later_gets_the_whole_log(pod: Pod, bucket_folder: Path, tmp_path: Path) -> None:
    """A refusal is tried again too while the command runs: somebody may mend it."""
    bucket_folder.rmdir()
    archive = pod.archive(Limits(segment=10, first_pause=0.05, longest_pause=0.1))
    archive.add(b"0123456789")
    eventually(lambda: pod.said != [])
    bucket_folder.mkdir()
    eventually(lambda: pod.segments(tmp_path) == {"00001.log": b"0123456789"})

    assert close(archive)
    assert len(pod.said) == 1


# The end


def test_the_end_does_not_wait_longer_than_it_may(away: Pod) -> None:
    """With the storage away, closing stops at its deadline and says what is lost."""
    archive = away.archive()
    archive.add(b"x" * 123)
    started = time.monotonic()

    assert not close(archive, seconds=0.5)
    assert time.monotonic() - started < 30
    assert away.said[-1] == f"123 bytes of the log are not stored below {away.uri}"


def test_the_end_does_not_wait_for_what_cannot_pass(pod: Pod, bucket_folder: Path) -> None:
    """A bucket that is not there does not come back within the grace period."""
    bucket_folder.rmdir()
    archive = pod.archive()
    archive.add(b"x" * 123)
    started = time.monotonic()

    assert not close(archive, seconds=60)
    assert time.monotonic() - started < 30
    assert [line.partition(" ")[0] for line in pod.said] == ["the", "123"]


def test_what_comes_after_the_end_is_let_go(pod: Pod, tmp_path: Path) -> None:
    """A daemon that outlived the command may still print; nobody is hurt."""
    archive = pod.archive()
    archive.add(b"in time")
    assert close(archive)
    archive.add(b"too late")

    assert close(archive)
    assert pod.segments(tmp_path) == {"00001.log": b"in time"}


def test_a_full_disk_does_not_stop_the_output(pod: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be put aside is counted where it is missing."""
    archive = pod.archive()
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", str(tmp_path / "no-such-folder"))
        archive.add(b"x" * 123)
    archive.add(b"after\n")

    assert close(archive)
    [content] = pod.segments(tmp_path).values()
    assert content.startswith(b"\nultramarine-trainer: 123 bytes of the log are missing here")
    assert content.endswith(b"\nafter\n")
