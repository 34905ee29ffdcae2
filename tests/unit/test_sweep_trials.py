"""Decisions of a sweep as a pure state machine: leases, losses, ends, and the best trials so far."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.sweep_records import Fetched, SweepSummary, SweepTask
from ultramarine_contract.training_records import InputRecord, SourceRecord
from ultramarine_sweep.samplers.stopping import Stopper
from ultramarine_sweep.service.summary import within
from ultramarine_sweep.state.bests import Bests, Objective
from ultramarine_sweep.state.ends import End
from ultramarine_sweep.state.journal import Record
from ultramarine_sweep.state.points import KEPT_LIMIT, LIVE_LIMIT, Points
from ultramarine_sweep.state.trial import Ask, Done, Finished, Lease, Wait
from ultramarine_sweep.state.trials import LOSSES, SILENCE, Trials
from unit.sweeping import Threshold


def task(**fields: Any) -> SweepTask:
    """A sweep that minimises the loss in ten trials."""
    usual: dict[str, Any] = {"objectives": ({"metric": "loss", "goal": "minimize"},), "space": {"x": {}}}
    return SweepTask("team-a/hpo", "uid-1", "s3://bucket/hpo/", **(usual | {"max_trials": 10} | fields))


def leased(trials: Trials, worker: str = "w", now: float = 0.0) -> Lease:
    """Give a worker its next trial, which is a new one if none waits."""
    step = trials.lease(worker, now)
    if isinstance(step, Ask):
        step = trials.start(worker, step.number, {"x": step.number}, now)
    assert isinstance(step, Lease)
    return step


def ended(lease: Lease, **fields: Any) -> Finished:
    """Return a worker's report of an ended trial."""
    usual = {"trial": lease.number, "attempt": lease.attempt, "outcome": "Succeeded", "metrics": {"loss": 1.0}}
    return Finished.of(usual | fields)


def run(trials: Trials, worker: str = "w", now: float = 0.0, **fields: Any) -> Lease:
    """Let a worker lease a trial and end it."""
    lease = leased(trials, worker, now)
    trials.finish(worker, ended(lease, **fields), now)
    return lease


# Leases


def test_each_worker_has_a_trial_of_its_own() -> None:
    """Trials are numbered from 0, and no two workers have the same one."""
    trials = Trials(task())

    assert [leased(trials, worker).number for worker in "abc"] == [0, 1, 2]


def test_who_has_gone_on_does_not_take_a_trial_back() -> None:
    """A late report of a lost trial is ignored if its worker has another trial by now."""
    trials = Trials(task())
    lost = [leased(trials, worker) for worker in "ab"][1]
    trials.tick(SILENCE + 1)
    assert leased(trials, "b", SILENCE + 2).number == 0

    assert trials.report("b", lost.number, lost.attempt, [("loss", 1, 1.0)], SILENCE + 3) is None
    assert trials.live[lost.number].waiting


def test_a_worker_that_did_not_hear_gets_the_same_trial() -> None:
    """An answer that was lost on its way costs no trial and no attempt."""
    trials = Trials(task())

    assert leased(trials) == leased(trials) == Lease(0, 1, {"x": 0})


def test_a_silent_workers_trial_goes_to_another() -> None:
    """After SILENCE the next worker gets it, as another attempt with the same parameters."""
    trials = Trials(task())
    leased(trials, "a")
    trials.tick(SILENCE)
    assert leased(trials, "b").number == 1

    trials.tick(SILENCE + 0.1)

    assert leased(trials, "c", SILENCE + 0.1) == Lease(0, 2, {"x": 0})


def test_a_report_breaks_the_silence() -> None:
    """A trial with reports keeps its worker, even if they have no new values."""
    trials = Trials(task())
    leased(trials, "a")
    for now in range(0, 60, 10):
        assert trials.report("a", 0, 1, [], now) == ""
        trials.tick(now)

    assert trials.summary(60).running == 1


def test_whoever_lost_the_lease_is_told() -> None:
    """A worker that returns after another has taken over must stop, and its reports change nothing."""
    trials = Trials(task())
    late = leased(trials, "a")
    trials.tick(SILENCE + 1)
    leased(trials, "b", 17)

    assert trials.report("a", 0, 1, [("loss", 1, 0.5)], 18) is None
    trials.finish("a", ended(late), 18)

    assert trials.summary(18).succeeded == 0
    assert trials.report("b", 0, 2, [], 18) == ""


