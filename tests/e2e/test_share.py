"""A tenant's share on the real cluster: the chart's sample works, and what is used up, or too much, is told."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import yaml
from conftest import Platform, condition
from manifests import endpoint, sweep, training_job
from ultramarine_cluster.target import CHART

pytestmark = [pytest.mark.slow, pytest.mark.exclusive]

SAMPLE = CHART / "files" / "tenant.yaml"
FILLS = "import time\nopen('/tmp/big', 'wb').write(bytes(200_000_000))\ntime.sleep(300)"


@pytest.fixture
def share(platform: Platform) -> Iterator[Platform]:
    """The sample, in force in the platform's namespace."""
    try:
        platform.kubectl("apply", "-f", str(SAMPLE))
        counted(platform, yaml.safe_load(SAMPLE.read_text().split("---")[0])["spec"]["hard"]["pods"])
        yield platform
    finally:
        platform.kubectl("delete", "-f", str(SAMPLE), "--ignore-not-found")


def counted(platform: Platform, pods: str) -> None:
    """Wait until the quota admits so many pods."""
    end = time.monotonic() + 180
    while platform.kubectl("get", "quota", "share", "-o", "jsonpath={.status.hard.pods}") != pods:
        assert time.monotonic() < end, "the quota is not counted"
        time.sleep(0.3)


@pytest.mark.attack(
    "author/share",
    asset="other tenants' room",
    threat="objects, pods, Services and listeners without end",
    control="quotas, which the administrator sets ([a sample](operations.md#a-tenants-share)); the operator "
    "waits for room, tells what is used up, and tries again without haste",
)
def test_a_namespace_with_a_quota_trains_and_serves_and_says_when_it_is_full(share: Platform):
    """Nothing that the platform makes is refused for want of limits; what has no room waits, and goes on by itself."""
    outputs = {"model": {"registerAs": "shared", "compile": {"to": "onnx"}}}
    share.apply(training_job("shared", outputs=outputs), endpoint("shared", "shared@latest", authMode="none"))
    assert share.ended("shared")["state"] == "Succeeded"
    share.ready("shared", "shared-1", 300)
    assert condition(share.status("mv", "shared-1"), "Compiled")["status"] == "True"

    share.kubectl("patch", "quota", "share", "--type=merge", "-p", '{"spec": {"hard": {"pods": "0"}}}')
    counted(share, "0")
    share.apply(
        training_job("roomless"),
        sweep("roomless", limits={"maxTrials": 2}),
        endpoint("roomless", "shared@latest", authMode="none"),
    )
    for kind, type in (("tj", "Running"), ("sw", "Running"), ("oe", "Ready")):
        said = share.wait(
            kind, "roomless", lambda s, t=type: "exceeded quota: share" in condition(s, t).get("message", "")
        )
        assert "used: pods=" in condition(said, type)["message"]

    share.kubectl("patch", "quota", "share", "--type=merge", "-p", '{"spec": {"hard": {"pods": "100"}}}')
    assert share.ended("roomless", 300)["state"] == "Succeeded"
    share.wait("sw", "roomless", lambda s: s.get("state") == "Succeeded", 300)
    share.ready("roomless", "shared-1", 300)


@pytest.mark.attack("author/disk")
def test_a_training_that_fills_the_disk_is_told_what_to_raise(platform: Platform):
    """The kubelet evicts it, and the status has its words and the field."""
    platform.apply(training_job("filler", FILLS, resources={"limits": {"ephemeral-storage": "50Mi"}}))
    failure = platform.ended("filler")["failure"]
    assert failure["reason"] == "Evicted"
    assert "50Mi" in failure["message"]
    assert "resources.limits.ephemeral-storage" in failure["hint"]
