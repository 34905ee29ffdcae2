"""The journal of a sweep: all that happened, in numbered segments in the object storage.

A segment is one object, NNNNNNNN.jsonl: a line of JSON about it, with the SHA-256 of the rest, then a line for each
record. Numbers have no gaps, and each segment is created only if none of its number is there: of two coordinators
that write, the late one loses. A coordinator begins with an opening segment. It takes the number that its
predecessor would write next; so openings are never deleted, however old. A snapshot has the content of all segments
before it, which are deleted then. A coordinator that dies between the two leaves some that are never read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ultramarine_contract.errors import StorageError, UltramarineError
from ultramarine_contract.retry import forever, patiently
from ultramarine_contract.storage import Storage

Record = dict[str, Any]
T = TypeVar("T")

OPENING, RECORDS, SNAPSHOT = "opening", "records", "snapshot"

_SUFFIX = ".jsonl"
_SEGMENT_LIMIT = 1 << 30  # bytes.
_AT_ONCE = 16  # segments to read at the same time.
_LOADS = 10  # attempts while another coordinator deletes segments.
_COMPACT_SEGMENTS, _COMPACT_BYTES = 500, 1 << 20  # since the last snapshot; or as many bytes as that has


class Fenced(Exception):
    """Another coordinator has begun; whatever this one still wanted to write is not written."""


class JournalError(UltramarineError):
    """The journal is not what was written."""

    reason = "JournalDamaged"


@dataclass(frozen=True)
class Segment:
    """One object of the journal, of which `body` are the records' lines.

    `openings` are, in a snapshot, the numbers of those before it that have to stay.
    """

    number: int
    kind: str
    writer: str
    body: bytes = b""
    openings: tuple[int, ...] = ()

    @property
    def records(self) -> Iterator[Record]:
        """Its records, each read when it is asked for: as a whole they would take ten times the memory."""
        return (json.loads(line) for line in self.body.splitlines())

    def to_bytes(self) -> bytes:
        """Return the segment as it is stored."""
        head = {"segment": self.number, "kind": self.kind, "writer": self.writer}
        head |= {"openings": list(self.openings)} if self.openings else {}
        head |= {"sha256": hashlib.sha256(self.body).hexdigest()}
        return json.dumps(head, separators=(",", ":")).encode() + b"\n" + self.body

    @classmethod
    def from_bytes(cls, number: int, data: bytes) -> Segment:
        """Read what `to_bytes` wrote. Raises ValueError, with the reason, for anything else."""
        first, _, body = data.partition(b"\n")
        try:
            head = json.loads(first)
            if head["segment"] != number:
                raise ValueError(f"it says that it is segment {head['segment']}")
            if head["sha256"] != hashlib.sha256(body).hexdigest():
                raise ValueError("its checksum is another")
            segment = cls(number, str(head["kind"]), str(head["writer"]), body, tuple(head.get("openings") or ()))
            for _ in segment.records:
                continue  # here it can still be said what is damaged
            return segment
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"it is not a segment of a journal ({error!r})") from error


@dataclass
class _Loaded:
    """Content of the storage: the segments from the last snapshot on, and all numbers."""

    segments: list[Segment] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)

    @property
    def records(self) -> Iterator[Record]:
        return (record for segment in self.segments for record in segment.records)

    @property
    def openings(self) -> set[int]:
        numbers = {segment.number for segment in self.segments if segment.kind == OPENING}
        return numbers.union(*(segment.openings for segment in self.segments))


def read(storage: Storage, uri: str) -> list[Record]:
    """Return all records of the journal below `uri`, which ends in a slash; none if there is no journal.

    Raises JournalError and StorageError.
    """
    return list(_load(storage, uri).records)


class Journal:
    """The journal of a sweep whose coordinator this is; `records` are what earlier ones have left.

    All methods wait for the storage, for as long as it takes where it does not answer; `writer` is unlike any other's.
    They raise Fenced where another coordinator has begun, and StorageError where the storage refuses.
    """

    def __init__(
        self,
        storage: Storage,
        uri: str,
        writer: str,
        say: Callable[[str], None],
        waits: Sequence[float] = (0.2, 0.5, 1, 2, 5),
    ) -> None:
        self._storage, self._uri, self._writer, self._say, self._waits = storage, uri, writer, say, waits
        self._since, self._bytes, self._snapshot_bytes = 0, 0, 0  # since the last snapshot, and its own
        while True:
            loaded = self._patiently(lambda: _load(storage, uri))
            self._next = loaded.segments[-1].number + 1 if loaded.segments else 1
            self._openings, self._sizes = loaded.openings, loaded.sizes
            opening = Segment(self._next, OPENING, writer)
            if self._create(opening):
                break  # otherwise another coordinator has just written
        if self._patiently(lambda: storage.create(_uri(uri, opening.number), opening.to_bytes())):
            say(f"{storage.name} ignores If-None-Match, so two coordinators of a sweep would not notice each other")
        self.records: Iterable[Record] = loaded.records  # once
        self._openings.add(self._next - 1)
        for segment in loaded.segments:
            self._count(segment, self._sizes[segment.number])

    def append(self, records: Iterable[Record]) -> None:
        """Add records; they are durable when this comes back."""
        self._write(Segment(self._next, RECORDS, self._writer, _lines(records)))

    @property
    def is_long(self) -> bool:
        """True if a snapshot would make it much shorter."""
        return self._since >= _COMPACT_SEGMENTS or self._bytes >= max(_COMPACT_BYTES, self._snapshot_bytes)

    def compact(self, records: Iterable[Record]) -> list[int]:
        """Put `records` in the place of all that was added, and return the segments that `delete` may take away."""
        openings = tuple(sorted(self._openings))
        self._write(Segment(self._next, SNAPSHOT, self._writer, _lines(records), openings))
        return sorted(number for number in self._sizes if number < self._next - 1 and number not in self._openings)

    def delete(self, numbers: Iterable[int]) -> None:
        """Delete segments that a snapshot has made superfluous; what cannot be deleted now is, after the next one."""
        for number in numbers:
            try:
                self._storage.delete(_uri(self._uri, number))
            except StorageError:
                return
            self._sizes.pop(number, None)

    def _write(self, segment: Segment) -> None:
        if not self._create(segment):
            raise Fenced(f"another coordinator has written segment {segment.number} of {self._uri}")

    def _create(self, segment: Segment) -> bool:
        data, uri = segment.to_bytes(), _uri(self._uri, segment.number)
        created = self._patiently(lambda: self._storage.create(uri, data))
        # An answer that got lost makes the client try again, and find what it has written itself.
        if not created and self._patiently(lambda: self._storage.read(uri, _SEGMENT_LIMIT)) != data:
            return False
        self._next = segment.number + 1
        self._sizes[segment.number] = len(data)
        self._count(segment, len(data))
        return True

    def _count(self, segment: Segment, size: int) -> None:
        self._since, self._bytes = self._since + 1, self._bytes + size
        if segment.kind == SNAPSHOT:
            self._since, self._bytes, self._snapshot_bytes = 0, 0, size

    def _patiently(self, step: Callable[[], T]) -> T:
        """Do `step`, again and again while the storage does not answer."""
        reported = False

        def retry(error: StorageError) -> bool:
            # A bucket that existed when the sweep began may come back.
            return error.transient or (self._since > 0 and error.reason == "BucketNotFound")

        def say(error: StorageError, wait: float) -> None:
            nonlocal reported
            if not reported:
                self._say(f"{error.message}; trying until it answers")
            reported = True

        return patiently(step, forever(self._waits), say, retry=retry)


def _lines(records: Iterable[Record]) -> bytes:
    return b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)


def _uri(uri: str, number: int) -> str:
    return f"{uri}{number:08d}{_SUFFIX}"


def _load(storage: Storage, uri: str) -> _Loaded:
    for _ in range(_LOADS):
        sizes = _list(storage, uri)
        try:
            segments = _read_back(storage, uri, sizes)
        except StorageError as error:
            if error.reason != "ObjectNotFound":
                raise
            continue  # deleted since it was listed: there is a newer snapshot
        missing = _missing(segments)
        if not missing:
            return _Loaded(segments, sizes)
        if _list(storage, uri) == sizes:
            message = (
                f"segment {missing} of the journal {uri} is missing; restore it, or make the Sweep under a new name"
            )
            raise JournalError(message)
    raise StorageError(f"the journal {uri} changes faster than it can be read", "Busy", transient=True)


def _list(storage: Storage, uri: str) -> dict[int, int]:
    try:
        objects = storage.objects(uri)
    except StorageError as error:
        if error.reason != "InputNotFound":
            raise
        return {}
    names = {name.removesuffix(_SUFFIX): size for name, (_, size) in objects.items() if name.endswith(_SUFFIX)}
    return {int(name): size for name, size in names.items() if name.isdecimal()}


def _read_back(storage: Storage, uri: str, numbers: Iterable[int]) -> list[Segment]:
    """The segments from the last snapshot on, or from the first one."""

    def load(number: int) -> Segment:
        data = storage.read(_uri(uri, number), _SEGMENT_LIMIT)
        try:
            return Segment.from_bytes(number, data)
        except ValueError as error:
            message = f"segment {number} of the journal {uri} is damaged: {error}"
            raise JournalError(f"{message}; restore it, or make the Sweep under a new name") from error

    back = sorted(numbers, reverse=True)
    segments: list[Segment] = []
    with ThreadPoolExecutor(_AT_ONCE) as readers:
        for start in range(0, len(back), _AT_ONCE):
            for segment in readers.map(load, back[start : start + _AT_ONCE]):
                segments.append(segment)
                if segment.kind == SNAPSHOT:
                    return segments[::-1]
    return segments[::-1]


def _missing(segments: Sequence[Segment]) -> int:
    """The number of a segment that ought to be there, or 0."""
    expected = segments[0].number if segments and segments[0].kind == SNAPSHOT else 1
    for segment in segments:
        if segment.number != expected:
            return expected
        expected += 1
    return 0
