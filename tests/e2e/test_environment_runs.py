"""Jobs and trials with packages of their own, and with shared memory."""

from __future__ import annotations

import pytest
from conftest import Manifest, Platform, condition
from manifests import sweep, training_job

REQUIREMENTS = ["inflection==0.5.1"]  # small, of Python alone, and in no image
# Fails unless its packages come from its environment and its image, as they should.
PACKAGES = """
import os, shutil, sys
import inflection, sklearn
assert inflection.__file__.startswith("/mnt/environment/"), inflection.__file__
assert not sklearn.__file__.startswith("/mnt/environment/"), sklearn.__file__
assert shutil.which("python") == "/mnt/environment/bin/python", os.environ
shm = os.statvfs("/dev/shm")
print(f"loss={sys.argv[2]} shm={shm.f_blocks * shm.f_frsize}")
open(sys.argv[1] + "/done", "w").write("yes")
"""
COMMAND = ["python", "train.py", "$(outputs.model)"]
NEEDED: Manifest = {"environment": {"requirements": REQUIREMENTS}}


def trials(name: str, execution: str) -> Manifest:
    """A sweep of two trials with the same packages."""
    template = {**training_job(name, PACKAGES)["spec"], **NEEDED, "command": [*COMMAND, "$(params.x)"]}
    del template["backoffLimit"]
    return sweep(name, execution=execution, limits={"maxTrials": 2}, template=template)


@pytest.fixture(scope="module")
def ended(platform: Platform) -> dict[str, Manifest]:
    """The statuses of a job and two sweeps with equal requirements, and of a job with one that does not exist."""
    job = training_job("packed", PACKAGES, command=[*COMMAND, "0"], podTemplate={"sharedMemory": "128Mi"}, **NEEDED)
    lost = training_job("unpackable", environment={"requirements": ["ultramarine-no-such-package==9"]})
    platform.apply(job, lost, trials("packed-pool", "Pool"), trials("packed-pods", "PodPerTrial"))
    jobs = {name: platform.ended(name, 600) for name in ("packed", "unpackable")}

    def is_over(status: Manifest) -> bool:
        return status.get("state") in ("Succeeded", "Failed")

    return jobs | {name: platform.wait("sw", name, is_over, 600) for name in ("packed-pool", "packed-pods")}


def test_a_job_has_its_packages_beside_those_of_the_image(platform, ended):
    """The command runs with the python of its environment, and /dev/shm has the size of the spec."""
    status = ended["packed"]
    assert status["state"] == "Succeeded", status
    assert status["metrics"]["latest"]["shm"] == 128 * 2**20
    pin = status["provenance"]
    environment = platform.get("environment", pin["environment"])
    assert (environment["status"]["uri"], environment["status"]["digest"]) == (
        pin["environmentUri"],
        pin["environmentDigest"],
    )


def test_equal_requirements_share_one_environment(platform, ended):
    """A job, a pool of workers and jobs of trials have the same archive."""
    pin = ended["packed"]["provenance"]
    for name in ("packed-pool", "packed-pods"):
        assert ended[name]["state"] == "Succeeded", ended[name]
        assert ended[name]["provenance"]["environmentDigest"] == pin["environmentDigest"]
    assert platform.status("tj", "packed-pods-trial-0")["provenance"]["environment"] == pin["environment"]


def test_a_requirement_that_does_not_exist_fails_the_job_in_words(ended):
    """The job fails with the words of the resolver, and has no pod."""
    status = ended["unpackable"]
    assert (status["state"], status["failure"]["reason"]) == ("Failed", "EnvironmentFailed")
    assert "ultramarine-no-such-package" in condition(status, "Failed")["message"]
    assert "attempts" not in status
