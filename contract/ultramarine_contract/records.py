"""Records: facts as in-toto statements in the object storage, each of which names the digest of the one before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec

from .common import built
from .errors import StorageError
from .lineage import Fact, Part, reference
from .meta import GROUP, VERSION

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
FOLDER, INDEX = "records", "index"
FIRST = ""  # the digest that the first record names
BLOCK = 500  # records in a file of the index
_AT_ONCE = 8  # requests for records


class Storage(Protocol):
    """Object storage with the records of a namespace; its methods raise StorageError."""

    def read(self, uri: str) -> bytes: ...

    def create(self, uri: str, data: bytes) -> bool: ...

    def names(self, uri: str) -> list[str]: ...


class Entry(NamedTuple):
    """A record that was read: its number from 1, its own digest, that of the former record, and its fact."""

    number: int
    digest: str
    former: str
    fact: Fact


def folder(bucket: str, namespace: str) -> str:
    """Return the URI of the folder with a namespace's records."""
    return f"s3://{bucket}/{namespace}/{FOLDER}/"


def record_name(number: int) -> str:
    """Return the name of a record in its folder."""
    return f"{number:010}.json"


def statement(fact: Fact, number: int, former: str, writer: str) -> bytes:
    """Return the record of a fact as JSON: an in-toto statement of SLSA provenance, with its place in the chain.

    A statement needs a subject, and a subject a digest: an object of the namespace has that of the fact.
    Source: in-toto Attestation Framework, Statement v1, whose readers ignore further fields; SLSA v1.0, Provenance.
    """
    digest = {f"{GROUP}/fact": hashlib.sha256(msgspec.json.encode(fact)).hexdigest()}
    subjects = fact.made or (Part(reference(fact.kind, fact.name)),)
    parameters = {"kind": fact.kind, "name": fact.name, "uid": fact.uid, "property": fact.slot, "value": fact.value}
    document = {
        "_type": STATEMENT,
        "subject": [{"digest": digest} | _resource(part) for part in subjects],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": f"https://{GROUP}/{fact.kind}/{VERSION}",
                "externalParameters": {**parameters, "requestedBy": fact.by, "details": fact.details},
                "resolvedDependencies": [_resource(part) for part in fact.used],
            },
            "runDetails": {
                "builder": {"id": writer},
                "metadata": {"invocationId": f"{fact.key}={fact.value}"}
                | ({"finishedOn": fact.time} if fact.time else {}),
            },
        },
        "chain": {"number": number, "former": former, "fact": msgspec.to_builtins(fact)},
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _resource(part: Part) -> dict[str, Any]:
    digest = part.digest.removeprefix("sha256:")
    return {"uri": part.uri, "name": part.name or part.uri} | ({"digest": {"sha256": digest}} if digest else {})


def digest_of(data: bytes) -> str:
    """Return the digest of a record."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def entry_of(data: bytes) -> Entry:
    """Return a record that was read. Raises ValueError."""
    try:
        chain = json.loads(data)["chain"]
        fact = msgspec.convert(chain["fact"], built(Fact))
        return Entry(int(chain["number"]), digest_of(data), str(chain["former"]), fact)
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise ValueError(f"not a record: {error}") from error


# ---- Reading


def numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of the records among names of a folder, in order."""
    stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())


def read_all(storage: Storage, place: str) -> list[Entry]:
    """Return all records of a folder, by the index and, for what it lacks, one by one. Raises StorageError."""
    there = numbers(storage.names(place))
    blocks = [block for block in numbers(storage.names(f"{place}{INDEX}/")) if block * BLOCK <= len(there)]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        indexed = [
            entry for block in threads.map(lambda block: _block(storage, place, block), blocks) for entry in block
        ]
        done = {entry.number for entry in indexed}
        rest = threads.map(lambda number: _entry(storage, place, number), (n for n in there if n not in done))
        entries = [*indexed, *(entry for entry in rest if entry is not None)]
    return sorted(entries, key=lambda entry: entry.number)


def _entry(storage: Storage, place: str, number: int) -> Entry | None:
    try:
        return entry_of(storage.read(place + record_name(number)))
    except ValueError:
        return None  # `faults` names it


def _block(storage: Storage, place: str, block: int) -> list[Entry]:
    try:
        return msgspec.json.decode(storage.read(f"{place}{INDEX}/{record_name(block)}"), type=built(list[Entry]))
    except msgspec.MsgspecError:
        return []


# ---- Writing


@dataclass
class Recorded:
    """Newest values of an object's properties, as the chain has them."""

    kind: str
    name: str
    by: str
    values: dict[str, str] = field(default_factory=dict)


