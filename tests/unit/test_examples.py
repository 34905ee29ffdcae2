"""The examples: their manifests and their images fit each other and the platform, and their code runs."""

from __future__ import annotations

import runpy
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_breast_cancer
from ultramarine.resources.onlineendpoint import OnlineEndpointSpec
from ultramarine.resources.pipeline import PipelineSpec
from ultramarine.resources.pipeline_checks import pipeline_faults
from ultramarine.resources.trainingjob import TrainingJobSpec
from ultramarine_cluster import images
from ultramarine_cluster.paths import REPOSITORY
from ultramarine_contract.meta import Manifest
from ultramarine_server.errors import BadRequest
from ultramarine_server.formats import loading, python

EXAMPLES = REPOSITORY / "examples"
NAMES = ("jax", "mpi", "tensorflow", "torch", "xgboost")


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_names_the_image_that_is_loaded_for_it(name: str) -> None:
    """Two nodes of the folder's framework, with checkpoints, in the image of the same name by its fixed tag."""
    manifest = yaml.safe_load((REPOSITORY / "examples" / name / "job.yaml").read_text())
    spec = TrainingJobSpec.model_validate(manifest["spec"])

    assert (spec.framework, spec.nodes, spec.checkpoint is not None) == (name, 2, True)
    assert spec.image == f"ultramarine/{images.EXAMPLE}{name}:{images.LOCAL}"


def test_the_rollout_is_one() -> None:
    """The example's candidate takes over from who answers, by steps and gates."""
    manifest = yaml.safe_load((REPOSITORY / "examples" / "rollout" / "endpoint.yaml").read_text())
    spec = OnlineEndpointSpec.model_validate(manifest["spec"])

    assert spec.rollout is not None
    assert spec.rollout.gates is not None
    assert spec.rollout.candidate in {deployment.name for deployment in spec.deployments} - spec.shares.keys()


def test_examples_are_built_only_by_name() -> None:
    """The build of all images leaves out the examples and MLflow's image, and knows each of them."""
    assert images.MLFLOW not in images.present()
    assert images.MLFLOW in images.table()
    assert not [name for name in images.present() if name.startswith(images.EXAMPLE)]
    assert {f"{images.EXAMPLE}{name}" for name in NAMES} < images.table().keys()


def test_an_examples_tag_follows_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made from the trainer image, so a change of that is a change of its own content."""
    for folder in ("trainer", "example"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "Dockerfile").write_text("FROM scratch")
    table = {
        "trainer": images.Image("trainer/Dockerfile", based=False),
        "example-a": images.Image("example/Dockerfile", base="trainer"),
    }
    monkeypatch.setattr(images, "REPOSITORY", tmp_path)
    monkeypatch.setattr(images, "table", lambda: table)
    first = images.reference("example-a")
    (tmp_path / "trainer" / "Dockerfile").write_text("FROM busybox")

    assert images.reference("example-a") != first


def document(name: str) -> Manifest:
    """Read a manifest of the examples."""
    manifest: Manifest = yaml.safe_load((EXAMPLES / name).read_text())
    return manifest


def test_the_example_with_own_code_trains_a_model_that_the_server_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """train.py writes a folder of format python, whose class answers by its signature and refuses in its own words."""
    spec = TrainingJobSpec.model_validate(document("own-code/job.yaml")["spec"])
    assert spec.outputs["model"].format == "python"
    done = subprocess.run(
        [sys.executable, EXAMPLES / "own-code" / "train.py", tmp_path], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.removeprefix("cv_accuracy=")) > 0.8
    for name in ("model", "features"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    model = python.load(tmp_path, loading.Options(code_allowed=True))
    wines = {"alcohol": [14.2, 12.4], "color_intensity": [5.6, 2.1], "hue": [1.04, 1.05]}
    inputs = {name: np.array(values) for name, values in wines.items()}
    assert model.predict(inputs, ["cultivar"])["cultivar"].tolist() == [0, 1]
    with pytest.raises(BadRequest, match="hue must not be negative"):
        model.predict({**inputs, "hue": np.array([1.0, -1.0])}, ["cultivar"])


def test_the_example_of_scoring_answers_in_the_shape_of_azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's script writes what score.py loads, and a holiday has fewer rentals than the day before."""
    [deployment] = OnlineEndpointSpec.model_validate(document("scoring/endpoint.yaml")["spec"]).deployments
    assert deployment.scoring
    assert (EXAMPLES / "scoring" / deployment.scoring.entry).is_file()
    assert deployment.environment
    assert (EXAMPLES / "scoring" / str(deployment.environment.requirements_file)).is_file()
    job = TrainingJobSpec.model_validate(document("scoring/job.yaml")["spec"])
    assert job.source
    assert job.source.inline
    (tmp_path / "train.py").write_text(job.source.inline["train.py"])
    subprocess.run([sys.executable, tmp_path / "train.py", tmp_path], check=True)
    calendar = SimpleNamespace(country_holidays=lambda country: {date(2026, 12, 25)})
    monkeypatch.setitem(sys.modules, "holidays", calendar)  # a package of its own requirements
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path))
    script = runpy.run_path(str(EXAMPLES / "scoring" / "score.py"))
    script["init"]()
    before, holiday = script["run"]('{"data": ["2026-12-23", "2026-12-25"]}')
    assert before - holiday > 40


def inline(document: Manifest, *place: str) -> str:
    """The one inline script of a step's job or trial."""
    for name in place:
        document = document[name]
    (script,) = document["source"]["inline"].values()
    return str(script)


def test_the_nightly_example_publishes_a_good_model(tmp_path: Path) -> None:
    """Its pipeline has no fault, its scripts fit together and pass the check, and endpoint and schedule name it."""
    pipeline, endpoint, schedule = (document(f"pipeline/{name}.yaml") for name in ("pipeline", "endpoint", "schedule"))
    spec = PipelineSpec.model_validate(pipeline["spec"])
    assert not list(pipeline_faults(spec))
    assert schedule["spec"]["template"]["spec"]["pipeline"] == pipeline["metadata"]["name"]
    steps = {step["name"]: step for step in pipeline["spec"]["steps"]}
    models = {deployment["model"] for deployment in endpoint["spec"]["deployments"]}
    published = [steps[name]["publish"] for name in ("challenge", "crown")]
    assert {f"{publish['model']}@{publish['alias']}" for publish in published} == models

    load_breast_cancer(as_frame=True).frame.to_csv(tmp_path / "train.csv", index=False)
    scripts = {
        "clean": (inline(steps["clean"], "trainingJob"), ("train.csv", "table")),
        "train": (inline(steps["tune"], "sweep", "trialTemplate", "spec"), ("table", "model", "0.5")),
        "check": (inline(steps["check"], "trainingJob"), ("table", "model")),
    }
    for folder in ("table", "model"):
        (tmp_path / folder).mkdir()
    for name, (script, words) in scripts.items():
        (tmp_path / f"{name}.py").write_text(script)
        command = [sys.executable, f"{name}.py", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(done.stdout.removeprefix("auc=")) >= spec.parameters["minimum"].default


def test_the_example_of_many_steps_is_sound() -> None:
    """The list comes from a step, and the sum has the metrics of all parts."""
    assert not list(pipeline_faults(PipelineSpec.model_validate(document("many-steps/pipeline.yaml")["spec"])))
