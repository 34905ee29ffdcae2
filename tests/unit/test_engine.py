"""The engine's parts that need no cluster: the queue, the mirror, and the comparison that saves writes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from json import loads

import pytest
from builders import child, ours, sweep, training_job
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.aio.client import Configuration
from ultramarine_contract.errors import NotLeading
from ultramarine_contract.meta import API_VERSION, JOB, TRAINING_JOB, Key, Ref, controller_uid
from ultramarine_operator.engine.engine import _end
from ultramarine_operator.engine.mirror import Mirror, owner_key
from ultramarine_operator.engine.queue import MAX_BACKOFF, Queue
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kube.apply import holds, up_to_date, with_hash
from ultramarine_operator.kube.client import ApiError, Client, as_yaml

A, B = Key("TrainingJob", "team-a", "a"), Key("TrainingJob", "team-a", "b")


async def test_a_key_waits_once():
    """Adding a key again while it waits does not double it."""
    queue = Queue()
    queue.add(A)
    queue.add(A)
    assert await queue.get() == A
    assert queue.depth == 0


async def test_a_key_is_worked_on_by_one_worker_at_a_time():
    """A ring during a pass is kept, and handed out when the pass is done."""
    queue = Queue()
    queue.add(A)
    assert await queue.get() == A
    queue.add(A)
    queue.add(B)
    assert await queue.get() == B
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    queue.done(A)
    assert await waiting == A


async def test_failures_back_off_and_success_forgets_them():
    """Each failure in a row doubles the delay, up to the longest; a success starts anew."""
    now = 0.0
    queue = Queue(clock=lambda: now)
    delays = []
    for _ in range(12):
        queue.add(A)
        await queue.get()
        delays.append(queue.failed(A))
        now += delays[-1]
    assert delays[:3] == [0.2, 0.4, 0.8]
    assert delays[-1] == MAX_BACKOFF
    await queue.get()
    queue.done(A)
    queue.add(A)
    await queue.get()
    assert queue.failed(A) == 0.2


async def test_an_earlier_time_wins():
    """A key that was to come in an hour comes at once when its object changes."""
    queue = Queue()
    queue.add(A, after=3600)
    queue.add(A)
    assert await asyncio.wait_for(queue.get(), 1) == A


def test_children_that_have_ended_are_given_in_outline():
    """Of a thousand jobs of a sweep it is enough to know that they are there, whose they are, and how they ended."""
    mirror = Mirror(KINDS)
    one = sweep()
    for name, state in (("hpo-trial-0", "Succeeded"), ("hpo-trial-1", "Failed"), ("hpo-trial-2", "Running")):
        made = child("TrainingJob", name, one, {"command": ["true"]}, {"state": state})
        mirror.put(TRAINING_JOB, made)
    key = Key("Sweep", "team-a", "hpo")
    found = {each["metadata"]["name"]: each for each in mirror.children(key)}

    assert {name: each["status"]["state"] for name, each in found.items()} == {
        **{"hpo-trial-0": "Succeeded", "hpo-trial-1": "Failed", "hpo-trial-2": "Running"},
    }
    assert [name for name in sorted(found) if "spec" in found[name]] == ["hpo-trial-2"]
    assert {controller_uid(each) for each in found.values()} == {one.uid}
    assert mirror.children(key, "Job") == ()


def live(resource_version, **meta):
    """The TrainingJob churn at that version."""
    return ours("TrainingJob", "churn", {}, resourceVersion=str(resource_version), **meta)


def test_an_older_version_does_not_replace_a_newer():
    """Events and answers may come in any order; the newest stays."""
    mirror = Mirror()
    assert mirror.put(TRAINING_JOB, live(9))
    assert not mirror.put(TRAINING_JOB, live(7))
    found = mirror.get(Key("TrainingJob", "team-a", "churn"))
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "9"


def test_the_dead_do_not_come_back():
    """An answer from before a delete does not revive the object; a new one of that name is taken in."""
    mirror = Mirror()
    mirror.put(TRAINING_JOB, live(9))
    mirror.drop(TRAINING_JOB, live(10))
    assert not mirror.put(TRAINING_JOB, live(9))
    assert mirror.put(TRAINING_JOB, live(12, uid="a new one"))


def test_a_listing_prunes_what_is_gone_and_keeps_what_is_newer():
    """An object that the listing lacks is dropped, unless it came in after the listing was asked for."""
    mirror = Mirror()
    owner = training_job()
    old = child("Job", "old", owner)
    mirror.put(JOB, old)
    before = mirror.versions(JOB, "team-a")
    mirror.put(JOB, child("Job", "new", owner))
    assert mirror.prune(JOB, set(), 100, before) == [old]
    assert [c["metadata"]["name"] for c in mirror.children(Key("TrainingJob", "team-a", "churn"))] == ["new"]


def test_a_listing_from_the_past_does_not_take_away_what_it_is_too_old_to_have():
    """Made after the moment that the listing is of, and known before it was asked for: it is there."""
    mirror = Mirror()
    mirror.put(TRAINING_JOB, live(9))
    before = mirror.versions(TRAINING_JOB, None)
    assert mirror.prune(TRAINING_JOB, set(), 8, before) == []
    assert len(mirror.prune(TRAINING_JOB, set(), 9, before)) == 1


def test_what_changed_during_a_listing_stays():
    """A child whose label was put back while the listing without it was under way is newer than the listing."""
    mirror = Mirror()
    mirror.put(TRAINING_JOB, live(5))
    before = mirror.versions(TRAINING_JOB, None)
    mirror.put(TRAINING_JOB, live(6))
    assert mirror.prune(TRAINING_JOB, set(), 100, before) == []


def test_a_childs_owner_is_who_controls_it_whatever_its_labels_say():
    """Labels are anybody's to change; a pod, which is controlled by a child of ours, is known by them alone."""
    owner = {"apiVersion": API_VERSION, "kind": "TrainingJob", "name": "churn", "uid": "1", "controller": True}
    labels = {"ultramarine.dev/kind": "TrainingJob", "ultramarine.dev/name": "other"}
    meta = {"namespace": "team-a", "name": "x", "labels": labels}
    assert owner_key({"metadata": {**meta, "ownerReferences": [owner]}}) == Key("TrainingJob", "team-a", "churn")
    of_a_job = {**owner, "apiVersion": "batch/v1", "kind": "Job"}
    assert owner_key({"metadata": {**meta, "ownerReferences": [of_a_job]}}) == Key("TrainingJob", "team-a", "other")


