"""Records: a chain in the storage that loses nothing, repeats nothing, and shows what was removed or altered."""

from __future__ import annotations

import json

import pytest
from builders import ours
from ultramarine_contract import records
from ultramarine_contract.errors import StorageError
from ultramarine_contract.lineage import Fact, Part, facts
from ultramarine_contract.records import Chain, entry_of, read_all, record_name, verify
from ultramarine_operator.engine.recorder import Recorder

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


def model_of(**aliases):
    return ours("Model", "churn", {"aliases": aliases}, {"versions": 1})


def recorder_of(storage, bucket, *objects):
    """A recorder in a cluster with these objects."""
    uids = {(manifest["kind"], manifest["metadata"]["name"]): manifest["metadata"]["uid"] for manifest in objects}
    return Recorder(storage, bucket, WRITER, lambda key: uids.get((key.kind, key.name)))


def written(recorder):
    """Write what waits, as the task of the recorder does."""
    while recorder.waiting:
        recorder._write(recorder._waiting[0])
        recorder._waiting.popleft()


def properties(storage, place):
    return [(entry.fact.name, entry.fact.slot, entry.fact.value) for entry in read_all(storage, place)]


def test_moves_of_an_alias_are_records(storage, bucket, place):
    """Each version that an alias led to has a record, in order, and so has the end of the alias."""
    recorder = recorder_of(storage, bucket, model_of())
    for aliases in ({"champion": "7"}, {"champion": "8"}, {"champion": "7"}, {}):
        recorder.notice(model_of(**aliases))
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


def test_objects_without_news_cost_nothing(storage, bucket):
    """A pass over an object that tells the same as before leaves nothing to write."""
    recorder = recorder_of(storage, bucket, version_of())
    recorder.notice(version_of())
    recorder.notice(version_of(bytes=7))

    assert recorder.waiting == 1
    assert facts(ours("Environment", "tools", {}, {"state": "Ready"})) == []
