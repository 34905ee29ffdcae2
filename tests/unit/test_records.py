"""Records: a chain in the storage that loses nothing, repeats nothing, and shows what was removed or altered."""

from __future__ import annotations

import asyncio
import json

import pytest
from builders import ours
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from ultramarine_contract import records
from ultramarine_contract.errors import StorageError
from ultramarine_contract.lineage import Fact, Part, facts
from ultramarine_contract.meta import Key, approver_of_alias
from ultramarine_contract.records import Chain, entry_of, read_all, record_name, verify
from ultramarine_operator.engine import recorder as recording
from ultramarine_operator.engine.recorder import Objects, Recorder

WRITER = "https://ultramarine.dev/operator@test"


@pytest.fixture
def place(bucket):
    return records.folder(bucket, "team-a")


@pytest.fixture
def short_blocks(monkeypatch):
    """Blocks of three records."""
    monkeypatch.setattr(records, "BLOCK", 3)


def fact(name, value="Succeeded", slot="end"):
    made = (Part(f"TrainingJob/{name}"), Part(f"s3://lake/{name}/model/", "model", "sha256:" + "a" * 64))
    return Fact("TrainingJob", name, f"uid-{name}", slot, value, "2030-01-01T12:00:00Z", "ada", made=made)


def chain_of(storage, place, count=0):
    """A chain with that number of records."""
    chain = Chain(storage, place, WRITER)
    chain.load()
    for number in range(count):
        assert chain.append(fact(f"job-{number}"))
    return chain


# ---- Writing


def test_a_record_is_an_in_toto_statement(storage, place):
    """Its subject are the outputs, its predicate is SLSA provenance, and it names the record before."""
    chain_of(storage, place, 2)
    first, second = (storage.read(place + record_name(number)) for number in (1, 2))

    document = json.loads(second)
    assert (document["_type"], document["predicateType"]) == (records.STATEMENT, records.PREDICATE)
    assert document["subject"][1]["digest"] == {"sha256": "a" * 64}
    assert document["predicate"]["buildDefinition"]["externalParameters"]["requestedBy"] == "ada"
    assert document["chain"]["former"] == records.digest_of(first)
    assert entry_of(second).fact == fact("job-1")


@pytest.mark.parametrize(
    "recorded",
    [
        fact("job"),
        Fact("Model", "churn", "uid", "alias/champion", "", "2030-01-01T12:00:00Z"),
        Fact("TrainingJob", "job", "uid", "object", "Deleted"),
        Fact("Model", "churn", "uid", "alias/champion", "8", made=(Part("Model/churn@champion"),), used=(Part("a"),)),
    ],
)
def test_each_record_is_valid_for_the_official_models(recorded):
    """The models of in-toto read statement and provenance without an unknown field, but for the place in the chain."""
    document = json.loads(records.statement(recorded, 1, records.FIRST, WRITER))
    assert document.pop("chain")["number"] == 1
    statement = json_format.ParseDict(document, statement_pb2.Statement())
    Statement.copy_from_pb(statement).validate()

    provenance = json_format.ParseDict(document["predicate"], provenance_pb2.Provenance())
    assert provenance.build_definition.build_type.endswith(f"/{recorded.kind}/v1alpha1")
    assert provenance.run_details.builder.id == WRITER
    for dependency in provenance.build_definition.resolved_dependencies:
        ResourceDescriptor.copy_from_pb(dependency).validate()


def test_a_fact_is_recorded_once(storage, place):
    """The same value of a property has no second record, also after a restart; another value has one."""
    chain = chain_of(storage, place, 2)
    assert not chain.append(fact("job-1"))

    later = chain_of(storage, place)
    assert not later.append(fact("job-1"))
    assert later.append(fact("job-1", "Failed"))
    assert [entry.number for entry in read_all(storage, place)] == [1, 2, 3]


class Interrupted:
    """A storage whose answer to a write is lost once: the write took effect."""

    def __init__(self, storage):
        self.storage, self.left = storage, 1

    def __getattr__(self, name):
        return getattr(self.storage, name)

    def create(self, uri, data):
        created = self.storage.create(uri, data)
        if self.left:
            self.left -= 1
            raise StorageError("the answer was lost", "Unreachable")
        return created


def test_a_lost_answer_makes_no_second_record(storage, place):
    """A writer that does not know whether its record was stored reads the chain again, and finds it."""
    chain_of(storage, place, 1)
    chain = Chain(Interrupted(storage), place, WRITER)
    chain.load()
    with pytest.raises(StorageError):
        chain.append(fact("job-1"))

    assert not chain.append(fact("job-1"))  # its number is taken: by itself
    assert verify(storage, place) == (2, chain.former, [])


