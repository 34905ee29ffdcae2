"""Runs of pipelines as the command and the SDK show them."""

from __future__ import annotations

from typing import Any

import pytest
from ultramarine.runs.pipelines import differences, lines_of, pipeline_in, reason_of, run_manifest
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import Manifest

KEY = "a" * 64


def run(*steps: Manifest, rate: float = 0.1) -> Manifest:
    """A run with these steps."""
    spec = {"pipeline": "churn", "parameters": {"rate": rate}}
    return {"kind": "PipelineRun", "metadata": {"name": "churn-1"}, "spec": spec, "status": {"steps": list(steps)}}


def step(name: str, state: str = "Succeeded", **fields: Any) -> Manifest:
    """A step in a state."""
    return {"name": name, "state": state, **fields}


def test_a_reused_step_names_its_run():
    """The table says Reused, and from which run."""
    times = {"startTime": "2030-01-01T12:00:00Z", "completionTime": "2030-01-01T12:01:00Z"}
    lines = list(
        lines_of(
            run(
                step("clean", cached={"run": "churn-0", "job": "clean-1"}),
                step(
                    "train", child="train-2", missReason="parameters.rate is 0.2, and was 0.1 in run churn-0", **times
                ),
                step("each", items=3),
                step("bad", "Failed", message="exit 1"),
            )
        )
    )
    assert [line.cells for line in lines] == [
        ["clean", "Reused", "", "", "from run churn-0"],
        ["train", "Succeeded", "60s", "train-2", "parameters.rate is 0.2, and was 0.1 in run churn-0"],
        ["each", "Succeeded", "", "", "3 repetitions"],
        ["bad", "Failed", "", "", "exit 1"],
    ]


def test_why_names_the_reason():
    """A step that ran again says which part of its key differs; an unknown step names those that exist."""
    ran = run(step("train", missReason="code is b, and was a in run churn-0", child="train-1", metrics={"auc": 0.9}))
    text = "\n".join(reason_of(ran, "train"))
    assert "It was not reused: code is b, and was a in run churn-0." in text
    assert "Its object is train-1." in text
    assert "auc=0.9" in text
    with pytest.raises(InvalidSpec, match=r"has no step tune\. Its steps: train"):
        list(reason_of(ran, "tune"))


def test_a_difference_names_parameters_steps_and_metrics():
    """Two runs differ in what was asked, in what each step did, and in its metrics; equal runs in nothing."""
    before = run(step("clean", key=KEY, metrics={"rows": 10.0}), step("train"))
    after = run(
        step("clean", key="b" * 64, missReason="parameters.rate is 0.2, and was 0.1", metrics={"rows": 12.0}),
        step("train", "Failed"),
        step("more"),
        rate=0.2,
    )
    assert list(differences(before, before)) == []
    assert list(differences(before, after)) == [
        "parameters.rate: 0.1 -> 0.2",
        "step clean: other work (parameters.rate is 0.2, and was 0.1)",
        "step clean: rows 10 -> 12",
        "step train: Succeeded -> Failed",
        "step more: only in the second run",
    ]


def test_a_run_of_a_file_needs_one_pipeline():
    """A file with none or several is refused; a run without a name gets one from the server."""
    with pytest.raises(InvalidSpec, match="expected one Pipeline, not 0"):
        pipeline_in([{"kind": "TrainingJob"}])
    made = run_manifest("churn", "", {"rate": 0.2})
    assert made["metadata"] == {"generateName": "churn-"}
    assert made["spec"] == {"pipeline": "churn", "parameters": {"rate": 0.2}}
