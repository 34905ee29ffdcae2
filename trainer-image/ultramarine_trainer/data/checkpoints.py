"""Keeping what the command writes to its checkpoint folder, and putting it back before the command starts again."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from msgspec import structs
from ultramarine_contract.common import CHECKPOINT_NAME, CHECKPOINTS_NAME, MANIFEST_NAME, OutputRecord
from ultramarine_contract.errors import StorageError
from ultramarine_contract.locations import files_below
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import CheckpointRecord, CheckpointTask

from ultramarine_trainer.data.outputs import empty

# What fetching says of a checkpoint that is not whole. Any other failure does not mean that there is none.
BROKEN = {"DigestMismatch", "ObjectNotFound", "ManifestInvalid", "InvalidKey", "InvalidURI", "InputNotFound"}

_HASTE = "Haste"  # beside the reasons of StorageErrors
_DIGEST_FOLDER = re.compile(r"[0-9a-f]{16}/")  # what we may have stored ourselves; nothing else is ever deleted

_JOIN_SECONDS = 0.5

Files = dict[str, tuple[int, int, int]]  # path: what changes with the content


@dataclass(frozen=True)
class Times:
    """Seconds between two looks at the folder, and the shortest and longest pause after a failure of the storage.

    A folder is settled when it has looked the same for two pauses between looks; after a kill, for one. One that has
    not settled for `patience` seconds is told of.
    """

    look: float = 2.0
    first_pause: float = 5.0
    longest_pause: float = 300.0
    patience: float = 300.0


@dataclass(frozen=True)
class Sight:
    """The folder as it looked, since when (monotonic seconds), and the step that the command had told then."""

    files: Files
    since: float
    step: int


class Checkpoints:
    """The checkpoints of one job: `restore`, then `start` and `finish` around the command; again for another run."""

    def __init__(
        self,
        storage: Storage,
        output_prefix: str,
        task: CheckpointTask,
        folder: Path,
        say: Callable[[str], None],
        step: Callable[[], int],
        times: Times | None = None,
    ) -> None:
        self._storage, self._task, self._folder, self._say, self._step = storage, task, folder, say, step
        self._uri = f"{output_prefix.rstrip('/')}/{CHECKPOINTS_NAME}/"
        self._times = times or Times()
        self._last: CheckpointRecord | None = None
        self._base = 0.0
        self._restored: Files = {}
        self._watch: _Watch | None = None

    @property
    def last(self) -> CheckpointRecord | None:
        """The newest complete checkpoint of this job."""
        return self._watch.last if self._watch else self._last

    def productive_seconds(self, now: float | None = None) -> float:
        """Say for how long the command has worked, up to its end or to `now` (monotonic), with what it resumed from."""
        return self._watch.worked(time.monotonic() if now is None else now) if self._watch else self._base

    def restore(self) -> CheckpointRecord | None:
        """Fill the folder with the newest complete checkpoint, if there is any, and with nothing else.

        Raises StorageError if the storage does not answer, and if `resume_from` cannot be fetched.
        """
        self._last, self._watch = self.last, None
        record = self._find() if self._task.resume else None
        if record is None:
            empty(self._folder)
            self._say("no checkpoint to resume from; the command starts from the beginning")
        # Another job's checkpoint is not ours to count on, or to delete.
        self._last = record if record and record.uri.startswith(self._uri) else None
        self._base = self._last.productive_seconds if self._last else 0.0
        self._restored = look(self._folder) or {}
        return record

    def start(self) -> None:
        """Watch the folder from now on: the command starts."""
        last, base, restored = self._last, self._base, self._restored
        self._watch = _Watch(
            self._storage, self._uri, self._folder, self._say, self._step, self._times, last, base, restored
        )
        self._watch.start()

    def finish(self, ended_by_itself: bool, deadline: Callable[[], float], ended: float | None = None) -> None:
        """Store what the command has left, until `deadline()` at most, which may come nearer meanwhile.

        `ended` is when the command did (both monotonic).

        What it left when it was killed by a signal counts only if it was not written shortly before.
        """
        if self._watch:
            self._watch.finish(ended_by_itself, deadline, time.monotonic() if ended is None else ended)

    def _find(self) -> CheckpointRecord | None:
        for record in self._own():
            try:
                self._fetch(record)
            except StorageError as error:
                if error.reason not in BROKEN:
                    raise
                self._say(f"checkpoint {record.uri} is not whole, so an older one has to do: {error.message}")
            else:
                return record
        return self._another_jobs() if self._task.resume_from else None

    def _own(self) -> Iterator[CheckpointRecord]:
        """Yield this job's checkpoints, newest first."""
        uri = self._uri + CHECKPOINT_NAME
        try:
            latest = CheckpointRecord.from_json(self._storage.read(uri))
        except ValueError as error:
            self._say(f"{uri} is unusable ({error}), so the checkpoints of earlier attempts cannot be found")
            return
        except StorageError as error:
            if error.reason != "ObjectNotFound":
                raise
            return
        yield latest
        if latest.previous:
            yield latest.previous

    def _another_jobs(self) -> CheckpointRecord:
        uri = self._task.resume_from.rstrip("/") + "/"
        try:
            stored = self._storage.artifact_digest(uri)
            record = CheckpointRecord(uri, stored.digest, "", stored.bytes)
            self._fetch(record)
        except StorageError as error:
            message = f"spec.checkpoint.resumeFrom: {error.message}"
            raise StorageError(message, error.reason, transient=error.transient) from error
        return record

    def _fetch(self, record: CheckpointRecord) -> None:
        started = time.monotonic()
        fetch(self._storage, record.uri, record.digest, self._folder)
        seconds = time.monotonic() - started
        self._say(f"resuming from {_called(record)}: {record.bytes} bytes from {record.uri} in {seconds:.1f} s")


