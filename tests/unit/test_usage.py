"""Accounting: what pods reserved while they ran, by the day, whatever the passes see of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from builders import PLATFORM
from prometheus_client import REGISTRY
from ultramarine_contract.meta import ANNOTATION_REQUESTED_BY
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_operator.engine.accounting import MAX_SERIES, OTHERS, Accounting
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared import usage
from ultramarine_operator.shared.conditions import timestamp
from ultramarine_trainer.attempt import resources as cgroup

NOON = datetime(2027, 3, 14, 12, tzinfo=UTC)
HALF = {"cpu": "500m", "memory": "2Gi", "nvidia.com/gpu": 1}
KNOWING = replace(PLATFORM, knows_requester=True)
KIND = {kind.name: kind for kind in KINDS}


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def pod(began=None, ended=None, *, requests=HALF, record=None, leaves=None, waits=False):
    """A pod of a Job, whose container ran between these seconds after noon."""
    state = {"waiting": {}} if began is None else {"running": {"startedAt": timestamp(at(began))}}
    phase = "Pending" if began is None else "Running"
    if ended is not None:
        phase, words = "Succeeded", record.to_json() if record else ""
        times = {"startedAt": timestamp(at(began)), "finishedAt": timestamp(at(ended))}
        state = {"terminated": {"exitCode": 0, "message": words, **times}}
    meta = {
        "name": "a-0",
        "namespace": "team",
        "uid": "pod",
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "controller": True, "uid": "job"}],
    }
    if leaves is not None:
        meta |= {"deletionTimestamp": timestamp(at(leaves + 30)), "deletionGracePeriodSeconds": 30}
    return {
        "kind": "Pod",
        "metadata": meta,
        "spec": {"containers": [{"name": "trainer", "resources": {"requests": requests}}]},
        "status": {"phase": phase, "containerStatuses": [{"name": "trainer", "state": state}]},
    }


def used(former, *pods, now, over=False):
    return usage.advanced(former, [share for item in pods if (share := usage.share(item))], at(now), over=over)


def amounts(results):
    return tuple(results[field] for field in usage.FIELDS)


def test_what_waits_for_a_node_uses_nothing():
    """A pod without a started container has no share, however long it waits."""
    assert used(None, pod(), now=5000) is None
    assert used(None, pod(0, requests={}), now=5000) is None, "nothing is reserved for it"


def test_many_looks_count_the_same_as_one():
    """Each second of a pod counts once, however often and late it is looked at, and a finished one only to its end."""
    seen = None
    for now in (10, 20, 31, 90):
        seen = used(seen, pod(5), now=now)
    seen = used(used(seen, pod(5, 105), now=200), pod(5, 105), now=4000)

    assert amounts(seen) == amounts(used(None, pod(5, 105), now=200)) == (50, 100, 200)


def test_a_pod_that_is_gone_stays_counted():
    """What was counted of a pod stays when the pod is gone, and the next one is added."""
    first = used(None, pod(0, 60), now=60)

    assert amounts(used(first, pod(100, 160), now=170)) == (60, 120, 240)
    assert used(first, now=9000) == first


def test_days_are_split_at_midnight():
    """A run over two nights has three days, which add up to the whole."""
    begin, end = -13 * 3600, 13 * 3600
    seen = used(None, pod(begin, end), now=end)

    assert [(day["day"][-2:], day["gpuSeconds"]) for day in seen["days"]] == [("13", 3600), ("14", 86400), ("15", 3600)]
    assert sum(day["gpuSeconds"] for day in seen["days"]) == seen["gpuSeconds"]
    for day in range(20):
        seen = used(seen, pod(86400 * (day + 2), 86400 * (day + 2) + 10), now=86400 * (day + 2) + 10)
    assert len(seen["days"]) == usage.MAX_DAYS


def test_measured_use_counts_if_it_is_more_than_was_reserved():
    """Of a job that reserves nothing its trainer's measure counts, when the job is over and once, whatever was written
    before; a reservation that is larger stays.
    """
    record = TerminationRecord(cpu_seconds=42.5)
    last = pod(0, 100, requests={}, record=record)
    before = used(used(None, pod(0, requests={}), now=50), last, now=100)

    assert amounts(used(before, last, now=100, over=True)) == (42.5, 0, 0)
    assert amounts(used(None, pod(0, 100, record=record), now=120, over=True)) == (50, 100, 200)


def test_a_pod_on_a_lost_node_counts_until_it_should_have_gone():
    """It terminates for ever, and another one has taken its place."""
    assert amounts(used(None, pod(0, leaves=70), now=9000)) == (50, 100, 200)


@pytest.mark.parametrize(
    ("known_until", "pods", "now", "due"),
    [
        (None, [pod(0)], 3000, False),
        (None, [pod(0)], 3600, True),
        (3000, [pod(0)], 4000, False),
        (10, [pod(0, leaves=20)], 21, True),
        (21, [pod(0, leaves=20)], 25, False),
        (200, [pod(0, 100, leaves=300)], 301, False),
        (200, [pod(0, 100)], 9000, False),
    ],
)
def test_a_write_for_the_usage_alone_is_rare(known_until, pods, now, due):
    """It comes once in an hour of running, and once before a pod vanishes."""
    former = used(None, pod(0), now=known_until) if known_until else None

    assert usage.is_due(former, [usage.share(item) for item in pods], at(now)) is due


def test_odd_times_of_a_deletion_are_no_error():
    """Whatever grace period a pod is deleted with, its usage can be counted."""
    odd = pod(0, leaves=10)
    odd["metadata"] |= {"deletionTimestamp": "31710-01-01T00:00:00Z", "deletionGracePeriodSeconds": 10**18}

    assert amounts(used(None, odd, now=100)) == (50, 100, 200)


def test_a_pod_reserves_the_larger_of_its_init_containers_and_the_rest():
    """Sidecars count beside the containers; a limit without a request is one; odd quantities are nothing."""
    made = pod(0)
    made["spec"]["containers"] += [
        {"resources": {"limits": {"cpu": 1, "amd.com/gpu": "2", "nvidia.com/gpumem": "3000"}}}
    ]
    made["spec"]["initContainers"] = [
        {"resources": {"requests": {"cpu": "3"}}},
        {"restartPolicy": "Always", "resources": {"requests": {"cpu": "250m", "memory": "lots"}}},
    ]
    assert usage.reserved(made) == (3.0, 3.0, 2.0)


def job(status=None, user="ada"):
    return {
        "kind": "TrainingJob",
        "metadata": {"name": "a", "namespace": "team", "uid": "a", "annotations": {ANNOTATION_REQUESTED_BY: user}},
        "status": status or {},
    }


CHILD = {"kind": "Job", "metadata": {"name": "a", "uid": "job", "ownerReferences": [{"controller": True, "uid": "a"}]}}


def test_a_status_gets_its_requester_and_usage_with_a_write_that_comes_anyway():
    """Both are in the next status that is written, stay in those that a plan makes from nothing, and cause no write."""
    accounting, kind = Accounting(KNOWING), KIND["TrainingJob"]
    children = (CHILD, pod(0))
    first, look = accounting.completed(kind, job(), {"state": "Running"}, children, at(60))

    assert (first["requestedBy"], first["usage"]["cpuSeconds"], look) == ("ada", 30, usage.REFRESH)
    same, _ = accounting.completed(kind, job(first), {"state": "Running"}, children, at(90))
    assert same == first
    over, look = accounting.completed(kind, job(first), {"state": "Succeeded"}, (CHILD, pod(0, 100)), at(200))
    assert (over["requestedBy"], over["usage"]["cpuSeconds"], look) == ("ada", 50, None)


def test_what_is_deleted_while_it_runs_is_counted():
    """Its status is gone with it, and Prometheus has what its pods used until then."""
    accounting, kind = Accounting(KNOWING), KIND["TrainingJob"]
    labels = {"kind": kind.name, "object_namespace": "team", "requester": "grace"}
    accounting.deleted(kind, job(user="grace"), (CHILD, pod(0)), at(100))

    assert REGISTRY.get_sample_value("ultramarine_usage_cpu_seconds_total", labels) == 50


def test_pods_of_others_are_not_counted():
    """Labels alone make no pod an object's own: its Job or Deployment must be there."""
    accounting, kind = Accounting(KNOWING), KIND["TrainingJob"]
    foreign = {**CHILD, "metadata": {**CHILD["metadata"], "ownerReferences": []}}
    for children in ((pod(0),), (foreign, pod(0))):
        status, _ = accounting.completed(kind, job(), {"state": "Running"}, children, at(60))
        assert "usage" not in status


