"""Recording a sweep in MLflow: what the runs say, that nothing waits for it, and that nothing comes twice."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.sweep_records import BestTrial, SweepSummary
from ultramarine_sweep.service.recording import Recorder, Times
from ultramarine_sweep.state.points import Points
from ultramarine_sweep.state.trial import FAILED, STOPPED, SUCCEEDED, Trial
from unit.conftest import eventually, free_port
from unit.sweeping import Fleet, task_of
from unit.tracking import Tracking

TIMES = Times(request=0.5, between=0.02, retry=0.05, rest=2.0, end=1.0)
OVER = SweepSummary(SUCCEEDED, "MaxTrialsReached", "over")


def recorder(uri: str, said: list[str], times: Times = TIMES, **task: Any) -> Recorder:
    """The recorder of team-a/hpo, started when the sweep's own time was 100 s."""
    told = {"mlflow.source.type": "JOB", "mlflow.user": "ada"}
    one = Recorder(task_of("s3://lake/hpo/", mlflow=uri, mlflow_tags=told, **task), "hpo-0", said.append, times)
    one.start(100.0)
    return one


def trial(number: int, outcome: str = SUCCEEDED, **fields: Any) -> Trial:
    """A trial that has ended."""
    usual: dict[str, Any] = {"began": 10.0, "seconds": 2.0, "values": (float(number),) if outcome == SUCCEEDED else ()}
    return Trial(number, {"x": number}, outcome=outcome, **(usual | fields))


def test_a_trial_is_a_run_below_the_sweeps(tracking: Tracking) -> None:
    """Its parameters, the objective's values by step, what it told last besides, when it ran, and how it ended."""
    said: list[str] = []
    before = time.time()
    one = recorder(tracking.uri, said)
    after = time.time()
    params = {"lr": 0.1, "depth": 3, "booster": "dart", "fast": True}
    ended = Trial(
        4, params, began=90.0, seconds=2.5, outcome=SUCCEEDED, values=(0.25,), points=Points([(1, 0.5), (2, 0.25)])
    )
    one.hear(4, {"loss": 0.25, "accuracy": 0.75, "odd": None, "a//b": 1.0})
    one.add(ended)
    one.close(OVER)

    assert said == []
    assert tracking.experiments == ["team-a"]
    parent = tracking.runs[0]
    (run,) = tracking.children(parent).values()
    assert run["run_name"] == "hpo-trial-4"
    assert run["params"] == {"lr": "0.1", "depth": "3", "booster": "dart", "fast": "true"}
    assert run["metrics"] == [("loss", 1, 0.5), ("loss", 2, 0.25), ("accuracy", 2, 0.75)]
    assert run["status"] == ["RUNNING", "FINISHED"]
    assert before - 11 < run["start_time"] / 1000 < after - 9
    assert run["end_time"] - run["start_time"] == 2500
    assert run["tags"] == {
        "ultramarine.sweep": "team-a/hpo",
        "ultramarine.sweep.uid": "uid-1",
        "ultramarine.trial": "4",
        "ultramarine.outcome": "Succeeded",
        "mlflow.parentRunId": parent["run_id"],
        "mlflow.source.type": "JOB",
        "mlflow.user": "ada",
    }


@pytest.mark.parametrize(("outcome", "status"), [(SUCCEEDED, "FINISHED"), (STOPPED, "KILLED"), (FAILED, "FAILED")])
def test_how_a_trial_ended_is_its_status(tracking: Tracking, outcome: str, status: str) -> None:
    """In MLflow's words, and in ours as a tag."""
    one = recorder(tracking.uri, [])
    one.add(trial(0, outcome))
    one.close(OVER)

    run = tracking.children(tracking.runs[0])[0]
    assert (run["status"][-1], run["tags"]["ultramarine.outcome"]) == (status, outcome)


