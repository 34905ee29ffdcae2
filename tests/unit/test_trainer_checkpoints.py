"""Checkpoints: what a command leaves in its folder is stored when it is whole, and comes back; on a real S3 server."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import CheckpointRecord, CheckpointTask
from ultramarine_trainer.data import checkpoints
from ultramarine_trainer.data.checkpoints import Checkpoints, Files, Times
from unit import conftest
from unit.conftest import eventually, free_port, serving_store

QUICK = Times(look=0.05, first_pause=0.05, longest_pause=0.2)


class Job:
    """One job: its prefix in the storage, the folder that its command writes to, and what the trainer has said."""

    def __init__(self, storage: Storage, bucket: str, base: Path) -> None:
        self.storage = storage
        self.prefix = f"s3://{bucket}/runs/churn/"
        self.below = self.prefix + "checkpoints/"
        self.folder = base / "checkpoints"
        self.said: list[str] = []
        self.step = -1
        self.changes = 0  # of the folder, that an attempt has seen

    def _told(self) -> int:
        self.changes += 1
        return self.step

    def attempt(self, times: Times = QUICK, **task: bool | str) -> Checkpoints:
        """Return the checkpoints of a new attempt, as a new pod sees them."""
        asked = CheckpointTask(**task)  # type: ignore[arg-type]
        return Checkpoints(self.storage, self.prefix, asked, self.folder, self.said.append, self._told, times)

    def running(self, times: Times = QUICK, **task: bool | str) -> Checkpoints:
        """Return an attempt whose command has just started."""
        attempt = self.attempt(times, **task)
        attempt.restore()
        attempt.start()
        return attempt

    def write(self, **files: str) -> None:
        """Write files whole: no look at the folder finds an empty one."""
        for name, text in files.items():
            (self.folder / f".{name}").write_text(text)
            (self.folder / f".{name}").rename(self.folder / name)

    def keep(self, attempt: Checkpoints, text: str) -> CheckpointRecord:
        """Write a checkpoint and wait until it is the latest."""
        before = attempt.last
        self.write(weights=text)
        eventually(lambda: attempt.last != before)
        assert attempt.last is not None
        return attempt.last

    def latest(self) -> CheckpointRecord:
        return CheckpointRecord.from_json(self.storage.read(self.below + "latest.json"))

    def kept(self) -> set[str]:
        return set(self.storage.folders(self.below))

    def files(self) -> dict[str, str]:
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return {path.relative_to(self.folder).as_posix(): path.read_text() for path in paths}


def end(attempt: Checkpoints, ended_by_itself: bool = True, ended: float | None = None) -> None:
    """Let the command end now, or say when it did."""
    deadline = time.monotonic() + 60
    attempt.finish(ended_by_itself, lambda: deadline, ended)


@pytest.fixture
def job(storage: Storage, bucket: str, tmp_path: Path) -> Job:
    """A job whose storage is the test's S3 server."""
    return Job(storage, bucket, tmp_path)


# While the command runs


def test_a_settled_folder_becomes_the_latest_checkpoint(job: Job, tmp_path: Path) -> None:
    """What has kept still is stored whole, and latest.json says what it is."""
    attempt = job.attempt()
    attempt.restore()
    job.step = 40
    (job.folder / "shards").mkdir()
    (job.folder / "shards/0.pt").write_text("shard")
    job.write(weights="one")
    attempt.start()
    eventually(lambda: attempt.last is not None)
    record = attempt.last
    end(attempt)

    assert record is not None

    assert job.latest() == record == attempt.last
    assert (record.step, record.bytes, record.previous) == (40, 8, None)
    assert record.uri.startswith(job.below)
    job.storage.fetch_artifact(record.uri, record.digest, tmp_path / "back")
    assert (tmp_path / "back/shards/0.pt").read_text() == "shard"
    assert job.said[-1].startswith(f"the checkpoint (last step told: 40) is stored: 8 bytes to {record.uri}")