def test_what_the_server_adds_is_no_difference():
    """Defaults and canonical quantities do not make a child differ from what was asked for."""
    wanted = {"spec": {"a": 1, "resources": {"limits": {"cpu": "1000m"}}, "env": [{"name": "x", "value": ""}]}}
    found = {"spec": {"a": 1, "b": 2, "resources": {"limits": {"cpu": "1"}}, "env": [{"name": "x"}]}, "status": {}}
    assert holds(wanted, found)


@pytest.mark.parametrize("found", [{}, {"spec": {"a": 2}}, {"spec": {"a": [1]}}, {"spec": None}])
def test_what_somebody_changed_is_a_difference(found):
    """A field with another value, or gone, is seen."""
    assert not holds({"spec": {"a": 1}}, found)


def test_a_field_that_we_no_longer_set_is_seen():
    """The annotation tells a removed field, which a comparison of what is wanted cannot."""
    before = with_hash({"metadata": {"name": "x"}, "spec": {"a": 1, "b": 2}})
    after = with_hash({"metadata": {"name": "x"}, "spec": {"a": 1}})
    assert up_to_date(before, before)
    assert not up_to_date(after, before)


@given(st.dictionaries(st.text(), st.text()))
def test_every_text_survives_as_yaml(value):
    """What is applied is JSON and YAML at once, whatever characters are in it; half a surrogate pair is replaced."""
    assert loads(as_yaml(value)) == value
    assert "\\ud83d" not in as_yaml({"a": "\U0001f680"})
    assert loads(as_yaml({"a": "\ud83d"})) == {"a": "\ufffd"}


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(json)
def test_everything_holds_itself(value):
    """No value differs from itself."""
    assert holds(value, value)


@pytest.mark.attack("author/poison")
@given(json)
def test_a_poisoned_object_never_raises_in_the_comparison(value):
    """Whatever somebody put in a child, comparing it says yes or no."""
    assert holds({"metadata": {"name": "x"}}, value) in (True, False)


def test_one_more_label_in_a_selector_is_a_difference():
    """A selector is compared as a whole: with a label more it selects other pods."""
    assert not holds({"spec": {"selector": {"a": "1"}}}, {"spec": {"selector": {"a": "1", "b": "2"}}})


