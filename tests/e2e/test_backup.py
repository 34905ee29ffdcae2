"""A team's day in figures, and its namespace backed up and restored into another: a release of its own.

It has TLS inside, places its pods, and gives them an authority of the company.

The tests tell one story and build on each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from certificates import Authority
from conftest import Platform, restricted
from manifests import Manifest, endpoint, infer, sweep, training_job
from ultramarine_cluster import backup, target
from ultramarine_cluster.errors import ClusterError

pytestmark = [pytest.mark.slow, pytest.mark.exclusive]

HOME, TEAM, OTHER = "ultramarine-kept", "ultramarine-kept-a", "ultramarine-kept-b"
LINUX = {"kubernetes.io/os": "linux"}
TOLERATED = {"key": "ultramarine.dev/test", "operator": "Exists"}
VALUES = (
    f'namespaces=["{TEAM}", "{OTHER}"]',
    "tls.internal.enabled=true",
    f"pods={json.dumps({'nodeSelector': LINUX, 'tolerations': [TOLERATED], 'annotations': {'cost-center': '7'}})}",
    f"training={json.dumps({'nodeSelector': LINUX, 'tolerations': [TOLERATED]})}",
    f"serving={json.dumps({'nodeSelector': LINUX, 'tolerations': [TOLERATED]})}",
    'ca.configMap="corporate-ca"',
)
TRUSTS = """
import ssl, sys
names = [value for one in ssl.create_default_context().get_ca_certs() for ((_, value),) in one["subject"]]
open(sys.argv[1] + "/names", "w").write(",".join(names))
"""
QUARTER = {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}}
BUSY = "import time\nend = time.process_time() + 3\nwhile time.process_time() < end: pass\nraise SystemExit(3)\n"
ENDED = {"first": "Succeeded", "broken": "Failed", "trusts": "Succeeded"}


@dataclass
class Teams:
    """Two namespaces of one release, and the folder of the backup."""

    one: Platform
    other: Platform
    folder: Path


@pytest.fixture(scope="module")
def teams(embedded: target.Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Teams]:
    """A model that was trained, found by a sweep and is served, a job that failed, and one that waits for a node."""
    for namespace in (HOME, TEAM, OTHER):
        embedded.run("delete", "namespace", namespace, "--ignore-not-found", "--timeout=300s")
        restricted(embedded, namespace)
    images = target.give_images(embedded, target.OWN_IMAGES)
    one, other = Platform(embedded, TEAM), Platform(embedded, OTHER)
    try:
        for platform in (Platform(embedded, HOME), one, other):
            platform.kubectl("create", "configmap", "corporate-ca", f"--from-literal=ca.crt={Authority().pem}")
        target.upgrade(embedded, HOME, images, "crds.install=false", *VALUES)
        one.apply(
            training_job("first", model="churn", resources=QUARTER),
            training_job("broken", BUSY),
            training_job("trusts", TRUSTS),
            training_job("waits", podTemplate={"nodeSelector": {"there": "is-none"}}, resources=QUARTER),
            sweep("search", limits={"maxTrials": 4}),
            sweep("alone", limits={"maxTrials": 2}, execution="PodPerTrial"),
            endpoint("churn", "churn@latest"),
        )
        for name, state in ENDED.items():
            assert one.ended(name)["state"] == state
        for name in ("search", "alone"):
            one.wait("sw", name, lambda status: status.get("state") == "Succeeded")
        one.ready("churn", "churn-1")
        yield Teams(one, other, tmp_path_factory.mktemp("backup"))
    finally:
        for namespace in (HOME, TEAM, OTHER):
            embedded.run("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")


def seen(platform: Platform) -> dict[str, Manifest]:
    """The objects of a namespace by kind and name."""
    kinds = ("trainingjob", "sweep", "model", "modelversion", "onlineendpoint")
    return {f"{each['kind']} {each['metadata']['name']}": each for kind in kinds for each in platform.get(kind)}


def test_what_ran_is_accounted_and_what_waited_is_not(teams):
    """Reserved and measured use are counted, and all objects have their requester."""
    found = seen(teams.one)
    who = json.loads(teams.one.kubectl("auth", "whoami", "-o", "json"))["status"]["userInfo"]["username"]
    # Without those that the operator has made: the policy knows that of the release with the CRDs alone.
    asked = [one for one in found.values() if "Model" not in one["kind"] and "-trial-" not in one["metadata"]["name"]]
    assert {each["status"]["requestedBy"] for each in asked} == {who}
    first = found["TrainingJob first"]["status"]
    assert first["usage"]["memoryGibSeconds"] > 0, first["usage"]
    assert found["TrainingJob broken"]["status"]["usage"]["cpuSeconds"] >= 3, "measured: it reserves nothing"
    assert "usage" not in found["TrainingJob waits"]["status"]
    assert found["Sweep search"]["status"]["usage"]["cpuSeconds"] > 0


def test_pods_are_placed_and_trust_as_the_values_say(teams):
    """Those of the platform, those that train and those that serve; a command's own Python knows the authority."""
    labels = "app.kubernetes.io/component in (operator,storage,gateway)"
    home, one = Platform(teams.one.target, HOME), teams.one
    platforms = [*home.get("pod", "", "-l", labels), *one.get("pod", "", "-l", labels)]
    others = [*one.pods_of("TrainingJob", "first"), *one.pods_of("OnlineEndpoint", "churn")]
    assert len(platforms) == 4
    assert len(others) == 2
    for pod in (*platforms, *others):
        assert LINUX.items() <= pod["spec"]["nodeSelector"].items()
        assert TOLERATED in pod["spec"]["tolerations"]
    assert {pod["metadata"]["annotations"]["cost-center"] for pod in platforms} == {"7"}