class _Watch:
    """One run of the command: a thread that looks at the folder, and stores what is new in it when it has settled."""

    def __init__(
        self,
        storage: Storage,
        uri: str,
        folder: Path,
        say: Callable[[str], None],
        step: Callable[[], int],
        times: Times,
        last: CheckpointRecord | None,
        base: float,
        kept: Files,
    ) -> None:
        self.last = last
        self._storage, self._uri, self._folder, self._say, self._step = storage, uri, folder, say, step
        self._times, self._base, self._kept = times, base, kept
        self._started = time.monotonic()
        self._ended: float | None = None
        self._ended_by_itself = False
        self._sight = Sight(kept, self._started, -1)
        self._reported: set[str] = set()  # kinds of failures since the last success
        self._deletion_complained = False
        self._leavings = True  # of dead attempts, or of uploads that failed, may lie in the storage
        self._ending, self._given_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def worked(self, now: float) -> float:
        until = now if self._ended is None else min(now, self._ended)
        return self._base + max(0.0, until - self._started)

    def finish(self, ended_by_itself: bool, deadline: Callable[[], float], ended: float) -> None:
        self._ended, self._ended_by_itself = ended, ended_by_itself
        self._ending.set()
        while self._thread.is_alive() and (left := deadline() - time.monotonic()) > 0:
            self._thread.join(min(left, _JOIN_SECONDS))
        self._given_up.set()
        if self._thread.is_alive() and self._is_new():
            self._say(f"the last checkpoint was not stored in the time that is left; {self._what_is_kept()}")

    def _run(self) -> None:
        pause, look = 0.0, self._times.look
        tried = calm = self._started
        while not self._ending.wait(look):
            looked = time.monotonic()
            seen = self._look_again(looked)
            look = max(self._times.look, 10 * (time.monotonic() - looked))  # a huge folder is not looked at all day
            settled = seen and looked - self._sight.since >= 2 * self._times.look
            if settled or not self._is_new():
                calm = looked
            elif looked - calm > self._times.patience:
                self._complain_of_haste(2 * self._times.look)
            if settled and self._is_new() and time.monotonic() - tried >= pause:
                pause = self._longer(pause) if self._store() else 0.0
                tried = time.monotonic()
        self._store_the_last()

    def _store_the_last(self) -> None:
        assert self._ended is not None
        if not self._look_again(self._ended) or not self._is_new():
            return
        if not self._ended_by_itself and self._ended - self._sight.since < self._times.look:
            self._say(f"the command was killed while it wrote a checkpoint; {self._what_is_kept()}")
            return
        pause = 0.0
        while error := self._store():
            if not error.transient:
                self._say(f"the last checkpoint was not stored; {self._what_is_kept()}")
                return
            if self._given_up.wait(pause := self._longer(pause)):
                return

    def _what_is_kept(self) -> str:
        return f"{_called(self.last)} is what is kept" if self.last else "no checkpoint is kept"

    def _longer(self, pause: float) -> float:
        return min(max(2 * pause, self._times.first_pause), self._times.longest_pause)

    def _look_again(self, now: float) -> bool:
        """Look at the folder; False where it changes under our eyes, or holds what cannot be stored."""
        try:
            files = look(self._folder)
        except StorageError as error:
            self._complain(error)
            return False
        if files != self._sight.files:
            self._sight = Sight(files or {}, now, self._step())
        return files is not None

    def _is_new(self) -> bool:
        return bool(self._sight.files) and self._sight.files != self._kept

    def _stands(self, sight: Sight) -> bool:
        return look(self._folder) == sight.files

    def _store(self) -> StorageError | None:
        """Store what was seen, and point to it if it is still so; return the failure of storage or disk, if any."""
        sight, started = self._sight, time.monotonic()
        try:
            stored = self._upload(sight)
            if stored is None or self._given_up.is_set():
                return None
            seconds = time.monotonic() - started
            if not self._stands(sight):
                self._complain_of_haste(seconds)
                # Its content may be a mixture, which must not be taken for whole when the same is written once more.
                self._delete([stored.uri])
            elif self.last is None or self.last.uri != stored.uri:
                self._point_to(stored, sight, seconds)
            else:
                self._kept = sight.files  # written again, but the same
        except StorageError as error:
            self._leavings = True
            self._complain(error)
            return error
        return None

    def _upload(self, sight: Sight) -> OutputRecord | None:
        """Upload what was seen; None if that failed because a file changed meanwhile."""
        try:
            files = {path: self._folder / path for path in sight.files}
            return self._storage.upload_folder(self._folder, self._uri, files=files)
        except StorageError:
            if self._stands(sight):
                raise
            self._leavings = True
            return None

    def _point_to(self, stored: OutputRecord, sight: Sight, seconds: float) -> None:
        """Make `stored` the latest checkpoint: from here on it is what an attempt resumes from."""
        record = CheckpointRecord(
            uri=stored.uri,
            digest=stored.digest,
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            bytes=stored.bytes,
            step=sight.step,
            productive_seconds=self.worked(sight.since),
            previous=structs.replace(self.last, previous=None) if self.last else None,
        )
        self._storage.write(self._uri + CHECKPOINT_NAME, record.to_json())
        superseded = self.last.previous if self.last else None
        self.last, self._kept = record, sight.files
        self._reported.clear()
        self._say(f"{_called(record)} is stored: {record.bytes} bytes to {record.uri} in {seconds:.1f} s")
        if self._leavings:
            self._leavings = False
            self._delete(self._all_folders())
        elif superseded:
            self._delete([superseded.uri])

    def _all_folders(self) -> Iterator[str]:
        yield from self._storage.folders(self._uri)

    def _delete(self, uris: Iterable[str]) -> None:
        """Delete these of our folders, but never the latest and the previous; a failure does not fail the job."""
        kept = [record.uri for record in (self.last, self.last and self.last.previous) if record]
        try:
            for uri in uris:
                ours = uri.startswith(self._uri) and _DIGEST_FOLDER.fullmatch(uri.removeprefix(self._uri))
                if ours and uri not in kept:
                    self._storage.delete_artifact(uri)
        except StorageError as error:
            self._leavings = True
            if not self._deletion_complained:
                self._deletion_complained = True
                self._say(f"old checkpoints below {self._uri} cannot be deleted, so they stay: {error.message}")

    def _complain(self, error: StorageError) -> None:
        """Tell of a failure once, until something has been stored again."""
        if error.reason not in self._reported:
            self._reported.add(error.reason)
            self._say(f"the checkpoint cannot be stored now: {error.message}")

    def _complain_of_haste(self, seconds: float) -> None:
        """Tell that the folder did not keep still for the time that is needed."""
        if _HASTE not in self._reported:
            self._reported.add(_HASTE)
            remedy = f"leave it alone for {seconds:.0f} s after each checkpoint, and write logs elsewhere"
            self._say(f"no checkpoint could be stored, for the command goes on changing {self._folder}; {remedy}")


def fetch(storage: Storage, uri: str, digest: str, folder: Path) -> None:
    """Fill a folder with a checkpoint, and with nothing else; what is not whole raises StorageError as in BROKEN."""
    empty(folder)
    storage.fetch_artifact(uri, digest, folder)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)


def look(folder: Path) -> Files | None:
    """Say what must be stored of `folder`; None if a file vanished meanwhile.

    Names that begin with a dot or end in .tmp or .part are what is not complete yet.
    """
    try:
        stats = {path: file.stat() for path, file in files_below(folder, _is_unfinished)}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error}; make it readable", "LocalDiskError") from error
    return {path: (stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats.items()}


def _is_unfinished(path: str) -> bool:
    name = path.removesuffix("/").rpartition("/")[2]
    return name.startswith(".") or name.endswith((".tmp", ".part"))


def _called(record: CheckpointRecord) -> str:
    # The command may tell a step before or after it writes the file.
    return f"the checkpoint (last step told: {record.step})" if record.step >= 0 else "the checkpoint"