@dataclass
class Chain:
    """End of a namespace's chain, to which records are appended, and the newest values of each object's properties.

    Of a deleted object only its uid is kept.
    """

    storage: Storage
    place: str
    writer: str
    number: int = 0
    former: str = FIRST
    objects: dict[str, Recorded] = field(default_factory=dict)  # those that exist, by uid
    deleted: set[str] = field(default_factory=set)  # uids
    recent: list[Entry] = field(default_factory=list)  # of the block of the index that is not full

    def load(self) -> None:
        """Read the chain again from the storage, and write the blocks of the index that are missing."""
        self.number, self.former, self.objects, self.deleted, self.recent = 0, FIRST, {}, set(), []
        for entry in read_all(self.storage, self.place):
            self._take(entry)

    def append(self, fact: Fact) -> bool:
        """Write the record of a fact; False if it is recorded already. Raises StorageError."""
        while True:
            recorded = self.objects.get(fact.uid)
            former = recorded.values.get(fact.slot, "") if recorded else ""
            if former == fact.value or fact.uid in self.deleted:
                return False
            data = statement(fact, self.number + 1, self.former, self.writer)
            if self.storage.create(self.place + record_name(self.number + 1), data):
                self._take(entry_of(data))
                return True
            self.load()  # another writer, or this one before an answer that was lost

    def _take(self, entry: Entry) -> None:
        self.number, self.former = entry.number, entry.digest
        fact = entry.fact
        if fact.slot == OBJECT:
            self.objects.pop(fact.uid, None)
            self.deleted.add(fact.uid)
        elif fact.uid not in self.deleted:
            recorded = self.objects.setdefault(fact.uid, Recorded(fact.kind, fact.name, fact.by))
            recorded.values[fact.slot] = fact.value
        self.recent.append(entry)
        if entry.number % BLOCK == 0:
            if len(self.recent) == BLOCK:
                block = f"{self.place}{INDEX}/{record_name(entry.number // BLOCK)}"
                self.storage.create(block, msgspec.json.encode(self.recent))
            self.recent = []

    def closing(self, uid: str, time: str, facts: Iterable[Fact] = ()) -> tuple[Fact, ...]:
        """Return the facts that end properties which an object no longer has, such as a removed alias."""
        recorded, there = self.objects.get(uid), {fact.slot for fact in facts}
        if recorded is None:
            return ()
        former = (slot for slot, value in recorded.values.items() if value and slot not in there)
        endings = (Fact(recorded.kind, recorded.name, uid, slot, "", time) for slot in former)
        return tuple(fact for fact in endings if fact.lasts)

    def ends(self, uid: str, time: str = "") -> tuple[Fact, ...]:
        """Return the facts that end an object of which the chain has records: its properties, and its deletion.

        `time` is that of the deletion, if it was seen.
        """
        if (recorded := self.objects.get(uid)) is None:
            return ()
        deletion = Fact(recorded.kind, recorded.name, uid, OBJECT, DELETED, time, recorded.by)
        return (*self.closing(uid, time), deletion)


OBJECT, DELETED = "object", "Deleted"


# ---- Verifying


class Verdict(NamedTuple):
    """Outcome of a check: number of records, digest of the last one, and what is wrong."""

    records: int
    head: str
    faults: list[str]


def verify(storage: Storage, place: str, head: str = "") -> Verdict:
    """Check that no record was removed, altered or inserted, and that the index says the same. Raises StorageError.

    `head` is the digest that an earlier check gave for the last record.
    """
    there = numbers(storage.names(place))
    problems: list[str] = []
    former, expected, entries = FIRST, 1, []
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        contents = threads.map(lambda number: storage.read(place + record_name(number)), there)
        for number, data in zip(there, contents, strict=True):
            if number != expected:
                problems.append(f"{_range(expected, number - 1)} removed")
            try:
                entry = entry_of(data)
            except ValueError as error:
                problems.append(f"record {number} was altered: {error}")
                former, expected = "", number + 1
                continue
            if entry.number != number:
                problems.append(f"record {number} was altered: it says that it is record {entry.number}")
            elif former and number == expected and entry.former != former:
                problems.append(f"record {number - 1} was altered: record {number} names another digest of it")
            entries.append(entry)
            former, expected = entry.digest, number + 1
    if head and head not in {entry.digest for entry in entries}:
        problems.append(f"no record has the digest {head}: the chain was written again since")
    problems += _index_faults(storage, place, entries)
    return Verdict(len(there), former, problems)


def _range(first: int, last: int) -> str:
    return f"record {first} was" if first == last else f"records {first} to {last} were"


def _index_faults(storage: Storage, place: str, entries: list[Entry]) -> Iterator[str]:
    by_number = {entry.number: entry for entry in entries}
    last = entries[-1].number if entries else 0
    for block in numbers(storage.names(f"{place}{INDEX}/")):
        first = (block - 1) * BLOCK + 1
        if first + BLOCK - 1 > last:
            continue  # written after the records were listed
        expected = [by_number.get(number) for number in range(first, first + BLOCK)]
        try:
            written: list[Entry | None] = [*_block(storage, place, block)]
        except StorageError as error:
            yield f"block {block} of the index cannot be read: {error.message}"
            continue
        if written != expected:
            yield f"block {block} of the index differs from the records; delete {place}{INDEX}/{record_name(block)}"
