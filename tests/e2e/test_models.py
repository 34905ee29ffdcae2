"""Models on the cluster: what is kept of their versions, and what the versions tell."""

from __future__ import annotations

import time

from conftest import Platform
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
    end = time.monotonic() + 60
    while versions(platform) != ["1", "2", "5"]:
        assert time.monotonic() < end, versions(platform)
        time.sleep(0.5)
    platform.wait("mdl", "kept", lambda s: (s["versions"], s["latestReadyVersion"]) == (3, "5"))
    events = platform.get("event", "", "--field-selector", "involvedObject.name=kept,reason=VersionsRetired")
    assert "kept-3" in " ".join(event["message"] for event in events)
    bucket, _, key = uris[3].removeprefix("s3://").partition("/")
    with platform.target.bucket(platform.namespace) as storage:
        assert storage.get_object(Bucket=bucket, Key=key)["Body"].read() == contents[3]


def test_a_version_shows_the_metrics_of_its_training(platform):
    """`kubectl get mv` tells how good the model is that a job has made."""
    platform.apply(training_job("measured", model="measured"))
    assert platform.ended("measured")["state"] == "Succeeded"
    platform.wait("mv", "measured-1", lambda s: s.get("score") == "accuracy=1")
    assert "accuracy=1" in platform.kubectl("get", "mv", "measured-1")