def test_the_sweeps_own_run_says_what_it_looked_for_and_found(tracking: Tracking) -> None:
    """What the sweep was given as parameters; at the end the best trial, its values and where its outputs are."""
    space = {"lr": {"uniform": {"min": 0, "max": 1}}}
    two = ({"metric": "loss"}, {"metric": "accuracy", "goal": "maximize"})
    one = recorder(tracking.uri, [], objectives=two, space=space, algorithm={"type": "nsga2", "seed": 0}, max_trials=8)
    output = OutputRecord("s3://lake/hpo/trials/3/model/0123456789abcdef/", "sha256:00", 10)
    best = (BestTrial(3, (0.25, 0.75), {"lr": 0.1}, {"model": output}), BestTrial(5, (0.5, 0.9)))
    one.close(structs.replace(OVER, best=best))

    (run,) = tracking.runs
    assert (run["run_name"], run["run_id"]) == ("hpo", one.run_id)
    assert run["params"] == {
        "algorithm": "nsga2",
        "seed": "0",
        "objective": "minimize loss, maximize accuracy",
        "maxTrials": "8",
        "searchSpace.lr": '{"uniform": {"min": 0, "max": 1}}',
    }
    assert run["metrics"] == [("best_loss", 0, 0.25), ("best_accuracy", 0, 0.75)]
    assert run["status"] == ["RUNNING", "FINISHED"]
    assert run["tags"] == {
        "ultramarine.uid": "uid-1",
        "ultramarine.sweep": "team-a/hpo",
        "ultramarine.pod": "hpo-0",
        "ultramarine.outcome": "Succeeded",
        "ultramarine.reason": "MaxTrialsReached",
        "ultramarine.best.trial": "3",
        "ultramarine.output.model": output.uri,
        "ultramarine.digest.model": output.digest,
        "mlflow.source.type": "JOB",
        "mlflow.user": "ada",
    }


def test_a_sweep_that_failed_is_a_failed_run(tracking: Tracking) -> None:
    """With the reason, and without a best trial."""
    one = recorder(tracking.uri, [])
    one.close(SweepSummary(FAILED, "CanaryFailed", "trial 0 exited with code 2"))

    (run,) = tracking.runs
    assert (run["status"][-1], run["tags"]["ultramarine.reason"]) == ("FAILED", "CanaryFailed")
    assert run["metrics"] == []


def test_the_last_value_counts_where_it_is_another_than_the_last_point(tracking: Tracking) -> None:
    """A command that prints its objective once more without a step: that value is of the last step, and comes last."""
    one = recorder(tracking.uri, [])
    one.add(trial(0, values=(0.4,), points=Points([(1, 0.5), (3, 0.5)])))
    one.close(OVER)

    run = tracking.children(tracking.runs[0])[0]
    assert run["metrics"] == [("loss", 1, 0.5), ("loss", 3, 0.5), ("loss", 3, 0.4)]
    assert max(run["logged"], key=lambda point: (point[1], point[3]))[2] == 0.4


def test_the_next_coordinator_records_only_what_is_missing(tracking: Tracking) -> None:
    """However many pages the runs have that are there: each trial has one, each value is there once."""
    tracking.page = 3
    first = recorder(tracking.uri, [])
    for number in range(10):
        first.add(trial(number, points=Points([(1, 0.5), (2, float(number))])))
    eventually(lambda: not first._waiting)
    first.kill()
    second = recorder(tracking.uri, [])
    for number in range(12):
        second.add(trial(number, points=Points([(1, 0.5), (2, float(number))])))
    second.close(OVER)

    parent = tracking.runs[0]
    assert first.run_id == second.run_id == parent["run_id"]
    assert parent["status"] == ["RUNNING", "KILLED", "RUNNING", "FINISHED"]
    children = tracking.children(parent)
    assert sorted(children) == list(range(12))
    assert all(run["status"] == ["RUNNING", "FINISHED"] for run in children.values())
    assert not second._recorded


@pytest.mark.parametrize("path", ["runs/create", "runs/log-batch", "runs/update"])
def test_a_trial_that_was_begun_is_gone_on_with(tracking: Tracking, path: str) -> None:
    """A request that is done, and whose answer is lost with the coordinator: the next one sends the same values."""
    first = recorder(tracking.uri, [], replace(TIMES, retry=60))
    eventually(lambda: first.run_id != "")
    tracking.lost = [path]
    first.add(trial(0, points=Points([(1, 0.5), (2, 0.0)])))
    eventually(lambda: not tracking.lost)
    second = recorder(tracking.uri, [])
    time.sleep(0.05)  # its clock is another one
    second.add(trial(0, began=10.7, points=Points([(1, 0.5), (2, 0.0)])))
    second.close(OVER)

    (run,) = tracking.children(tracking.runs[0]).values()
    assert run["metrics"] == [("loss", 1, 0.5), ("loss", 2, 0.0)]
    assert run["status"][-1] == "FINISHED"


