"""Probes, metrics and log of the real operator while it, or the world around it, stands still."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from accounts import admit
from bare import Api, eventually, whole
from operator_process import Operator
from stories import flood, jobs, training, until
from ultramarine_cluster import process
from ultramarine_contract.meta import MODEL_VERSION, Manifest

# An operator with a defect: no pass ever ends.
HANGING = """
import asyncio
from ultramarine_operator import __main__
from ultramarine_operator.engine import vitals
from ultramarine_operator.engine.reconcile import Reconciler

async def hang(self, key):
    await asyncio.Event().wait()

Reconciler.reconcile = hang
vitals.STUCK_SECONDS = 3.0
__main__.main()
"""


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def stopped_api_server(api: Api) -> Iterator[None]:
    """The API server keeps its connections and answers nobody."""
    server = process.recorded(api.cluster.state, "kube-apiserver")
    assert server is not None
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


def healthy(operator: Operator) -> bool:
    """True if the kubelet would not restart it."""
    return operator.probe("/healthz")[0] == 200


def problems(operator: Operator) -> str:
    """Return its reported problems."""
    return "; ".join(operator.probe("/readyz")[1].get("problems", []))


def test_a_storage_that_never_answers_holds_nothing_up(api, replica, object_store, deaf):
    """With more questions open than it has workers, an operator before a deaf storage goes on with everything else."""
    operator: Operator = replica("first", store=replace(object_store, endpoint=deaf))
    operator.start()
    for number in range(1, 41):
        patch = {"metadata": {"name": f"m-{number}"}, "spec": {"model": "m", "version": str(number)}}
        answer = api.http.post(MODEL_VERSION.path(api.namespace), json=whole("ModelVersion", patch))
        assert answer.status_code == 201, answer.text
    time.sleep(2)
    flood(api, 0, 10)
    began = time.monotonic()
    eventually("all jobs are made", lambda: jobs(api) == 10, 15)
    print(f"10 jobs made in {time.monotonic() - began:.1f} s beside 40 unanswered questions")

    assert healthy(operator)
    assert problems(operator) == ""
    assert operator.metric("ultramarine_queue_age_seconds") < 5


@pytest.mark.slow
def test_an_api_server_that_is_away_is_no_reason_for_a_restart(api, replica):
    """While the API server answers nobody the operator lives, leads no more and says why; then it goes on at once."""
    operator: Operator = replica("first")
    operator.start()
    flood(api, 0, 3)
    eventually("all jobs are made", lambda: jobs(api) == 3)
    with stopped_api_server(api):
        end = time.monotonic() + 25
        eventually("it has stopped leading", lambda: not operator.leads)
        assert operator.probe("/readyz")[0] == 503
        eventually("it says why", lambda: "the Lease cannot be taken" in problems(operator))
        while time.monotonic() < end:
            assert healthy(operator)
            time.sleep(1)
    began = time.monotonic()
    flood(api, 3, 6)
    eventually("work goes on", lambda: jobs(api) == 6, 120)
    print(f"work went on {time.monotonic() - began:.1f} s after the API server came back")
    eventually("it is ready", lambda: operator.probe("/readyz")[0] == 200)

    assert operator.process is not None
    assert operator.process.poll() is None
    bugs = {name: count for name, count in operator.metrics().items() if "total{" in name and 'outcome="bug"' in name}
    assert not any(bugs.values()), bugs


def test_an_operator_without_rights_says_which_and_waits(api, replica):
    """Without its Role it is not ready, names the types and stays alive; with the Role it is ready and works."""
    operator: Operator = replica("first", rights=("lease",))
    operator.launch()
    eventually("it says so", lambda: "TrainingJob may not be listed or watched" in problems(operator))
    time.sleep(3)
    assert healthy(operator)
    status, told = operator.probe("/readyz")
    assert status == 503
    assert f"/apis/ultramarine.dev/v1alpha1/namespaces/{api.namespace}/trainingjobs" in told["refused"]
    eventually("all are counted", lambda: operator.metric("ultramarine_listings_refused") >= 10)

    admit(api, "first", "operator")
    flood(api, 0, 2)
    eventually("it works", lambda: jobs(api) == 2)
    eventually("it is ready", lambda: operator.probe("/readyz")[0] == 200)


@pytest.mark.slow
def test_workers_that_hang_ask_for_a_restart(api, replica):
    """An operator whose passes never end is well while it has nothing to do, and asks to be killed when it has."""
    operator: Operator = replica("first", program=("-c", HANGING))
    operator.start()
    time.sleep(4)
    assert healthy(operator)
    flood(api, 0, 30)
    eventually("it asks for a restart", lambda: operator.probe("/healthz")[0] == 503)

    assert "no pass has ended" in "; ".join(operator.probe("/healthz")[1]["problems"])
    assert operator.metric("ultramarine_queue_age_seconds") > 3


def test_probes_can_be_read_by_people(operator):
    """The answer to a probe is JSON that says how the replica is, in words and in seconds."""
    eventually("it is ready", lambda: operator.probe("/readyz")[0] == 200)
    _, told = operator.probe("/readyz")

    assert told["ok"] is True
    assert told["problems"] == []
    assert told["lease"] == {"role": "leader", "holder": "operator-0", "trouble": ""}
    assert set(told["secondsSince"]) == {"anyPass", "successfulPass", "listing", "oldestWatchOpened"}
    assert told["secondsSince"]["oldestWatchOpened"] < 30
    assert told["queue"]["due"] == 0


def test_metrics_follow_a_life(api, operator, node):
    """After a job's life the metrics tell its passes, requests, events, states and questions to the storage."""
    api.apply(training("churn"))
    node.start_pod("churn")
    until(api, "churn", "Running")  # so that it has a pass of its own
    node.succeed("churn", node.upload("churn"))
    until(api, "churn", "Succeeded")
    api.run("wait", "--for=condition=Ready", "mv/churn-1", "--timeout=120s")
    # The operator counts what its watches tell, which is a moment after it was written.
    states = ('kind="TrainingJob",state="Succeeded"', 'kind="ModelVersion",state="Ready"')
    eventually("both are counted", lambda: [operator.metric(f"ultramarine_objects{{{s}}}") for s in states] == [1, 1])
    told = operator.metrics()

    assert told['ultramarine_reconciles_total{kind="TrainingJob",outcome="ok"}'] >= 3
    assert told['ultramarine_reconcile_seconds_count{kind="TrainingJob"}'] >= 3
    assert told['ultramarine_api_requests_total{code="201",kind="Job",verb="create"}'] == 1
    assert told['ultramarine_api_requests_total{code="200",kind="TrainingJob",verb="patch/status"}'] >= 3
    assert told['ultramarine_api_request_seconds_count{verb="patch/status"}'] >= 3
    assert told['ultramarine_watch_events_total{kind="Pod"}'] >= 2
    assert told['ultramarine_storage_questions_total{outcome="ok"}'] >= 1
    assert told['ultramarine_lease_transitions_total{to="leader"}'] == 1
    assert told["ultramarine_ready"] == 1
    assert 0 <= told["ultramarine_listing_age_seconds"] < 60
    assert told['ultramarine_watch_age_seconds{kind="Pod"}'] < 60
    assert told["process_resident_memory_bytes"] > 0
    by_namespace = ("ultramarine_finished_", "ultramarine_usage_")
    others = [name for name in told if not name.startswith(by_namespace)]
    assert [name for name in told if "churn" in name] == [], "no label names an object"
    assert [name for name in others if api.namespace in name] == []
    assert (
        told[f'ultramarine_finished_total{{kind="TrainingJob",object_namespace="{api.namespace}",outcome="Succeeded"}}']
        == 1
    )


