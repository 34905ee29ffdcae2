"""Trials that are paused at a rung, and go on from what they have stored once they are among its best."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import Fork
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import SweepTask
from ultramarine_contract.training_records import CheckpointTask
from ultramarine_sweep.samplers.stopping import Stopper
from ultramarine_sweep.service.coordinator import Coordinator
from ultramarine_sweep.service.recording import Recorder
from ultramarine_sweep.state import journal
from ultramarine_sweep.state.journal import Journal, Record
from ultramarine_sweep.state.trial import POLL, Ask, Finished, Lease, Trial, Wait
from ultramarine_sweep.state.trials import SILENCE, Trials
from ultramarine_trainer.trials.connection import Connection
from ultramarine_trainer.trials.trial import Trial as Given
from ultramarine_trainer.trials.trial import TrialObserver
from ultramarine_trainer.trials.worker import Pauses
from unit.conftest import eventually
from unit.sweeping import Counting, Fleet, task_of

ASHA = {"type": "asha", "minSteps": 1, "maxSteps": 9, "reductionFactor": 3}
STORED = OutputRecord("s3://b/1/", "sha256:1", 1)


def trials_of(records: list[Record] | None = None, **fields: Any) -> Trials:
    """A sweep of ten trials by asha."""
    task: SweepTask = task_of("s3://b/", early_termination=ASHA, **fields)
    return Trials(task, records or (), Stopper(ASHA, task.objectives[0]))


def lease(trials: Trials, worker: str = "w", now: float = 0.0) -> Lease:
    """Give a worker its next trial."""
    step = trials.lease(worker, now)
    if isinstance(step, Ask):
        step = trials.start(worker, step.number, {"x": step.number}, now)
    assert isinstance(step, Lease)
    return step


def finish(trials: Trials, one: Lease, worker: str = "w", now: float = 0.0, **fields: Any) -> None:
    """Let a worker end its trial."""
    usual = {"trial": one.number, "attempt": one.attempt, "outcome": "Succeeded", "metrics": {"loss": 1.0}}
    trials.finish(worker, Finished.of(usual | fields), now)


def run(trials: Trials, loss: float, step: int = 1, worker: str = "w", **fields: Any) -> Lease:
    """Let a worker lease a trial, tell one value, and end it: early, with a checkpoint, where it is told to."""
    one = lease(trials, worker)
    why = trials.report(worker, one.number, one.attempt, [("loss", step, loss)], 0)
    early = {"outcome": "Stopped", "message": why, "checkpoint": STORED.document(), "seconds": 5} if why else {}
    finish(trials, one, worker, **{"metrics": {"loss": loss}, **early, **fields})
    return one


def six(trials: Trials) -> None:
    """Six trials at the first rung, of which the second one is the second best, and has to wait for the sixth."""
    for loss in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        run(trials, loss)


# What is decided


def test_a_paused_trial_frees_its_worker_and_counts_as_stopped() -> None:
    """What it has taken is spent, its worker begins another one, and to those who suggest it has been stopped."""
    trials = trials_of(trial_cpus=2)
    run(trials, 1.0)
    run(trials, 2.0)

    assert (trials.summary(9).stopped, trials.summary(9).running) == (1, 0)
    assert trials.hours(9)[0] == pytest.approx(2 * 5 / 3600)
    assert (trials[1].view.outcome, trials[1].view.points) == ("Stopped", ((1, 2.0),))
    assert list(trials.finished) == [0]
    assert lease(trials).number == 2


def test_who_is_among_the_best_by_now_goes_on_before_a_new_trial_begins() -> None:
    """It gets its checkpoint and the step that it belongs to, and is another attempt with the same parameters."""
    trials = trials_of()
    six(trials)

    assert lease(trials) == Lease(1, 2, {"x": 1}, STORED, 1)
    assert lease(trials, "other").number == 6
    assert (trials.summary(0).running, trials.summary(0).stopped) == (2, 4)


def test_a_trial_that_waits_for_a_worker_comes_before_one_that_is_paused() -> None:
    """What was lost is made up for first."""
    trials = trials_of()
    lost = lease(trials, "lost")
    for loss in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        run(trials, loss)
    trials.release("lost", lost.number, lost.attempt, 0)

    assert [lease(trials, worker).number for worker in "ab"] == [lost.number, 2]


def test_a_promoted_trial_goes_on_or_is_paused_at_the_next_rung() -> None:
    """Steps that it has been at change nothing, its times add up, and a new checkpoint takes the old one's place."""
    trials = trials_of()
    run(trials, 1.0, step=3)
    six(trials)
    promoted = lease(trials)
    assert trials.report("w", 2, 2, [("loss", 1, 99.0), ("loss", 2, 2.0)], 0) == ""
    why = trials.report("w", 2, 2, [("loss", 3, 2.0)], 0)
    assert why == "asha: rung 3, 2 is not among the best third"
    newer = {"uri": "s3://b/2/", "digest": "sha256:2", "bytes": 2}
    finish(trials, promoted, outcome="Stopped", message=why, checkpoint=newer, seconds=7)

    paused = trials.paused[2]
    assert (paused.checkpoint, paused.step, paused.seconds) == (OutputRecord(**newer), 3, 12)
    assert [step for step, _ in paused.points] == [1, 2, 3]


