"""The commands over runs without a cluster: tables, details of each kind, completion."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ultramarine.cli.describing import _pod
from ultramarine.cli.details import details
from ultramarine.cli.runs import table_of
from ultramarine.cli.session import echo
from ultramarine.sweeps import Trial

COMMAND = Path(sys.executable).parent / "ultramarine"


def test_trials_are_a_table() -> None:
    """Objectives and parameters have columns; one that a trial lacks is empty."""
    trials = [
        Trial(3, "Succeeded", {"lr": 0.012345678, "booster": "dart"}, {"loss": 0.5}, 12.34),
        Trial(4, "Failed", {"lr": 1.0}, {}, 1.0, "exit code 1"),
    ]

    assert [line.split() for line in table_of(trials)] == [
        ["TRIAL", "OUTCOME", "LOSS", "lr", "booster", "SECONDS", "MESSAGE"],
        ["3", "Succeeded", "0.5", "0.012346", "dart", "12.3"],
        ["4", "Failed", "1", "1.0", "exit", "code", "1"],
    ]


@pytest.mark.parametrize(
    ("kind", "spec", "status", "lines"),
    [
        (
            "TrainingJob",
            {},
            {
                "progress": {"step": 5, "totalSteps": 20, "percent": 25, "etaSeconds": 30},
                "metrics": {"latest": {"loss": 0.5}},
                "outputs": {"model": {"uri": "s3://b/m/", "bytes": 2048, "modelVersion": "churn-1"}},
            },
            {
                "Progress": "25 %, step 5 of 20, 30 s left",
                "Metrics": "loss=0.5",
                "Outputs": ["model: s3://b/m/ (2.0 KiB), model version churn-1"],
            },
        ),
        (
            "TrainingJob",
            {},
            {
                "failure": {"reason": "CommandFailed"},
                "attemptHistory": [{"pod": "a", "reason": "CommandFailed", "exitCode": 1, "message": "boom"}],
            },
            {"Attempts": ["a: CommandFailed (exit code 1): boom"]},
        ),
        (
            "Sweep",
            {},
            {
                "progress": "5/20",
                "trials": {"running": 1, "succeeded": 4, "failed": 1},
                "best": [{"trial": 2, "values": {"loss": 0.5}, "params": {"lr": 0.1}}],
            },
            {"Trials": "5/20, 1 running, 4 succeeded, 1 failed", "Best trials": ["2: loss=0.5 with lr=0.1"]},
        ),
        (
            "OnlineEndpoint",
            {},
            {
                "url": "http://churn",
                "traffic": {"blue": 90, "green": 10},
                "deployments": [{"name": "blue", "state": "Ready", "modelVersion": "churn-1", "readyReplicas": 2}],
            },
            {
                "URL": "http://churn",
                "Traffic": "blue 90 %, green 10 %",
                "Deployments": ["blue: Ready churn-1, 2 pods ready"],
            },
        ),
        (
            "Model",
            {"aliases": {"champion": "7"}},
            {"versions": 8, "latestReadyVersion": "8"},
            {"Versions": "8, latest ready 8", "Aliases": "champion -> 7"},
        ),
        (
            "ModelVersion",
            {"uri": "s3://b/m/", "format": {"name": "sklearn"}, "lineage": {"trainingJob": "churn"}},
            {"bytes": 5},
            {"Format": "sklearn, 5 B", "Files": "s3://b/m/", "Trained by": "churn"},
        ),
        ("ModelVersion", {"format": {"name": "sklearn"}}, {}, {"Format": "sklearn"}),
        (
            "OnlineEndpoint",
            {},
            {"deployments": [{"name": "own", "state": "Ready", "readyReplicas": 1}]},
            {"Deployments": ["own: Ready, 1 pod ready"]},
        ),
        (
            "Environment",
            {},
            {"lock": {"uri": "s3://b/r.txt", "packages": 7}, "size": "210Mi", "pythonVersion": "3.11"},
            {"Packages": "7, 210Mi, Python 3.11", "Lock": "s3://b/r.txt"},
        ),
        (
            "DatasetVersion",
            {"uri": "s3://b/d/"},
            {"format": "csv", "files": 1, "bytes": 5},
            {"Content": "csv, 1 file, 5 B", "Files": "s3://b/d/"},
        ),
        (
            "PipelineRun",
            {},
            {"progress": "1/2", "datasets": [{"reference": "a@latest", "version": "a-3"}, {"reference": "b@golden"}]},
            {"progress": "1/2", "Datasets": ["a@latest: a-3", "b@golden: no version is ready"]},
        ),
        ("Pipeline", {}, {"state": "Running", "steps": 3, "nodes": [1]}, {"steps": "3"}),
    ],
)
def test_details_of_each_kind(
    kind: str, spec: dict[str, object], status: dict[str, object], lines: dict[str, object]
) -> None:
    """Progress and results are lines; what is empty is left out."""
    assert dict(details(kind, spec, status)) == lines


@pytest.mark.parametrize("kind", ["TrainingJob", "Sweep", "OnlineEndpoint", "Model", "ModelVersion", "Environment"])
def test_an_object_without_a_status_has_a_page(kind: str) -> None:
    """A page is complete before the operator has seen the object."""
    list(details(kind, {}, {}))


def run(*words: str, **variables: str) -> str:
    """Return the output of the command."""
    done = subprocess.run(
        [str(COMMAND), *words], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_a_shell_gets_its_script(shell: str) -> None:
    """The script calls the command back by the variable of its name."""
    assert "_ULTRAMARINE_COMPLETE" in run("completion", shell)


def test_commands_are_completed() -> None:
    """A shell that follows the script gets the commands that begin like the word."""
    words = {"_ULTRAMARINE_COMPLETE": "complete_bash", "COMP_WORDS": "ultramarine sus", "COMP_CWORD": "1"}

    assert run(**words).split() == ["suspend"]


def test_completion_explains_itself() -> None:
    """Without a shell the command names each one."""
    assert run("completion").count("ultramarine completion ") == 4


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Failed: one two three four", ["Failed: one two", "  three four"]),
        ("  model: s3://bucket/a-long-name (2 B)", ["  model:", "    s3://bucket/a-long-name", "    (2 B)"]),
        ("as wide as it is\nnext", ["as wide as it is", "next"]),
    ],
)
def test_a_terminal_breaks_no_words(monkeypatch: pytest.MonkeyPatch, text: str, lines: list[str]) -> None:
    """Lines end between words, the rest is indented, and a URI stays whole; a pipe gets each line as it is."""
    monkeypatch.setenv("COLUMNS", "16")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    echo(text)
    echo(text, err=True)

    assert screen.getvalue().splitlines() == lines
    assert pipe.getvalue() == f"{text}\n"


def test_a_state_has_a_colour_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gets no control characters, and NO_COLOR leaves them out."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    echo("Failed: KeyError", state="Failed")
    echo("Failed: KeyError", err=True, state="Failed")
    monkeypatch.setenv("NO_COLOR", "1")
    echo("Failed: KeyError", state="Failed")

    assert screen.getvalue() == "\x1b[31mFailed\x1b[0m: KeyError\nFailed: KeyError\n"
    assert pipe.getvalue() == "Failed: KeyError\n"


def test_a_record_for_the_operator_is_not_shown() -> None:
    """A pod that has ended has its reason, and a message in words; JSON is left out."""
    ended = {"reason": "Completed", "message": '{"cpu_seconds": 2.7}'}
    states = [{"terminated": ended}, {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}]

    assert [_pod({"status": {"containerStatuses": [{"state": state}]}}) for state in states] == [
        "Completed",
        "ImagePullBackOff not found",
    ]


def test_times_of_a_schedule_are_in_its_zone() -> None:
    """Its messages are, too; without a zone they are UTC."""
    status = {"nextScheduleTime": "2030-01-01T02:00:00Z"}
    assert dict(details("Schedule", {"timeZone": "Europe/Berlin"}, status)) == {
        "Next time": "2030-01-01T03:00:00+01:00"
    }
    assert dict(details("Schedule", {}, status)) == {"Next time": "2030-01-01T02:00:00+00:00"}
