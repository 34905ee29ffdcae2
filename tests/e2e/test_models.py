"""Models on the cluster: what is kept of their versions, and what the versions tell."""

from __future__ import annotations

import time

import pytest
from conftest import Platform, condition
from manifests import endpoint, model_version, onnx_model, training_job


def versions(platform: Platform) -> list[str]:
    """The numbers of the versions of `kept`."""
    return sorted(v["spec"]["version"] for v in platform.get("mv") if v["spec"]["model"] == "kept")


def test_retention_deletes_what_nobody_uses(platform):
    """The newest stay, with what an alias or an endpoint names; and their files stay in any case."""
    contents = {number: onnx_model(number) for number in range(1, 6)}
    uris = {number: platform.put(f"kept-{number}.onnx", content) for number, content in contents.items()}
    made = [model_version("kept", number, uris[number], content) for number, content in contents.items()]
    aliases = {"champion": "1"}
    platform.apply({"kind": "Model", "metadata": {"name": "kept"}, "spec": {"aliases": aliases}}, *made[:3])
    platform.apply(endpoint("kept", "kept@2"))
    platform.ready("kept", "kept-2")
    platform.kubectl("patch", "mdl", "kept", "--type=merge", "-p", '{"spec": {"retention": {"versions": 1}}}')
    platform.apply(*made[3:])
    end = time.monotonic() + 180
    while versions(platform) != ["1", "2", "5"]:
        assert time.monotonic() < end, versions(platform)
        time.sleep(0.5)
    platform.wait("mdl", "kept", lambda s: (s.get("versions"), s.get("latestReadyVersion")) == (3, "5"))
    events = platform.events("kept", "VersionsRetired")
    assert "kept-3" in " ".join(event["message"] for event in events if event["reason"] == "VersionsRetired")
    bucket, _, key = uris[3].removeprefix("s3://").partition("/")
    with platform.target.bucket(platform.namespace) as storage:
        assert storage.get_object(Bucket=bucket, Key=key)["Body"].read() == contents[3]


def stored(platform: Platform, uri: str) -> int:
    """Return the number of objects below a URI."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    with platform.target.bucket(platform.namespace) as storage:
        return int(storage.list_objects_v2(Bucket=bucket, Prefix=prefix)["KeyCount"])


def trained(platform: Platform, model: str, *names: str) -> list[str]:
    """Train versions of a Model one after another; where the artifact of each lies."""
    uris = []
    for name in names:
        platform.apply(training_job(name, model=model))
        status = platform.ended(name)
        assert status["state"] == "Succeeded"
        uris.append(status["outputs"]["model"]["uri"])
        assert stored(platform, uris[-1]) > 1
    return uris


@pytest.mark.slow
def test_a_version_takes_its_artifact_along_where_the_model_says_so(platform):
    """Delete: by hand and by retention, but not what another version is of, nor what no training has made."""
    deletes = {"kind": "Model", "metadata": {"name": "shed"}, "spec": {"deletionPolicy": "Delete"}}
    platform.apply(deletes)
    first, second, third, fourth = trained(platform, "shed", "shed-a", "shed-b", "shed-c", "shed-d")
    content = onnx_model(5)
    foreign = platform.put("shed-5.onnx", content)
    copy = model_version("shed-copy", 1, second, b"", "sklearn")
    platform.apply(copy, model_version("shed", 5, foreign, content))
    platform.wait("mdl", "shed", lambda s: (s.get("versions"), len(s.get("artifacts", []))) == (5, 4))
    assert not any(found["metadata"].get("finalizers") for kind in ("mdl", "mv") for found in platform.get(kind))

    platform.delete("mv", "shed-1", "shed-2", "shed-5")
    platform.wait("mdl", "shed", lambda s: [a["version"] for a in s.get("artifacts", [])] == ["3", "4"])
    assert [stored(platform, uri) > 0 for uri in (first, second, third, foreign)] == [False, True, True, True]
    platform.events("shed", "ArtifactDeleted", "ArtifactRetained")

    platform.kubectl("patch", "mdl", "shed", "--type=merge", "-p", '{"spec": {"retention": {"versions": 1}}}')
    platform.wait("mdl", "shed", lambda s: [a["version"] for a in s.get("artifacts", [])] == ["4"])
    platform.wait("mdl", "shed", lambda s: condition(s, "ArtifactsDeleted").get("reason") == "VersionsExist")
    assert [stored(platform, uri) > 0 for uri in (third, fourth)] == [False, True]
    platform.kubectl("wait", "--for=delete", "job", "-l", "ultramarine.dev/name=shed", "--timeout=180s")
    platform.delete("mv", "shed-4")
    platform.kubectl("wait", "--for=condition=ArtifactsDeleted", "mdl/shed", "--timeout=180s")
    assert stored(platform, fourth) == 0


@pytest.mark.slow
def test_without_a_word_about_it_artifacts_stay(platform):
    """deletionPolicy Retain, the default: the files outlive the version, and the Model."""
    (uri,) = trained(platform, "kept-files", "kept-files")
    platform.delete("mv", "kept-files-1")
    platform.wait("mdl", "kept-files", lambda s: s.get("versions") == 0)
    assert stored(platform, uri) > 1
    assert "artifacts" not in platform.status("mdl", "kept-files")
    assert platform.get("job", "", "-l", "ultramarine.dev/kind=Model,ultramarine.dev/name=kept-files") == []
    platform.delete("mdl", "kept-files")
    assert stored(platform, uri) > 1


@pytest.mark.slow
def test_a_version_shows_the_metrics_of_its_training(platform):
    """`kubectl get mv` tells how good the model is that a job has made."""
    platform.apply(training_job("measured", model="measured"))
    assert platform.ended("measured")["state"] == "Succeeded"
    platform.wait("mv", "measured-1", lambda s: s.get("score") == "accuracy=1")
    assert "accuracy=1" in platform.kubectl("get", "mv", "measured-1")
