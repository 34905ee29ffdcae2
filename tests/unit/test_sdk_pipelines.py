"""Runs of pipelines as the command and the SDK show them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from ultramarine.cli.graphs import graph
from ultramarine.runs.pipelines import check_run, differences, layers_of, lines_of, pipeline_in, reason_of, run_manifest
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
        ["train", "Succeeded", "60s", "train-2", "not reused: parameters.rate is 0.2, and was 0.1 in run churn-0"],
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
    months = run(step("months", partitions={"dataset": "orders@latest", "version": "orders-3"}))
    assert "It runs for each partition of DatasetVersion orders-3." in list(reason_of(months, "months"))
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


def job(name: str, *needs: str) -> Manifest:
    """A step of a pipeline that refers to the outputs of others."""
    inputs = {need: {"uri": f"$(steps.{need}.outputs.x)"} for need in needs}
    return {"name": name, "trainingJob": {"command": ["x"], "inputs": inputs, "outputs": {"x": {}}}}


PIPELINE: Manifest = {
    "steps": [job("a"), job("c", "b"), job("b", "a"), job("d", "a")],
    "finally": [{"name": "last", "trainingJob": {"command": ["x"]}}],
}


def shown(run: Manifest, pipeline: Manifest | None, *, terminal: bool = False) -> str:
    """The picture of a run, as a terminal or a pipe gets it."""
    file = io.StringIO()
    Console(file=file, force_terminal=terminal, width=80).print(graph(run, pipeline))
    return file.getvalue()


def test_the_layers_follow_from_the_references():
    """A step is below the last that it needs; steps of finally are below all; an unreadable spec is one layer."""
    document = {"metadata": {"name": "r"}, "spec": {"pipeline": "p"}, "status": {"steps": [{"name": "a"}]}}
    assert layers_of(document, PIPELINE) == [["a"], ["b", "d"], ["c"], ["last"]]
    assert layers_of(document, None) == [["a"]]


def test_a_graph_has_the_state_of_each_step():
    """State, time, origin and repetitions are in the boxes, the layers below each other; a pipe gets no ANSI."""
    steps = [
        {"name": "a", "state": "Succeeded", "cached": {"run": "first"}},
        {"name": "b", "state": "Running", "items": 2, "startTime": "2030-01-01T00:00:00Z"},
        {"name": "b-0", "state": "Succeeded"},
        {"name": "b-1", "state": "Running"},
        {"name": "d", "state": "Failed", "message": "exit 1"},
    ]
    status = {"state": "Running", "progress": "2/6", "steps": steps}
    document = {"metadata": {"name": "r"}, "spec": {"pipelineSpec": PIPELINE}, "status": status}
    text = shown(document, None)
    assert "\x1b" not in text
    assert "\x1b" in shown(document, None, terminal=True)
    positions = [text.index(word) for word in ("r  Running  2/6", "↻ a", "● b", "✘ d", "○ c", "○ last")]
    assert positions == sorted(positions)
    for words in ("Reused", "from run first", "1/2", "exit 1"):
        assert words in text


def test_a_wide_layer_is_summed_up():
    """A thousand steps of a layer are one line."""
    steps = [{"name": f"s{number}", "state": "Running" if number else "Succeeded"} for number in range(1000)]
    pipeline = {"steps": [{"name": step["name"], "trainingJob": {"command": ["x"]}} for step in steps]}
    document = {"metadata": {"name": "r"}, "spec": {"pipeline": "p"}, "status": {"steps": steps}}
    assert "1000 steps: ✔ 1 Succeeded ● 999 Running" in shown(document, pipeline)


def test_a_run_that_the_operator_would_refuse_is_not_created():
    """All parameters are named, then the steps of --from; a Pipeline that does not exist yet is waited for."""
    spec = {
        "parameters": {"rate": {"type": "number"}, "raw": {"type": "uri"}},
        "steps": [{"name": "clean", "trainingJob": {"command": ["true"]}}],
    }
    wrong = run_manifest("churn", "", {"rate": "fast", "raw": "churn.csv"})
    words = "parameters.rate: expected number, got string; parameters.raw: expected uri, got 'churn.csv'"
    with pytest.raises(InvalidSpec, match=words):
        check_run(wrong, spec)
    check_run(wrong, None)
    again = run_manifest("churn", "", {"rate": 0.5, "raw": "s3://lake/a"})
    check_run(again, spec)
    again["spec"]["rerun"] = {"of": "first", "from": ["nosuch"]}
    with pytest.raises(InvalidSpec, match=r"no step is named 'nosuch' .steps: clean."):
        check_run(again, spec)
    cyclic = [{"name": "a", "after": ["b"], "trainingJob": {}}, {"name": "b", "after": ["a"], "trainingJob": {}}]
    with pytest.raises(InvalidSpec, match="command: required"):
        check_run({"spec": {"pipelineSpec": {"steps": cyclic}}}, None)
