"""Replicas of the real operator: one writes at a time, and another takes over, whatever happens to the Lease."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from accounts import admit
from bare import Api, audit_events, eventually
from operator_process import Operator
from stories import flood, jobs, training, until
from ultramarine_contract.meta import Manifest

LEASE = "lease/ultramarine-operator"


@pytest.fixture
def pair(replica: Callable[..., Operator]) -> tuple[Operator, Operator]:
    """A leader and a standby that is ready."""
    first, second = replica("first"), replica("second")
    first.start()
    second.launch()
    eventually("the second is ready", lambda: second.probe("/readyz")[0] == 200)
    return first, second


def writes(api: Api, name: str) -> list[tuple[datetime, str]]:
    """Return the writes of that service account in the audit log, except those of the Lease."""
    found = []
    for entry in audit_events(api.cluster.audit_log, f"system:serviceaccount:{api.namespace}:{name}"):
        what = entry.get("objectRef", {})
        if (
            entry["verb"] not in ("get", "list", "watch")
            and what.get("resource") != "leases"
            and what.get("namespace") == api.namespace
        ):
            said = f"{entry['verb']} {what['resource']}/{what.get('name')} {entry['responseStatus']['code']}"
            found.append((datetime.fromisoformat(entry["requestReceivedTimestamp"]), said))
    return found


def lease(api: Api) -> Manifest:
    """Return the spec of the Lease."""
    spec: Manifest = json.loads(api.run("get", LEASE, "-o", "json"))["spec"]
    return spec


def moment(text: str) -> datetime:
    """A time of the API."""
    return datetime.fromisoformat(text)


def test_a_standby_is_ready_and_writes_nothing(api, pair):
    """Of two replicas one does all the work; the other is ready, says who leads, and sends not one write."""
    leader, standby = pair
    api.apply(*(training(f"job-{number}") for number in range(5)))
    for number in range(5):
        until(api, f"job-{number}", "Pending")

    assert writes(api, "second") == []
    assert not standby.writes()
    # The API server records a write after its answer.
    eventually("a source, a Job and a status for each are recorded", lambda: len(writes(api, "first")) >= 15)
    status, told = standby.probe("/readyz")
    assert (status, told["lease"]["role"], told["lease"]["holder"]) == (200, "standby", "first")
    status, told = leader.probe("/readyz")
    assert (status, told["lease"]["role"], told["lease"]["holder"]) == (200, "leader", "first")


def test_another_takes_over_from_a_leader_that_was_killed(api, pair, replica):
    """After a SIGKILL in the middle of the work one of two standbys leads within 20 s, and goes on with it."""
    leader, second = pair
    third = replica("third")
    third.launch()
    eventually("the third is ready", lambda: third.probe("/readyz")[0] == 200)
    flood(api, 0, 40)
    leader.kill()
    killed = datetime.now(UTC)
    assert jobs(api) < 40, "the work was done before the leader died, so this shows nothing"
    eventually("another leads", lambda: second.leads or third.leads)
    taken = (moment(lease(api)["acquireTime"]) - killed).total_seconds()
    print(f"taken over {taken:.1f} s after a SIGKILL")
    flood(api, 40, 45)
    eventually("all jobs are made", lambda: jobs(api) == 45)

    assert taken < 20
    assert second.leads != third.leads
    assert writes(api, "second" if third.leads else "third") == []
    assert len(api.all("cm")) == 45
    _one_writer_at_a_time(api, "first", "second", "third")


def test_a_leader_that_is_told_to_stop_hands_over_at_once(api, pair):
    """After a SIGTERM in the middle of the work the other leads within seconds: nobody waits the Lease out."""
    leader, standby = pair
    flood(api, 0, 40)
    leader.send(signal.SIGTERM)
    stopped = datetime.now(UTC)
    eventually("the other leads", lambda: standby.leads)
    taken = (moment(lease(api)["acquireTime"]) - stopped).total_seconds()
    print(f"taken over {taken:.1f} s after a SIGTERM")
    eventually("all jobs are made", lambda: jobs(api) == 40)
    assert leader.process is not None
    assert leader.process.wait(120) == 0

    assert taken < 10, "a Lease is waited out for that long at least: its last renewal is five seconds old at most"
    _one_writer_at_a_time(api, "first", "second")


@pytest.mark.slow
@pytest.mark.attack(
    "operator/two-replicas",
    asset="every object",
    threat="two replicas write at once",
    control="writes are fenced by a Lease: a leader that slept too long writes no more",
)
def test_a_leader_that_slept_too_long_writes_no_more(api, pair):
    """Stopped for longer than the Lease, with work in its queue, and woken under another, it sends not one write.

    It stays as a standby, and leads again when the other is gone.
    """
    leader, standby = pair
    flood(api, 0, 60)
    leader.send(signal.SIGSTOP)
    slept = datetime.now(UTC)
    assert jobs(api) < 60, "the work was done before the leader slept, so this shows nothing"
    eventually("the other leads", lambda: standby.leads)
    eventually("it has done the work", lambda: jobs(api) == 60)
    leader.send(signal.SIGCONT)
    flood(api, 60, 80)
    eventually("the sleeper knows", lambda: leader.probe("/readyz")[1].get("lease", {}).get("holder") == "second")
    told = leader.probe("/readyz")
    eventually("all jobs are made", lambda: jobs(api) == 80)
    time.sleep(2)

    assert (told[0], told[1]["lease"]["role"]) == (200, "standby")
    late = [what for when, what in writes(api, "first") if (when - slept).total_seconds() > 1]
    # 504: it fell asleep in the middle of a request, and the API server gave up waiting for the rest. 409: it fell
    # asleep between the last look at the Lease and the socket, and what it wrote was of a version that is gone.
    assert [what for what in late if not what.endswith((" 504", " 409"))] == []
    assert leader.metric('ultramarine_lease_transitions_total{to="standby"}') == 1
    _one_writer_at_a_time(api, "first", "second")
    standby.stop()
    eventually("the first leads again", lambda: leader.leads)
    flood(api, 80, 85)
    eventually("it works again", lambda: jobs(api) == 85)


@pytest.mark.slow
def test_a_lease_that_was_deleted_stays_with_its_leader(api, pair):
    """The leader makes it anew; the standby, which finds it gone, does not believe that nobody leads."""
    leader, standby = pair
    for _ in range(2):
        api.run("delete", LEASE)
        eventually("the Lease is back", lambda: "first" in api.run("get", LEASE, "--ignore-not-found", "-o", "yaml"))
    flood(api, 0, 5)
    eventually("work goes on", lambda: jobs(api) == 5)

    assert leader.metric('ultramarine_lease_transitions_total{to="standby"}') == 0
    assert standby.metric('ultramarine_lease_transitions_total{to="leader"}') == 0
    assert writes(api, "second") == []


@pytest.mark.slow
def test_nobody_leads_early_over_a_spoilt_lease(namespace, replica):
    """Deleted, emptied or shortened under a leader that cannot tell, the Lease is waited out as it was."""
    spoils = {
        "deleted": ["delete", LEASE],
        "emptied": ["patch", LEASE, "--type=merge", "-p", '{"spec": {"holderIdentity": ""}}'],
        "without a word in it": ["patch", LEASE, "--type=json", "-p", '[{"op": "remove", "path": "/spec"}]'],
        "shortened": ["patch", LEASE, "--type=merge", "-p", '{"spec": {"leaseDurationSeconds": 2}}'],
    }
    standbys: dict[str, tuple[Operator, datetime]] = {}
    for how, command in spoils.items():
        api = namespace()
        leader, standby = replica("first", where=api), replica("second", where=api)
        leader.start()
        standby.launch()
        eventually("the second is ready", lambda standby=standby: standby.probe("/readyz")[0] == 200)
        leader.send(signal.SIGSTOP)
        renewed = moment(lease(api)["renewTime"])
        api.run(*command)
        standbys[how] = standby, renewed
    api = namespace()
    leader, newcomer = replica("first", where=api), replica("second", where=api)
    leader.start()
    leader.send(signal.SIGSTOP)
    standbys["deleted before another's first look"] = newcomer, moment(lease(api)["renewTime"])
    api.run("delete", LEASE)
    newcomer.launch()
    for how, (standby, renewed) in standbys.items():
        eventually("the other leads", lambda standby=standby: standby.leads, 120)
        waited = (moment(lease(standby.api)["acquireTime"]) - renewed).total_seconds()
        print(f"{how}: taken over {waited:.1f} s after the last renewal")
        assert waited > 12, "the last renewal lets its holder write for 12 s"


def test_a_lease_that_nobody_has_held_is_taken_at_once(api, replica):
    """The chart makes the Lease empty: an installation does not wait for a leader that never was."""
    operator = replica("first")
    operator.launch()
    eventually("it is ready", lambda: operator.probe("/readyz")[0] == 200)
    eventually("it leads, long before a holder would have been waited out", lambda: operator.leads, 12)


@pytest.mark.slow
@pytest.mark.attack("operator/two-replicas")
def test_a_strangers_name_in_the_lease_stops_the_leader_and_not_for_ever(api, pair):
    """A Lease that somebody gives to a stranger for a day stops the leader at once, and is not believed for ever."""
    leader, standby = pair
    spec = {"holderIdentity": "mallory", "leaseDurationSeconds": 86_400}
    api.run("patch", LEASE, "--type=merge", "-p", json.dumps({"spec": spec}))
    eventually("nobody leads", lambda: not leader.leads and not standby.leads)
    flood(api, 0, 3)
    started = time.monotonic()
    eventually("one of them leads again", lambda: leader.leads or standby.leads, 120)
    print(f"led again {time.monotonic() - started:.1f} s after a stranger's name was written into the Lease")
    eventually("work goes on", lambda: jobs(api) == 3)


@pytest.mark.slow
def test_a_lease_that_may_not_be_had_is_told(api, replica):
    """Without the right to the Lease nothing is written; probe, metrics and log say why, and the right cures it."""
    operator = replica("first", rights=("operator",))
    operator.launch()
    told = eventually(
        "it says so", lambda: [p for p in operator.probe("/readyz")[1].get("problems", []) if "the Lease" in p]
    )
    flood(api, 0, 2)
    time.sleep(5)
    assert operator.probe("/readyz")[0] == 503
    assert operator.probe("/healthz")[0] == 200, "a restart cures nothing"
    assert "forbidden" in told[0]
    assert operator.metric('ultramarine_api_requests_total{code="403",kind="Lease",verb="get"}') > 1
    assert operator.metric("ultramarine_ready") == 0
    assert writes(api, "first") == []
    lines = [line for line in operator.lines() if "forbidden" in json.dumps(line)]
    assert len(lines) == 1, "said once, not at every attempt"
    assert "not renewed" in lines[0]["message"]

    admit(api, "first", "lease")
    eventually("it leads", lambda: operator.leads)
    eventually("it is ready", lambda: operator.probe("/readyz")[0] == 200)
    eventually("it works", lambda: jobs(api) == 2)


def _one_writer_at_a_time(api: Api, *names: str) -> None:
    """The API server's record shows no write of one replica between two writes of another."""
    record = sorted((when, name, what) for name in names for when, what in writes(api, name))
    turns = [record[0][1]]
    for _, name, _ in record:
        if name != turns[-1]:
            turns.append(name)
    assert len(turns) == len(set(turns)), "\n".join(f"{when:%H:%M:%S.%f} {name} {what}" for when, name, what in record)
