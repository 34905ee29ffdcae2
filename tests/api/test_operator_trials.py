"""Trials that are TrainingJobs, before a real API server: the operator has the chart's rights; it is killed, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import hands
import pytest
from accounts import admit_everywhere
from bare import Api, eventually
from builders import searching, training
from operator_process import Node, Operator
from speaking import Coordinator, RealCoordinator, end, is_in, succeed, uids
from stories import reasons, state, status, until
from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest
from ultramarine_contract.sweep_records import TrialTask
from ultramarine_operator.shared.conditions import find
from ultramarine_operator.training.trials import ANNOTATION_TRIAL

SOURCE = {"inline": {"train.py": "print('loss=1')"}}
TRIAL = {"source": SOURCE, "command": ["python", "train.py", "--lr=$(params.lr)"]}


def hpo(**spec: object) -> Manifest:
    """A Sweep with a job for each trial."""
    return searching("hpo", execution="PodPerTrial", trialTemplate={"spec": TRIAL}, **spec)


@pytest.fixture
def hearing(api: Api, replica: Callable[..., Operator]) -> Operator:
    """The operator, which pods can post to."""
    made = replica("operator", hears=True)
    admit_everywhere(api, "operator", "progress")
    made.start()
    return made


@pytest.fixture
def coordinator(api: Api, hearing: Operator, node: Node) -> Coordinator:
    """The coordinator of the Sweep hpo, whose pod runs."""
    api.apply(hpo())
    speaking = Coordinator(api, hearing, node)
    speaking.start()
    return speaking


def test_what_is_wanted_becomes_jobs_at_once(api: Api, coordinator: Coordinator) -> None:
    """Each wish is a TrainingJob with the trial's parameters, and its end is in the answer to who still wants it."""
    assert coordinator.want(0, 1) == {"parallel": 2, "ended": [], "held": []}
    made = coordinator.has((0, 1))
    spec = made[1]["spec"]
    assert (spec["parameters"], spec["suspend"]) == ({"lr": "0.002"}, False)
    assert (spec["command"], spec["source"]) == (TRIAL["command"], {"configMap": {"name": "hpo-sweep-source"}})
    (owner,) = made[1]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("Sweep", "hpo", True)
    told = TrialTask.from_json(made[1]["metadata"]["annotations"][ANNOTATION_TRIAL])
    assert (told.trial, told.objectives) == (1, ("loss",))
    pod = coordinator.node.job_of("hpo-trial-1")["spec"]["template"]["spec"]["containers"][0]
    env = {variable["name"]: variable for variable in pod["env"]}
    assert TrialTask.from_json(env[contract.ENV_TRIAL]["value"]).coordinator.startswith("http://hpo-coordinator.")
    assert env[contract.ENV_SWEEP_TOKEN]["valueFrom"]["secretKeyRef"]["name"] == "hpo-sweep-token"

    coordinator.run("hpo-trial-0")
    until(api, "hpo-trial-0", "Running")
    eventually("the sweep runs", lambda: is_in(api, "Running"))
    coordinator.finish(0, loss=0.5)
    told_end = coordinator.hears(0, 1)
    assert (told_end["outcome"], told_end["metrics"]) == ("Succeeded", {"loss": 0.5})
    assert coordinator.want(1, 2)["ended"] == []
    coordinator.has((0, 1, 2))
    eventually("it is counted", lambda: status(api, "sw", "hpo")["progress"] == "1/10")


def test_only_the_coordinator_is_heard(api: Api, coordinator: Coordinator) -> None:
    """A trial's own pod wants nothing, nor does one that nobody gave a token to."""
    coordinator.want(0)
    coordinator.has((0,))
    of_trial = coordinator.run("hpo-trial-0")
    until(api, "hpo-trial-0", "Running")

    refused = coordinator.send(of_trial, 5)
    assert (refused.status_code, "belongs to TrainingJob" in refused.text) == (403, True)
    assert coordinator.send("a.b.c", 5).status_code == 401
    assert set(coordinator.trials) == {0}


def test_a_killed_operator_makes_no_trial_twice_and_loses_none(
    api: Api, hearing: Operator, coordinator: Coordinator
) -> None:
    """A trial that ended meanwhile is reported, a planned one is created, and existing ones stay the same."""
    coordinator.want(0, 1)
    before = uids(coordinator.has((0, 1)))
    coordinator.run("hpo-trial-0")
    until(api, "hpo-trial-0", "Running")
    coordinator.want(0, 1, 2)  # and the pass for it may never end
    hearing.kill()
    hearing.start()
    known = uids(coordinator.trials)
    coordinator.finish(0, loss=0.5)
    assert coordinator.hears(0, 1, 2)["outcome"] == "Succeeded"
    after = uids(coordinator.has((0, 1, 2)))
    assert {number: after[number] for number in (*before, *known)} == before | known

    for round in range(3):
        wanted = (1, 2, 3 + round)
        coordinator.want(*wanted)
        hearing.kill()
        hearing.start()
        coordinator.want(*wanted)
        after |= {3 + round: uids(coordinator.has(range(4 + round)))[3 + round]}
        assert uids(coordinator.trials) == after