def test_a_promoted_trial_that_loses_its_worker_goes_on_from_its_checkpoint_again() -> None:
    """The points that it told since are told again, and are not counted twice."""
    trials = trials_of()
    six(trials)
    lease(trials)
    trials.report("w", 1, 2, [("loss", 2, 1.5)], 0)
    trials.tick(SILENCE + 1)

    assert lease(trials, "other", SILENCE + 1) == Lease(1, 3, {"x": 1}, STORED, 1)
    trials.report("other", 1, 3, [("loss", 2, 1.5), ("loss", 3, 1.5)], SILENCE + 1)
    assert [step for step, _ in trials[1].points] == [1, 2, 3]
    assert trials[1].view.points == ((1, 2.0),), "to those who suggest it is what it was when it was paused"


def test_without_a_checkpoint_a_trial_is_stopped_for_good() -> None:
    """A script that has written nothing could only begin anew."""
    trials = trials_of()
    for loss in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        run(trials, loss, checkpoint=None)

    assert lease(trials).number == 6
    assert trials.finished[1].outcome == "Stopped"


def test_the_sweep_ends_when_nobody_runs_and_nobody_is_promoted() -> None:
    """Those that are paused then have been stopped, with the words of their rung, and all have ended."""
    trials = trials_of(max_trials=6)
    six(trials)
    assert trials.end is None
    promoted = lease(trials)
    assert trials.lease("other", 0) == Wait()
    finish(trials, promoted, metrics={"loss": 0.5})

    assert trials.end is not None
    assert (trials.end.reason, trials.end.message) == ("MaxTrialsReached", "all 6 trials have ended")
    assert (trials.summary(0).succeeded, trials.summary(0).stopped, trials.paused) == (2, 4, {})
    assert trials.finished[2].message == "asha: rung 1, 3 is not among the best third; paused there, it did not go on"
    assert (trials.finished[2].seconds, trials.finished[2].values) == (5, (3.0,))


def test_the_end_of_the_sweep_is_the_end_of_paused_trials() -> None:
    """Nobody waits for them, though one of them could go on; and who is stopped by the end is not paused."""
    trials = trials_of(objectives=({"metric": "loss", "stopAt": 0.5},))
    six(trials)
    other = lease(trials, "other")
    run(trials, 0.1)
    assert trials.end is not None
    finish(trials, other, "other", outcome="Stopped", checkpoint=STORED.document())

    assert (trials.live, trials.paused) == ({}, {})
    assert trials.summary(0).stopped == 5


@pytest.mark.parametrize("compact", [False, True])
def test_a_coordinator_goes_on_with_what_another_one_has_paused(compact: bool) -> None:
    """From the records or from a snapshot: the same trial goes on, and one that does so already has its checkpoint."""
    trials = trials_of()
    six(trials)
    first = trials.drain()
    again = trials_of(trials.snapshot() if compact else first)
    assert lease(again) == Lease(1, 2, {"x": 1}, STORED, 1)

    once_more = trials_of(again.snapshot() if compact else first + again.drain())
    assert lease(once_more) == Lease(1, 2, {"x": 1}, STORED, 1)
    assert lease(once_more, "other").number == 6
    assert once_more[1].view == again[1].view == trials[1].view


