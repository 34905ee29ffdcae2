"""The benchmark of numbers, with few: it is run on a whole cluster, and rarely."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from api.bare import ROOT
from materials import MATERIALS


@pytest.mark.long
def test_every_measurement_comes_to_its_table() -> None:
    """Each measurement of `make scale` beside jobs and plain endpoints ends with a table, on a bare cluster too."""
    path = os.pathsep.join([*(str(ROOT / "tests" / part) for part in ("", "api", "chaos")), *sys.path])
    done = subprocess.run(
        [sys.executable, "bench/scale_kinds.py", "--seconds", "3"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for title in (
        "4 of each kind",
        *MATERIALS,
        "4 made, until all are suspended",
        "4 resumed, until all have succeeded",
        "40 ModelVersions of 4 Models",
        "12 Models with 2 versions each",
        "4 under way",
        "4 asleep",
        "4 busy",
    ):
        assert f"| {title}" in done.stdout, done.stdout