@pytest.mark.parametrize("says", ["report", "finish"])
def test_a_trial_that_nobody_took_over_is_its_workers_again(says: str) -> None:
    """Work that was done during silence counts if no other worker has begun it."""
    trials = Trials(task())
    lease = leased(trials, "a")
    trials.tick(SILENCE + 1)

    if says == "report":
        assert trials.report("a", 0, 1, [], 17) == ""
        assert leased(trials, "b", 17).number == 1
    else:
        trials.finish("a", ended(lease), 17)
        assert trials.summary(17).succeeded == 1


def test_a_result_counts_once() -> None:
    """A worker that repeats a result whose answer was lost changes nothing."""
    trials = Trials(task())
    lease = run(trials)
    trials.finish("w", ended(lease, metrics={"loss": 0.1}), 0)

    assert (trials.summary(0).succeeded, trials.summary(0).best[0].values) == (1, (1.0,))


def test_a_trial_that_kills_its_workers_fails() -> None:
    """After some losses the trial is taken for their cause, and no further worker gets it."""
    trials, now = Trials(task(max_trials=1)), 0.0
    for attempt in range(1, LOSSES + 1):
        assert leased(trials, f"w{attempt}", now).attempt == attempt
        now += SILENCE + 1
        trials.tick(now)

    assert trials.end is not None
    assert (trials.end.reason, trials.summary(now).failed) == ("NoTrialSucceeded", 1)
    assert f"{LOSSES} of its workers were lost" in trials.end.message


def test_a_worker_that_went_with_its_coordinator_is_no_loss_of_the_trial() -> None:
    """A sweep that is suspended again and again does not fail for that."""
    journal: list[Record] = []
    for life in range(LOSSES + 3):
        trials = Trials(task(), journal)
        trials.tick(trials.now + SILENCE + 1)
        assert leased(trials, f"w{life}", trials.now) == Lease(0, life + 1, {"x": 0})
        journal += trials.drain()


def test_a_worker_that_is_evicted_gives_its_trial_back() -> None:
    """Another worker can have it at once, and it counts as no loss."""
    trials, now = Trials(task()), 0.0
    for i in range(LOSSES + 3):
        lease = leased(trials, f"w{i}", now)
        trials.release(f"w{i}", lease.number, lease.attempt, now)

    assert leased(trials, "w", now) == Lease(0, LOSSES + 4, {"x": 0})


def test_its_own_deafness_is_no_workers_silence() -> None:
    """A coordinator that stood still takes no trial away for the reports that it missed."""
    trials = Trials(task())
    leased(trials, "a")
    trials.renew_all(100)
    trials.tick(100)

    assert trials.summary(100).running == 1


# Outcomes


def test_a_trial_without_its_metric_has_failed() -> None:
    """The message names the missing metric and the printed ones."""
    trials = Trials(task())
    run(trials, metrics={"acc": 0.5, "f1": 0.1})

    [trial] = trials.finished.values()
    assert (trial.outcome, trial.message) == (
        "Failed",
        "the command ended well, but never printed loss to stdout (it printed acc, f1)",
    )


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "1"])
def test_a_value_that_is_no_number_fails_the_trial_only(value: Any) -> None:
    """The last value counts: if it is not a finite number the trial has failed, and the sweep continues."""
    trials = Trials(task(canary_trial=False))
    run(trials, metrics={"loss": value})

    assert trials.finished[0].message == "the last value of loss is not a finite number"
    assert trials.end is None
    assert leased(trials).number == 1


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        None,
        {"trial": 1},
        {"trial": "1", "attempt": 1, "outcome": "Succeeded"},
        {"trial": 1, "attempt": 1, "outcome": "Great"},
        {"trial": 1, "attempt": 1, "outcome": "Failed", "seconds": -1},
        {"trial": 1, "attempt": 1, "outcome": "Failed", "seconds": math.nan},
        {"trial": 1, "attempt": 1, "outcome": "Failed", "metrics": [1]},
        {"trial": 1, "attempt": 1, "outcome": "Failed", "exitCode": None},
        {"trial": 1, "attempt": 1, "outcome": "Failed", "outputs": {"model": {"uri": "s3://"}}},
        {"trial": 1, "attempt": 1, "outcome": "Stopped", "checkpoint": {"uri": "s3://"}},
        {"trial": 1, "attempt": 1, "outcome": "Stopped", "checkpoint": "s3://"},
    ],
)
def test_nonsense_of_a_worker_is_refused(document: Any) -> None:
    """A document that does not describe a finished trial is refused."""
    with pytest.raises(ValueError):
        Finished.of(document)