async def test_who_waits_is_told_when_a_trial_may_go_on(storage: Storage, bucket: str) -> None:
    """A worker for which there was none does not wait for the end of its patience."""
    task = task_of(f"s3://{bucket}/", early_termination=ASHA, max_trials=6)
    book = Journal(storage, f"s3://{bucket}/journal/", "one", lambda line: None)
    stopper = Stopper(ASHA, task.objectives[0])
    recorder = Recorder(task, "", lambda line: None)
    coordinator = Coordinator(task, "token", book, Counting(task), stopper, lambda summary: None, recorder)
    url = f"http://127.0.0.1:{await coordinator.listen(0)}"
    connections = {worker: Connection(url, "token", 30) for worker in "ab"}

    async def post(path: str, worker: str, **words: Any) -> dict[str, Any]:
        return await asyncio.to_thread(connections[worker].post, path, {"worker": worker, **words})

    running, finished = asyncio.create_task(coordinator.run()), None
    for loss in range(1, 7):
        trial = (await post("/lease", "a", finished=finished))["trial"]
        if loss == 6:
            waiting = asyncio.create_task(post("/lease", "b"))
            await asyncio.sleep(1.5)
            assert not waiting.done()
        its = {"trial": trial["number"], "attempt": 1}
        answer = await post("/report", "a", **its, points=[{"name": "loss", "step": 1, "value": loss}])
        finished = {**its, "outcome": "Stopped", "metrics": {"loss": loss}, "checkpoint": STORED.document()}
        finished |= {} if answer.get("pause") else {"outcome": "Succeeded"}
    async with asyncio.timeout(POLL / 2):
        assert await waiting == {"wait": 0}

    assert (await post("/lease", "b"))["trial"]["checkpoint"] == STORED.document()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# In the pod


def test_a_broken_checkpoint_costs_its_trial_the_beginning(tmp_path: Path, storage: Storage, bucket: str) -> None:
    """What is not whole any more is not given to a script; of another trial nothing is left either."""
    said: list[str] = []
    folder = tmp_path / "checkpoints"
    pauses = Pauses(storage, f"s3://{bucket}/hpo/", folder, said.append)
    assert not pauses.restore(Given(1, 1, {}, ("loss",)))
    assert pauses.store(1) is None
    (folder / "state").write_text("3")
    (folder / "state.tmp").write_text("half of 4")
    stored = pauses.store(1)
    assert stored is not None
    assert stored.uri.startswith(f"s3://{bucket}/hpo/trials/1/checkpoints/")

    (folder / "state").write_text("another trial's")
    assert pauses.restore(Given(1, 2, {}, ("loss",), checkpoint=stored))
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"state": "3"}
    storage.delete(f"{stored.uri}state")
    assert not pauses.restore(Given(1, 3, {}, ("loss",), checkpoint=stored))
    assert list(folder.iterdir()) == []
    assert said[-1].startswith("trial 1 begins again, for its checkpoint is not whole")


def test_values_without_steps_are_counted_from_where_the_trial_goes_on() -> None:
    """Else what it told before would be told again, as older steps."""
    observer = TrialObserver(["loss"])
    observer.go_on(4)
    observer.hear("loss=2", True)
    observer.hear("loss=1", True)

    assert [(step, value) for _, step, value in observer.unsent()] == [(5, 2.0), (6, 1.0)]


# All together


# Each epoch is kept before it is told, and at a rung there is time to be stopped. The loss of trial x is x.
EPOCHS = """
state=../../$BASE/checkpoints/epoch
epoch=$(cat $state 2>/dev/null || echo 0)
while [ $epoch -lt 9 ]; do
  epoch=$((epoch + 1))
  if [ "$0 $epoch" = "$HOLD" ]; then touch ../../held; while [ -e ../../held ]; do sleep 0.1; done; exit; fi
  echo $epoch > $state.tmp; mv $state.tmp $state
  echo $0 $epoch >> ../../ran
  echo step=$epoch loss=$0
  case $epoch in 1|3) sleep 0.8;; esac
done
"""


@pytest.fixture
def fleet(tmp_path: Path, storage: Storage, bucket: str) -> Iterator[Fleet]:
    """A place for a sweep whose storage is the test's S3 server; what still runs at the end is killed."""
    fleet = Fleet(tmp_path, storage.name, bucket)
    yield fleet
    fleet.end()


