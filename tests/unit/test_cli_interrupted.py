"""Ctrl-C during a transfer, as a real signal to a real process: one sentence, exit code 130, and nothing sent twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cutting import CuttingProxy
from unit.conftest import ObjectStore, eventually
from unit.test_data import LARGE, data_of, large

__all__ = ["large"]

# The command, with a storage and without a cluster: what comes after an upload ends it.
COMMAND = """
import sys
from types import SimpleNamespace
from ultramarine.cli.main import main
from ultramarine.cli.session import Session
from unit.test_data import data_of
data = data_of(*sys.argv[1:4])
cluster = SimpleNamespace(check_free=lambda resource, manifest: None)
asked = []
def kind_of(manifest):
    asked.append(manifest)
    if len(asked) > 1:  # the first time is for the check of the name, before the upload
        sys.exit("ready to create")
kinds = SimpleNamespace(of=kind_of)
Session.client = SimpleNamespace(data=data, namespace="team-a", platform=data._platform, kinds=kinds, cluster=cluster)
sys.argv[1:4] = []
main()
"""
JOB = """
apiVersion: ultramarine.dev/v1alpha1
kind: TrainingJob
metadata: {name: churn}
spec:
  source: {path: code}
  command: [python, train.py]
"""


class Person:
    """A user in a folder with a large file, a job, and a proxy before the storage."""

    def __init__(self, folder: Path, bucket: str, secret_key: str) -> None:
        self.folder, self._keys = folder, (bucket, secret_key)

    def begin(self, proxy: CuttingProxy, words: tuple[str, ...]) -> subprocess.Popen[str]:
        """Start the command."""
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, proxy.endpoint, *self._keys, *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(self.folder / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A suite in the background ignores the signal, and its children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def ended(process: subprocess.Popen[str]) -> str:
    """Return the stderr of a process that must end soon."""
    try:
        return process.communicate(timeout=20)[1]
    finally:
        process.kill()


@pytest.fixture
def person(tmp_path: Path, large: Path, object_store: ObjectStore, bucket: str) -> Person:
    """A folder with large.bin, job.yaml and code."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print(1)")
    os.link(large, tmp_path / "code" / "weights.bin")
    (tmp_path / "job.yaml").write_text(JOB)
    return Person(tmp_path, bucket, object_store.secret_key)


@pytest.mark.parametrize("words", [("data", "put", "large.bin"), ("submit", "job.yaml", "--detach")], ids=" ".join)
def test_an_interrupted_upload_goes_on(person: Person, object_store: ObjectStore, words: tuple[str, ...]) -> None:
    """The sentence names the command; it sends only what is missing. A stalled connection does not keep the user."""
    with CuttingProxy(object_store.endpoint, limit=LARGE * 6 // 10) as proxy:
        with person.begin(proxy, words) as process:
            eventually(lambda: proxy.is_stalled or process.poll() is not None)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            stderr = ended(process)
        assert (process.returncode, time.monotonic() - began < 5) == (130, True), stderr
        command = " ".join(("ultramarine", *words))
        sentence = f"Interrupted; what was sent is kept, and the same command sends the rest: {command}"
        assert stderr.splitlines()[-1] == sentence
        assert stderr.count("\n") <= 2  # the warning of large code
        proxy.resume()
        with person.begin(proxy, words) as again:
            stdout, stderr = again.communicate(timeout=40)
        assert proxy.passed < LARGE - 8 * 2**20, stderr  # one part at least was kept
    assert stdout.endswith("large.bin\n") if words[0] == "data" else stderr.endswith("ready to create\n"), stderr


def test_an_interrupted_download_goes_on(person: Person, object_store: ObjectStore, bucket: str) -> None:
    """The file appears when it is complete."""
    data_of(object_store.endpoint, bucket, object_store.secret_key).put(person.folder / "large.bin")
    with CuttingProxy(object_store.endpoint, limit=LARGE * 6 // 10, upward=False) as proxy:
        words = ("data", "get", "large.bin", "back.bin")
        with person.begin(proxy, words) as process:
            eventually(lambda: proxy.is_stalled or process.poll() is not None)
            process.send_signal(signal.SIGINT)
            stderr = ended(process)
        assert process.returncode == 130, stderr
        assert "what was received is kept, and the same command fetches the rest" in stderr
        assert not (person.folder / "back.bin").exists()
        proxy.resume()
        with person.begin(proxy, words) as again:
            again.communicate(timeout=40)
        assert proxy.passed < LARGE - 8 * 2**20
    assert (person.folder / "back.bin").read_bytes() == (person.folder / "large.bin").read_bytes()