def test_the_stoppers_word_stays() -> None:
    """Every report of a trial that should stop is answered with the reason, until the trial has ended."""
    trials = Trials(task(), stopper=Threshold(5))
    lease = leased(trials)

    assert trials.report("w", 0, 1, [("loss", 1, 4.0), ("acc", 1, 9.0)], 1) == ""
    assert trials.report("w", 0, 1, [("loss", 2, 9.0)], 1) == "threshold: 9.0 at step 2 is above 5"
    assert trials.report("w", 0, 1, [("loss", 3, 1.0)], 1) == "threshold: 9.0 at step 2 is above 5"
    trials.finish("w", ended(lease, outcome="Stopped"), 2)

    assert (trials.summary(2).stopped, trials.summary(2).best) == (1, ())


def test_outputs_are_wanted_of_the_best_only() -> None:
    """Only a trial that is better than all before must store its outputs, and is recorded with them."""
    trials = Trials(task(outputs=("model",)))
    for value, is_best in ((3.0, True), (4.0, False), (3.0, False), (2.0, True)):
        lease = leased(trials)
        assert trials.finish("w", ended(lease, metrics={"loss": value}), 0) is is_best
        stored = {"model": {"uri": f"s3://b/{lease.number}/", "digest": "sha256:1", "bytes": 1}}
        trials.finish("w", ended(lease, metrics={"loss": value}, outputs=stored), 0)

    best = trials.summary(0).best
    assert [trial.trial for trial in best] == [3, 0, 2, 1]
    assert best[0].outputs == {"model": OutputRecord("s3://b/3/", "sha256:1", 1)}
    assert best[3].outputs == {}


def test_what_the_best_trial_fetched_is_told() -> None:
    """The first one of the summary has it, also after a restart; words too long for the limit lose it first."""
    trials = Trials(task(outputs=("model",)))
    fetched = Fetched(SourceRecord("sha256:2", "c"), {"table": InputRecord("sha256:3", 7, 1)})
    for value in (3.0, 2.0):
        lease = leased(trials)
        stored = {"model": {"uri": f"s3://b/{lease.number}/", "digest": "sha256:1", "bytes": 1}}
        told = {"metrics": {"loss": value}, "outputs": stored, "fetched": fetched.document()}
        trials.finish("w", ended(lease, **told), 0)

    for state in (trials, Trials(task(outputs=("model",)), trials.snapshot())):
        assert [best.fetched for best in state.summary(0).best] == [fetched, None]
    whole = SweepSummary(best=trials.summary(0).best[:1])
    assert SweepSummary.from_json(whole.to_json()) == whole
    (cut,) = SweepSummary.from_json(within(whole, len(whole.to_json()) - 1)).best
    assert (cut.trial, cut.fetched) == (1, None)


def test_outputs_of_several_trials_are_kept() -> None:
    """A trial stores its outputs if it is among the best `keep_outputs`, of which more than ten are remembered."""
    trials = Trials(task(max_trials=40, outputs=("model",), keep_outputs=12))
    wanted: list[int] = []
    for i in range(30):
        lease, metrics = leased(trials), {"loss": float(i * 7 % 30)}
        if trials.finish("w", ended(lease, metrics=metrics), 0):
            wanted.append(lease.number)
            stored = {"model": {"uri": f"s3://b/{metrics['loss']:g}/", "digest": "sha256:1", "bytes": 1}}
            trials.finish("w", ended(lease, metrics=metrics, outputs=stored), 0)

    assert wanted[:12] == list(range(12))
    assert 12 <= len(wanted) < 30
    assert trials.kept == {f"s3://b/{i}/" for i in range(12)}
    assert len(trials.summary(0).best) == 10


# The end


def test_it_ends_with_the_last_trial() -> None:
    """When all trials have ended the sweep has succeeded, and workers get Done."""
    trials = Trials(task(max_trials=2))
    run(trials)
    lease = leased(trials, "a")
    assert trials.lease("b", 0) == Wait()
    trials.finish("a", ended(lease), 0)

    assert trials.end is not None
    assert (trials.end.outcome, trials.end.reason) == ("Succeeded", "MaxTrialsReached")
    assert trials.lease("a", 0) == trials.lease("b", 0) == Done()


def test_it_ends_when_there_is_nothing_left_to_try() -> None:
    """A grid may have fewer points than trials are allowed."""
    trials = Trials(task())
    run(trials)
    assert trials.lease("w", 0) == Ask(1)
    assert trials.start("w", 1, None, 0) == Wait()

    assert trials.end is not None
    assert (trials.end.outcome, trials.end.reason) == ("Succeeded", "SearchSpaceExhausted")


