"""Converted Azure ML files before a real API server: manifests are admitted, and a pipeline job runs to its end."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml
from bare import eventually
from stories import status
from test_command import COMMAND
from ultramarine.azureml import convert, inlined
from ultramarine_contract.storage import Storage

FILES = Path(__file__).parents[1] / "unit" / "azureml"
PIPELINE = """
$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json
type: pipeline
display_name: two steps
jobs:
  fit:
    command: python fit.py --rounds ${{inputs.rounds}} --out ${{outputs.model}}
    code: ./src
    inputs: {rounds: 3}
    outputs: {model: {type: uri_folder}}
    environment: azureml:AzureML-sklearn-1.0-ubuntu20.04-py38-cpu@latest
  score:
    command: python score.py --model ${{inputs.model}}
    code: ./src
    inputs: {model: "${{parent.jobs.fit.outputs.model}}"}
    environment: azureml:AzureML-sklearn-1.0-ubuntu20.04-py38-cpu@latest
"""


def test_converted_files_are_admitted(api):
    """The server admits each object that the unit tests' files become, with code inline and without."""
    conversion = convert([FILES])

    api.apply(*conversion.manifests, dry=True)
    api.apply(*inlined(conversion).manifests, dry=True)


def test_a_pipeline_job_is_submitted_as_it_is_and_followed(api, bare, operator, node, store: Storage, tmp_path):
    """Code is uploaded, steps run after each other, each state is a line, and the command ends as the run does."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "fit.py").write_text("print('fits')\n")
    (tmp_path / "job.yml").write_text(PIPELINE)
    words = [str(COMMAND), "--kubeconfig", str(bare.kubeconfig), "-n", api.namespace, "submit", "job.yml"]
    command = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        (run,) = eventually("the run is created", lambda: api.all("plr"))
        name = run["metadata"]["name"]

        def job_of(step: str) -> str:
            """The name of the job of a step; empty as long as the step waits."""
            steps = status(api, "plr", name).get("steps", [])
            return next((s.get("child", "") for s in steps if s["name"] == step), "")

        fit = eventually("the first step is a job", lambda: job_of("fit"))
        assert job_of("score") == ""
        assert store.exists(api.get("tj", fit)["spec"]["source"]["uri"])
        node.start_pod(fit)
        record = node.upload(fit)
        node.succeed(fit, record)
        score = eventually("the second step is a job", lambda: job_of("score"))
        assert api.get("tj", score)["spec"]["inputs"]["model"]["uri"] == record.uri
        node.start_pod(score)
        node.succeed(score)
        _, notes = command.communicate(timeout=300)
    finally:
        command.kill()

    assert command.returncode == 0, notes
    for line in (f"PipelineRun {name} created", "fit: Running", "fit: Succeeded", "score: Succeeded", "Succeeded"):
        assert line in notes, notes


def test_a_second_deployment_joins_the_first(api, bare, store: Storage, tmp_path):
    """Blue keeps all traffic; the dry run before shows the same two deployments, and changes nothing."""
    for color in ("blue", "green"):
        image = (
            "environment: {image: 'registry.example/score:1', inference_config: {scoring_route: {port: 80, path: /}}}"
        )
        (tmp_path / f"{color}.yml").write_text(f"name: {color}\nendpoint_name: churn\ntype: kubernetes\n{image}\n")

    def submit(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [str(COMMAND), "--kubeconfig", str(bare.kubeconfig), "-n", api.namespace, "submit", *words]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done

    def names(spec: dict) -> list[str]:
        return [entry["name"] for entry in spec["deployments"]]

    submit("blue.yml")
    (shown,) = [m for m in yaml.safe_load_all(submit("green.yml", "--dry-run").stdout) if m["kind"] == "OnlineEndpoint"]
    assert names(api.get("oe", "churn")["spec"]) == ["blue"]
    assert "ultramarine endpoints test churn" in submit("green.yml").stderr
    spec = api.get("oe", "churn")["spec"]

    assert names(spec) == names(shown["spec"]) == ["blue", "green"]
    assert spec["traffic"] == shown["spec"]["traffic"] == {"blue": 100}