def test_what_a_policy_lets_in_is_compared_as_a_whole():
    """A network policy that somebody has made wider, or that holds other pods now, is not as it should be."""
    own = {"podSelector": {"matchLabels": {"a": "1"}}, "ingress": [{"from": [{"podSelector": {"b": "2"}}]}]}
    wider = {**own, "ingress": [{"from": [{"podSelector": {"b": "2"}, "namespaceSelector": {}}]}]}
    narrower = {**own, "podSelector": {"matchLabels": {"a": "1", "c": "3"}}}

    assert holds(own, own)
    assert not holds(own, wider)
    assert not holds(own, narrower)


def test_an_object_made_anew_during_a_listing_stays():
    """The listing that lacks it was taken between the old object's end and the new one's beginning."""
    mirror = Mirror()
    mirror.put(TRAINING_JOB, live(5))
    before = mirror.versions(TRAINING_JOB, None)
    mirror.drop(TRAINING_JOB, live(6))
    mirror.put(TRAINING_JOB, live(8, uid="a new one"))
    assert mirror.prune(TRAINING_JOB, set(), 100, before) == []
    assert mirror.get(Key("TrainingJob", "team-a", "churn")) is not None


def test_an_object_that_was_out_of_sight_comes_back():
    """A label taken off looks like a deletion to the watch; put back, the same object is newer and is taken in."""
    mirror = Mirror()
    mirror.put(TRAINING_JOB, live(5))
    mirror.drop(TRAINING_JOB, live(6))
    assert mirror.put(TRAINING_JOB, live(7))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_worker_can_always_be_ended(turns):
    """A cancellation that comes with a wake-up is not lost: a replica that lost the Lease must stop."""
    queue = Queue()
    queue.add(B, after=60)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0.01)
    queue.add(B, after=50)
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 20)


async def test_a_task_that_swallows_its_cancellation_is_ended_all_the_same():
    """aiohttp takes a cancellation for its own when a request times out at that moment; the worker has to go still."""

    async def work() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    await asyncio.wait_for(_end([working]), 30)
    assert working.cancelled()


def client_of(server: socket.socket) -> Client:
    """A client of the API server that is to listen there."""
    return Client.to(Configuration(host=f"http://127.0.0.1:{server.getsockname()[1]}"))


async def test_without_the_lease_a_client_reads_and_does_not_write():
    """Every way to write is refused before anything is sent; reading goes on."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.settimeout(0.2)
        client = client_of(deaf).fenced(lambda: 0.0)
        manifest = live(1)
        for write in (
            client.create(TRAINING_JOB, manifest),
            client.update(TRAINING_JOB, manifest),
            client.apply(TRAINING_JOB, manifest, force=True),
            client.apply(TRAINING_JOB, manifest, force=True, subresource="status"),
            client.patch(Ref.to(TRAINING_JOB, manifest), []),
            client.delete(Ref.to(TRAINING_JOB, manifest)),
        ):
            with pytest.raises(NotLeading):
                await write
        with pytest.raises(TimeoutError):
            deaf.accept()
        reading = asyncio.create_task(client.get(TRAINING_JOB, "team-a", "churn"))
        deaf.settimeout(60)
        connection, _ = await asyncio.to_thread(deaf.accept)
        assert await asyncio.to_thread(connection.recv, 3) == b"GET"
        reading.cancel()
        await client.close()


async def test_a_write_waits_no_longer_than_the_lease_holds():
    """An API server that does not answer cannot make a write outlast the Lease."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = client_of(deaf).fenced(lambda: 0.3)
        with pytest.raises(ApiError, match="did not answer"):
            await asyncio.wait_for(client.create(TRAINING_JOB, live(1)), 20)
        await client.close()


async def test_a_write_that_comes_to_be_sent_too_late_is_not_sent():
    """The Lease is asked again just before the body goes out: it may have run out since the request was begun."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = iter([5.0])  # then it has run out
        client = client_of(server).fenced(lambda: next(left, 0.0))
        with pytest.raises(NotLeading):
            await asyncio.wait_for(client.create(TRAINING_JOB, live(1)), 20)
        connection, _ = server.accept()
        connection.settimeout(20)
        assert connection.recv(100) == b"", "it was connected, and closed without a byte"
        await client.close()