@pytest.mark.parametrize(("goal", "value"), [("minimize", 0.1), ("maximize", 0.9)])
def test_it_ends_when_the_objective_is_reached(goal: str, value: float) -> None:
    """stopAt is a bound from above or from below; what still runs is told to stop."""
    trials = Trials(task(objectives=({"metric": "loss", "goal": goal, "stopAt": value},)))
    run(trials, metrics={"loss": 0.5})
    other, good = leased(trials, "a"), leased(trials, "b")
    trials.finish("b", ended(good, metrics={"loss": value}), 0)

    assert trials.end is not None
    assert (trials.end.reason, trials.end.message) == ("ObjectiveReached", "trial 2 has reached stopAt")
    assert trials.report("a", other.number, 1, [], 0) == "the sweep is over: trial 2 has reached stopAt"


def test_several_objectives_are_reached_by_one_trial() -> None:
    """Two trials that each reach one objective do not end the sweep."""
    objectives = ({"metric": "loss", "stopAt": 1}, {"metric": "acc", "goal": "maximize", "stopAt": 0.9})
    trials = Trials(task(objectives=objectives))
    run(trials, metrics={"loss": 0.5, "acc": 0.5})
    run(trials, metrics={"loss": 5.0, "acc": 0.95})
    assert trials.end is None
    run(trials, metrics={"loss": 0.9, "acc": 0.9})

    assert trials.end is not None
    assert trials.end.reason == "ObjectiveReached"


def test_the_end_says_how_many_failed_and_why() -> None:
    """The most frequent reason first; also after a coordinator has died, and from a journal that was made shorter."""
    trials = Trials(task(max_trials=6))
    run(trials)
    run(trials, metrics={"loss": None})
    for code in (1, 3, 1):
        run(trials, outcome="Failed", exitCode=code, message=f"command exited with code {code}", tail="no")
    again = Trials(task(max_trials=6), trials.snapshot())
    run(again, outcome="Failed", exitCode=4, message="command exited with code 4")

    assert again.end == End(
        "Succeeded",
        "MaxTrialsReached",
        "all 6 trials have ended; 5 failed: 2 x command exited with code 1, 1 x the last value of loss is not a finite "
        "number, 1 x command exited with code 3, 1 x other reasons",
    )


def test_errors_that_differ_by_numbers_are_one_reason() -> None:
    """Errors that name the trial's own parameters are counted together, in the words of the first."""
    trials = Trials(task(max_trials=5))
    run(trials)
    for number, bad in enumerate(("1e-05", "0.25", "3"), 1):
        run(
            trials, outcome="Failed", exitCode=1, message=f"command exited with code 1: ValueError: C={bad} of {number}"
        )
    run(trials, outcome="Failed", exitCode=2, message="command exited with code 2: ValueError: C=3 of 1")

    assert trials.end is not None
    assert trials.end.message.endswith(
        "4 failed: 3 x command exited with code 1: ValueError: C=1e-05 of 1, "
        "1 x command exited with code 2: ValueError: C=3 of 1"
    )


def test_it_fails_with_too_many_failed_trials() -> None:
    """The message has that of the last failed trial."""
    trials = Trials(task(max_failed_trials=2))
    run(trials)
    run(trials, outcome="Failed", exitCode=1, message="command exited with code 1", tail="no")
    assert trials.end is None
    run(trials, outcome="Failed", exitCode=3, message="command exited with code 3", tail="no such column")

    assert trials.end is not None
    assert (trials.end.outcome, trials.end.reason) == ("Failed", "MaxFailedTrialsReached")
    assert "trial 2: command exited with code 3\nno such column" in trials.end.message


def test_it_fails_after_its_time() -> None:
    """Its time is the sum of the lives of its coordinators."""
    trials = Trials(task(deadline_seconds=100))
    run(trials, now=60)
    again = Trials(task(deadline_seconds=100), trials.drain())
    again.tick(again.now + 39)
    assert again.end is None
    again.tick(again.now + 41)

    assert again.end is not None
    assert (again.end.outcome, again.end.reason) == ("Failed", "DeadlineExceeded")


def test_the_journal_knows_the_time_when_nothing_happens() -> None:
    """A trial of hours, without a word, does not give the sweep that time again after a restart."""
    trials = Trials(task())
    leased(trials)
    for now in range(0, 600, 10):
        trials.report("w", 0, 1, [], now)
        trials.tick(now)

    assert Trials(task(), trials.drain()).now >= 540


