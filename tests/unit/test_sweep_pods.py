"""Whole sweeps whose trials are jobs: a real coordinator, real trainers, a real S3 server, and kills in the middle."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import Fork
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_sweep.state import journal
from ultramarine_sweep.state.trial import Trial
from ultramarine_sweep.state.trials import Trials
from ultramarine_trainer.trials.connection import Connection, Refused
from unit.conftest import eventually
from unit.sweep_pods import Pods
from unit.sweeping import TOKEN, Fleet, task_of

Make = Callable[..., Pods]


@pytest.fixture
def fleet(tmp_path: Path, storage: Storage, bucket: str) -> Iterator[Fleet]:
    """A place for a sweep; what still runs at the end is killed."""
    fleet = Fleet(tmp_path, storage.name, bucket)
    yield fleet
    fleet.end()


@pytest.fixture
def pods(fleet: Fleet) -> Iterator[Make]:
    """Makes the operator's part."""
    made: list[Pods] = []

    def make(*words: str, **how: Any) -> Pods:
        made.append(Pods(fleet, *words, **how))
        return made[-1]

    yield make
    for each in made:
        each.close()


def trials(fleet: Fleet, storage: Storage) -> dict[int, Trial]:
    """The finished trials, as the journal has them, by their x."""
    task = task_of(fleet.prefix, pod_per_trial=True)
    finished = Trials(task, journal.read(storage, f"{fleet.prefix}journal/")).finished
    return {trial.params["x"]: trial for trial in finished.values()}


def over(coordinator: Fork, fleet: Fleet) -> None:
    assert coordinator.wait(240) == 0, fleet.said("coordinator")


