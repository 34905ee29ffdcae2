"""Variables of a command: the folders of its job, and those of Azure ML."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ultramarine_contract.storage import Storage
from unit.test_trainer_run import Pod

SHOWS = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith(('AZURE', 'ULTRA'))}))"


@pytest.fixture
def pod(tmp_path: Path, storage: Storage, bucket: str) -> Pod:
    """A pod whose storage is the test's S3 server."""
    return Pod(tmp_path, storage.name, bucket)


def shown(pod: Pod, **task: Any) -> dict[str, str]:
    """Variables of Azure ML and of the platform that a command has."""
    code, _, stdout, stderr = pod.run(sys.executable, "-c", SHOWS, job="team-a/churn", **task)
    assert code in (0, 203), stderr  # a job that writes nothing into its outputs fails at its end
    variables: dict[str, str] = json.loads(stdout)
    return variables


def test_a_command_has_the_variables_of_azure_ml(pod, storage, bucket):
    """An input of one object is a file, and dashes become underscores."""
    storage.write(f"s3://{bucket}/lake/train.csv", b"1,2\n")
    storage.write(f"s3://{bucket}/lake/images/a.png", b"x")
    inputs = {"train-set": f"s3://{bucket}/lake/train.csv", "images": f"s3://{bucket}/lake/images/"}
    variables = shown(pod, inputs=inputs, outputs={"model-dir": ""})

    base = str(pod.base)
    assert variables == {
        "AZUREML_RUN_ID": "churn",
        "AZURE_ML_INPUT_train_set": f"{base}/inputs/train-set/train.csv",
        "AZURE_ML_INPUT_images": f"{base}/inputs/images",
        "AZURE_ML_OUTPUT_model_dir": f"{base}/outputs/model-dir",
        "ULTRAMARINE_INPUTS_DIR": f"{base}/inputs",
        "ULTRAMARINE_OUTPUTS_DIR": f"{base}/outputs",
        "ULTRAMARINE_CHECKPOINTS_DIR": "/mnt/checkpoints",
    }


def test_a_model_among_the_inputs_is_named(pod, storage, bucket, tmp_path):
    """It is known by the format in its list of files."""
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored/model.skops").write_bytes(b"model")
    model = storage.upload_folder(tmp_path / "stored", f"s3://{bucket}/models/", "sklearn")
    storage.write(f"s3://{bucket}/lake/train.csv", b"1,2\n")
    variables = shown(pod, inputs={"data": f"s3://{bucket}/lake/", "base": model.uri})

    assert variables["AZUREML_MODEL_DIR"] == f"{pod.base}/inputs/base"


def test_the_id_of_a_run_in_mlflow_is_azures(tracking, pod):
    """So a script finds its run by it."""
    variables = shown(pod, mlflow=tracking.uri, uid="u")

    assert variables["AZUREML_RUN_ID"] == tracking.runs[0]["run_id"]


def test_the_authors_variables_win(pod):
    """Whatever spec.env sets stays."""
    pod.environment |= {"AZUREML_RUN_ID": "mine"}

    assert shown(pod)["AZUREML_RUN_ID"] == "mine"