def test_the_first_success_may_come_after_the_budget() -> None:
    """A trial that was running when the budget was spent, and then succeeded, makes the sweep succeed."""
    trials = Trials(task(cpu_hours=1.0, trial_cpus=1))
    first, other = leased(trials, "a"), leased(trials, "b")
    trials.renew_all(2000)
    trials.tick(2000)
    assert trials.end is not None
    assert (trials.end.outcome, trials.end.reason) == ("Failed", "NoTrialSucceeded")
    trials.finish("a", ended(first, outcome="Stopped"), 2001)
    assert trials.end.outcome == "Failed"
    trials.finish("b", ended(other), 2001)

    for state in (trials, Trials(task(cpu_hours=1.0, trial_cpus=1), trials.drain())):
        assert state.end is not None
        assert (state.end.outcome, state.end.reason) == ("Succeeded", "BudgetSpent")


def test_it_ends_when_the_budget_is_spent() -> None:
    """Hours of all attempts count, of those that run and of those that were lost, too."""
    trials = Trials(task(gpu_hours=2.0, trial_gpus=4, trial_cpus=8))
    run(trials, seconds=600)
    leased(trials, "a")
    trials.tick(SILENCE + 1)
    assert trials.hours(SILENCE + 1)[1] == pytest.approx(4 * (600 + SILENCE + 1) / 3600)
    leased(trials, "b", 100)
    trials.renew_all(1300)
    trials.tick(1300)

    assert trials.end is not None
    assert (trials.end.outcome, trials.end.message) == ("Succeeded", "the 2 hours of spec.budget.gpuHours are spent")


def test_a_trial_whose_pod_waits_for_a_node_spends_nothing() -> None:
    """With a pod for each trial its hours count from the pod's first report, also in another coordinator's life."""
    asked = task(gpu_hours=2.0, trial_gpus=1, pod_per_trial=True)
    trials = Trials(asked)
    leased(trials)
    trials.tick(90_000)
    assert (trials.end, trials.hours(90_000)) == (None, (0.0, 0.0))

    trials.report("w", 0, 1, [], 90_000)
    for state in (trials, Trials(asked, trials.drain())):
        assert state.hours(93_600)[1] == 1
        state.tick(97_201)
        assert state.end is not None


def test_what_still_runs_at_the_end_is_given_up() -> None:
    """No trial stays open in the journal of a sweep that is over."""
    trials = Trials(task(objectives=({"metric": "loss", "stopAt": 1},)))
    leased(trials, "a")
    run(trials, "b")
    trials.abandon(5)

    assert (trials.summary(5).running, trials.summary(5).stopped) == (0, 1)


def test_a_trial_that_stores_its_outputs_when_the_sweep_ends_is_waited_for() -> None:
    """Its command has ended well, and its value may be the best; one whose worker falls silent is not."""
    trials = Trials(task(outputs=("model",), objectives=({"metric": "loss", "stopAt": 0.6},)))
    best, other, runs = (leased(trials, worker) for worker in "abc")
    stored = {"model": OutputRecord("s3://lake/1/", "sha256:1", 1)}
    assert trials.finish("a", ended(best, metrics={"loss": 0.4}), 1)
    assert not trials.finish("b", ended(other, metrics={"loss": 0.5}, outputs={"model": stored["model"].document()}), 2)
    assert trials.end is not None
    trials.abandon(9, spare_storing=True)
    assert set(trials.live) == {best.number}, "what still runs is not waited for"
    assert trials.finished[runs.number].outcome == "Stopped"
    again = Trials(task(outputs=("model",), objectives=({"metric": "loss", "stopAt": 0.6},)), trials.snapshot())

    trials.finish("a", ended(best, metrics={"loss": 0.4}, outputs={"model": stored["model"].document()}), 12)
    assert [(best.trial, best.values) for best in trials.summary(12).best] == [(0, (0.4,)), (1, (0.5,))]
    again.tick(60)
    again.abandon(60, spare_storing=True)
    assert not again.live


# The canary


def test_nothing_runs_beside_the_canary() -> None:
    """The first trial runs alone, and all when it has succeeded."""
    trials = Trials(task(canary_trial=True))
    first = leased(trials, "a")
    assert trials.lease("b", 0) == Wait()
    trials.finish("a", ended(first), 0)

    assert [leased(trials, worker).number for worker in "ab"] == [1, 2]


