"""Scripts that log by mlflow on a platform without a tracking server, and scripts that read Azure ML's variables."""

from __future__ import annotations

import pytest
from conftest import Manifest, Platform
from manifests import sweep, training_job

# As Azure's examples are written: no output folder, no printed metric.
LOGS = """
import os
import mlflow
mlflow.set_experiment("iris")
mlflow.autolog()
from sklearn.linear_model import LogisticRegression
with mlflow.start_run():
    LogisticRegression(C=0.25).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    mlflow.log_metric("loss", 0.5, step=1)
    mlflow.log_metric("loss", 0.25, step=2)
    with open("note.txt", "w") as file:
        file.write(os.environ["AZURE_ML_OUTPUT_model"] + " " + os.environ["AZUREML_RUN_ID"])
    mlflow.log_artifact("note.txt")
"""
TRIAL = """
import sys
import mlflow
mlflow.log_metric("loss", (float(sys.argv[1]) - 3) ** 2)
"""


@pytest.fixture(scope="module")
def ended(platform: Platform) -> dict[str, Manifest]:
    """The statuses of a job that logs a model and of two sweeps that log their objective."""
    outputs = {"model": {"registerAs": "logged", "fromMlflow": True, "compile": {"to": "none"}}}
    job = training_job("logs", LOGS, command=["python", "train.py"], outputs=outputs)
    template: Manifest = {"source": {"inline": {"trial.py": TRIAL}}}
    command = ["python", "trial.py", "$(params.x)"]
    kinds = {"logs-pool": "Pool", "logs-pods": "PodPerTrial"}
    sweeps = [
        sweep(name, command, execution=execution, limits={"maxTrials": 3}, template=template)
        for name, execution in kinds.items()
    ]
    platform.apply(job, *sweeps)

    def is_over(status: Manifest) -> bool:
        return status.get("state") in ("Succeeded", "Failed")

    return {"logs": platform.ended("logs", 600), **{name: platform.wait("sw", name, is_over, 600) for name in kinds}}


def test_a_job_has_the_metrics_that_its_script_logged(ended):
    """autolog's and its own, without a printed line."""
    status = ended["logs"]
    assert status["state"] == "Succeeded", status
    assert status["metrics"]["latest"]["loss"] == 0.25
    assert status["metrics"]["latest"]["training_accuracy_score"] == 1.0
    assert "uri" in status["metrics"]


def test_a_model_that_was_logged_is_registered(platform, ended):
    """As a version of format mlflow."""
    assert ended["logs"]["outputs"]["model"]["format"] == "mlflow"
    version = platform.get("modelversion", "logged-1")
    assert version["spec"]["digest"] == ended["logs"]["outputs"]["model"]["digest"]


@pytest.mark.parametrize("name", ["logs-pool", "logs-pods"])
def test_a_sweep_takes_objectives_that_trials_logged(ended, name):
    """In workers and in pods of trials."""
    status = ended[name]
    assert status["state"] == "Succeeded", status
    assert status["trials"]["succeeded"] == 3
