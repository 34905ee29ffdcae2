"""Variables of a command: the folders of its job, and what scripts written for Azure ML read."""

from __future__ import annotations

from pathlib import Path

from ultramarine_contract.common import (
    ENV_CHECKPOINTS_DIR,
    ENV_INPUTS_DIR,
    ENV_OUTPUTS_DIR,
    MANIFEST_NAME,
    ArtifactManifest,
)
from ultramarine_contract.training_records import TrainingTask

from ultramarine_trainer.attempt.places import Places


def job_variables(task: TrainingTask, places: Places, run_id: str) -> dict[str, str]:
    """Return the variables of a job: its folders, its run, its inputs and outputs, and a model among the inputs.

    A variable's name has underscores for the dashes of an input's or output's name.
    """
    folders = {
        ENV_INPUTS_DIR: places.inputs,
        ENV_OUTPUTS_DIR: places.outputs,
        ENV_CHECKPOINTS_DIR: places.checkpoints,
        **{f"AZURE_ML_OUTPUT_{_word(name)}": places.outputs / name for name in task.outputs},
    }
    # A URI of one object, and that of a folder, whose last part is empty.
    inputs = {name: places.inputs / name / uri.rpartition("/")[2] for name, uri in task.inputs.items()}
    folders |= {f"AZURE_ML_INPUT_{_word(name)}": path for name, path in inputs.items()}
    if model := next(filter(_is_model, inputs.values()), None):
        folders["AZUREML_MODEL_DIR"] = model
    return {name: str(path) for name, path in folders.items()} | ({"AZUREML_RUN_ID": run_id} if run_id else {})


def _word(name: str) -> str:
    return name.replace("-", "_")


def _is_model(folder: Path) -> bool:
    try:
        return bool(ArtifactManifest.from_json((folder / MANIFEST_NAME).read_bytes()).format)
    except (OSError, ValueError):
        return False