def test_a_canary_that_fails_ends_the_sweep() -> None:
    """One trial is lost, not two hundred; its words are the sweep's."""
    trials = Trials(task(canary_trial=True))
    run(trials, outcome="Failed", exitCode=2, message="command exited with code 2", tail="usage: train.py")

    assert trials.end is not None
    assert trials.end.reason == "CanaryFailed"
    assert trials.end.message == "the first trial failed: trial 0: command exited with code 2\nusage: train.py"


@pytest.mark.parametrize("code", [-9, 137, 143, -15])
def test_a_canary_that_was_killed_says_nothing_of_the_others(code: int) -> None:
    """The next trial is the canary then, and says something however it ends: two accidents would be a wonder."""
    trials = Trials(task(canary_trial=True))
    run(trials, outcome="Failed", exitCode=code)
    assert trials.end is None
    run(trials, outcome="Failed", exitCode=code, message="killed")
    assert trials.end is not None
    assert (trials.end.reason, trials.end.exit_code) == ("CanaryFailed", code)
    assert trials.end.message == "the first 2 trials failed: trial 1: killed"


@pytest.mark.parametrize("code", [255, 203, 139, -11, 134])
def test_a_canary_that_crashes_or_has_a_code_of_its_own_has_failed(code: int) -> None:
    """sys.exit(-1), a segmentation fault: the next trial would do the same."""
    trials = Trials(task(canary_trial=True))
    run(trials, outcome="Failed", exitCode=code)
    assert trials.end is not None
    assert trials.end.reason == "CanaryFailed"


def test_nothing_runs_beside_the_second_canary() -> None:
    """It is alone as the first one was."""
    trials = Trials(task(canary_trial=True))
    run(trials, outcome="Failed", exitCode=137)
    assert leased(trials, "a").number == 1

    assert trials.lease("b", 0) == Wait()


@pytest.mark.parametrize("fields", [{"canary_trial": True}, {"max_failed_trials": 1}, {"max_trials": 1}])
def test_a_metric_that_nobody_prints_is_the_reason(fields: dict[str, Any]) -> None:
    """However the sweep fails, the names that were seen are said."""
    trials = Trials(task(**fields))
    run(trials, metrics={"val_los": 0.5})

    assert trials.end is not None
    assert trials.end.reason == "MetricNotReported"
    assert "no trial has printed loss (they printed val_los)" in trials.end.message
    assert "; trial 0: " in trials.end.message, "its own words may know more, as what stderr had"


def test_a_metric_that_nobody_prints_is_doubted_early() -> None:
    """After three trials the author may hear of it, and not after two hundred; one that tells it ends the doubt."""
    trials = Trials(task(max_trials=50))
    for _ in range(2):
        run(trials, metrics={"val_los": 0.5})
    assert trials.summary(0).message == ""
    run(trials, metrics={"val_los": 0.5})
    assert trials.summary(0).message.startswith("no trial has printed loss (they printed val_los); correct spec.obj")
    assert trials.summary(0).outcome == ""
    again = Trials(task(max_trials=50), trials.snapshot())
    assert again.summary(0).message == trials.summary(0).message
    run(trials, metrics={"loss": 0.5})
    assert trials.summary(0).message == ""


@pytest.mark.parametrize(("crashes", "reason"), [(1, "MetricNotReported"), (4, "NoTrialSucceeded")])
def test_what_most_failed_trials_have_done_is_the_reason(crashes: int, reason: str) -> None:
    """One trial that crashes beside many that do not tell the objective does not hide that, nor the other way round."""
    trials = Trials(task(max_trials=4 + crashes))
    for _ in range(4):
        run(trials, metrics={"val_los": 0.5})
    for _ in range(crashes):
        run(trials, outcome="Failed", exitCode=1, message="command exited with code 1", metrics={})
    assert trials.end is not None
    assert (trials.end.reason, "val_los" in trials.end.message) == (reason, crashes == 1)


# The best


def test_the_best_of_one_objective_are_ten() -> None:
    """They come in any order, and are kept by their values."""
    trials = Trials(task(max_trials=30, objectives=({"metric": "loss", "goal": "maximize"},)))
    for i in range(30):
        run(trials, metrics={"loss": float(i * 7 % 30)})

    assert [trial.values[0] for trial in trials.summary(0).best] == [float(i) for i in range(29, 19, -1)]


