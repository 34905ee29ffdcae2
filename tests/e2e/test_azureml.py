"""Azure ML files by the command on the cluster: a job and a deployment as they are, with their scripts unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import Platform
from person import Person, data_scientist

SCRIPT = """\
import argparse
import os

parser = argparse.ArgumentParser()
parser.add_argument("--table", required=True)
parser.add_argument("--balanced", required=True)
parser.add_argument("--report", required=True)
options = parser.parse_args()
rows = open(options.table).read().splitlines()
open(options.report, "w").write(f"{len(rows)} rows")
os.makedirs("outputs", exist_ok=True)
open("outputs/summary.txt", "w").write(options.balanced)
print(f"rows={len(rows)} balanced: {options.balanced} path: {os.environ['TABLE']}")
"""
JOB = {
    "$schema": "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json",
    "display_name": "azure-table",
    "code": "src",
    "command": "python main.py --table ${{inputs.table}} --balanced ${{inputs.balanced}} --report ${{outputs.report}}",
    "inputs": {"table": {"type": "uri_file", "path": "data/table.csv"}, "balanced": True},
    "outputs": {"report": {"type": "uri_file"}},
    "environment": "azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
    "environment_variables": {"TABLE": "${{inputs.table}}"},
    "compute": "azureml:cpu-cluster",
}
SCORE = """\
import json
import os

def init():
    global weight
    weight = float(open(os.path.join(os.getenv("AZUREML_MODEL_DIR"), "weight.txt")).read())

def run(raw_data):
    return [weight * value for value in json.loads(raw_data)["data"]]
"""
DEPLOYMENT = {
    "name": "blue",
    "endpoint_name": "azure-weights",
    "model": {"name": "azure-weight", "path": "model/weight.txt"},
    "code_configuration": {"code": "scoring", "scoring_script": "score.py"},
    "environment": {"image": "mcr.microsoft.com/azureml/minimal-ubuntu22.04-py39-cpu-inference:latest"},
    "instance_type": "Standard_DS3_v2",
    "instance_count": 1,
}
CLEAN = {
    "name": "rows",
    "type": "command",
    "inputs": {"raw": {"type": "uri_file"}, "least": {"type": "integer", "default": 2}},
    "outputs": {"kept": {"type": "uri_file"}},
    "command": "tail -n +${{inputs.least}} ${{inputs.raw}} > ${{outputs.kept}}",
}
PIPELINE = {
    "$schema": "https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json",
    "type": "pipeline",
    "display_name": "azure-steps",
    "inputs": {"table": {"type": "uri_file", "path": "data/table.csv"}, "word": "rows"},
    "outputs": {"report": {"mode": "upload"}},
    "jobs": {
        "count": {
            "type": "command",
            "command": "echo ${{inputs.word}}=$(wc -l < ${{inputs.kept}}) | tee ${{outputs.report}}/report.txt",
            "inputs": {"kept": "${{parent.jobs.clean.outputs.kept}}", "word": "${{parent.inputs.word}}"},
            "outputs": {"report": "${{parent.outputs.report}}"},
        },
        "clean": {"component": "azureml:rows@latest", "inputs": {"raw": "${{parent.inputs.table}}"}},
    },
}


@pytest.fixture(scope="module")
def ada(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """The data scientist, with files of Azure ML."""
    folder = tmp_path_factory.mktemp("ada")
    files = {
        "src/main.py": SCRIPT,
        "data/table.csv": "id\n1\n2\n",
        "model/weight.txt": "2.5",
        "scoring/score.py": SCORE,
        "job.yml": yaml.safe_dump(JOB),
        "blue.yml": yaml.safe_dump(DEPLOYMENT),
        "rows.yml": yaml.safe_dump(CLEAN),
        "pipeline.yml": yaml.safe_dump(PIPELINE),
    }
    for name, text in files.items():
        Path(folder, name).parent.mkdir(exist_ok=True)
        Path(folder, name).write_text(text)
    return Person(folder, data_scientist(platform, "azure-ada", folder))


def test_a_job_runs_as_it_is(ada: Person, platform: Platform) -> None:
    """The script gets the file itself, literals as Azure writes them, and ./outputs is kept."""
    done = ada.run("submit", "job.yml")

    assert "rows=3 balanced: True path: /mnt/inputs/table/table.csv" in done.stdout
    assert "Loss: job.yml" in done.stderr
    (job,) = [job for job in platform.get("tj") if job["metadata"]["name"].startswith("azure-table-")]
    assert job["status"]["outputs"].keys() == {"report", "artifacts"}


def test_a_deployment_answers_as_it_is(ada: Person, platform: Platform) -> None:
    """The model's file and the script are uploaded, and the endpoint answers by the script."""
    ada.run("submit", "blue.yml")
    platform.kubectl("wait", "oe/azure-weights", "--for=condition=Ready", "--timeout=10m")

    done = ada.run("endpoints", "invoke", "azure-weights", "--path", "score", "--data", '{"data": [1, 2]}')
    assert "[2.5, 5.0]" in " ".join(done.stdout.split())


def test_a_pipeline_runs_as_it_is(ada: Person, platform: Platform) -> None:
    """The component beside the pipeline is found, and the second step gets the file of the first one."""
    ada.run("submit", "pipeline.yml")

    (run,) = [run for run in platform.get("plr") if run["metadata"]["name"].startswith("azure-steps-")]
    assert run["status"]["state"] == "Succeeded"
    steps = {step["name"]: step for step in run["status"]["steps"]}
    assert steps["count"]["metrics"] == {"rows": 2}
    assert run["status"]["outputs"].keys() == {"report"}
