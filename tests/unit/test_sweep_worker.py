"""Whole sweeps: a real coordinator and real workers as processes, a real S3 server, and kills in the middle."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from forks import Fork
from ultramarine.runs.parts import TrialPart
from ultramarine_contract.cache_records import CacheRecord, CacheTask, record_uri
from ultramarine_contract.common import EXIT_TRY_AGAIN, STREAM_PORT, TERMINATION_LIMIT
from ultramarine_contract.parameters import fill
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import SweepSummary
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_sweep.service.sweep import CRASHES
from ultramarine_sweep.state import journal
from ultramarine_sweep.state.trial import Trial
from ultramarine_sweep.state.trials import Trials
from ultramarine_trainer.trials.trial import TrialObserver
from unit.conftest import eventually, serving_store
from unit.packages import stored_environment
from unit.sweeping import Fleet, task_of


def trials(fleet: Fleet, storage: Storage) -> dict[int, Trial]:
    """The finished trials, as the journal has them, by their x."""
    finished = Trials(task_of(fleet.prefix), journal.read(storage, f"{fleet.prefix}journal/")).finished
    return {trial.params["x"]: trial for trial in finished.values()}


def over(coordinator: Fork, *workers: Fork) -> list[int]:
    """Wait until a sweep is over; return all exit codes."""
    return [process.wait(240) for process in (coordinator, *workers)]


def test_a_sweep_from_its_first_trial_to_its_last_words(fleet: Fleet, storage: Storage) -> None:
    """Every trial runs once with its own parameters; the summary is stored, and is the coordinator's last words."""
    coordinator = fleet.coordinate(max_trials=12)
    script = 'echo "got $0 $1 $2" >> ../../ran; echo loss=$0'
    command = ("sh", "-c", script, "$(params.x)", "$(params.rate)", "--kind=$(params.kind)")
    workers = [fleet.work(name, *command) for name in ("w0", "w1")]

    assert over(coordinator, *workers) == [0, 0, 0], fleet.said("coordinator")
    summary = fleet.last_words()
    assert (summary.outcome, summary.reason) == ("Succeeded", "MaxTrialsReached")
    assert (summary.succeeded, summary.running, summary.failed) == (12, 0, 0)
    assert [trial.trial for trial in summary.best] == list(range(10))
    assert summary.best[0].params == {"x": 1, "rate": 1 / 7, "kind": "plain"}
    assert SweepSummary.from_json(storage.read(f"{fleet.prefix}summary.json")) == summary
    assert not summary.report, "this coordinator was given nothing that makes one"
    lines = (fleet.base / "ran").read_text().splitlines()
    assert sorted(lines) == sorted(f"got {n} {n / 7!r} --kind=plain" for n in range(1, 13))
    assert TerminationRecord.from_json((fleet.base / "w0/log").read_text()) == TerminationRecord()


def test_a_sweep_of_a_step_records_its_best_trial(fleet: Fleet, storage: Storage, bucket: str) -> None:
    """The record is under the key before the operator learns of the end, with the folder of the output."""
    cache = CacheTask("a" * 64, {"command": "[]"}, "churn", "tune", "run")
    coordinator = fleet.coordinate(max_trials=2, outputs=("model",), cache=cache)
    script = "echo $0 > ../outputs/model/model.txt; echo loss=$0"
    worker = fleet.work("w0", "sh", "-c", script, "$(params.x)", outputs={"model": ""})

    assert over(coordinator, worker) == [0, 0], fleet.said("coordinator")
    record = CacheRecord.from_json(storage.read(record_uri(bucket, "sweeps", cache.key)))
    assert (record.job, record.run, record.metrics) == ("hpo", "run", {"loss": 1.0})
    best = fleet.last_words().best[0]
    assert (record.outputs, list(record.outputs)) == (best.outputs, ["model"])