def test_of_equal_trials_the_first_that_ended_is_the_best() -> None:
    """It was taken for the best, and has stored its outputs; whoever comes to the same later has none."""
    trials = Trials(task(outputs=("model",)))
    first, second = leased(trials, "a"), leased(trials, "b")
    stored = {"model": OutputRecord("s3://lake/1/", "sha256:1", 1)}
    assert trials.finish("b", ended(second, metrics={"loss": 0.5}), 1)
    assert not trials.finish(
        "b", ended(second, metrics={"loss": 0.5}, outputs={"model": stored["model"].document()}), 2
    )
    assert not trials.finish("a", ended(first, metrics={"loss": 0.5}), 3)

    for state in (trials, Trials(task(outputs=("model",)), trials.snapshot())):
        assert [(best.trial, best.outputs) for best in state.summary(4).best] == [(1, stored), (0, {})]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=60))
def test_the_front_has_all_that_nothing_is_better_than(values: list[tuple[int, int]]) -> None:
    """For two objectives, of which one is to be large."""
    bests = Bests([Objective("loss"), Objective("acc", maximize=True)])
    for number, pair in enumerate(values):
        bests.add(number, pair)

    front = {i for i, (a, b) in enumerate(values) if not any(c <= a and d >= b and (c, d) != (a, b) for c, d in values)}
    assert set(bests.numbers) == front


# Points


@given(st.lists(st.integers(1, 50), max_size=2000))
def test_points_stay_few_and_keep_the_ends(gaps: list[int]) -> None:
    """However many values a script prints, a bounded number is kept: the first, the last, and early ones densely."""
    points, step = Points(), 0
    for gap in gaps:
        step += gap
        points.add(step, float(step))
        assert len(points) <= LIVE_LIMIT
    points.thin(KEPT_LIMIT)

    kept = [point for point, _ in points]
    assert len(kept) <= KEPT_LIMIT
    assert kept == sorted(set(kept))
    if gaps:
        assert (kept[0], kept[-1]) == (gaps[0], step)


def test_early_steps_stay_apart() -> None:
    """A rule that looks at steps 1, 3, 9, 27 finds them in a trial of a million steps."""
    points = Points((step, 0.0) for step in range(1, 100_000))
    points.thin(KEPT_LIMIT)
    steps = [step for step, _ in points]

    for rung in (1, 3, 9, 27, 81, 243, 729, 2187, 6561):
        assert any(rung <= step <= rung * 1.5 for step in steps)


def test_points_that_are_told_again_change_nothing() -> None:
    """A report that is repeated, and a step that comes again, leave the first value."""
    trials = Trials(task())
    leased(trials)
    trials.report("w", 0, 1, [("loss", 1, 4.0), ("loss", 2, 3.0)], 1)
    trials.report("w", 0, 1, [("loss", 1, 9.0), ("loss", 2, 9.0), ("loss", 3, 2.0)], 1)

    assert list(trials.points()) == [(0, 1, 4.0), (0, 2, 3.0), (0, 3, 2.0)]


# Everything at once


