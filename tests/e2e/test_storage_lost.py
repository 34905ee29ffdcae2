"""A bucket that disappears in the middle of training, and comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Platform, condition
from manifests import Manifest, training_job
from test_models import stored, trained

pytestmark = pytest.mark.exclusive

# A step a second, of which every sixth is kept in a checkpoint; it ends when it is told to.
KEEP = """
import os, sys, time
step = 0
while not os.path.exists("/tmp/go-on"):
    time.sleep(1)
    step += 1
    print(f"step={step}", flush=True)
    if step % 6 == 0:
        with open("/mnt/checkpoints/state.tmp", "w") as file:
            file.write(str(step))
        os.replace("/mnt/checkpoints/state.tmp", "/mnt/checkpoints/state.txt")
open(sys.argv[1] + "/done", "w").write(str(step))
"""


@contextmanager
def no_bucket(platform: Platform) -> Iterator[None]:
    """The embedded storage without its bucket, which is a folder there."""

    claim = platform.target.json("-n", platform.namespace, "get", "pvc", "ultramarine-storage")
    volume = platform.target.json("get", "pv", claim["spec"]["volumeName"])["spec"]
    data = Path((volume.get("hostPath") or volume["local"])["path"])  # on this machine: the image has no shell

    def move(old: str, new: str) -> None:
        (data / old).rename(data / new)

    move("ultramarine", "out-of-sight")
    try:
        yield
    finally:
        move("out-of-sight", "ultramarine")


def go_on(platform: Platform, name: str) -> None:
    """Let the command of that job end."""
    pod = platform.status("tj", name)["pod"]
    platform.kubectl("exec", pod, "-c", "trainer", "--", "touch", "/tmp/go-on")


@pytest.fixture
def training(platform: Platform, request: pytest.FixtureRequest) -> str:
    """A job that has stored a checkpoint."""
    name = str(request.param)
    platform.apply(training_job(name, KEEP, checkpoint={}))
    platform.wait("tj", name, lambda s: s.get("lastCheckpoint"))
    return name


@pytest.mark.slow
@pytest.mark.parametrize("training", ["bucket-returns"], indirect=True)
def test_a_bucket_that_returns_is_missed_by_nobody(platform, training):
    """The command never notices, and checkpoints, outputs and the log are whole in the end."""
    before = platform.status("tj", training)
    with no_bucket(platform):
        seen = platform.wait("tj", training, lambda s: s["progress"]["step"] >= before["progress"]["step"] + 12)
        assert (seen["state"], seen["pod"]) == ("Running", before["pod"])
    after = platform.wait("tj", training, lambda s: s["lastCheckpoint"]["step"] > seen["progress"]["step"])
    go_on(platform, training)
    done = platform.ended(training)
    assert (done["state"], done["attempts"], done["pod"]) == ("Succeeded", 1, before["pod"])
    assert done["lastCheckpoint"]["step"] >= after["lastCheckpoint"]["step"]
    bucket, _, prefix = done["logs"]["uri"].removeprefix("s3://").partition("/")
    with platform.target.bucket(platform.namespace) as storage:
        segments = [
            entry["Key"] for entry in storage.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"] if entry["Size"]
        ]
        text = b"".join(storage.get_object(Bucket=bucket, Key=key)["Body"].read() for key in sorted(segments)).decode()
    steps = [int(line.removeprefix("step=")) for line in text.splitlines() if line.startswith("step=")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > seen["progress"]["step"]


@pytest.mark.slow
@pytest.mark.parametrize("training", ["bucket-late"], indirect=True)
def test_a_result_waits_for_its_bucket(platform, training):
    """A job whose result cannot be stored reports what is missing, and succeeds once it exists."""
    pod = platform.status("tj", training)["pod"]
    with no_bucket(platform):
        go_on(platform, training)
        end = time.monotonic() + 240
        while "create it; next attempt in" not in (log := platform.kubectl("logs", pod)):
            assert time.monotonic() < end, log
            time.sleep(1)
        assert "bucket ultramarine of s3://ultramarine/" in log
        assert platform.status("tj", training)["state"] == "Running"
    done = platform.ended(training)
    assert (done["state"], done["attempts"], done["pod"]) == ("Succeeded", 1, pod)
    assert done["outputs"]["model"]["bytes"] > 0


def test_a_storage_that_is_away_is_waited_for_and_retain_is_the_way_out(platform):
    """The Model says what the Job waits for; set to Retain, the Job goes, and the artifact stays."""
    (uri,) = trained(platform, "stuck", "stuck")
    platform.kubectl("patch", "mdl", "stuck", "--type=merge", "-p", '{"spec": {"deletionPolicy": "Delete"}}')
    platform.wait("mdl", "stuck", lambda s: s.get("artifacts"))
    with no_bucket(platform):
        platform.delete("mv", "stuck-1")

        def fails(status: Manifest) -> bool:
            deleted = condition(status, "ArtifactsDeleted")
            return deleted.get("status") == "False" and "bucket ultramarine" in deleted["message"]

        platform.wait("mdl", "stuck", fails)
        platform.kubectl("patch", "mdl", "stuck", "--type=merge", "-p", '{"spec": {"deletionPolicy": "Retain"}}')
        platform.wait("mdl", "stuck", lambda s: "artifacts" not in s)
        labels = "ultramarine.dev/kind=Model,ultramarine.dev/name=stuck"
        platform.kubectl("wait", "--for=delete", "job", "-l", labels, "--timeout=180s")
    assert stored(platform, uri) > 1