def test_one_command_says_who_ran_what_and_why_it_failed(teams):
    """The command of docs/operations.md, for the user who runs the tests."""
    label = seen(teams.one)["TrainingJob first"]["metadata"]["labels"]["ultramarine.dev/requested-by"]
    columns = "NAME:.metadata.name,CPU:.status.usage.days[-1:].cpuSeconds,WHY:.status.failure.message"
    words = ("-l", f"ultramarine.dev/requested-by={label}", "-o", f"custom-columns={columns}")
    told = teams.one.kubectl("get", "ultramarine", *words)
    [broken] = [line for line in told.splitlines() if line.startswith("broken")]
    assert "exited with code 3" in broken
    assert float(broken.split()[1]) >= 3
    assert {"first", "search", "churn", "waits"} <= {line.split()[0] for line in told.splitlines()}


def test_a_backup_is_restored_into_another_namespace(teams):
    """An ended job keeps its result and does not run again, versions keep their numbers, and the endpoint answers."""
    backup.save(teams.one.target, HOME, TEAM, teams.folder)
    backup.restore(teams.one.target, HOME, teams.folder, OTHER)
    before, after = seen(teams.one), seen(teams.other)
    first = before["TrainingJob first"]["status"]
    [attempt] = first["attemptHistory"]
    where = first["outputs"]["model"]["uri"].partition("/model/")[0].removeprefix(f"s3://ultramarine/{TEAM}/")
    stored = json.loads((teams.folder / "objects" / where / "attempts" / f"{attempt['pod']}.json").read_text())
    [usage] = [one for one in stored["predicate"]["runDetails"]["byproducts"] if one["name"] == "usage"]
    assert usage["annotations"]["reserved"] == {"cpu": 0.25, "memoryGib": 0.5}, "the record outlives the job"
    [names] = (teams.folder / "objects" / "trainingjobs" / "trusts").rglob("names")
    assert names.read_text() == "authority", "the one of ca.configMap, which replaces all others"
    assert before.keys() == after.keys()
    for name, state in (*ENDED.items(), ("waits", "Pending")):
        old, new = (each[f"TrainingJob {name}"] for each in (before, after))
        assert new["status"]["state"] == state
        assert new["spec"] == json.loads(json.dumps(old["spec"]).replace(f"/{TEAM}/", f"/{OTHER}/"))
        assert new["status"].get("attemptHistory") == old["status"].get("attemptHistory")
    for name in ("Sweep search", "Sweep alone"):
        assert after[name]["status"]["best"][0]["values"] == before[name]["status"]["best"][0]["values"]
    assert f"s3://ultramarine/{OTHER}/" in after["ModelVersion churn-1"]["spec"]["uri"]
    with teams.one.client("churn") as client, teams.other.client("churn") as moved:
        teams.other.ready("churn", "churn-1")
        assert client.headers["Authorization"] == moved.headers["Authorization"], "the keys are the same"
        asked = infer([[0.0], [3.0]], "input", "FP64")
        answers = [
            each.post("/v2/models/churn/infer", json=asked).json()["outputs"][0]["data"] for each in (client, moved)
        ]
    assert answers[0] == answers[1] == [0, 1]


def test_a_restore_can_be_repeated_and_takes_the_place_of_nothing(teams):
    """Again it changes nothing; where other objects are it makes none, nor does a folder take another's backup."""
    before = seen(teams.other)
    backup.restore(teams.one.target, HOME, teams.folder, OTHER)
    assert {name: each["metadata"]["uid"] for name, each in seen(teams.other).items()} == {
        name: each["metadata"]["uid"] for name, each in before.items()
    }
    with pytest.raises(ClusterError, match="Model churn"):
        backup.restore(teams.one.target, HOME, teams.folder, TEAM)
    with pytest.raises(ClusterError, match=f"the backup of namespace {TEAM}"):
        backup.save(teams.one.target, HOME, OTHER, teams.folder)
    assert len(teams.other.get("job", "", "-l", "ultramarine.dev/kind=TrainingJob")) == 1, "of the one that waits"
