"""Results in the SDK: metrics, outputs, trials and diagnoses, from what trainers and coordinators really store."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ultramarine.display.causes import diagnosis, warnings
from ultramarine.display.notebook import percent_of, svg
from ultramarine.display.terminal import chart
from ultramarine.results import METRIC_COLUMNS, metric_rows, table
from ultramarine.runs import duration_of, explanation
from ultramarine.runs.repro import locked
from ultramarine.storage.work import FileInvalid
from ultramarine.sweeps import Trial, bests_so_far, row_of, trials_of
from ultramarine_contract.storage import Storage
from ultramarine_operator.generate import reference
from ultramarine_sweep.state.journal import Journal
from ultramarine_sweep.state.trial import Ask, Finished, Lease
from ultramarine_sweep.state.trials import Trials
from ultramarine_trainer.progress.series import Series
from unit.test_sweep_trials import task


def store_metrics(storage: Storage, uri: str, *lines: tuple[str, int]) -> None:
    """Store lines of metrics with their steps, as a trainer does."""
    series = Series(storage, uri, lambda line: None)
    for line, step in lines:
        series.read(line, step)
    series.close(time.monotonic() + 20)


def test_metrics_have_all_values_of_all_pods(storage: Storage, bucket: str) -> None:
    """A row for each value, with the pod that printed it."""
    folder = f"s3://{bucket}/runs/churn/metrics/"
    store_metrics(storage, f"{folder}churn-0-a.parquet", ("loss=0.5", 1), ("loss=0.25", 2))
    store_metrics(storage, f"{folder}churn-0-b.parquet", ("accuracy=0.9", -1))

    rows = metric_rows(storage, {"metrics": {"uri": folder, "latest": {"loss": 0.25}}})

    assert [(row["pod"], row["step"], row["name"], row["value"]) for row in rows] == [
        ("churn-0-a", 1, "loss", 0.5),
        ("churn-0-a", 2, "loss", 0.25),
        ("churn-0-b", None, "accuracy", 0.9),
    ]
    assert list(table(rows, METRIC_COLUMNS)["value"]) == [0.5, 0.25, 0.9]


def test_a_running_job_has_its_metrics_beside_its_logs(storage: Storage, bucket: str) -> None:
    """The status of a running job does not name the folder of the metrics."""
    store_metrics(storage, f"s3://{bucket}/runs/live/metrics/live-0.parquet", ("loss=1.0", -1))

    assert [row["value"] for row in metric_rows(storage, {"logs": {"uri": f"s3://{bucket}/runs/live/logs/"}})] == [1.0]


@pytest.mark.parametrize("status", [{}, {"logs": {"uri": "s3://BUCKET/none/logs/"}}])
def test_without_stored_metrics_the_latest_count(storage: Storage, bucket: str, status: dict[str, Any]) -> None:
    """The status has the last values before anything is stored."""
    status = {"logs": {"uri": f"s3://{bucket}/none/logs/"}} if status else {}
    rows = metric_rows(storage, {**status, "metrics": {"latest": {"loss": 0.5}}})

    assert [(row["name"], row["value"], row["time"]) for row in rows] == [("loss", 0.5, None)]


def sweep_of(uri: str) -> dict[str, Any]:
    """Return a Sweep with a journal."""
    return {
        "metadata": {"name": "hpo", "namespace": "team-a", "uid": "uid-1"},
        "spec": {"objective": {"metric": "loss"}, "searchSpace": {"x": {"int": {"min": 0, "max": 9}}}},
        "status": {"journal": {"uri": uri}},
    }


def test_trials_are_those_of_the_journal(storage: Storage, bucket: str) -> None:
    """Ended, failed and running trials are read while the coordinator goes on."""
    uri = f"s3://{bucket}/sweeps/hpo/journal/"
    journal = Journal(storage, uri, "coordinator", lambda line: None, waits=(0.01,))
    trials = Trials(task())
    for number, (outcome, metrics) in enumerate(
        (("Succeeded", {"loss": 0.5}), ("Failed", {}), ("Succeeded", {"loss": 0.75}))
    ):
        step = trials.lease("w", number)
        assert isinstance(step, Ask)
        lease = trials.start("w", step.number, {"x": number}, number)
        assert isinstance(lease, Lease)
        message = "" if outcome == "Succeeded" else "exit code 1"
        end = {"trial": number, "attempt": 1, "outcome": outcome, "metrics": metrics, "message": message, "seconds": 2}
        trials.finish("w", Finished.of(end), number + 0.5)
    trials.start("w", 3, {"x": 3}, 4)
    journal.append(trials.drain())

    read = list(trials_of(storage, sweep_of(uri)))

    assert [(trial.number, trial.outcome, trial.params, trial.values) for trial in read] == [
        (0, "Succeeded", {"x": 0}, {"loss": 0.5}),
        (1, "Failed", {"x": 1}, {}),
        (2, "Succeeded", {"x": 2}, {"loss": 0.75}),
        (3, "Running", {"x": 3}, {}),
    ]
    assert read[1].message == "exit code 1"
    assert row_of(read[0])["params.x"] == 0
    assert bests_so_far(read, "loss", False) == [(0, 0.5, 0.5), (2, 0.75, 0.5)]
    assert bests_so_far(read, "loss", True) == [(0, 0.5, 0.5), (2, 0.75, 0.75)]


def test_a_sweep_without_a_journal_has_no_trials(storage: Storage, bucket: str) -> None:
    """Before the coordinator starts there is nothing to read."""
    assert list(trials_of(storage, {**sweep_of(""), "status": {}})) == []
    assert list(trials_of(storage, sweep_of(f"s3://{bucket}/sweeps/none/journal/"))) == []


def test_charts_show_the_extremes() -> None:
    """The greatest value is in the first line, the least in the last one, with their labels."""
    trials = [Trial(number, "Succeeded", {}, {"loss": value}) for number, value in enumerate((0.5, 1.0, 0.25))]
    points = bests_so_far(trials, "loss", False)
    lines = chart(points, 40, 8)

    assert lines[0].startswith("   1 ┤")
    assert "·" in lines[0]
    assert lines[7].startswith("0.25 ┤")
    assert "━" in lines[7]
    assert max(map(len, lines)) <= 40
    assert svg(points, "<loss>").count("<circle") == 3
    assert "<loss>" not in svg(points, "<loss>")


@pytest.mark.parametrize("points", [[], [(0, 1.0, 1.0)]])
def test_a_chart_needs_two_values(points: list[tuple[int, float, float]]) -> None:
    """Fewer values have no course."""
    assert chart(points) == []
    assert svg(points, "loss") == ""


def test_equal_values_have_a_chart() -> None:
    """Values without a difference do not divide by zero."""
    assert len(chart([(0, 1.0, 1.0), (1, 1.0, 1.0)])) > 2


@pytest.mark.parametrize(
    ("progress", "percent"), [("5/20", 25), ("5/?", None), ("", None), ({"percent": 40}, 40), ({}, None), (None, None)]
)
def test_progress_of_jobs_and_sweeps(progress: Any, percent: int | None) -> None:
    """A job has percent, a sweep the number of ended trials of the total."""
    assert percent_of({"progress": progress}) == percent


def condition(type: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    """Return a condition."""
    return {"type": type, "status": status, "reason": reason, "message": message}


def object_with(kind: str, *conditions: dict[str, str], **status: Any) -> dict[str, Any]:
    """Return an object with a status."""
    return {"kind": kind, "metadata": {"name": "churn"}, "status": {"conditions": list(conditions), **status}}


def test_a_failure_has_cause_and_remedy() -> None:
    """The message is the failure's, and its own hint takes precedence over that of the reason."""
    failed = condition("Failed", "True", "OOMKilled", "pod churn-0 was killed")
    failure = {"reason": "OOMKilled", "message": "the command was killed at 1Gi"}
    cause = diagnosis(object_with("TrainingJob", failed, state="Failed", failure=failure))

    assert cause.what == "the command was killed at 1Gi"
    assert cause.meaning == "The command exceeded its memory limit."
    assert cause.remedy == "Raise resources.limits.memory."
    hinted = object_with("TrainingJob", failed, state="Failed", failure={**failure, "hint": "set 2Gi"})
    assert diagnosis(hinted).remedy == "set 2Gi"
    assert explanation(hinted) == "TrainingJob churn failed: the command was killed at 1Gi"


