"""Scoring scripts that change, that come from an archive, and such that cannot be served."""

from __future__ import annotations

import io
import tarfile

import pytest
from conftest import Manifest, Platform, condition
from load import Background
from manifests import endpoint, model_version, onnx_model

REQUIREMENT = "ultramarine-no-such-package==9"


def script(number: int) -> str:
    """A script that answers with that number and a variable."""
    return f"import os\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    return [{number}, os.environ['LEVEL']]\n"


def scored(name: str, source: Manifest, **fields: object) -> Manifest:
    """An endpoint whose script has that source."""
    own = {"scoring": {"source": source}, "env": [{"name": "LEVEL", "value": "high"}], **fields}
    return endpoint(name, "scored@1", deployments=[{"name": "blue", "model": "scored@1", **own}])


def inline(number: int) -> Manifest:
    """A script in the spec."""
    return {"inline": {"score.py": script(number)}}


@pytest.fixture(scope="module")
def applied(platform: Platform) -> Platform:
    """A version, and endpoints with scripts; that of `scored` is inline."""
    content, packed = onnx_model(1), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("score.py")
        member.size = len(script(7))
        tar.addfile(member, io.BytesIO(script(7).encode()))
    archive = platform.put("score.tar.gz", packed.getvalue())
    platform.apply(
        {"kind": "Model", "metadata": {"name": "scored"}, "spec": {}},
        model_version("scored", 1, platform.put("scored-1.onnx", content), content),
        scored("scored", inline(1)),
        scored("scored-archive", {"uri": archive}),
        scored("scored-lost", {"uri": f"{archive}.lost"}),
        scored("scored-unpackable", inline(1), environment={"requirements": [REQUIREMENT]}),
    )
    return platform


def test_a_changed_script_rolls_without_a_failed_request(applied):
    """Answers change from one script to the next; the ConfigMap of the first is deleted."""
    applied.ready("scored", "scored-1", 300)
    answers: list[tuple[int, str]] = []
    with applied.client("scored") as client:

        def ask() -> None:
            while not load.stopping.is_set():
                answer = client.post("/score", json={})
                answers.append((answer.status_code, answer.text))

        with (load := Background(ask)):
            applied.apply(scored("scored", inline(2)))
            applied.wait("oe", "scored", lambda _: answers and answers[-1] == (200, '[2, "high"]'))
            applied.settled("scored")
    assert {code for code, _ in answers} == {200}

    def scripts(_: Manifest) -> list[str]:
        maps = applied.get("configmap", "", "-l", "ultramarine.dev/name=scored")
        return [found["data"]["score.py"] for found in maps if "score.py" in found["data"]]

    # The first goes when the last pod that mounts it is gone.
    applied.wait("oe", "scored", lambda status: scripts(status) == [script(2)])


def test_a_script_in_an_archive_is_served(applied):
    """The pod fetches it before the server starts."""
    applied.ready("scored-archive", "scored-1", 300)
    with applied.client("scored-archive") as client:
        assert client.post("/score", json={}).json() == [7, "high"]


def test_what_is_missing_is_named(applied):
    """An archive that does not exist, and a requirement that does not exist, by the words of storage and resolver."""
    for name, words in (("scored-lost", "score.tar.gz.lost"), ("scored-unpackable", REQUIREMENT)):
        failing = applied.wait("oe", name, lambda status: condition(status, "Ready").get("reason") == "Failing", 300)
        assert words in condition(failing, "Ready")["message"]