def test_the_log_of_a_trial_is_cut_out_of_its_workers_log(fleet: Fleet) -> None:
    """`ultramarine logs SWEEP --trial N` has its parameters, what it printed and its end, and nothing of others."""
    coordinator = fleet.coordinate(max_trials=3)
    worker = fleet.work("w0", "sh", "-c", "echo loss=$0", "$(params.x)")
    assert over(coordinator, worker) == [0, 0], fleet.said("coordinator")

    part = TrialPart(1)
    log = [line for line in fleet.said("w0").splitlines() if part.has_line("w0", line)]
    trainer = "ultramarine-trainer: trial 1"
    assert [line for line in log if " begins: " in line] == [log[0]]
    assert log[0].startswith(f"{trainer} begins: x=")
    assert sum(line.startswith("loss=") for line in log) == 1
    assert f"{trainer}: Succeeded" in log


@pytest.mark.slow
def test_trials_run_in_the_environment_of_their_worker(
    fleet: Fleet, storage: Storage, bucket: str, tmp_path: Path
) -> None:
    """A worker unpacks it once, and each of its trials has its programs."""
    archive = stored_environment(storage, f"s3://{bucket}/environment.tar.zst", tmp_path / "built")
    coordinator = fleet.coordinate(max_trials=3)
    worker = fleet.work("w0", "sh", "-c", "own-tool && python -c 'import own' && echo loss=1", environment=archive)

    assert over(coordinator, worker) == [0, 0], fleet.said("w0")
    assert fleet.last_words().succeeded == 3
    assert fleet.said("w0").count("environment: ") == 1


@pytest.mark.slow
def test_kills_lose_no_result_and_repeat_none(fleet: Fleet, storage: Storage) -> None:
    """500 trials by two workers, while the coordinator and the workers are killed again and again: each has one result,
    the right one, and no more have run again than workers were killed."""
    command = ("sh", "-c", "echo $0 >> ../../ran; echo loss=$0", "$(params.x)")
    coordinator = fleet.coordinate(max_trials=500)
    workers = {name: fleet.work(name, *command) for name in ("w0", "w1")}
    ran = fleet.base / "ran"
    kills = 0
    for i, count in enumerate((50, 120, 190, 260, 330, 400)):
        eventually(lambda count=count: ran.exists() and len(ran.read_text().splitlines()) >= count)
        coordinator.kill()
        coordinator.wait()
        if i % 2:
            kills += 1
            name = f"w{i // 2 % 2}"
            workers[name].kill()
            workers[name].wait()
            workers[name] = fleet.work(name, *command)
        coordinator = fleet.coordinate(max_trials=500)

    assert over(coordinator, *workers.values()) == [0, 0, 0], fleet.said("coordinator")
    finished = trials(fleet, storage)
    assert {number: trial.values for number, trial in finished.items()} == {n: (float(n),) for n in range(1, 501)}
    repeated = {number: times for number, times in Counter(ran.read_text().split()).items() if times > 1}
    assert set(Counter(ran.read_text().split())) == {str(number) for number in range(1, 501)}
    assert sum(times - 1 for times in repeated.values()) <= kills
    assert fleet.last_words().succeeded == 500


def test_a_trial_outlives_its_coordinator(fleet: Fleet, storage: Storage) -> None:
    """Without a coordinator the command keeps running, and its result goes to the next coordinator."""
    fleet.environment["GO"] = str(fleet.base / "go")
    script = "echo started >> ../../ran; echo loss=1; while [ ! -e $GO ]; do sleep 0.1; done; echo loss=0.5"
    coordinator = fleet.coordinate(max_trials=1)
    worker = fleet.work("w0", "sh", "-c", script)
    eventually((fleet.base / "ran").exists)
    coordinator.kill()
    coordinator.wait()
    eventually(lambda: "goes on, though its coordinator is away" in fleet.said("w0"))
    coordinator = fleet.coordinate(max_trials=1)
    (fleet.base / "go").touch()

    assert over(coordinator, worker) == [0, 0]
    [trial] = trials(fleet, storage).values()
    assert (trial.attempt, trial.values) == (1, (0.5,))
    assert (fleet.base / "ran").read_text() == "started\n"