@pytest.mark.slow
def test_a_trial_that_hands_deleted_is_made_again_while_it_is_wanted(api: Api, coordinator: Coordinator) -> None:
    """One that nobody wants any more is not, whether it has ended or not."""
    coordinator.want(0, 1)
    first = uids(coordinator.has((0, 1)))
    api.run("delete", "tj/hpo-trial-1", "--wait=false")
    eventually("another one is there", lambda: uids(coordinator.trials).get(1, first[1]) != first[1])
    assert uids(coordinator.has((0, 1)))[0] == first[0]

    coordinator.want(1)
    eventually("a pass that knows", lambda: status(api, "sw", "hpo").get("trials", {}).get("running") == 1)
    api.run("delete", "tj/hpo-trial-0", "--wait=false")
    coordinator.want(1, 2)
    coordinator.has((1, 2))


def test_a_suspended_sweep_holds_its_trials_and_lets_them_go_on(api: Api, coordinator: Coordinator) -> None:
    """Those that run are held with their Jobs, ended ones are left alone; the coordinator hears that none may begin."""
    coordinator.want(0, 1)
    coordinator.has((0, 1))
    coordinator.run("hpo-trial-0")
    until(api, "hpo-trial-0", "Running")
    coordinator.finish(0, loss=0.5)
    ended = coordinator.trials[0]
    api.apply(hpo(suspend=True))
    until(api, "hpo-trial-1", "Suspended")
    assert coordinator.node.job_of("hpo-trial-1")["spec"]["suspend"] is True
    assert coordinator.want(0, 1)["parallel"] == 0
    coordinator.want(1, 2)  # it had been begun, and the pod was yet to go
    assert coordinator.has((0, 1, 2))[2]["spec"]["suspend"] is True
    eventually("the sweep says so", lambda: is_in(api, "Suspended"))

    api.apply(hpo())
    for number in (1, 2):
        eventually("it goes on", lambda n=number: not coordinator.node.job_of(f"hpo-trial-{n}")["spec"]["suspend"])
        until(api, f"hpo-trial-{number}", "Pending")
    assert coordinator.trials[0] == ended
    assert coordinator.want(1, 2)["parallel"] == 2


def test_the_end_takes_what_runs_and_leaves_what_has_ended(
    api: Api, hearing: Operator, coordinator: Coordinator
) -> None:
    """A sweep that is over keeps its trials that are, or are about to be; the others go, and none comes."""
    coordinator.want(0, 1, 2)
    coordinator.has((0, 1, 2))
    for number in (0, 1):
        coordinator.run(f"hpo-trial-{number}")
        until(api, f"hpo-trial-{number}", "Running")
    coordinator.finish(0, loss=0.25)
    end(api, coordinator.node)
    eventually("it is over", lambda: is_in(api, "Succeeded"))

    coordinator.has((0, 1), seconds=60)
    coordinator.finish(1, loss=0.5)
    coordinator.send(coordinator.token, 0, 1, 2, 3)
    passes = hearing.passes("Sweep")
    api.run("label", "sw/hpo", "look=now")
    eventually("it is looked at", lambda: hearing.passes("Sweep") > passes)
    assert {state(api, f"hpo-trial-{number}") for number in coordinator.has((0, 1))} == {"Succeeded"}


def test_a_stranger_that_has_a_trials_name_is_left_alone(api: Api, coordinator: Coordinator) -> None:
    """The other trials run; the sweep says whose name is taken; the trial follows when it is free."""
    api.apply(training("hpo-trial-0"))
    before = api.get("tj", "hpo-trial-0")["spec"]
    assert coordinator.want(0, 1)["ended"] == []
    coordinator.has((0, 1))
    told = eventually("a condition says so", lambda: find(status(api, "sw", "hpo"), "Reconciled"))
    assert told["message"].startswith("TrainingJob hpo-trial-0 already exists and has another owner")
    assert api.get("tj", "hpo-trial-0")["spec"] == before
    assert coordinator.want(0, 1)["ended"] == []

    api.run("delete", "tj/hpo-trial-0")
    coordinator.want(0, 1, 2)
    owner = coordinator.has((0, 1, 2))[0]["metadata"]["ownerReferences"][0]
    assert owner["kind"] == "Sweep"
    eventually("the condition is gone", lambda: not find(status(api, "sw", "hpo"), "Reconciled"))