def test_a_retry_names_the_last_failure() -> None:
    """While an attempt follows, the failure is that of the last one."""
    retrying = condition("Running", "False", "Retrying", "attempt 2 begins in 10 s")
    cause = diagnosis(
        object_with(
            "TrainingJob", retrying, state="Pending", failure={"reason": "CommandFailed", "message": "exit code 1"}
        )
    )

    assert cause.what == "attempt 2 begins in 10 s; the last attempt failed: exit code 1"


def test_a_refusal_is_said_once() -> None:
    """A refused run has its message in a condition and in its failure; no attempt follows."""
    refused = condition("Accepted", "False", "InvalidSpec", "parameters.rate: expected number, got string")
    failure = {"reason": "InvalidSpec", "message": refused["message"]}
    assert diagnosis(object_with("PipelineRun", refused, state="Invalid", failure=failure)).what == refused["message"]


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ([condition("Accepted", "False", "InvalidSpec"), condition("Running", "False", "Waiting")], "InvalidSpec"),
        ([condition("Accepted", "True", "Valid"), condition("Running", "False", "Unschedulable")], "Unschedulable"),
        ([condition("Suspended", "True", "Suspended"), condition("Running", "False", "Suspended")], "Suspended"),
        ([condition("Reconciled", "False", "Conflict"), condition("Ready", "False", "Conflict")], "Conflict"),
        ([condition("Running", "False", "Finished"), condition("Succeeded", "True", "Finished")], "Finished"),
        ([], ""),
    ],
)
def test_the_decisive_condition_explains(conditions: list[dict[str, str]], reason: str) -> None:
    """Of several conditions the cause is named, not its consequence."""
    assert diagnosis(object_with("TrainingJob", *conditions)).reason == reason


