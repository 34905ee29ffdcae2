"""The benchmark of hours, for half a minute: promise 16 is only as good as the command that shows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from api.bare import ROOT


@pytest.mark.slow
def test_churn_is_measured() -> None:
    """`make soak` runs its churn and ends with the table of slopes, and no pass failed by a bug."""
    path = os.pathsep.join([*(str(ROOT / "tests" / part) for part in ("", "api", "chaos")), *sys.path])
    command = [sys.executable, "bench/soak.py", "--hours", "0.009"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    lived = re.search(r"(\d+) jobs lived in .* passes, 0 of them by a bug", done.stdout)
    assert lived is not None, done.stdout
    assert int(lived[1]) > 10
    assert "| resident memory |" in done.stdout