def test_counters_are_there_from_the_start_and_bounded():
    """Ends and usage are counted by namespace and requester, of whom so many have a series of their own."""
    accounting, kind = Accounting(KNOWING), KIND["TrainingJob"]

    def value(name, **labels):
        return REGISTRY.get_sample_value(
            f"ultramarine_{name}_total", {"kind": kind.name, "object_namespace": "team", **labels}
        )

    accounting.begin(KINDS, ("team", None))
    assert value("finished", outcome="Failed") is not None
    before = value("finished", outcome="Failed")
    conditions = [{"type": "Failed", "status": "True"}]
    status = {"state": "Failed", "conditions": conditions, "usage": {"cpuSeconds": 5.0, "gpuSeconds": 0.0}}
    accounting.count(kind, job(), status)
    accounting.count(kind, job(status), {**status, "usage": {"cpuSeconds": 7.0}})
    assert value("finished", outcome="Failed") == before + 1
    assert value("usage_cpu_seconds", requester="ada") == 7
    for number in range(MAX_SERIES + 5):
        accounting.count(kind, job(user=f"user-{number}"), {"usage": {"cpuSeconds": 1.0}})
    assert value("usage_cpu_seconds", requester=OTHERS) == 6


@pytest.mark.parametrize(
    ("files", "own", "seconds"),
    [
        ({"cpu.stat": "usage_usec 2500000\nuser_usec 1\n"}, "0::/\n", 2.5),
        ({"cpu.stat": "usage_usec 9\n", "kube/pod/cpu.stat": "usage_usec 2500000\n"}, "0::/kube/pod\n", 2.5),
        ({"cpuacct/cpuacct.usage": "2500000000\n"}, "2:cpuacct:/kube/pod\n0::/kube/pod\n", 2.5),
        ({"cpu.stat": "\n"}, "", 0),
        ({}, "", 0),
    ],
    ids=["version-2", "the-nodes-groups", "version-1", "odd", "none"],
)
def test_a_container_measures_its_cpu_time(tmp_path, files, own, seconds):
    """Both versions of control groups tell it; a kernel without either tells 0."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text(own)

    assert cgroup.cpu_seconds(tmp_path, tmp_path / "own") == seconds