def test_every_line_of_the_log_is_json_and_names_its_object(api, replica):
    """With rights missing all parts of the operator complain: in JSON, each line about an object with its name."""
    operator: Operator = replica("first", rights=("lease",))
    admit(api, "first", "operator", but=("pods", "trainingjobs/status"))
    operator.start()
    api.apply(training("churn"))

    def ours() -> list[Manifest]:
        """The lines about the object."""
        return [line for line in operator.lines() if f"{api.namespace}/churn" in line["message"]]

    def parts() -> set[str]:
        """The parts of the operator that have said something."""
        return {line["logger"].split(".")[0] for line in operator.lines()}

    eventually("it was tried twice", lambda: len(ours()) >= 2)
    eventually("all parts complain", lambda: parts() >= {"ultramarine_operator", "kopf"})
    for line in ours():
        assert (line["kind"], line["namespace"], line["name"]) == ("TrainingJob", api.namespace, "churn"), line
    for line in operator.lines():
        assert set(line) - {"kind", "namespace", "name", "traceback"} == {"time", "level", "logger", "message"}


def test_lines_about_no_object_name_none(operator):
    """A log line about the operator as a whole has no object's name."""
    lines = operator.lines()

    assert [line for line in lines if "lease" in line["message"]]
    assert [line for line in lines if "name" in line] == []
