"""Pipelines of Python functions: the same graph as a manifest, on this machine, and in a pod."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ultramarine.resources.pipeline import PipelineSpec
from ultramarine.resources.pipeline_checks import pipeline_faults
from ultramarine.steps import LAUNCH, In, Out, pipeline, publish, step
from ultramarine_contract.errors import InvalidSpec

MODULE = """
from ultramarine.steps import In, Out, pipeline, publish, step

@step(retries=2, resources={"requests": {"cpu": "1"}})
def clean(raw: In, table: Out, rate: float = 0.1, quick: bool = False):
    rows = (raw / "raw.csv").read_text().split()
    (table / "table.csv").write_text(" ".join(rows[: int(len(rows) * rate)]))

@step
def train(table: In, model_file: Out, rows: int = 0) -> dict[str, float]:
    (model_file / "model").write_text((table / "table.csv").read_text())
    return {"auc": 0.9}

@step
def check(auc: float):
    assert auc == 0.9

@pipeline
def churn_daily(raw: In, rate: float = 0.5):
    cleaned = clean(raw=raw, rate=rate)
    trained = train(table=cleaned.table)
    check(auc=trained.metrics["auc"])
    again = train.options(when="params.rate > 0.9")(table=cleaned.table)
    return {"model": trained.model_file, "other": again.model_file}
"""


@pytest.fixture
def churn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with a pipeline."""
    (tmp_path / "churn_steps.py").write_text(MODULE)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "raw.csv").write_text("a b c d")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("churn_steps", None)
    return importlib.import_module("churn_steps")


def test_functions_become_a_pipeline(churn, tmp_path):
    """Steps, their order, parameters and outputs follow from the calls; the manifest has no fault."""
    manifest = churn.churn_daily.manifest()
    spec = manifest["spec"]
    assert manifest["metadata"]["name"] == "churn-daily"
    assert spec["parameters"] == {"raw": {"type": "uri"}, "rate": {"type": "number", "default": 0.5}}
    assert [step["name"] for step in spec["steps"]] == ["clean", "train", "check", "train-2"]
    clean, train, check, again = spec["steps"]
    assert clean["retries"] == 2
    assert clean["trainingJob"]["source"] == {"path": str(tmp_path)}
    assert clean["trainingJob"]["inputs"] == {"raw": {"uri": "$(params.raw)"}}
    assert clean["trainingJob"]["parameters"] == {"rate": "$(params.rate)"}
    assert train["trainingJob"]["inputs"] == {"table": {"uri": "$(steps.clean.outputs.table)"}}
    assert check["trainingJob"]["parameters"] == {"auc": "$(steps.train.metrics.auc)"}
    assert again["when"] == "params.rate > 0.9"
    assert spec["outputs"]["model"] == "$(steps.train.outputs.model-file)"
    for made in spec["steps"]:
        made["trainingJob"]["source"] = {"uri": "s3://lake/code.tar.gz"}  # as an upload does
    assert not list(pipeline_faults(PipelineSpec.model_validate(spec)))


def test_the_same_pipeline_runs_on_this_machine(churn, tmp_path):
    """The steps are called one after another, with folders in place of the storage."""
    outputs = churn.churn_daily.run(local=True, folder=tmp_path / "out", raw=tmp_path / "raw" / "raw.csv", rate=0.5)
    assert (outputs["model"] / "model").read_text() == "a b"
    assert outputs["model"] == tmp_path / "out" / "train" / "model-file"
    (outputs["model"] / "old").touch()
    churn.churn_daily.run(local=True, folder=tmp_path / "out", raw=tmp_path / "raw")
    assert [path.name for path in outputs["model"].iterdir()] == ["model"]


def test_a_step_outside_a_pipeline_is_its_function(churn, tmp_path):
    """A step can be called with positions and paths, as in a test of the user's own."""
    (tmp_path / "table").mkdir()
    churn.clean(tmp_path / "raw", tmp_path / "table", 1.0)
    assert (tmp_path / "table" / "table.csv").read_text() == "a b c d"


@pytest.mark.parametrize("ban", ["", "import sys\nsys.modules['ultramarine.steps'] = None\n"])
def test_the_function_runs_in_an_image_without_the_sdk(churn, tmp_path, ban):
    """The command of a step calls its function with the values of the job, and prints the metrics."""
    job = churn.churn_daily.manifest()["spec"]["steps"][1]["trainingJob"]
    assert job["command"][:3] == ["python", "-c", LAUNCH]
    for folder in ("table", "model-file"):
        (tmp_path / folder).mkdir()
    (tmp_path / "table" / "table.csv").write_text("a")
    args = [
        word.replace("$(inputs.", f"{tmp_path}/").replace("$(outputs.", f"{tmp_path}/").replace(")", "")
        for word in job["args"]
    ]
    code = ban + LAUNCH
    done = subprocess.run(
        [sys.executable, "-c", code, *job["command"][3:], *args],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "auc=0.9\n"
    assert (tmp_path / "model-file" / "model").read_text() == "a"


def test_an_argument_without_a_type_is_refused(churn):
    """A missing annotation, a missing argument and a given output are named with the remedy."""

    @step
    def odd(x):
        """A step whose argument has no type."""

    @step
    def whole(x: float, out: Out):
        """A step with a parameter and an output."""

    cases = (
        (lambda: odd(x=1), "argument x has no type of a step"),
        (lambda: whole(), "argument x of whole is missing"),
        (lambda: whole(x=1, out="a"), "out is not an input or a parameter"),
        (lambda: whole(1), "call it with names"),
    )
    for call, words in cases:
        with pytest.raises(InvalidSpec, match=words):
            pipeline(name="p")(call).manifest()


def test_a_registered_output_is_published(churn, tmp_path):
    """`publish` is a step of the pipeline with its own condition; on this machine it does nothing."""

    @pipeline
    def nightly(raw: In):
        trained = churn.train.options(outputs={"model-file": {"registerAs": "churn"}})(table=raw)
        publish(trained.model_file, model="churn", alias="champion", when="steps.train.metrics.auc > 0.8")
        publish(trained.model_file, model="churn", alias="newest")
        return {"model": trained.model_file}

    spec = nightly.manifest()["spec"]
    train, champion, newest = spec["steps"]
    train["trainingJob"]["source"] = {"uri": "s3://lake/code.tar.gz"}
    assert champion == {
        "name": "publish",
        "when": "steps.train.metrics.auc > 0.8",
        "publish": {"version": "$(steps.train.outputs.model-file)", "model": "churn", "alias": "champion"},
    }
    assert newest["name"] == "publish-2"
    assert not list(pipeline_faults(PipelineSpec.model_validate(spec)))

    (tmp_path / "raw" / "table.csv").write_text("a")
    assert (nightly.run(local=True, raw=tmp_path / "raw")["model"] / "model").read_text() == "a"
    with pytest.raises(InvalidSpec, match="Call it in a function with @pipeline"):
        publish("1", model="churn", alias="champion")


def test_a_function_of_a_notebook_is_refused_with_the_remedy():
    """A pod gets the folder of the function's file, and a notebook's cell has none."""
    cell: dict[str, Any] = {"step": step, "pipeline": pipeline}
    code = "@step\ndef clean(rate: float): ...\n@pipeline\ndef churn(rate: float): clean(rate=rate)\n"
    exec(compile(code, "/tmp/ipykernel_7/123.py", "exec"), cell)
    cell["churn"].run(local=True, rate=0.5)
    with pytest.raises(InvalidSpec, match=r"step clean: function clean is not in a file.*%%writefile"):
        cell["churn"].manifest()
