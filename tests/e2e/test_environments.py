"""Environments with a name: requirements in a ConfigMap, the lock, the own image, and the end with the archive."""

from __future__ import annotations

import time

import pytest
from conftest import Manifest, Platform, condition
from manifests import training_job
from person import Person, data_scientist
from ultramarine_contract.storage import parse_uri

REQUIREMENTS = "# small, of Python alone\ninflection==0.5.1\n"


def environment(name: str, python: Manifest, **spec: object) -> Manifest:
    """An Environment."""
    return {"kind": "Environment", "metadata": {"name": name}, "spec": {"python": python, **spec}}


def stored(platform: Platform, uri: str) -> list[str]:
    """Return the names of what lies in the bucket below a URI."""
    place = parse_uri(uri)
    with platform.target.bucket(platform.namespace) as storage:
        listed = storage.list_objects_v2(Bucket=place.bucket, Prefix=place.key)
    return [entry["Key"].removeprefix(place.key) for entry in listed.get("Contents", [])]


@pytest.fixture(scope="module")
def built(platform: Platform) -> dict[str, Manifest]:
    """Statuses of Environments with a good and a bad version of Python, and on an own image."""
    config_map = {"metadata": {"name": "packages"}, "data": {"requirements.txt": REQUIREMENTS}}
    platform.apply({"apiVersion": "v1", "kind": "ConfigMap", **config_map})
    selected = {"requirementsFrom": {"configMap": {"name": "packages", "key": "requirements.txt"}}}
    platform.apply(
        environment("kept", selected, ttlSecondsAfterUnused=3600),
        environment("older", {"version": "3.8", **selected}),
        environment("imaged", {"requirements": ["inflection==0.5.1"]}, image=platform.settings.images.server),
    )

    def is_over(status: Manifest) -> bool:
        return status.get("state") in ("Ready", "Failed")

    return {name: platform.wait("environment", name, is_over, 600) for name in ("kept", "older", "imaged")}


def test_an_environment_is_stored_with_its_lock(platform, built):
    """The status has the archive, and the lock has the hash of each package."""
    status = built["kept"]
    assert condition(status, "Ready")["status"] == "True", status
    folder = status["uri"].rpartition("/")[0] + "/"
    assert {"environment.tar.zst", "requirements.txt"} <= set(stored(platform, folder))
    place = parse_uri(status["lock"]["uri"])
    with platform.target.bucket(platform.namespace) as storage:
        lock = storage.get_object(Bucket=place.bucket, Key=place.key)["Body"].read().decode()
    assert "inflection==0.5.1" in lock
    assert "--hash=sha256:" in lock


def test_a_version_that_the_image_lacks_is_refused(platform, built, tmp_path):
    """The condition names both versions, and the command shows the log of the build."""
    assert condition(built["older"], "Failed")["reason"] == "PythonMismatch"
    person = Person(tmp_path, data_scientist(platform, "packer", tmp_path))
    assert "3.8" in person.run("logs", "environment/older").stdout


def test_an_own_image_is_built_by_the_platforms_tools(built):
    """The server image lacks the builder, which is copied into the pod."""
    assert condition(built["imaged"], "Ready")["status"] == "True", built["imaged"]


@pytest.mark.slow
def test_an_unused_environment_goes_with_its_archive(platform, built):
    """A job that runs holds it; after its end the archive and the object are deleted."""
    place = built["kept"]["uri"].rpartition("/kept/")[0] + "/kept/"
    platform.apply(training_job("keeper", environment={"name": "kept"}))
    platform.wait("tj", "keeper", lambda status: status.get("state"))
    platform.kubectl("patch", "environment", "kept", "--type=merge", "-p", '{"spec": {"ttlSecondsAfterUnused": 0}}')
    assert platform.ended("keeper")["state"] == "Succeeded"
    platform.delete("tj", "keeper")
    end = time.monotonic() + 240
    while any(item["metadata"]["name"] == "kept" for item in platform.get("environment")):
        assert time.monotonic() < end, platform.status("environment", "kept")
        time.sleep(0.5)

    assert stored(platform, place) == []