def test_what_is_still_being_written_is_not_taken(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grows is no checkpoint until it has stopped growing."""
    look = checkpoints.look

    def grow(folder: Path) -> Files | None:
        with (folder / "weights").open("a") as file:
            file.write("x" if file.tell() < 20 else "")
        return look(folder)

    attempt = job.attempt()
    attempt.restore()
    monkeypatch.setattr(checkpoints, "look", grow)
    attempt.start()
    eventually(lambda: attempt.last is not None)
    end(attempt)

    assert attempt.last is not None
    assert (attempt.last.bytes, attempt.last.previous) == (20, None)


def test_unfinished_names_are_left_out(job: Job) -> None:
    """What ends in .tmp or .part, or begins with a dot, waits for its rename; alone it is nothing."""
    attempt = job.running()
    (job.folder / ".cache").mkdir()
    (job.folder / ".cache/x").write_text("x")
    (job.folder / "step-2.tmp").mkdir()
    (job.folder / "step-2.tmp/weights").write_text("half")
    job.write(**{"weights.part": "half"})
    time.sleep(0.4)
    assert attempt.last is None
    record = job.keep(attempt, "whole")
    end(attempt)

    assert record.bytes == 5


class Meddling(Storage):
    """A storage, and a command that does something while its folder is on the way there."""

    before: Callable[[], None] = staticmethod(lambda: None)
    after: Callable[[], None] = staticmethod(lambda: None)
    uploads: int = 0

    def upload_folder(
        self, folder: Path, prefix_uri: str, format: str = "", files: Mapping[str, Path] | None = None
    ) -> OutputRecord:
        self.uploads += 1
        self.before()
        record = super().upload_folder(folder, prefix_uri, format, files)
        self.after()
        return record


@pytest.mark.attack("training/broken-checkpoint")
def test_what_changed_while_it_was_uploaded_is_no_checkpoint(job: Job) -> None:
    """The mixture is deleted and never pointed to, the command's author is told, and the next look gets it right."""
    storage = Meddling(job.storage.name)
    job.storage = storage
    attempt = job.running()
    gone: list[set[str]] = []

    def meddle() -> None:
        if storage.uploads == 1:
            job.write(weights="changed")
        else:
            gone.append(job.kept())

    storage.after = meddle
    record = job.keep(attempt, "first")
    end(attempt)

    assert storage.uploads == 2
    assert gone == [{record.uri}]
    assert record.bytes == len("changed")
    assert record.previous is None
    assert "goes on changing" in job.said[-2]


def test_a_file_that_goes_away_before_it_is_uploaded_is_nobodys_fault(job: Job) -> None:
    """A command that tidies up its old files is not told of a failure, and what it leaves is stored."""
    storage = Meddling(job.storage.name)
    job.storage = storage
    attempt = job.attempt()
    attempt.restore()
    storage.before = lambda: (job.folder / "old").unlink(missing_ok=True)
    job.write(old="old", weights="new")
    attempt.start()
    eventually(lambda: attempt.last is not None)
    end(attempt)

    assert attempt.last is not None
    assert attempt.last.bytes == 3
    assert storage.uploads == 2
    assert len(job.said) == 2  # what it starts with, and what it has stored


def test_a_folder_that_never_keeps_still_is_told_of_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that writes its log beside the checkpoints learns why there are none."""
    look, lines = checkpoints.look, itertools.count()

    def change(folder: Path) -> Files | None:
        job.write(log="x" * next(lines))
        return look(folder)

    attempt = job.attempt(Times(look=0.05, patience=0.5))
    attempt.restore()
    monkeypatch.setattr(checkpoints, "look", change)
    attempt.start()
    eventually(lambda: len(job.said) >= 2)
    told = job.changes
    eventually(lambda: job.changes > told + 20)
    end(attempt, ended_by_itself=False)

    assert [line for line in job.said if "write logs elsewhere" in line] == [job.said[1]]


def test_a_link_out_of_the_folder_is_told_of_once(job: Job) -> None:
    """What cannot be stored is named, is not said over and over, and is stored when it has been mended."""
    attempt = job.running()
    (job.folder / "secret").symlink_to("/etc/hostname")
    job.write(weights="w")
    eventually(lambda: "leads out of the folder" in job.said[-1])
    time.sleep(0.5)
    (job.folder / "secret").unlink()
    eventually(lambda: attempt.last is not None)
    end(attempt)

    assert len([line for line in job.said if "leads out of the folder" in line]) == 1


def test_storage_that_goes_away_and_comes_back(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint waits for the storage, which is missed aloud only once; the one that is there already stays good."""
    port = free_port()
    monkeypatch.setattr(conftest, "free_port", lambda: port)
    (tmp_path / "buckets/bucket").mkdir(parents=True)
    job = Job(Storage(f"http://127.0.0.1:{port}"), "bucket", tmp_path)
    with serving_store(tmp_path / "buckets"):
        attempt = job.running()
        first = job.keep(attempt, "one")
    job.write(weights="two")
    eventually(lambda: "does not answer" in job.said[-1])
    with pytest.raises(StorageError) as caught:
        Job(job.storage, "bucket", tmp_path / "other").attempt().restore()
    time.sleep(1)
    assert attempt.last == first
    with serving_store(tmp_path / "buckets"):
        eventually(lambda: attempt.last != first)
        end(attempt)
        second = job.latest()

    assert caught.value.transient
    assert attempt.last == second
    assert second.previous == first
    missed = [line for line in job.said if "does not answer" in line]
    # Old ones that could not be deleted in the moment in which it went away are another thing.
    assert len([line for line in missed if not line.startswith("old checkpoints")]) == 1


# Which are kept


def test_the_latest_and_the_one_before_are_kept(job: Job) -> None:
    """Older checkpoints, and what dead attempts have left, are deleted; what is not ours is not touched."""
    job.storage.write(job.below + "0123456789abcdef/weights", b"left by a pod that was killed")
    job.storage.write(job.below + "notes/readme", b"a person's")
    attempt = job.running()
    records = [job.keep(attempt, text) for text in ("one", "two", "three", "four")]
    end(attempt)

    assert job.kept() == {records[3].uri, records[2].uri, job.below + "notes/"}
    previous = job.latest().previous
    assert previous is not None
    assert (previous.uri, previous.previous) == (records[2].uri, None)


def test_content_that_comes_back_is_not_deleted_as_its_own_predecessor(job: Job) -> None:
    """A, B, A: the latest is A again, and it is there."""
    attempt = job.running()
    records = [job.keep(attempt, text) for text in ("a", "b", "a")]
    end(attempt)

    assert records[2].uri == records[0].uri
    assert job.kept() == {records[0].uri, records[1].uri}
    assert job.attempt().restore() == job.latest()


@pytest.mark.attack(
    "training/forged-checkpoints",
    asset="what is stored",
    threat="a forged record of checkpoints has the trainer delete something else",
    control="only folders that are named as ours, below the job's own prefix, are deleted",
)
def test_a_record_cannot_have_anything_else_deleted(job: Job) -> None:
    """Whoever can write latest.json does not get us to delete another job's folder."""
    other = job.prefix + "model/0123456789abcdef/"
    job.storage.write(other + "model.onnx", b"onnx")
    attempt = job.running()
    first = job.keep(attempt, "one")
    second = job.keep(attempt, "two")
    end(attempt)
    text = second.to_json().replace(first.uri.encode(), other.encode())
    job.storage.write(job.below + "latest.json", text)
    attempt = job.running()
    job.keep(attempt, "three")
    job.keep(attempt, "four")
    end(attempt)

    assert job.storage.read(other + "model.onnx") == b"onnx"


class Keeping(Storage):
    """A storage whose keys do not allow to delete."""

    def delete_artifact(self, uri: str) -> None:
        raise StorageError(f"the storage refused the credentials for {uri}", "AccessDenied")


def test_what_cannot_be_deleted_stays_and_is_told_of_once(job: Job) -> None:
    """A key that may write but not delete costs room, not checkpoints."""
    job.storage = Keeping(job.storage.name)
    attempt = job.running()
    records = [job.keep(attempt, text) for text in ("one", "two", "three", "four")]
    end(attempt)

    assert job.kept() == {record.uri for record in records}
    assert job.latest() == records[3]
    assert len([line for line in job.said if "cannot be deleted" in line]) == 1


# The end of the command


def test_what_a_command_leaves_at_its_end_is_stored(job: Job) -> None:
    """Ended by itself, it had time to finish its file; nobody waits for that to settle."""
    attempt = job.running(Times(look=60))
    job.write(weights="last")
    started = time.monotonic()
    end(attempt)

    assert time.monotonic() - started < 30
    assert job.latest() == attempt.last
    assert job.latest().bytes == 4


def test_what_was_written_just_before_a_kill_is_not_kept(job: Job) -> None:
    """The half-written file of a killed command is not resumed from; the checkpoint before it is."""
    attempt = job.running(Times(look=0.3))
    first = job.keep(attempt, "whole")
    ended = time.monotonic()
    job.write(weights="ha")
    end(attempt, ended_by_itself=False, ended=ended)

    assert job.latest() == attempt.last == first
    assert job.said[-1].startswith("the command was killed while it wrote a checkpoint; the checkpoint is what is kept")
    assert job.attempt().restore() == first
    assert job.files() == {"weights": "whole"}


def test_what_had_settled_before_a_kill_is_kept(job: Job) -> None:
    """A file that was complete for a while counts, though the command did not end by itself."""
    attempt = job.running(Times(look=1.0))
    job.write(weights="whole")
    eventually(lambda: job.changes == 1)
    time.sleep(1.1)
    end(attempt, ended_by_itself=False)

    assert job.latest().bytes == 5


class Hanging(Storage):
    """A storage that takes an upload and does not come to an end with it until it is told to."""

    entered, go_on = threading.Event(), threading.Event()

    def upload_folder(
        self, folder: Path, prefix_uri: str, format: str = "", files: Mapping[str, Path] | None = None
    ) -> OutputRecord:
        self.entered.set()
        assert self.go_on.wait(60)
        return super().upload_folder(folder, prefix_uri, format, files)


def test_the_end_does_not_wait_longer_than_it_may(job: Job) -> None:
    """Finishing stops at its deadline and says what is kept; what comes too late is not pointed to any more."""
    job.storage = Hanging(job.storage.name)
    attempt = job.running(Times())
    job.write(weights="last")
    started = time.monotonic()
    attempt.finish(True, lambda: started + (0.5 if Hanging.entered.is_set() else 60))
    assert job.said[-1] == "the last checkpoint was not stored in the time that is left; no checkpoint is kept"
    Hanging.go_on.set()
    eventually(lambda: len(job.kept()) == 1)
    time.sleep(0.3)  # nothing more is written

    assert attempt.last is None
    with pytest.raises(StorageError):
        job.latest()


def test_the_end_does_not_wait_for_what_cannot_pass(job: Job, bucket_folder: Path) -> None:
    """A bucket that is not there does not come back within the grace period."""
    attempt = job.running(Times())
    job.write(weights="last")
    bucket_folder.rmdir()
    started = time.monotonic()
    end(attempt)

    assert time.monotonic() - started < 30
    assert "does not exist" in job.said[-2]
    assert job.said[-1] == "the last checkpoint was not stored; no checkpoint is kept"


# Resuming


def test_an_attempt_resumes_from_the_latest(job: Job) -> None:
    """The folder holds the checkpoint and nothing that a killed command left; unchanged, it is not stored again."""
    attempt = job.running()
    record = job.keep(attempt, "one")
    end(attempt)
    (job.folder / "half").mkdir()
    (job.folder / "half/written").write_text("rubbish")
    again = job.attempt()
    found = again.restore()
    again.start()
    time.sleep(0.4)
    end(again)

    assert found == record == again.last == job.latest()
    assert job.files() == {"weights": "one"}
    assert any(line.startswith(f"resuming from the checkpoint: 3 bytes from {record.uri}") for line in job.said)


@pytest.mark.attack(
    "training/broken-checkpoint",
    asset="what a job resumes from",
    threat="a checkpoint that is half there, exchanged, or written while it was sent",
    control="each file is checked by its SHA-256; the one before takes its place",
)
@pytest.mark.parametrize("damage", ["weights", "manifest.json"])
def test_a_broken_latest_gives_way_to_the_one_before(job: Job, damage: str) -> None:
    """What is not whole is said and not used, and goes when there is a new one."""
    attempt = job.running()
    first = job.keep(attempt, "one")
    second = job.keep(attempt, "two")
    end(attempt)
    job.storage.write(second.uri + damage, b"bad")
    again = job.attempt()
    found = again.restore()
    files = job.files()
    again.start()
    third = job.keep(again, "three")
    end(again)

    assert found is not None
    assert found.uri == first.uri
    assert files == {"weights": "one"}
    assert any(f"checkpoint {second.uri} is not whole" in line for line in job.said)
    assert job.kept() == {first.uri, third.uri}


def test_without_a_whole_checkpoint_the_command_starts_from_the_beginning(job: Job) -> None:
    """Nothing of a broken checkpoint is left in the folder."""
    attempt = job.running()
    records = [job.keep(attempt, text) for text in ("one", "two")]
    end(attempt)
    for record in records:
        job.storage.write(record.uri + "weights", b"bad")

    assert job.attempt().restore() is None
    assert job.files() == {}
    assert job.said[-1].startswith("no checkpoint to resume from")


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"uri": 1, "digest": "", "time": ""}'])
def test_garbage_in_place_of_the_record_is_said(job: Job, text: bytes) -> None:
    """A broken latest.json does not stop the job."""
    job.storage.write(job.below + "latest.json", text)

    assert job.attempt().restore() is None
    assert "latest.json is unusable" in job.said[0]


