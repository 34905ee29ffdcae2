"""New projects of `ultramarine init` on the cluster, as a data scientist runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Platform
from person import Person, data_scientist


@pytest.fixture
def ada(platform: Platform, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """A data scientist with rights in one namespace."""
    return Person(tmp_path, data_scientist(platform, "command-projects", tmp_path_factory.mktemp("ada")))


@pytest.mark.slow
def test_new_projects_run_as_they_are(ada: Person) -> None:
    """The files of a template are valid, train with the trainer image's packages, and register their model."""
    for template in ("sklearn", "xgboost"):
        name = f"project-{template}"
        ada.run("init", name, "--template", template)
        ada.run("validate", name)
        done = ada.run("submit", f"{name}/ultramarine.yaml")
        assert "accuracy=0.9" in done.stdout
        assert f"Registered: {name}-1" in done.stderr