@pytest.mark.slow
def test_a_sweep_outlives_its_storage(
    storage_to_come: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the storage is away no result is said to be kept; when it is back all goes on, and nothing twice."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "root")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    (tmp_path / "buckets/sweeps").mkdir(parents=True)
    fleet = Fleet(tmp_path, storage_to_come.name, "sweeps")
    ran = fleet.base / "ran"
    try:
        with serving_store(tmp_path / "buckets"):
            coordinator = fleet.coordinate(max_trials=30)
            worker = fleet.work("w0", "sh", "-c", "echo $0 >> ../../ran; sleep 0.1; echo loss=$0", "$(params.x)")
            eventually(lambda: ran.exists() and len(ran.read_text().split()) >= 5)
        eventually(lambda: "trying until it answers" in fleet.said("coordinator"))
        with serving_store(tmp_path / "buckets"):
            assert over(coordinator, worker) == [0, 0]
            finished = trials(fleet, Storage(storage_to_come.name))
    finally:
        fleet.end()

    assert {x: trial.values for x, trial in finished.items()} == {x: (float(x),) for x in range(1, 31)}
    assert ran.read_text().split() == [str(x) for x in range(1, 31)]


def test_a_trial_that_is_not_worth_it_ends_early(fleet: Fleet, storage: Storage) -> None:
    """A command that ignores SIGTERM is killed, with all that it has started, and the next trial begins."""
    fleet.environment["TEST_THRESHOLD"] = "5"
    script = "trap '' TERM; if [ $0 = 1 ]; then echo step=3 loss=9; sleep 600 & wait; sleep 600; fi; echo step=4 loss=1"
    coordinator = fleet.coordinate(max_trials=2)
    worker = fleet.work("w0", "sh", "-c", script, "$(params.x)")

    assert over(coordinator, worker) == [0, 0]
    first, second = trials(fleet, storage)[1], trials(fleet, storage)[2]
    assert (first.outcome, first.message) == ("Stopped", "threshold: 9.0 at step 3 is above 5.0")
    assert list(first.points) == [(3, 9.0)]
    assert first.seconds < 10
    assert (second.outcome, list(second.points)) == ("Succeeded", [(4, 1.0)])


@pytest.mark.slow
def test_a_trial_may_take_its_time_only(fleet: Fleet, storage: Storage) -> None:
    """One that runs longer than it may has failed, with the field's name; the others go on."""
    coordinator = fleet.coordinate(max_trials=2, trial_timeout_seconds=1)
    worker = fleet.work("w0", "sh", "-c", "echo loss=1; if [ $0 = 1 ]; then sleep 600; fi", "$(params.x)")

    assert over(coordinator, worker) == [0, 0]
    assert trials(fleet, storage)[1].message == "it ran for longer than 1 s (limits.trialTimeoutSeconds)"
    assert fleet.last_words().succeeded == 1


def test_a_trial_fails_alone(fleet: Fleet, storage: Storage) -> None:
    """An exit code, a signal, a missing metric, NaN and a missing program fail their own trial alone."""
    scripts = ["echo loss=1", "echo no such column >&2; exit 3", "kill -9 $$", "echo acc=1"]
    scripts += ["echo loss=1; echo loss=nan", "", "echo loss=inf", "echo loss=1 >&2"]
    (fleet.base / "scripts").mkdir()
    for number, script in enumerate(scripts, 1):
        (fleet.base / f"scripts/{number}").write_text(f"#!/bin/sh\n{script}\n")
        (fleet.base / f"scripts/{number}").chmod(0o755 if script else 0o644)
    coordinator = fleet.coordinate(max_trials=8)
    worker = fleet.work("w0", f"{fleet.base}/scripts/$(params.x)")

    assert over(coordinator, worker) == [0, 0]
    words = {number: trial.message for number, trial in trials(fleet, storage).items()}
    assert fleet.last_words().succeeded == 1
    assert words[2] == "command exited with code 3: no such column"
    assert trials(fleet, storage)[2].tail == "no such column"
    assert words[3] == "command was killed by SIGKILL; probably out of memory: raise spec.trialTemplate.spec.resources"
    assert words[4] == "the command ended well, but never printed loss to stdout (it printed acc)"
    assert words[5] == "the last value of loss is not a finite number"
    assert "is not executable" in words[6]
    assert words[7] == "the last value of loss is not a finite number"
    assert words[8] == (
        "the command ended well, but never printed loss to stdout (it printed no metric at all); "
        "stderr had loss: print metrics to stdout"
    )
    assert trials(fleet, storage)[8].tail == "loss=1"
    # The log says the same, of each trial: they count from 0.
    log = [line for line in fleet.said("w0").splitlines() if ": Failed: " in line or line.endswith(": Succeeded")]
    failures = [f"trial {x - 1}: Failed: {words[x]}" for x in range(2, 9)]
    assert log == [f"ultramarine-trainer: {line}" for line in ("trial 0: Succeeded", *failures)]


@pytest.mark.slow
def test_a_canary_spares_the_others(fleet: Fleet) -> None:
    """A script that always fails runs once, and its last lines are in the sweep's message."""
    workers = [fleet.work(f"w{i}", "sh", "-c", "echo >> ../../ran; echo no data >&2; exit 1") for i in range(2)]
    eventually(lambda: all("trying until it does" in fleet.said(name) for name in ("w0", "w1")))
    coordinator = fleet.coordinate(max_trials=50, canary_trial=True)

    assert over(coordinator, *workers) == [0, 0, 0]
    assert (fleet.last_words().outcome, fleet.last_words().reason) == ("Failed", "CanaryFailed")
    assert fleet.last_words().message == "the first trial failed: trial 0: command exited with code 1: no data\nno data"
    assert fleet.last_words().exit_code == 1
    assert fleet.last_words().pod in ("w0", "w1")
    assert (fleet.base / "ran").read_text() == "\n"


@pytest.mark.slow
def test_a_flood_of_metrics_drowns_nobody(fleet: Fleet, storage: Storage) -> None:
    """A script may print its metric 300,000 times: its last value counts, and few points are kept."""
    script = "import sys\nfor i in range(300000): print(f'loss={300000 - i}')"
    coordinator = fleet.coordinate(max_trials=1)
    worker = fleet.work("w0", sys.executable, "-c", script)

    assert over(coordinator, worker) == [0, 0]
    [trial] = trials(fleet, storage).values()
    assert trial.values == (1.0,)
    assert 2 <= len(trial.points) <= 64
    assert list(trial.points)[-1] == (300000, 1.0)
    records = journal.read(storage, f"{fleet.prefix}journal/")
    assert sum(record["kind"] == "points" for record in records) < 200


@pytest.mark.slow
def test_each_trial_finds_everything_fresh(fleet: Fleet, storage: Storage, bucket: str) -> None:
    """Source, outputs and inputs are as at the beginning, whatever the trial before changed.

    The sweep's token is not in the command's environment.
    """
    storage.write(f"s3://{bucket}/lake/train.csv", b"1,2\n")
    (fleet.base / "w0/source").mkdir(parents=True)
    (fleet.base / "w0/source/train.sh").write_text(
        "set -e\n"
        'test -z "$(env | grep -e ULTRAMARINE_SWEEP -e AWS_)"\n'
        'test "$(cat ../inputs/data/train.csv)" = 1,2\n'
        'test "$(ls)" = train.sh\n'
        'test -z "$(ls ../outputs/report)"\n'
        "mkdir -p deep/down; touch more deep/down/file ../outputs/report/left; echo >> train.sh; chmod -w deep/down\n"
        "echo loss=1\n"
    )
    coordinator = fleet.coordinate(max_trials=4)
    worker = fleet.work("w0", "sh", "train.sh", inputs={"data": f"s3://{bucket}/lake/"}, outputs={"report": ""})

    assert over(coordinator, worker) == [0, 0], fleet.said("w0")
    assert fleet.last_words().succeeded == 4, fleet.said("w0")


@pytest.mark.slow
def test_streamed_inputs_are_served_to_every_trial(fleet: Fleet, storage: Storage, bucket: str) -> None:
    """Streamed inputs are read on loopback, by one trial after the other."""
    storage.write(f"s3://{bucket}/lake/train.csv", b"7")
    script = "from urllib.request import urlopen\n"
    script += f"print('loss=' + urlopen('http://127.0.0.1:{STREAM_PORT}/data/train.csv').read().decode())"
    coordinator = fleet.coordinate(max_trials=2)
    worker = fleet.work("w0", sys.executable, "-S", "-c", script, streams={"data": f"s3://{bucket}/lake/"})

    assert over(coordinator, worker) == [0, 0], fleet.said("w0")
    assert [trial.values for trial in trials(fleet, storage).values()] == [(7.0,), (7.0,)]


def test_the_outputs_of_the_best_are_stored(fleet: Fleet, storage: Storage) -> None:
    """A trial that is the best so far stores what it has made, below its number; the others store nothing."""
    script = "echo model $0 > ../outputs/model/model.txt; echo loss=$(( ($0 - 3) * ($0 - 3) ))"
    coordinator = fleet.coordinate(max_trials=6, outputs=("model",))
    worker = fleet.work("w0", "sh", "-c", script, "$(params.x)", outputs={"model": ""})

    assert over(coordinator, worker) == [0, 0], fleet.said("w0")
    best = fleet.last_words().best[0]
    assert (best.trial, best.params["x"], best.values) == (2, 3, (0.0,))
    assert best.outputs["model"].uri.startswith(f"{fleet.prefix}trials/2/model/")
    assert storage.read(f"{best.outputs['model'].uri}model.txt") == b"model 3\n"
    stored = {uri.split("/")[-2] for uri in storage.folders(f"{fleet.prefix}trials/")}
    assert stored == {"0", "1", "2"}


@pytest.mark.slow
def test_a_best_trial_without_outputs_has_failed(fleet: Fleet, storage: Storage) -> None:
    """A missing output fails the trial, with the output's name."""
    coordinator = fleet.coordinate(max_trials=1, outputs=("model",))
    worker = fleet.work("w0", "sh", "-c", "echo loss=1", outputs={"model": ""})

    assert over(coordinator, worker) == [0, 0]
    assert trials(fleet, storage)[1].message.startswith("output model is empty")
    assert fleet.last_words().outcome == "Failed"


def test_an_evicted_worker_gives_its_trial_back(fleet: Fleet, storage: Storage) -> None:
    """SIGTERM reaches the command, which may clean up; the trial begins again on another worker at once."""
    script = "echo $0 >> ../../ran; trap 'echo tidy >> ../../ran; exit 0' TERM; [ $0 = w1 ] || { sleep 600 & wait; }; "
    script += "echo loss=1"
    coordinator = fleet.coordinate(max_trials=1)
    evicted = fleet.work("w0", "sh", "-c", script, "w0")
    eventually((fleet.base / "ran").exists)
    evicted.send_signal(signal.SIGTERM)

    assert evicted.wait(240) == 143
    assert TerminationRecord.from_json((fleet.base / "w0/log").read_text()).reason == "Stopped"
    worker = fleet.work("w1", "sh", "-c", script, "w1")
    assert over(coordinator, worker) == [0, 0]
    [trial] = trials(fleet, storage).values()
    assert (trial.attempt, trial.losses, trial.outcome) == (2, 0, "Succeeded")
    assert (fleet.base / "ran").read_text().split() == ["w0", "tidy", "w1"]


@pytest.mark.slow
def test_an_idle_worker_leaves_at_once(fleet: Fleet) -> None:
    """A worker that waits for a coordinator has nothing to clean up."""
    worker = fleet.work("w0", "true")
    eventually(lambda: "trying until it does" in fleet.said("w0"))
    worker.send_signal(signal.SIGTERM)

    assert worker.wait(240) == 143


def test_a_worker_of_another_sweep_is_refused(fleet: Fleet) -> None:
    """A token of another sweep is refused, and the worker's record says so."""
    coordinator = fleet.coordinate(max_trials=1)
    worker = fleet.work("w0", "sh", "-c", "echo loss=1", token="another")

    assert worker.wait(240) == 203
    record = TerminationRecord.from_json((fleet.base / "w0/log").read_text())
    assert record.reason == "CoordinatorRefused"
    assert coordinator.poll() is None


@pytest.mark.slow
def test_the_late_one_of_two_coordinators_leaves(fleet: Fleet, storage: Storage) -> None:
    """A coordinator that was thought dead finds out with its next word to the journal, and its worker goes on."""
    segments = f"{fleet.prefix}journal/"
    late = fleet.coordinate(max_trials=3)
    eventually(lambda: bool(storage.folders(fleet.prefix)))
    old, fleet.port = fleet.port, fleet.another_port()
    successor = fleet.coordinate(max_trials=3)
    eventually(lambda: len(storage.objects(segments)) == 2)
    new, fleet.port = fleet.port, old
    lost = fleet.work("w0", "sh", "-c", "echo loss=1")

    assert late.wait(240) == 75
    assert "another coordinator has written" in fleet.said("coordinator")
    fleet.port = new
    worker = fleet.work("w1", "sh", "-c", "echo loss=1")
    assert over(successor, worker) == [0, 0]
    assert len(trials(fleet, storage)) == 3
    lost.send_signal(signal.SIGTERM)
    assert lost.wait(240) == 143


@pytest.mark.slow
def test_another_sweeps_trials_are_known(fleet: Fleet, storage: Storage) -> None:
    """A sweep that starts warm reads the journal of the one before; one that never was is the sweep's failure."""
    coordinator = fleet.coordinate(max_trials=4)
    worker = fleet.work("w0", "sh", "-c", "echo loss=1")
    assert over(coordinator, worker) == [0, 0]

    first, fleet.folder = fleet.prefix, "second"
    coordinator = fleet.coordinate(max_trials=1, warm_start=(first,))
    worker = fleet.work("w0", "sh", "-c", "echo loss=1")
    assert over(coordinator, worker) == [0, 0]
    assert "known trials of other sweeps: 4" in fleet.said("coordinator")

    fleet.folder = "third"
    assert fleet.coordinate(warm_start=("s3://" + fleet.bucket + "/none/",)).wait(240) == 0
    assert (fleet.last_words().outcome, fleet.last_words().reason) == ("Failed", "WarmStartNotFound")


@pytest.mark.slow
def test_a_sweep_fails_whose_coordinators_crash_again_and_again(fleet: Fleet, storage: Storage) -> None:
    """Two lives may end by a bug, and the third one says so for good; what was counted and is the best stays known."""
    fleet.environment["TEST_STUMBLES"] = "4"
    coordinator = fleet.coordinate(max_trials=10)
    worker = fleet.work("w0", "sh", "-c", "echo loss=$0", "$(params.x)")
    for _ in range(CRASHES - 1):
        assert coordinator.wait(240) == EXIT_TRY_AGAIN
        assert not (fleet.base / "coordinator/log").exists()
        coordinator = fleet.coordinate(max_trials=10)

    assert over(coordinator) == [0]
    summary = fleet.last_words()
    assert (summary.outcome, summary.reason) == ("Failed", "CoordinatorCrashed")
    # The third result may be lost: its worker asks for the next trial in the same request.
    assert summary.succeeded in (2, 3)
    assert (summary.failed, summary.running, summary.best[0].params["x"]) == (0, 0, 1)
    assert f"crashed {CRASHES} times within an hour, the last time by AssertionError: no such number" in summary.message
    assert SweepSummary.from_json(storage.read(f"{fleet.prefix}summary.json")) == summary
    worker.kill()


@pytest.mark.slow
def test_last_words_fit(fleet: Fleet) -> None:
    """However long the messages are, the kubelet keeps all of the last words."""
    coordinator = fleet.coordinate(max_trials=50, canary_trial=True)
    noise = "import sys\nfor i in range(1000): print('\"\\u00e9' * 40, file=sys.stderr)\nsys.exit(1)"
    worker = fleet.work("w0", sys.executable, "-c", noise)

    assert over(coordinator, worker) == [0, 0]
    assert len((fleet.base / "coordinator/log").read_bytes()) <= TERMINATION_LIMIT
    assert fleet.last_words().reason == "CanaryFailed"


@pytest.mark.parametrize(
    ("argument", "filled"),
    [
        ("--lr=$(params.lr)", ["--lr=1e-05"]),
        ("$(params.depth)/$(params.rate)", ["3/0.5"]),
        ("$(params.name)", ["a $(params.lr) b"]),
        ("--dart=$(params.dart)", ["--dart=true"]),
        ("--drop=$(params.drop)", []),
        ("$(inputs.data) $HOME", ["$(inputs.data) $HOME"]),
    ],
)
def test_parameters_are_filled_in(argument: str, filled: list[str]) -> None:
    """Numbers as Python writes them, texts as they are, booleans in YAML's words; without a parameter no argument."""
    params = {"lr": 1e-5, "depth": 3, "rate": 0.5, "name": "a $(params.lr) b", "dart": True}

    assert fill([argument], params) == filled


@pytest.mark.parametrize(
    ("lines", "points"),
    [
        (["loss=3", "loss=2"], [(1, 3.0), (2, 2.0)]),
        (["step=10 loss=3", "loss=2 step=20"], [(10, 3.0), (20, 2.0)]),
        (["step=5", "loss=3"], [(5, 3.0)]),
        (["step=1 loss=nan", "step=2 loss=1"], [(2, 1.0)]),
        (["acc=1", "total_steps=9"], []),
    ],
)
def test_steps_are_the_commands_or_counted(lines: list[str], points: list[tuple[int, float]]) -> None:
    """A value belongs to the last printed step or, without steps, to the number of its own line."""
    observer = TrialObserver(["loss"])
    for line in lines:
        observer.hear(line, True)

    assert [(step, value) for _, step, value in observer.unsent()] == points


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("Loss: 0.5 at the end", '; stdout had "Loss: 0.5": print loss=0.5'),
        ("{'loss': 1}", '; stdout had "loss\': 1": print loss=1'),
        ("loss = 2e-3", '; stdout had "loss = 2e-3": print loss=2e-3'),
        ("val_loss: 0.5", ""),
        ("no loss: none", ""),
    ],
)
def test_an_objective_in_another_form_is_shown(line: str, hint: str) -> None:
    """A trial that printed its objective in another form than NAME=VALUE quotes the text and its correction."""
    observer = TrialObserver(["loss"])
    observer.hear(line, True)
    assert observer.unmeasured.endswith(f"(it printed no metric at all){hint}")
    observer.hear("loss=0.1", True)
    assert observer.unmeasured == ""


def test_an_objective_is_heard_among_many_metrics() -> None:
    """It has its place, however many other names came first, and its last value counts even if it is not finite."""
    observer = TrialObserver(["loss", "acc"])
    for i in range(100):
        observer.hear(f"m{i}=1", True)
    observer.hear("loss=0.5 acc=1", True)
    observer.hear("loss=inf", True)
    observer.hear("acc=0", False)

    assert (observer.metrics["loss"], observer.metrics["acc"]) == (None, 1.0)


def test_a_worker_calls_fields_as_a_sweep_has_them(fleet: Fleet) -> None:
    """Faults of the trials' spec are named by the path that its author must correct, in log and termination message."""
    worker = fleet.work("w0", "true", inputs={"data": f"s3://{fleet.bucket}/nothing/"})

    assert worker.wait(240) == 203
    path = "spec.trialTemplate.spec.inputs.data.uri: "
    assert TerminationRecord.from_json((fleet.base / "w0/log").read_text()).message.startswith(path)
    assert f"ultramarine-trainer: InputNotFound: {path}" in fleet.said("w0")