def test_never_means_from_the_beginning(job: Job) -> None:
    """With resume=False the earlier attempts' checkpoints are not used, and give way to the first new one."""
    attempt = job.running()
    job.keep(attempt, "one")
    end(attempt)
    again = job.running(resume=False)
    assert job.files() == {}
    second = job.keep(again, "two")
    end(again)

    assert second.previous is None
    assert job.kept() == {second.uri}


def test_another_jobs_checkpoint_is_a_start_and_stays_what_it_is(job: Job, tmp_path: Path) -> None:
    """`resumeFrom` fills the folder for the first attempt; it does not count as our own, and we never delete it."""
    record = job.storage.upload_folder(folder_with(tmp_path, "theirs"), job.prefix + "theirs/")
    attempt = job.attempt(resume_from=record.uri)
    found = attempt.restore()
    assert found is not None
    assert (found.uri, found.digest, attempt.last) == (record.uri, record.digest, None)
    assert job.files() == {"weights": "theirs"}
    attempt.start()
    ours = [job.keep(attempt, text) for text in ("one", "two", "three")]
    end(attempt)

    assert job.attempt(resume_from=record.uri).restore() == ours[2]
    assert job.storage.artifact_digest(record.uri).digest == record.digest


def test_another_jobs_checkpoint_has_to_be_there(job: Job) -> None:
    """Who asks for a start and does not get it is told which field is wrong; training from nothing is no answer."""
    with pytest.raises(StorageError, match=r"^spec\.checkpoint\.resumeFrom: ") as caught:
        job.attempt(resume_from=job.prefix + "nowhere/0123456789abcdef/").restore()

    assert caught.value.reason == "ObjectNotFound"