def work(fleet: Fleet, name: str, **task: Any) -> Fork:
    """Start a worker whose trials keep their epochs."""
    fleet.environment["BASE"] = name
    return fleet.work(name, "sh", "-c", EPOCHS, "$(params.x)", checkpoint=CheckpointTask(), **task)


def epochs(fleet: Fleet) -> dict[int, list[int]]:
    """Which epochs each trial has run, in their order."""
    found: dict[int, list[int]] = {}
    for line in (fleet.base / "ran").read_text().splitlines():
        x, epoch = map(int, line.split())
        found.setdefault(x, []).append(epoch)
    return found


def ended(fleet: Fleet, storage: Storage) -> dict[int, Trial]:
    """The finished trials, as the journal has them, by their x."""
    finished = Trials(task_of(fleet.prefix), journal.read(storage, f"{fleet.prefix}journal/")).finished
    return {trial.params["x"]: trial for trial in finished.values()}


@pytest.mark.slow
def test_promoted_trials_repeat_no_epoch(fleet: Fleet, storage: Storage) -> None:
    """Two of nine trials go on when their rung has grown, each from its own epoch: in all no epoch is run twice, which
    is less than to stop them for good and to begin anew."""
    coordinator = fleet.coordinate(max_trials=9, early_termination=ASHA)
    worker = work(fleet, "w0")

    assert [process.wait(240) for process in (coordinator, worker)] == [0, 0], fleet.said("w0")
    ran, trials = epochs(fleet), ended(fleet, storage)
    assert ran == {1: [*range(1, 10)], 2: [1, 2, 3], 3: [1, 2, 3], **{x: [1] for x in range(4, 10)}}
    assert {x: trial.attempt for x, trial in trials.items() if trial.attempt > 1} == {2: 2, 3: 2}
    assert [x for x, trial in trials.items() if trial.outcome == "Succeeded"] == [1]
    assert trials[2].message == "asha: rung 3, 2 is not among the best third; paused there, it did not go on"
    assert fleet.said("w0").count("goes on from s3://") == 2
    assert (fleet.last_words().succeeded, fleet.last_words().stopped) == (1, 8)
    for trial in storage.folders(f"{fleet.prefix}trials/"):
        assert storage.folders(trial) == [], "checkpoints go with the sweep"


def test_killed_coordinators_lose_no_pause_and_repeat_no_epoch(fleet: Fleet, storage: Storage) -> None:
    """While the coordinator is killed again and again, two workers go on with what was paused, each trial once."""
    coordinator = fleet.coordinate(max_trials=9, early_termination=ASHA)
    workers = [work(fleet, name) for name in ("w0", "w1")]
    for count in (2, 4, 6, 8, 10, 12, 14, 16):
        eventually(lambda count=count: (fleet.base / "ran").exists() and sum(map(len, epochs(fleet).values())) >= count)
        coordinator.kill()
        coordinator.wait()
        coordinator = fleet.coordinate(max_trials=9, early_termination=ASHA)

    assert [process.wait(240) for process in (coordinator, *workers)] == [0, 0, 0], fleet.said("coordinator")
    ran, trials = epochs(fleet), ended(fleet, storage)
    assert sorted(ran) == sorted(trials) == list(range(1, 10))
    assert all(run == list(range(1, len(run) + 1)) for run in ran.values()), ran
    assert any(trial.attempt > 1 for trial in trials.values())


@pytest.mark.slow
def test_a_promoted_trial_whose_worker_dies_goes_on_elsewhere(fleet: Fleet, storage: Storage) -> None:
    """Another worker begins with the checkpoint, and not with the first epoch."""
    coordinator = fleet.coordinate(max_trials=6, early_termination=ASHA)
    fleet.environment["HOLD"] = "2 3"
    worker = work(fleet, "w0")
    eventually((fleet.base / "held").exists)
    worker.kill()
    worker.wait()
    shutil.rmtree(fleet.base / "w0/checkpoints")
    (fleet.base / "held").unlink()
    del fleet.environment["HOLD"]
    other = work(fleet, "w1")

    assert [process.wait(240) for process in (coordinator, other)] == [0, 0], fleet.said("w1")
    trial = ended(fleet, storage)[2]
    assert (trial.attempt, trial.losses) == (3, 1)
    assert epochs(fleet)[2] == [1, 2, 2, 3]