def test_two_writers_make_one_chain(storage, place):
    """An operator that lost its Lease and does not know it yet breaks nothing: each number is given once."""
    old, new = chain_of(storage, place, 1), chain_of(storage, place)
    assert new.append(fact("new"))
    assert old.append(fact("old"))
    assert not new.append(fact("old"))

    assert [entry.fact.name for entry in read_all(storage, place)] == ["job-0", "new", "old"]
    assert verify(storage, place).faults == []


def test_the_index_is_made_again(storage, place, short_blocks):
    """Full blocks of the index save requests; one that is missing is written again by the next writer."""
    chain_of(storage, place, 7)
    expected = read_all(storage, place)
    block = f"{place}index/{record_name(2)}"
    before = storage.read(block)
    storage.delete(block)
    assert read_all(storage, place) == expected

    chain = chain_of(storage, place)
    assert storage.read(block) == before
    assert (chain.number, len(chain.recent)) == (7, 1)


def test_a_damaged_index_is_made_again(storage, place, short_blocks):
    """An audit names the block to delete, and the next writer makes it from the records."""
    chain_of(storage, place, 7)
    expected, block = read_all(storage, place), f"{place}index/{record_name(1)}"
    storage.write(block, b"[]")
    assert f"delete {block}" in verify(storage, place).faults[0]

    storage.delete(block)
    chain_of(storage, place)
    assert verify(storage, place).faults == []
    assert read_all(storage, place) == expected


# ---- Verifying


def test_an_intact_chain_has_no_faults(storage, place, short_blocks):
    """The verdict has the number of records and the digest of the last one."""
    chain = chain_of(storage, place, 7)

    assert verify(storage, place) == (7, chain.former, [])
    assert verify(storage, "s3://" + place.split("/")[2] + "/nowhere/records/") == (0, "", [])


def test_a_chain_that_was_written_again_shows(storage, place):
    """The digest of the last record, kept elsewhere, shows that all records were replaced."""
    head = chain_of(storage, place, 2).former
    assert verify(storage, place, head).faults == []

    storage.write(place + record_name(1), records.statement(fact("other"), 1, records.FIRST, WRITER))
    forged = records.digest_of(storage.read(place + record_name(1)))
    storage.write(place + record_name(2), records.statement(fact("job-1"), 2, forged, WRITER))
    assert verify(storage, place).faults == []
    assert "written again" in verify(storage, place, head).faults[0]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda storage, place: storage.delete(place + record_name(3)), "record 3 was removed"),
        (
            lambda storage, place: [storage.delete(place + record_name(n)) for n in (1, 2)],
            "records 1 to 2 were removed",
        ),
        (
            lambda storage, place: storage.write(
                place + record_name(2), storage.read(place + record_name(2)).replace(b"ada", b"eve")
            ),
            "record 2 was altered",
        ),
        (lambda storage, place: storage.write(place + record_name(4), b"{}"), "record 4 was altered"),
        (
            lambda storage, place: storage.write(place + record_name(4), storage.read(place + record_name(2))),
            "record 4 was altered: it says that it is record 2",
        ),
        (lambda storage, place: storage.write(f"{place}index/{record_name(1)}", b"[]"), "block 1 of the index differs"),
    ],
)
def test_damage_shows(storage, place, short_blocks, damage, words):
    """A record that was removed or altered is named, and so is an index that says something different."""
    chain_of(storage, place, 7)
    damage(storage, place)

    assert any(words in fault for fault in verify(storage, place).faults)


# ---- Recorder


def version_of(number=8, **status):
    """A ModelVersion that is ready."""
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2030-01-01T12:00:00Z"}
    spec = {"model": "churn", "version": str(number), "uri": "s3://lake/m/", "digest": "sha256:" + "b" * 64}
    return ours("ModelVersion", f"churn-{number}", spec, {"conditions": [ready], **status})


def model_of(revision=1, by=None, **aliases):
    """A Model with aliases, moved by a user, in one of its versions for the API server."""
    marks = {approver_of_alias(alias): by for alias in aliases if by}
    meta = {"annotations": marks, "resourceVersion": str(revision)}
    return ours("Model", "churn", {"aliases": aliases}, {"versions": 1, "requestedBy": "ada"}, **meta)


def recorder_of(storage, bucket, *objects, approvers=True):
    """A recorder in a cluster with these objects."""
    there = {Key.named(manifest["kind"], manifest): manifest for manifest in objects}
    uids = {key: manifest["metadata"]["uid"] for key, manifest in there.items()}
    return Recorder(storage, bucket, WRITER, Objects(uids.get, there.get), approvers=approvers)


def written(recorder):
    """Write what waits, as the task of the recorder does."""

    async def write():
        task = asyncio.create_task(recorder.run())
        while recorder.waiting:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(write(), 60))


def properties(storage, place):
    return [(entry.fact.name, entry.fact.slot, entry.fact.value) for entry in read_all(storage, place)]