def folder_with(base: Path, text: str) -> Path:
    """Make a folder with a checkpoint."""
    folder = base / "theirs"
    folder.mkdir()
    (folder / "weights").write_text(text)
    return folder


def test_productive_time_goes_on_where_the_checkpoint_was(job: Job) -> None:
    """Time that led to no checkpoint is not counted by the next attempt; time before the checkpoint is."""
    attempt = job.running()
    time.sleep(0.3)
    record = job.keep(attempt, "one")
    time.sleep(0.5)
    end(attempt, ended_by_itself=False)
    whole = attempt.productive_seconds()
    started = time.monotonic()
    again = job.running()
    time.sleep(0.1)
    end(again)
    took = time.monotonic() - started

    assert 0.3 <= record.productive_seconds <= whole - 0.5
    assert record.productive_seconds + 0.1 <= again.productive_seconds() <= record.productive_seconds + took
    assert again.productive_seconds() == again.productive_seconds(time.monotonic() + 100)


def test_a_run_can_follow_a_run(job: Job) -> None:
    """A command that starts again in the same pod resumes from what its last run has stored."""
    attempt = job.running(Times(look=0.3))
    first = job.keep(attempt, "one")
    ended = time.monotonic()
    job.write(weights="ha")
    end(attempt, ended_by_itself=False, ended=ended)
    found = attempt.restore()
    files = job.files()
    attempt.start()
    second = job.keep(attempt, "two")
    end(attempt)

    assert (found, files) == (first, {"weights": "one"})
    assert second.previous == first
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "checkpoints"])