@pytest.mark.parametrize("path", ["runs/create", "runs/log-batch", "runs/update"])
def test_a_lost_answer_makes_no_second_run(tracking: Tracking, path: str) -> None:
    """Whoever does not know whether there is a run asks first."""
    one = recorder(tracking.uri, [])
    eventually(lambda: one.run_id != "")
    tracking.lost = [path, path]
    for number in range(3):
        one.add(trial(number))
    one.close(OVER)

    assert tracking.lost == []
    assert sorted(tracking.children(tracking.runs[0])) == [0, 1, 2]


def test_a_server_that_comes_later_gets_all(tracking: Tracking) -> None:
    """What it did not take at first is sent again, and the trouble was said once."""
    tracking.refused = [("experiments/get-by-name", 503)] * 5
    said: list[str] = []
    one = recorder(tracking.uri, said)
    for number in range(3):
        one.add(trial(number))
    eventually(lambda: not one._waiting)
    one.close(OVER)

    assert sorted(tracking.children(tracking.runs[0])) == [0, 1, 2]
    assert len(said) == 1
    assert "the sweep is not wholly recorded in MLflow, which does not disturb it: it answered 503" in said[0]


def test_strange_runs_with_its_tag_are_none_of_its_trials(tracking: Tracking) -> None:
    """Each training pod can write to MLflow: what is no number of a trial is passed over."""
    first = recorder(tracking.uri, [])
    first.add(trial(0))
    first.close(OVER)
    for number in ("", "one", "-1", "9" * 5000):
        tags = [{"key": "ultramarine.sweep.uid", "value": "uid-1"}, {"key": "ultramarine.trial", "value": number}]
        tracking.answer("runs/create", {"tags": tags, "start_time": 1})
    said: list[str] = []
    second = recorder(tracking.uri, said)
    second.add(trial(1))
    second.close(OVER)

    assert said == []
    assert sorted(tracking.children(tracking.runs[0])) == [0, 1]


def test_what_is_refused_for_good_is_left_out_and_counted(tracking: Tracking) -> None:
    """A trial that MLflow calls wrong does not hold up the next one."""
    said: list[str] = []
    one = recorder(tracking.uri, said)
    eventually(lambda: one.run_id != "")
    tracking.refused = [("runs/create", 400)]
    one.add(trial(0))
    one.add(trial(1))
    one.close(OVER)

    assert sorted(tracking.children(tracking.runs[0])) == [1]
    assert "it answered 400 to runs/create" in said[0]
    assert said[1:] == ["1 of its trials are not recorded in MLflow"]


def test_a_slow_server_is_waited_for_only_at_the_end_and_not_long(tracking: Tracking) -> None:
    """To add a trial takes no time; the end has some seconds, the sweep's own run comes in them, the rest is said."""
    tracking.delay = 0.1
    said: list[str] = []
    one = recorder(tracking.uri, said, replace(TIMES, rest=3.0))
    before = time.monotonic()
    for number in range(1000):
        one.hear(number, {"loss": 0.5})
        one.add(trial(number))
    assert time.monotonic() - before < 20, "a hundred seconds of waiting"
    one.close(OVER)

    assert time.monotonic() - before < 40
    left = 1000 - len(tracking.children(tracking.runs[0]))
    assert 900 < left < 1000
    assert said == [f"{left} of its trials are not recorded in MLflow"]
    assert tracking.runs[0]["status"][-1] == "FINISHED"


def test_a_silent_server_costs_seconds_and_one_line(silent: str) -> None:
    """The end does not wait longer than it promises, nor does a coordinator that is told to leave."""
    said: list[str] = []
    one = recorder(silent, said, replace(TIMES, request=90.0, rest=0.3, end=0.2))
    one.add(trial(0))
    before = time.monotonic()
    one.kill()
    one.close(OVER)

    assert time.monotonic() - before < 30
    assert said[0] == "1 of its trials are not recorded in MLflow"
    assert "has not taken the end of the sweep in time" in said[1]


def test_a_kill_waits_for_a_second(tracking: Tracking) -> None:
    """A server that hangs does not keep a coordinator that has to go."""
    said: list[str] = []
    one = recorder(tracking.uri, said, replace(TIMES, kill=0.2))
    eventually(lambda: one.run_id != "")
    tracking.delay = 60.0
    before = time.monotonic()
    one.kill()

    assert time.monotonic() - before < 30
    assert "does not answer" in said[0]


