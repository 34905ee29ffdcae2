"""The tutorials, run as a reader runs them: the commands, files and outputs are those of the pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pages import ROOT, missing, script
from ultramarine_cluster import target

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
SECONDS = 1500


@pytest.fixture(scope="module")
def clone(embedded: target.Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the top of the clone, so that the tutorials' files do not get into the repository."""
    assert shutil.which("curl"), "the tutorials ask endpoints with curl; install it with apt-get install curl"
    folder = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if path.name != ".git":
            (folder / path.name).symlink_to(path)
    # `make demo` takes kind if Docker answers; these tests are about the embedded cluster.
    (folder / "without").mkdir()
    (folder / "without" / "docker").write_text("#!/bin/sh\nexit 1\n")
    (folder / "without" / "docker").chmod(0o755)
    return folder


def run(clone: Path, commands: str) -> str:
    """Run commands in the clone, and return their output; fail with it if one of them fails."""
    environment = {**os.environ, "PATH": f"{clone / 'without'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", commands],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def demo(clone: Path) -> str:
    """The output of `make demo`."""
    return run(clone, "make demo")


def test_the_demo_ends_with_good_predictions(demo: str) -> None:
    """The accuracy computed from the endpoint's own answers is above 0.9."""
    accuracy = re.search(r"accuracy (0\.\d+)", demo)
    assert accuracy
    assert float(accuracy[1]) > 0.9


def test_the_demo_shows_what_exists_now(demo: str) -> None:
    """The demo ends with the objects, where they are, and commands to try next."""
    for words in (
        "trainingjob.ultramarine.dev/breast-cancer",
        "Succeeded",
        "breast-cancer-1",
        "KUBECONFIG",
        "try next",
    ):
        assert words in demo


def test_the_demo_runs_under_restricted_pod_security(demo: str, embedded: target.Target) -> None:
    """The demo's namespace enforces `restricted`, and all of its pods came up in it."""
    namespace = embedded.json("get", "namespace", "ultramarine")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_shows(page: Path, clone: Path, demo: str) -> None:
    """Every command of a tutorial succeeds in order, and prints the lines that the page shows."""
    output = run(clone, script(page))
    assert missing(page, output) == [], output