@pytest.mark.parametrize(
    ("kind", "cause", "remedy"),
    [
        (
            "OnlineEndpoint",
            condition("RolloutHealthy", "False", "GateFailed", "p95 of green is 80 ms (10 requests)"),
            "Change the candidate; a new rollout then starts.",
        ),
        ("OnlineEndpoint", condition("ScalingActive", "False", "NoFigures", "no figures"), "Follow the message."),
    ],
)
def test_a_stalled_object_is_explained_by_the_condition_that_it_repeats(
    kind: str, cause: dict[str, str], remedy: str
) -> None:
    """Stalled, which is for kstatus, has no reason of its own; other conditions have another cause."""
    stalled = condition("Stalled", "True", "Failed", "p95 of green is 80 ms")
    ready = condition("Ready", "True", "Ready", "1 pod ready")

    assert diagnosis(object_with(kind, ready, cause, stalled)).remedy == remedy


def test_every_reason_of_the_registry_is_explained() -> None:
    """The file of the SDK has each line of the operator's tables."""
    from ultramarine_operator.kinds import KINDS

    names = {kind.name for kind in KINDS}
    for _, own in reference.tables():
        for type, lines in own.reasons.items():
            for reason, (meaning, _) in lines.items():
                if own.title in names:
                    cause = diagnosis(object_with(own.title, condition(type, "False", reason)))
                    assert cause.meaning == meaning or cause.reason != reason, (own.title, type, reason)


def test_a_warning_is_shown_beside_the_state() -> None:
    """An accepted spec may have a probable mistake."""
    doubtful = condition("Accepted", "True", "Valid", "parameter lr is not used")

    assert warnings(object_with("TrainingJob", doubtful)) == ["parameter lr is not used"]


def test_durations() -> None:
    """A run lasts from its start to its end, or until now."""
    now = datetime.now(UTC)
    start = (now - timedelta(seconds=90)).isoformat().replace("+00:00", "Z")

    assert duration_of({}) is None
    assert duration_of({"startTime": "2026-12-01T10:00:00Z", "completionTime": "2026-12-01T10:01:30Z"}) == timedelta(
        seconds=90
    )
    assert (duration_of({"startTime": start}) or timedelta()) >= timedelta(seconds=90)


def test_a_lock_file_becomes_exact_requirements() -> None:
    """Hashes, comments and options are left out."""
    lines = [
        "# by uv",
        "--index-url x",
        "numpy==2.4 \\",
        "    --hash=sha256:aa",
        "    # via pandas",
        "pandas==3.0 ; a > b",
    ]

    assert locked("\n".join(lines)) == ["numpy==2.4", "pandas==3.0 ; a > b"]


def test_an_output_is_fetched_with_its_digest(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """Files come into the folder, and other content than that of the digest is refused."""
    from ultramarine.results import Output
    from ultramarine_contract.errors import StorageError

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.txt").write_text("1 2 3")
    record = storage.upload_folder(tmp_path / "model", f"s3://{bucket}/outputs/model")

    into = Output("model", record.uri, record.digest, _storage=lambda: storage).download(tmp_path / "copy")

    assert {path.name: path.read_text() for path in into.iterdir()} == {"weights.txt": "1 2 3"}
    again = Output("model", record.uri, record.digest, _storage=lambda: storage)
    assert again.download(tmp_path / "copy") == into
    (into / "weights.txt").write_text("1 2 4")
    with pytest.raises(FileInvalid, match="exists with other content"):
        again.download(tmp_path / "copy")
    with pytest.raises(StorageError, match="digest"):
        Output("model", record.uri, "sha256:" + "0" * 64, _storage=lambda: storage).download(tmp_path / "other")
