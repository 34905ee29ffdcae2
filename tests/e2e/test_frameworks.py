"""The examples of training on several nodes, as people apply them: each framework's processes find each other."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import yaml
from conftest import Manifest, Platform
from ultramarine_cluster import target
from ultramarine_cluster.paths import REPOSITORY
from ultramarine_cluster.target import Target

pytestmark = pytest.mark.slow

# Two nodes on a busy machine of two cores, from the pull of a local image to the last upload.
SECONDS = 600
INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class Example:
    """Expected observations of examples/NAME after its end."""

    name: str
    rows: int  # of the whole training set: a sum over all nodes, of which each has a share
    steps: int
    score: str  # the metric of the model, and what it must reach
    least: float
    file: str


EXAMPLES = (
    Example("torch", 1438, 300, "accuracy", 0.9, "model.pt"),
    Example("tensorflow", 1438, 300, "accuracy", 0.9, "model.keras"),
    Example("jax", 1440, 300, "accuracy", 0.9, "model.npz"),
    Example("xgboost", 455, 60, "accuracy", 0.9, "model.ubj"),
    Example("mpi", 1797, 30, "agreement", 0.6, "model.npz"),
)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_trains_on_two_nodes(platform: Platform, embedded: Target, example: Example) -> None:
    """Its manifest as it is trains to the end in one go; the sum over both nodes, model and checkpoint are there."""
    target.give_images(embedded, (f"example-{example.name}",))
    path = REPOSITORY / "examples" / example.name / "job.yaml"
    name = yaml.safe_load(path.read_text())["metadata"]["name"]
    platform.delete("tj", name)
    platform.kubectl("apply", "-f", str(path))
    nodes: set[str] = set()

    def ended(status: Manifest) -> bool:
        # The pods of other nodes may go with the end of node 0, so they are counted while they are there.
        nodes.update(pod["metadata"]["labels"][INDEX] for pod in pods_of(platform, name))
        return status.get("state") in ("Succeeded", "Failed")

    status = platform.wait("tj", name, ended, SECONDS)

    assert status["state"] == "Succeeded", status.get("failure")
    assert status["attempts"] == 1
    metrics = status["metrics"]["latest"]
    assert (metrics["world"], metrics["rows"]) == (2, example.rows)
    assert metrics[example.score] > example.least
    assert (status["progress"]["step"], status["progress"]["percent"]) == (example.steps, 100)
    assert status["lastCheckpoint"]["step"] == example.steps
    assert nodes == {"0", "1"}
    assert example.file in files_below(platform, status["outputs"]["model"]["uri"])


def pods_of(platform: Platform, name: str) -> list[Manifest]:
    """The pods of a TrainingJob."""
    found: list[Manifest] = platform.get(
        "pod", "", "-l", f"ultramarine.dev/kind=TrainingJob,ultramarine.dev/name={name}"
    )
    return found


def files_below(platform: Platform, uri: str) -> set[str]:
    """The paths of the objects below a folder in the bucket."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    with platform.target.bucket(platform.namespace) as storage:
        listed = storage.list_objects_v2(Bucket=bucket, Prefix=prefix.rstrip("/") + "/")
    return {found["Key"].removeprefix(prefix.rstrip("/") + "/") for found in listed.get("Contents", [])}
