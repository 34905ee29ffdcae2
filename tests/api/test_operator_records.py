"""Records of lineage and audit, written by the real operator from what it sees at a real API server."""

from __future__ import annotations

import contextlib

import pytest
from bare import Refused, eventually
from operator_process import BUCKET
from stories import ready, trained, until
from ultramarine.kube.errors import NotFound
from ultramarine.lineage import audit
from ultramarine_contract.lineage_graph import Graph
from ultramarine_contract.records import folder, read_all, record_name, verify
from ultramarine_contract.storage import Keys, Storage


@pytest.fixture
def operator(replica):
    """The operator with exactly the chart's rights, which writes records."""
    process = replica("writer", records=True)
    process.start()
    return process


@pytest.fixture
def storage(object_store):
    return Storage(object_store.endpoint, keys=Keys(object_store.access_key, object_store.secret_key))


def facts(storage, api):
    """The recorded facts, without times."""
    entries = read_all(storage, folder(BUCKET, api.namespace))
    return [(entry.fact.kind, entry.fact.name, entry.fact.slot, entry.fact.value) for entry in entries]


def promote(api, version):
    api.run("patch", "mdl", "churn", "--type=merge", "-p", f'{{"spec": {{"aliases": {{"champion": "{version}"}}}}}}')


def test_a_life_becomes_a_chain(api, operator, node, storage):
    """The end of a job, its version, an alias and a deletion have one record each, and lead from data to alias."""
    place = folder(BUCKET, api.namespace)
    trained(api, node, "churn")
    eventually("the version is ready", lambda: ready(api, "churn-1"))
    promote(api, 1)
    eventually("the alias is recorded", lambda: ("Model", "churn", "alias/champion", "1") in facts(storage, api))
    api.run("delete", "tj", "churn")
    eventually("the end is recorded", lambda: ("TrainingJob", "churn", "object", "Deleted") in facts(storage, api))

    # Each object's records are written by its own pass, in any order.
    eventually("all is recorded", lambda: len(facts(storage, api)) >= 4)
    assert sorted(facts(storage, api)) == [
        ("Model", "churn", "alias/champion", "1"),
        ("ModelVersion", "churn-1", "registration", "Ready"),
        ("TrainingJob", "churn", "end", "Succeeded"),
        ("TrainingJob", "churn", "object", "Deleted"),
    ]
    assert verify(storage, place).faults == []
    graph = Graph(entry.fact for entry in read_all(storage, place))
    origins = graph.origins("Model/churn@champion")
    assert [fact.kind for fact in origins] == ["Model", "ModelVersion", "TrainingJob"]


def test_the_sdk_walks_the_records_and_the_audit_misses_the_last_one(api, operator, node, store, client):
    """A walk goes from the alias to a job that was deleted; a live object shows that the newest record was removed."""
    place = folder(BUCKET, api.namespace)
    trained(api, node, "churn")
    eventually("the version is ready", lambda: ready(api, "churn-1"))
    api.run("delete", "tj", "churn")
    eventually("the end is recorded", lambda: ("TrainingJob", "churn", "object", "Deleted") in facts(store, api))
    eventually("the version is recorded", lambda: len(facts(store, api)) >= 3)
    promote(api, 1)
    eventually("the alias is recorded", lambda: ("Model", "churn", "alias/champion", "1") in facts(store, api))

    lineage = client.lineage("model", "churn@champion")
    assert lineage.uri == "ModelVersion/churn-1"
    assert [fact.kind for fact in lineage.origins] == ["ModelVersion", "TrainingJob"]
    assert [(fact.slot, fact.value) for fact in lineage.consequences] == [("alias/champion", "1")]
    with pytest.raises(NotFound, match=r"nothing is recorded about ModelVersion/churn-7"):
        client.lineage("model", "churn@7")

    intact = audit(client)
    assert (intact.records, intact.faults) == (len(facts(store, api)), [])
    store.delete(place + record_name(intact.records))
    assert audit(client).faults == ["Model churn: no record says alias/champion 1"]


def test_the_record_of_an_alias_has_who_moved_it(api, operator, node, storage):
    """The user of the move, whoever made the Model; that is the approver where approval is asked for."""
    trained(api, node, "churn")
    eventually("the version is ready", lambda: ready(api, "churn-1"))
    api.run("create", "rolebinding", "bob", "--clusterrole=cluster-admin", "--user=bob")

    def is_moved():
        with contextlib.suppress(Refused):
            change = '{"spec": {"aliases": {"champion": "1"}}}'
            return api.run("patch", "mdl", "churn", "--as=bob", "--type=merge", "-p", change)

    eventually("bob may move it", is_moved)
    eventually("the alias is recorded", lambda: ("Model", "churn", "alias/champion", "1") in facts(storage, api))

    (moved,) = (e.fact for e in read_all(storage, folder(BUCKET, api.namespace)) if e.fact.kind == "Model")
    assert moved.by == "bob"
    assert moved.time


def test_a_killed_operator_loses_and_repeats_nothing(api, operator, node, storage):
    """Killed around each event, it has written one record of each when it is back, in one chain."""
    names = ["one", "two", "three"]
    for name in names:
        trained(api, node, name)
        operator.kill()
        operator.start()
    operator.kill()
    api.run("delete", "tj", "one")
    operator.start()
    eventually("the deletion is recorded", lambda: ("TrainingJob", "one", "object", "Deleted") in facts(storage, api))
    for name in names:
        eventually(
            "its version is recorded",
            lambda n=name: ("ModelVersion", f"{n}-1", "registration", "Ready") in facts(storage, api),
        )

    eventually("all is recorded", lambda: len(facts(storage, api)) >= 7)
    recorded = facts(storage, api)
    assert len(recorded) == len(set(recorded)) == 7
    assert verify(storage, folder(BUCKET, api.namespace)).faults == []
    until(api, "two", "Succeeded")