@pytest.mark.parametrize("runs", [False, True])
def test_a_state_that_somebody_else_has_written_ends_no_trial(api: Api, coordinator: Coordinator, runs: bool) -> None:
    """A trial ends only by its job's own pass; a foreign word in its status is corrected."""
    coordinator.want(0, 1)
    coordinator.has((0, 1))
    if runs:
        coordinator.run("hpo-trial-0")
        until(api, "hpo-trial-0", "Running")
    api.status("tj", "hpo-trial-0", {"state": "Succeeded"})

    assert coordinator.want(0, 1)["ended"] == []
    eventually("it is put right", lambda: state(api, "hpo-trial-0") in ("Running", "Pending"))
    assert coordinator.want(0, 1)["ended"] == []


@pytest.mark.slow
def test_a_whole_sweep_survives_the_death_of_everybody(
    api: Api, hearing: Operator, coordinator: Coordinator, tmp_path: Path
) -> None:
    """A real coordinator and the operator are killed again and again: each trial runs once, and the best is known."""
    real = RealCoordinator(coordinator, tmp_path)
    real.start()
    started: dict[int, str] = {}  # trials whose pods run, or ran: nobody makes them twice
    killings: dict[int, tuple[Callable[[], None], ...]] = {
        2: (hearing.kill,),
        4: (real.kill,),
        6: (real.kill, hearing.kill),
        8: (hearing.kill, real.kill),
    }

    def play() -> bool:
        for number, job in sorted(coordinator.trials.items()):
            assert started.setdefault(number, job["metadata"]["uid"]) == job["metadata"]["uid"]
            if (job.get("status") or {}).get("state") == "Succeeded" or number in done:
                continue
            coordinator.run(f"hpo-trial-{number}")
            killed = killings.pop(len(done), ())
            for kill in killed:
                kill()
            succeed(api, number, loss=float(job["spec"]["parameters"]["lr"]))  # while they are away
            done.add(number)
            for kill in killed:
                (hearing if kill == hearing.kill else real).start()
        return bool(real.last_words)

    done: set[int] = set()
    try:
        eventually("the coordinator ends", play, 400)
    finally:
        real.kill()
    api.status("pod", "hpo-coordinator-0-abcde", hands.ended_pod(0, real.last_words, name="coordinator"))
    api.status("job", "hpo-coordinator", hands.complete_job(indexed=False))
    eventually("it is over", lambda: is_in(api, "Succeeded"))

    told, trials = status(api, "sw", "hpo"), coordinator.trials
    assert (told["progress"], told["trials"]["succeeded"]) == ("10/10", 10)
    assert (uids(trials), killings) == (started, {})
    assert sorted(trials) == list(range(10))
    rates = sorted(float(job["spec"]["parameters"]["lr"]) for job in trials.values())
    assert [best["values"]["loss"] for best in told["best"]] == rates
    assert len(set(rates)) == 10, "none was suggested twice"


def test_a_trial_costs_few_writes(api: Api, hearing: Operator, coordinator: Coordinator) -> None:
    """Its TrainingJob, its Job, two words in its status with an event each, and the sweep's counts."""
    coordinator.want(0)
    coordinator.has((0,))
    coordinator.run("hpo-trial-0")
    until(api, "hpo-trial-0", "Running")
    eventually("the sweep runs", lambda: is_in(api, "Running"))
    eventually("its event is there", lambda: "Started" in reasons(api, "hpo-trial-0"))  # written after its status
    eventually("and the sweep's", lambda: "Started" in reasons(api, "hpo"))
    before = hearing.writes()
    for number in (1, 2, 3, 4):
        coordinator.want(0, number)
        coordinator.has(range(number + 1))
        coordinator.run(f"hpo-trial-{number}")
        until(api, f"hpo-trial-{number}", "Running")
        coordinator.finish(number, loss=0.5)
        coordinator.hears(number, 0)
    coordinator.want(0)
    eventually("all is counted", lambda: status(api, "sw", "hpo")["trials"]["succeeded"] == 4)

    expected = {"create TrainingJob": 4, "create Job": 4, "patch/status TrainingJob": 8, "create Event": 8}
    eventually("all is told", lambda: (hearing.writes() - before)["create Event"] >= 8)
    spent: Counter[str] = hearing.writes() - before
    sweeps = spent.pop("patch/status Sweep")
    assert spent == expected
    assert sweeps <= 2 * 4, "the counts change when a trial ends, and when another begins"
