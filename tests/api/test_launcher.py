"""The launcher of the embedded cluster, killed in the middle of its work: the next one repairs, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ultramarine_cluster import programs
from ultramarine_cluster.paths import State

pytestmark = pytest.mark.timeout(1200)  # each run of the launcher has its own limit
NAME = f"killed-{os.getpid()}"


def launcher(*words: str) -> subprocess.Popen[str]:
    """`ultramarine-cluster` as a process in a group of its own, as a shell starts it."""
    argv = [sys.executable, "-m", "ultramarine_cluster", *words, "--name", NAME]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finished(*words: str) -> str:
    """Run the launcher to its end, and return what it said."""
    with launcher(*words) as process:
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def left() -> list[str]:
    """The processes that have anything to do with this cluster."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            text = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if folder.name.isdigit() and str(State(NAME).root) in text:
            found.append(text)
    return found


@pytest.fixture
def gone() -> Iterator[None]:
    """Whatever a test leaves is taken away."""
    yield
    finished("down")


@pytest.mark.parametrize(
    "after", [0.5, 1.2, 3.0, *(pytest.param(after, marks=pytest.mark.slow) for after in (0.2, 0.8, 2.0))]
)
def test_up_killed_at_any_moment_is_repaired_by_the_next(gone, after):
    """SIGKILL for `up` and all that belongs to its session, then `up` again: the API server answers."""
    with launcher("up", "--tier", "bare") as process:
        time.sleep(after)
        os.killpg(process.pid, signal.SIGKILL)
    assert "is ready" in finished("up", "--tier", "bare")
    asked = ["--kubeconfig", str(State(NAME).root / "kubeconfig"), "get", "--raw", "/readyz"]
    said = subprocess.run([programs.path("kubectl"), *asked], capture_output=True, text=True, check=False)
    assert said.stdout == "ok", said.stderr


def test_a_component_that_died_is_started_again(gone):
    """An API server that was killed, as by a lack of memory, is brought back by `up`, and etcd goes on."""
    finished("up", "--tier", "bare")
    for folder in Path("/proc").iterdir():
        try:
            argv = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if argv[0].endswith("/kube-apiserver") and any(str(State(NAME).root) in word for word in argv):
            os.kill(int(folder.name), signal.SIGKILL)
    said = finished("up", "--tier", "bare")
    assert "etcd: running" in said
    assert "kube-apiserver: started" in said


def test_down_in_the_middle_of_up_leaves_nothing(gone):
    """After a killed `up`, `down` ends what it had started and removes its folder."""
    with launcher("up", "--tier", "bare") as process:
        time.sleep(0.8)
        os.killpg(process.pid, signal.SIGKILL)
    finished("down")
    assert left() == []
    assert not State(NAME).root.exists()