def test_every_trial_has_a_job_and_no_more_run_than_may(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """Each runs once with its own parameters, two at a time; the best is named, with what it has stored."""
    script = "echo x=$0 rate=$1 kind=$2; echo $0 > ../outputs/model/x; echo loss=$0"
    some = pods("sh", "-c", script, "$(params.x)", "$(params.rate)", "$(params.kind)", outputs={"model": {}})
    over(some.coordinate(max_trials=6, outputs=("model",)), fleet)

    summary = fleet.last_words()
    assert (summary.outcome, summary.succeeded, summary.failed, summary.wanted) == ("Succeeded", 6, 0, ())
    assert some.started == [0, 1, 2, 3, 4, 5]
    assert max(len(each.wanted) for each in some.summaries) == 2
    assert {x: (one.values, one.attempt) for x, one in trials(fleet, storage).items()} == {
        x: ((float(x),), 1) for x in range(1, 7)
    }
    stored = trials(fleet, storage)[1].outputs["model"]
    assert stored.uri.startswith(f"{fleet.prefix}hpo-trial-0/model/")
    assert "x=1 rate=0.14285714285714285 kind=plain" in fleet.said("hpo-trial-0")


def test_a_job_that_measured_nothing_says_that_its_trial_has_failed(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """The job has done what it was to do; the sweep counts a failed trial, and the job's log says so and why."""
    coordinator = pods("sh", "-c", "echo loss=nan", parallel=1).coordinate(max_trials=1)

    over(coordinator, fleet)
    why = "the last value of loss is not a finite number"
    assert [trial.message for trial in trials(fleet, storage).values()] == [why]
    assert f"trial 0 counts as failed: {why}\n" in fleet.said("hpo-trial-0")


@pytest.mark.slow
def test_nothing_runs_before_the_operator_has_said_how_many(fleet: Fleet, pods: Make) -> None:
    """While the operator is away no trial begins, and what it says later holds from then on, also where it is more."""
    some = pods("sh", "-c", "sleep 0.3; echo loss=1", parallel=1)
    some.refuses = True
    coordinator = some.coordinate(max_trials=8)
    time.sleep(3)
    assert coordinator.poll() is None
    some.refuses = False
    eventually(lambda: len(some.started) >= 2)
    assert max(len(summary.wanted) for summary in some.summaries) == 1
    some.allow(3)
    over(coordinator, fleet)

    assert sorted(some.started) == list(range(8))
    assert max(len(summary.wanted) for summary in some.summaries) == 3


@pytest.mark.slow
def test_a_trial_that_is_not_worth_it_gives_up_its_place_at_once(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """A command that ignores SIGTERM is killed; the job says that its sweep has ended it, and another trial begins."""
    fleet.environment["TEST_THRESHOLD"] = "5"
    script = "trap '' TERM; if [ $0 = 1 ]; then echo step=3 loss=9; sleep 600; fi; echo step=4 loss=1"
    some = pods("sh", "-c", script, "$(params.x)", parallel=1, retries=3)
    over(some.coordinate(max_trials=2), fleet)

    found = trials(fleet, storage)
    assert (found[1].outcome, found[1].values, found[2].outcome) == ("Stopped", (9.0,), "Succeeded")
    assert found[1].seconds < 4
    record = TerminationRecord.from_json((fleet.base / "hpo-trial-0/log").read_text())
    assert record.reason == "StoppedEarly"
    assert "threshold: 9.0" in record.message
    assert some.started == [0, 1], "it was not tried again"


@pytest.mark.slow
def test_a_trial_has_so_much_time(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """With trialTimeoutSeconds the command is ended, and the trial has failed."""
    some = pods("sh", "-c", "if [ $0 = 1 ]; then sleep 600; fi; echo loss=1", "$(params.x)", retries=3)
    some.timeout = 1
    over(some.coordinate(max_trials=2), fleet)

    found = trials(fleet, storage)
    assert (found[1].outcome, found[2].outcome) == ("Failed", "Succeeded")
    assert "it ran for longer than 1 s" in found[1].message


@pytest.mark.slow
def test_retries_are_the_jobs_own(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """A command that fails first and then succeeds is one trial that has; one that fails always has its own words."""
    script = (
        'echo "about to fail"; if [ $0 = 1 ] && [ -e ../once ]; then echo loss=1; exit 0; fi; touch ../once; exit 3'
    )
    some = pods("sh", "-c", script, "$(params.x)", retries=1)
    over(some.coordinate(max_trials=2), fleet)

    found = trials(fleet, storage)
    assert (found[1].outcome, found[1].values) == ("Succeeded", (1.0,))
    assert (found[2].outcome, found[2].exit_code) == ("Failed", 3)
    assert "with exit code 3: about to fail" in found[2].message
    assert "about to fail" in found[2].tail
    assert Counter(some.started) == {0: 2, 1: 2}


def test_a_pod_that_never_speaks_ends_its_trial(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """What the job's status says of an image that cannot be had is what is known of the trial, and of the sweep."""
    some = pods("sh", "-c", "echo loss=1")
    some.broken = {0}
    over(some.coordinate(max_trials=3, canary_trial=True), fleet)

    summary = fleet.last_words()
    assert (summary.outcome, summary.reason, summary.failed) == ("Failed", "CanaryFailed", 1)
    assert "image nosuch:1 cannot be pulled" in summary.message
    assert not some.started


@pytest.mark.slow
def test_a_coordinator_that_dies_loses_no_trial_and_repeats_none(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """Again and again it is killed: each trial has one pod and one result, the right one."""
    some = pods("sh", "-c", "sleep 0.2; echo loss=$0", "$(params.x)", parallel=3)
    coordinator = some.coordinate(max_trials=20)
    for count in (3, 8, 14):
        eventually(lambda count=count: len(some.started) >= count)
        coordinator.kill()
        coordinator.wait()
        coordinator = some.coordinate(max_trials=20)
    over(coordinator, fleet)

    assert sorted(some.started) == list(range(20))
    assert {x: one.values for x, one in trials(fleet, storage).items()} == {x: (float(x),) for x in range(1, 21)}


@pytest.mark.slow
def test_a_result_is_known_though_the_coordinator_was_away(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """The trainer does not wait long for it; the next one hears of the end from the job's status, with all values."""
    fleet.environment["GO"] = str(fleet.base / "go")
    script = "echo loss=7; while [ ! -e $GO ]; do sleep 0.1; done; echo loss=0.5"
    some = pods("sh", "-c", script, parallel=1)
    coordinator = some.coordinate(max_trials=1)
    eventually(lambda: "loss=7" in (fleet.said("hpo-trial-0") if some.started else ""))
    coordinator.kill()
    coordinator.wait()
    (fleet.base / "go").touch()
    assert some.pods["hpo-trial-0"].wait(240) == 0
    assert "is away, and learns the result later" in fleet.said("hpo-trial-0")
    over(some.coordinate(max_trials=1), fleet)

    [trial] = trials(fleet, storage).values()
    assert (trial.outcome, trial.values) == ("Succeeded", (0.5,))
    assert some.started == [0]


@pytest.mark.slow
def test_what_a_sweep_counts_its_job_knows_too(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """A pod that goes right after its result was told, as in a suspension, has a successor that repeats nothing."""
    fleet.environment["GO"] = str(fleet.base / "go")
    script = "if [ $0 = 2 ]; then while [ ! -e $GO ]; do sleep 0.1; done; fi; echo loss=$0"
    some = pods("sh", "-c", script, "$(params.x)", parallel=1)
    coordinator = some.coordinate(max_trials=2)
    eventually(lambda: some.started == [0, 1])
    some.begin_again(0)

    assert some.pods["hpo-trial-0"].wait(240) == 0, fleet.said("hpo-trial-0")
    assert "its result is stored" in fleet.said("hpo-trial-0")
    record = TerminationRecord.from_json((fleet.base / "hpo-trial-0/log").read_text())
    assert (record.reason, record.metrics) == ("", {"loss": 1.0})
    (fleet.base / "go").touch()
    over(coordinator, fleet)
    assert {x: (one.outcome, one.values) for x, one in trials(fleet, storage).items()} == {
        1: ("Succeeded", (1.0,)),
        2: ("Succeeded", (2.0,)),
    }


@pytest.mark.slow
def test_silence_is_no_loss(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """A pod that is killed by its node, and one that takes long to start, are their job's business."""
    some = pods("sh", "-c", "sleep 1; echo loss=1", parallel=1, retries=2)
    coordinator = some.coordinate(max_trials=1)
    eventually(lambda: bool(some.started))
    some.kill(0)
    over(coordinator, fleet)

    [trial] = trials(fleet, storage).values()
    assert (trial.outcome, trial.attempt, trial.losses) == ("Succeeded", 1, 0)
    assert some.started == [0, 0]


@pytest.mark.slow
def test_a_job_that_is_deleted_by_hand_is_made_again(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """While its trial is wanted."""
    fleet.environment["GO"] = str(fleet.base / "go")
    some = pods("sh", "-c", "while [ ! -e $GO ]; do sleep 0.1; done; echo loss=1", parallel=1)
    coordinator = some.coordinate(max_trials=1)
    eventually(lambda: bool(some.started))
    some.delete(0)
    eventually(lambda: len(some.started) == 2)
    (fleet.base / "go").touch()
    over(coordinator, fleet)

    assert some.started == [0, 0]
    assert fleet.last_words().succeeded == 1


def test_a_trial_is_not_released(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """Who has the token and says so, as a pool's worker may, is refused with the reason, and the trial goes on."""
    fleet.environment["GO"] = str(fleet.base / "go")
    some = pods("sh", "-c", "while [ ! -e $GO ]; do sleep 0.1; done; echo loss=1", parallel=1)
    coordinator = some.coordinate(max_trials=1)
    eventually(lambda: bool(some.started))
    anybody = Connection(f"http://127.0.0.1:{fleet.port}", TOKEN, 5)
    trial = {"trial": 0, "attempt": 1}
    with pytest.raises(Refused, match="400 a trial with a job of its own cannot be released"):
        anybody.post("/report", {"worker": "trial-0", **trial, "released": True})
    (fleet.base / "go").touch()
    over(coordinator, fleet)

    [found] = trials(fleet, storage).values()
    assert (found.outcome, found.attempt, some.started) == ("Succeeded", 1, [0])


@pytest.mark.slow
def test_the_end_of_the_sweep_ends_what_still_runs(fleet: Fleet, pods: Make) -> None:
    """When stopAt is reached the other trials are stopped, and their commands with them."""
    script = "echo loss=$0; if [ $0 = 2 ]; then exit 0; fi; sleep 600"
    some = pods("sh", "-c", script, "$(params.x)")
    over(some.coordinate(max_trials=9, objectives=({"metric": "loss", "stopAt": 2.5},)), fleet)

    summary = fleet.last_words()
    assert (summary.reason, summary.succeeded, summary.stopped) == ("ObjectiveReached", 1, 1)
    assert all(pod.wait(240) in (0, 203) for pod in some.pods.values())


# Each epoch is kept before it is told, and at a rung there is time to be stopped. The loss of trial x is x.
EPOCHS = """
state=../checkpoints/epoch
epoch=$(cat $state 2>/dev/null || echo 0)
while [ $epoch -lt 9 ]; do
  epoch=$((epoch + 1))
  echo $epoch > $state.tmp; mv $state.tmp $state
  echo $0 $epoch >> ../../ran
  echo loss=$0
  case $epoch in 1|3) sleep 0.8;; esac
done
"""
ASHA = {"type": "asha", "minSteps": 1, "maxSteps": 9, "reductionFactor": 3}


def epochs(fleet: Fleet) -> dict[int, list[int]]:
    """Which epochs each trial has run, in their order."""
    found: dict[int, list[int]] = {}
    for line in (fleet.base / "ran").read_text().splitlines() if (fleet.base / "ran").exists() else ():
        x, epoch = map(int, line.split())
        found.setdefault(x, []).append(epoch)
    return found


@pytest.mark.slow
def test_paused_trials_go_on_in_new_pods_and_repeat_no_epoch(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """Two of nine go on when their rung has grown, each from its own epoch, whose values are counted on; the jobs of
    those that are paused are held, and no more run at once than may."""
    some = pods("sh", "-c", EPOCHS, "$(params.x)", parallel=1, checkpoint={})
    over(some.coordinate(max_trials=9, early_termination=ASHA), fleet)

    found = trials(fleet, storage)
    assert epochs(fleet) == {1: [*range(1, 10)], 2: [1, 2, 3], 3: [1, 2, 3], **{x: [1] for x in range(4, 10)}}
    assert [x for x, trial in found.items() if trial.outcome == "Succeeded"] == [1]
    assert [step for step, _ in found[2].points] == [1, 2, 3]
    assert found[2].message == "asha: rung 3, 2 is not among the best third; paused there, it did not go on"
    assert (fleet.last_words().succeeded, fleet.last_words().stopped) == (1, 8)
    assert sorted(some.started) == [0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8]
    assert {f"hpo-trial-{n}" for n in range(1, 8)} <= {name for name, _ in some.held}
    assert {code for _, code in some.held} == {143}, "it is no failure of theirs"
    assert max(len(each.wanted) for each in some.summaries) == 1
    assert "trial 1 is paused: asha: rung 1" in fleet.said("hpo-trial-1")


@pytest.mark.slow
def test_killed_coordinators_lose_no_paused_job(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """While the coordinator is killed again and again, what was paused stays so, and goes on once."""
    some = pods("sh", "-c", EPOCHS, "$(params.x)", parallel=2, checkpoint={})
    coordinator = some.coordinate(max_trials=9, early_termination=ASHA)
    for count in (2, 5, 8, 11, 14):
        eventually(lambda count=count: sum(map(len, epochs(fleet).values())) >= count)
        coordinator.kill()
        coordinator.wait()
        coordinator = some.coordinate(max_trials=9, early_termination=ASHA)
    over(coordinator, fleet)

    ran = epochs(fleet)
    assert sorted(ran) == list(range(1, 10))
    assert ran[1] == list(range(1, 10))
    assert all(sorted(set(each)) == each for each in ran.values()), ran
    assert len(trials(fleet, storage)) == 9


@pytest.mark.slow
def test_a_paused_trial_whose_pod_is_lost_stays_paused(fleet: Fleet, storage: Storage, pods: Make) -> None:
    """Another pod of a job that is not held yet hears that its trial is paused, and runs no epoch."""
    some = pods("sh", "-c", EPOCHS, "$(params.x)", parallel=1, checkpoint={})
    some.holds = False
    coordinator = some.coordinate(max_trials=9, early_termination=ASHA)
    eventually(lambda: "trial 1 is paused" in (fleet.said("hpo-trial-1") if 1 in some.started else ""))
    some.begin_again(1)
    eventually(lambda: fleet.said("hpo-trial-1").count("trial 1 is paused") == 2)
    assert epochs(fleet)[2] == [1]
    assert 2 not in some.started, "its place is not free while it has a pod"
    some.holds = True
    over(coordinator, fleet)

    assert epochs(fleet)[2] == [1, 2, 3]
