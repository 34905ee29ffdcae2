"""The examples with code of their own, by the commands of their pages: a script with a module, and a scoring script."""

from __future__ import annotations

import pytest
from ultramarine_cluster.paths import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


@pytest.fixture(scope="module")
def applied(platform):
    """Both examples, applied together."""
    for name, folder, files in (
        ("cultivars", "own-code", ("train.py", "features.py", "model.py")),
        ("rentals-scoring", "scoring", ("score.py", "requirements.txt")),
    ):
        platform.kubectl("delete", "configmap", name, "--ignore-not-found")
        words = [f"--from-file={EXAMPLES / folder / file}" for file in files]
        platform.kubectl("create", "configmap", name, *words)
        for manifest in ("job.yaml", "endpoint.yaml"):
            platform.kubectl("apply", "-f", str(EXAMPLES / folder / manifest))
    return platform


def test_a_model_with_code_and_a_module_is_trained_and_served(applied):
    """The features of the module are those of training and of serving; its refusal is 400 with its words."""
    applied.ready("cultivars", "cultivars-1", 300)
    wine = {"alcohol": 14.2, "color_intensity": 5.6, "hue": 1.04}
    with applied.client("cultivars") as client:
        assert client.post("/score", json=[wine]).json()["predictions"] == [0]
        refused = client.post("/score", json=[{**wine, "hue": -1}])
    assert (refused.status_code, "hue must not be negative" in refused.text) == (400, True)


def test_a_scoring_script_serves_with_packages_of_its_own(applied):
    """A requirements.txt becomes a shared Environment, and run(data) answers with a package that no image has."""
    applied.ready("rentals", "rentals-1", 600)
    with applied.client("rentals") as client:
        answer = client.post("/score", json={"data": ["2026-12-23", "2026-12-25"]})
    before, holiday = answer.json()
    assert before > holiday