class World:
    """Workers that come and go, answers that get lost, and coordinators that die between any two of these.

    With an `early_termination` trials that are stopped leave a checkpoint.
    """

    def __init__(self, task: SweepTask) -> None:
        self.task, self.now, self.journal = task, 0.0, list[Record]()
        self.trials = self.coordinator()
        self.leases: dict[str, Lease] = {}
        self.sent: list[tuple[str, Finished]] = []

    def coordinator(self) -> Trials:
        rule = self.task.early_termination
        return Trials(self.task, self.journal, Stopper(rule, self.task.objectives[0]) if rule else None)

    def write(self) -> None:
        self.journal += self.trials.drain()

    def ask(self, worker: str, heard: bool) -> None:
        step = self.trials.lease(worker, self.now)
        if isinstance(step, Ask):
            step = self.trials.start(worker, step.number, {"x": step.number}, self.now)
        self.write()
        if isinstance(step, Lease) and heard:
            self.leases[worker] = step

    def finish(self, worker: str, outcome: str) -> None:
        if lease := self.leases.pop(worker, None):
            stored = {"uri": f"s3://b/{lease.number}/{lease.attempt}/", "digest": "sha256:1", "bytes": 1}
            checkpoint = {"checkpoint": stored} if outcome == "Stopped" and self.task.early_termination else {}
            metrics = {"loss": float(lease.number)}
            finished = ended(lease, outcome=outcome, metrics=metrics, seconds=1.0, **checkpoint)
            self.sent.append((worker, finished))
            self.trials.finish(worker, finished, self.now)
            self.write()

    def repeat(self, which: int) -> None:
        if self.sent:
            worker, finished = self.sent[which % len(self.sent)]
            self.trials.finish(worker, finished, self.now)
            self.write()

    def run(self, worker: str, value: int, outcome: str) -> None:
        self.ask(worker, True)
        self.now += 1
        self.report(worker, value)
        self.finish(worker, outcome)

    def report(self, worker: str, value: int) -> None:
        if lease := self.leases.get(worker):
            points = [("loss", int(self.now) + 1, float(value))]
            if self.trials.report(worker, lease.number, lease.attempt, points, self.now) is None:
                del self.leases[worker]
            self.write()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.trials.tick(self.now)
        self.write()

    def restart(self, compact: bool) -> None:
        before = list(self.trials.snapshot())
        if compact:
            self.journal = [*before]
        going_on = self.trials.promoted
        self.trials = self.coordinator()
        assert list(self.trials.snapshot()) == before
        assert self.trials.promoted == going_on
        self.now = max(self.now, self.trials.now)

    def check(self, finished: dict[int, tuple[str, int]]) -> None:
        """No result is lost or changed, and no trial is two workers'."""
        for number, (outcome, attempt) in finished.items():
            trial = self.trials.finished[number]
            assert (trial.outcome, trial.attempt) == (outcome, attempt)
        assert len(list(self.trials)) == len({trial.number for trial in self.trials})
        for trial in (*self.trials.paused.values(), *self.trials.live.values()):
            assert trial.checkpoint is None or trial.checkpoint.uri.startswith(f"s3://b/{trial.number}/")
        running = [trial.worker for trial in self.trials.live.values() if trial.is_running]
        assert len(running) == len(set(running))
        finished |= {number: (trial.outcome, trial.attempt) for number, trial in self.trials.finished.items()}


WORKERS, VALUES = st.sampled_from(["a", "b", "c"]), st.integers(0, 9)
OUTCOMES = st.sampled_from(["Succeeded", "Failed", "Stopped"])
STEPS = st.one_of(
    st.tuples(st.just("run"), WORKERS, VALUES, OUTCOMES),
    st.tuples(st.just("ask"), WORKERS, st.booleans()),
    st.tuples(st.just("finish"), WORKERS, OUTCOMES),
    st.tuples(st.just("repeat"), st.integers(0, 20)),
    st.tuples(st.just("report"), WORKERS, VALUES),
    st.tuples(st.just("pass_time"), st.floats(0, 20)),
    st.tuples(st.just("restart"), st.booleans()),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=60), st.booleans())
def test_whatever_happens_each_trial_ends_once(steps: list[tuple[Any, ...]], canary: bool) -> None:
    """In any order of leases, losses, repeats and restarts no result is lost or counted twice, and the sweep ends.

    A trial begins again at most once for each loss, and a restarted coordinator has the state of its predecessor.
    """
    live_through(World(task(max_trials=6, canary_trial=canary)), steps)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, min_size=20, max_size=60))
def test_whatever_happens_to_paused_trials_each_ends_once(steps: list[tuple[Any, ...]]) -> None:
    """The same where trials are paused and go on: each begins again once more for each pause, at most."""
    live_through(World(task(max_trials=6, early_termination={"type": "asha", "reductionFactor": 2})), steps)


def live_through(world: World, steps: list[tuple[Any, ...]]) -> None:
    """Let all this happen, and then let workers work until the sweep is over."""
    finished: dict[int, tuple[str, int]] = {}
    started: dict[int, int] = {}
    requeued: dict[int, int] = {}
    seen = 0
    for name, *arguments in steps:
        getattr(world, name)(*arguments)
        if name == "restart":
            seen = len(world.journal)
        for record in world.journal[seen:]:
            count = {"started": started, "requeued": requeued, "paused": requeued}.get(record["kind"])
            if count is not None:
                count[record["trial"]] = count.get(record["trial"], 0) + 1
        seen = len(world.journal)
        world.check(finished)
        assert all(times <= 1 + requeued.get(number, 0) for number, times in started.items())

    for _ in range(40):
        if world.trials.end:
            break
        for worker in ("a", "b", "c"):
            world.ask(worker, True)
            world.finish(worker, "Succeeded")
        world.pass_time(1)
    else:
        world.pass_time(SILENCE + 1)
    world.check(finished)
    assert world.trials.end is not None
    assert not world.trials.paused
    if world.trials.end.reason == "MaxTrialsReached":
        assert sorted(finished) == [0, 1, 2, 3, 4, 5]
