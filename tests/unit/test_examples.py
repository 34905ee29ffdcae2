"""The examples of training on several nodes: their manifests and their images fit each other and the platform."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ultramarine.resources.onlineendpoint import OnlineEndpointSpec
from ultramarine.resources.trainingjob import TrainingJobSpec
from ultramarine_cluster import images
from ultramarine_cluster.paths import REPOSITORY

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