def test_moves_of_an_alias_are_records(storage, bucket, place):
    """Each version that an alias led to has a record, in order, and so has the end of the alias."""
    recorder = recorder_of(storage, bucket, model_of())
    for revision, aliases in enumerate(({"champion": "7"}, {"champion": "8"}, {"champion": "7"}, {})):
        recorder.notice(model_of(revision, **aliases))
    written(recorder)

    values = ["7", "8", "7", ""]
    assert properties(storage, place) == [("churn", "alias/champion", value) for value in values]


def test_a_successor_writes_what_is_missing(storage, bucket, place):
    """What an operator noticed and did not write before it died, its successor writes; what it wrote, it does not."""
    first = recorder_of(storage, bucket, version_of(), model_of())
    first.notice(version_of())
    written(first)
    first.notice(model_of(champion="8"))  # and dies

    second = recorder_of(storage, bucket, version_of(), model_of())
    for manifest in (version_of(), model_of(champion="8")):
        second.notice(manifest)
    written(second)
    assert properties(storage, place) == [("churn-8", "registration", "Ready"), ("churn", "alias/champion", "8")]


def test_deletions_are_records(storage, bucket, place):
    """The deletion of an object has a record, also if it happened while no operator was there."""
    recorder = recorder_of(storage, bucket, version_of(7), version_of(8))
    recorder.notice(version_of(7))
    recorder.notice(version_of(8))
    recorder.notice(version_of(7), is_gone=True)
    written(recorder)
    later = recorder_of(storage, bucket, model_of())
    later.notice(model_of(champion="9"))
    written(later)

    assert properties(storage, place)[2:] == [
        ("churn-7", "object", "Deleted"),
        ("churn-8", "object", "Deleted"),
        ("churn", "alias/champion", "9"),
    ]


def test_a_record_of_an_alias_has_who_moved_it_and_when(storage, bucket, place):
    """Not the user who made the Model; nobody where the API server does not write the user. An end has its time."""
    recorder = recorder_of(storage, bucket, model_of())
    recorder.notice(model_of(1, by="eve", champion="7"))
    recorder.notice(model_of(2, by="bob", champion="8"))
    recorder.notice(model_of(3))
    written(recorder)
    moves = [entry.fact for entry in read_all(storage, place)]
    assert [(fact.value, fact.by) for fact in moves] == [("7", "eve"), ("8", "bob"), ("", "")]
    assert all(fact.time for fact in moves)

    older = recorder_of(storage, bucket, model_of(), approvers=False)
    older.notice(model_of(4, by="eve", champion="9"))
    written(older)
    assert read_all(storage, place)[-1].fact.by == ""


def test_objects_without_news_cost_nothing(storage, bucket, monkeypatch):
    """A pass over an unchanged object reads no facts, and one over an object that tells the same writes nothing."""
    recorder, read = recorder_of(storage, bucket, version_of()), []
    monkeypatch.setattr(recording, "facts", lambda manifest, **given: read.append(1) or facts(manifest, **given))
    for _ in range(3):
        recorder.notice(version_of())
    changed = version_of(bytes=7)
    changed["metadata"]["resourceVersion"] = "11"
    recorder.notice(changed)

    assert (recorder.waiting, len(read)) == (1, 2)
    assert facts(ours("Environment", "tools", {}, {"state": "Ready"})) == []


class Away:
    """A storage that does not answer until it is back."""

    def __init__(self, storage):
        self.storage, self.is_back = storage, False

    def __getattr__(self, name):
        if not self.is_back:
            raise StorageError("the storage is away", "Unreachable")
        return getattr(self.storage, name)


def test_an_absent_storage_costs_a_bounded_memory_and_no_record(storage, bucket, place, monkeypatch):
    """Above a number of notices, facts are read off the objects when the storage is back; deletions show then too."""
    monkeypatch.setattr(recording, "MAX_WAITING", 3)
    monkeypatch.setattr(recording, "RETRY_SECONDS", 0.01)
    alive = [version_of(number) for number in range(1, 8)]
    away = Away(storage)
    first = recorder_of(storage, bucket, *alive)
    first.notice(version_of(9))
    written(first)
    recorder = recorder_of(away, bucket, *alive)
    for manifest in alive:
        recorder.notice(manifest)
    recorder.notice(version_of(8))
    recorder.notice(version_of(8), is_gone=True)
    recorder.notice(version_of(9), is_gone=True)
    assert len(recorder._waiting) == 3
    assert recorder.waiting == 7  # each object that exists

    away.is_back = True
    written(recorder)
    assert sorted(properties(storage, place)) == sorted(
        [(f"churn-{number}", "registration", "Ready") for number in (*range(1, 8), 9)]
        + [("churn-9", "object", "Deleted")]
    )
    assert verify(storage, place).faults == []