def test_while_it_is_away_little_is_kept(silent: str) -> None:
    """Trials that wait are the coordinator's own; of other metrics than the objectives there is room for 1,000."""
    said: list[str] = []
    one = recorder(silent, said)
    for number in range(1001):
        one.hear(number, {f"metric{i}": 1.0 for i in range(200)})

    assert len(one._metrics) == 1000
    assert {len(metrics) for metrics in one._metrics.values()} == {100}
    # Its thread may have said meanwhile that nothing answers.
    assert sum("of the others only the objectives are recorded" in words for words in said) == 1


def test_without_a_server_there_is_nothing_to_do() -> None:
    """A platform without MLflow costs no thread, no memory and no time."""
    said: list[str] = []
    one = recorder("", said)
    one.hear(0, {"loss": 1.0})
    one.add(trial(0))
    one.close(OVER)

    assert (said, one.run_id, one._thread.ident, len(one._waiting), one._metrics) == ([], "", None, 0, {})


SCRIPT = ("sh", "-c", "echo step=1 loss=$(($0 + 1)); echo step=2 loss=$0 accuracy=0.5", "$(params.x)")


def test_a_whole_sweep_is_recorded(fleet: Fleet, tracking: Tracking) -> None:
    """From its workers' commands to its last words, which name the run; with the coordinator's account."""
    fleet.environment["ULTRAMARINE_MLFLOW_TRACKING_TOKEN"] = "abc"
    coordinator = fleet.coordinate(max_trials=4, mlflow=tracking.uri)
    worker = fleet.work("w0", *SCRIPT)
    assert (coordinator.wait(240), worker.wait(240)) == (0, 0), fleet.said("coordinator")

    parent = tracking.runs[0]
    children = tracking.children(parent)
    assert fleet.last_words().mlflow_run == parent["run_id"]
    assert [children[n]["params"]["x"] for n in range(4)] == ["1", "2", "3", "4"]
    for x, run in enumerate((children[n] for n in range(4)), 1):
        assert run["metrics"] == [("loss", 1, x + 1.0), ("loss", 2, float(x)), ("accuracy", 2, 0.5)]
    assert parent["metrics"] == [("best_loss", 0, 1.0)]
    assert parent["status"] == ["RUNNING", "FINISHED"]
    assert tracking.headers == {"Bearer abc"}
    assert "MLflow" not in fleet.said("coordinator")


@pytest.mark.slow
def test_kills_of_the_coordinator_record_nothing_twice(fleet: Fleet, tracking: Tracking) -> None:
    """SIGKILL at any time, SIGTERM too, which is told: at the end each trial is one run with each value once."""
    tracking.delay = 0.02
    told = {"max_trials": 30, "mlflow": tracking.uri}
    coordinator = fleet.coordinate(**told)
    workers = [fleet.work(name, *SCRIPT) for name in ("w0", "w1")]
    for count, signum in ((5, signal.SIGKILL), (12, signal.SIGKILL), (20, signal.SIGTERM)):
        eventually(lambda count=count: len(tracking.runs) > count)  # type: ignore[misc]
        os.kill(coordinator.pid, signum)
        coordinator.wait(240)
        if signum == signal.SIGTERM:
            assert tracking.runs[0]["status"][-1] == "KILLED"
        coordinator = fleet.coordinate(**told)
    assert [process.wait(240) for process in (coordinator, *workers)] == [0, 0, 0], fleet.said("coordinator")

    children = tracking.children(tracking.runs[0])
    assert sorted(children) == list(range(30))
    for run in children.values():
        x = float(run["params"]["x"])
        assert [point for point in run["metrics"] if point[0] == "loss"] == [("loss", 1, x + 1), ("loss", 2, x)]
        assert run["status"][-1] == "FINISHED"
    assert tracking.runs[0]["metrics"] == [("best_loss", 0, 1.0)]
    assert tracking.runs[0]["status"][-1] == "FINISHED"


@pytest.mark.slow
def test_a_sweep_does_not_need_mlflow(fleet: Fleet) -> None:
    """A server that is away is said once, and the sweep ends as it would."""
    coordinator = fleet.coordinate(max_trials=4, mlflow=f"http://127.0.0.1:{free_port()}")
    worker = fleet.work("w0", *SCRIPT)
    assert (coordinator.wait(240), worker.wait(240)) == (0, 0), fleet.said("coordinator")

    summary = fleet.last_words()
    assert (summary.outcome, summary.succeeded, summary.mlflow_run) == ("Succeeded", 4, "")
    assert fleet.said("coordinator").count("not wholly recorded in MLflow") == 1
    assert "4 of its trials are not recorded in MLflow" in fleet.said("coordinator")
