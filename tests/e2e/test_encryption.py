"""TLS inside the cluster: a release of its own turns it on, works by it, and renews its certificates.

The tests tell one story and build on each other.
"""

from __future__ import annotations

import json
import ssl
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from certificates import serial_at, serial_of, speaks_plainly
from conftest import Platform, condition, restricted
from load import Load
from manifests import endpoint, infer, model_version, onnx_model, sweep, training_job
from ultramarine import Client
from ultramarine_cluster import cluster, target
from ultramarine_cluster.console import run
from ultramarine_contract.meta import PLATFORM_MAP

pytestmark = [pytest.mark.slow, pytest.mark.exclusive]

HOME, TEAM = "ultramarine-tls", "ultramarine-tls-team"
ALPN = ("h2", "http/1.1")
ON = "tls.internal.enabled=true"
# Tells a step, and waits until a file is made in the pod, so that its progress is seen while it runs.
STEPPING = """
import pathlib, sys, time
print("step=3 total_steps=4", flush=True)
while not pathlib.Path("/tmp/go-on").exists():
    time.sleep(0.2)
pathlib.Path(sys.argv[1], "model.txt").write_text("done")
"""


@dataclass
class Release:
    """The platform in `home`, which looks after a team's namespace."""

    home: Platform
    team: Platform
    images: dict[str, str]

    def upgrade(self, *settings: str) -> None:
        """`helm upgrade --install` to this tree, with these settings."""
        given = ("crds.install=false", f'namespaces=["{TEAM}"]', *settings)
        target.upgrade(self.home.target, HOME, self.images, *given)

    def ports(self) -> list[tuple[str, str, int]]:
        """Return the port of each pod, by the name that it proves."""
        parts = (
            (self.home, "app.kubernetes.io/component=storage", "storage", (7070,)),
            (self.home, "app.kubernetes.io/component=operator", "operator", (8080,)),
            (self.team, "app.kubernetes.io/component=gateway", "gateway", (9902,)),
            (self.team, "ultramarine.dev/kind=OnlineEndpoint", "server", (8080, 9000)),
        )
        return [
            (f"ultramarine-{component}.{platform.namespace}.svc", pod["status"].get("podIP", ""), port)
            for platform, labels, component, ports in parts
            for pod in platform.get("pod", "", "-l", labels)
            if not pod["metadata"].get("deletionTimestamp")
            for port in ports
        ]

    def certificates(self) -> dict[str, int]:
        """The serial number of the certificate in each Secret, by the name that it proves."""
        secrets = [*self.home.get("secret"), *self.team.get("secret")]
        return {
            each["metadata"]["annotations"]["ultramarine.dev/names"].split(",")[2]: serial_of(
                b64decode(each["data"]["tls.crt"])
            )
            for each in secrets
            if each["metadata"]["name"].startswith("ultramarine-tls-")
        }

    def pods(self) -> set[tuple[str, int]]:
        """Uid and restarts of all pods of the platform."""
        found = [*self.home.get("pod"), *self.team.get("pod", "", "-l", "ultramarine.dev/kind=OnlineEndpoint")]
        return {(p["metadata"]["uid"], s["restartCount"]) for p in found for s in p["status"]["containerStatuses"]}


@pytest.fixture(scope="module")
def release(embedded: target.Target) -> Iterator[Release]:
    """A release without TLS, with an endpoint that answers."""
    for namespace in (HOME, TEAM):
        embedded.run("delete", "namespace", namespace, "--ignore-not-found", "--timeout=300s")
        restricted(embedded, namespace)
    home, team = Platform(embedded, HOME), Platform(embedded, TEAM)
    made = Release(home, team, target.give_images(embedded, target.OWN_IMAGES))
    try:
        made.upgrade()
        content, key = onnx_model(1), f"{TEAM}/tests/churn.onnx"
        with embedded.bucket(HOME) as storage:
            storage.put_object(Bucket="ultramarine", Key=key, Body=content)
        version = model_version("churn", 1, f"s3://ultramarine/{key}", content)
        team.apply(version, endpoint("churn", "churn@1"), training_job("first"))
        assert team.ended("first")["state"] == "Succeeded"
        team.ready("churn", "churn-1")
        yield made
    finally:
        for namespace in (HOME, TEAM):
            embedded.run("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")


def test_turned_on_everything_goes_by_tls(release):
    """Pods are replaced by ones that take TLS alone; jobs, sweeps of both sorts, progress and predictions work on."""
    team = release.team
    with Load(team, "churn") as load:
        release.upgrade(ON)
        wait_for(lambda: all(by_tls(host, port) for _, host, port in release.ports()), 300)
        team.settled("churn")
        answered, failed = len(load.answers), len(load.failures)
        time.sleep(2)
    print(f"turned on: {len(load.answers)} answers, {len(load.failures)} failures: {set(load.failures)}")
    assert (len(load.answers) > answered, len(load.failures)) == (True, failed)
    assert len(load.failures) < len(load.answers) / 50  # between the first new pod's start and the routes that follow

    team.apply(training_job("second", model="trained"), endpoint("trained", "trained@latest"))
    team.apply(training_job("stepping", STEPPING))
    team.apply(sweep("search", limits={"maxTrials": 3}))
    team.apply(sweep("alone", limits={"maxTrials": 2}, execution="PodPerTrial"))
    team.wait("tj", "stepping", lambda s: (s.get("progress") or {}).get("step") == 3)
    team.kubectl("exec", team.status("tj", "stepping")["pod"], "-c", "trainer", "--", "touch", "/tmp/go-on")
    for job in ("second", "stepping"):
        assert team.ended(job)["state"] == "Succeeded"
    team.ready("trained", "trained-1")
    for name in ("search", "alone"):
        assert team.wait("sw", name, lambda s: s.get("state") in ("Succeeded", "Failed"))["state"] == "Succeeded"
    with team.client("trained") as client:
        asked = infer([[3.0]], "input", "FP64")
        assert client.post("/v2/models/trained/infer", json=asked).json()["outputs"][0]["data"] == [1]


def test_the_command_goes_by_tls(release, tmp_path):
    """Files, models and predictions reach a namespace whose ports take TLS alone, through the API server."""
    (tmp_path / "a.csv").write_text("1")
    (tmp_path / "churn.onnx").write_bytes(onnx_model(2))
    with Client(kubeconfig=str(cluster.up().kubeconfig), namespace=TEAM) as client:
        client.data.put(tmp_path / "a.csv", "by-tls/")
        client.data.get("by-tls/a.csv", tmp_path / "back.csv")
        assert (tmp_path / "back.csv").read_text() == "1"
        assert client.models.wait(client.models.add(tmp_path / "churn.onnx", "sent"))["spec"]["version"] == "1"
        assert client.endpoint("churn").predict([[2.0]]) == [[3.0]]


@pytest.mark.attack(
    "network/plain-text",
    asset="storage keys, tokens, requests, answers",
    threat="read or changed on their way between gateway, servers, storage, operator and sweeps, or told to "
    "somebody who poses as one of them",
    control="`tls.internal`: TLS alone, each part proves its own name by an authority of the release; "
    "renewed without a restart",
)
def test_each_port_proves_its_name_and_refuses_plain_text(release):
    """Every port shows the certificate of its own Secret, which the release's authority signed; `helm test` agrees.

    A team's client finds that authority in its ConfigMap, and the storage behind its gateway.
    """
    run(*release.home.target.helm, "test", "ultramarine", "--namespace", HOME)
    authority = b64decode(release.home.get("secret", "ultramarine-ca")["data"]["tls.crt"]).decode()
    certificates = release.certificates()
    ports = release.ports()
    silent = {f"ultramarine-{part}.{space}.svc" for part in ("gateway", "server", "sweep") for space in (HOME, TEAM)}
    assert {name for name, _, _ in ports} | silent == set(certificates)
    for name, host, port in ports:
        context = ssl.create_default_context(cadata=authority)
        assert serial_at(port, *ALPN, host=host, context=context, name=name) == certificates[name]
        assert not speaks_plainly(port, host=host), (name, port)

    facts, storage = release.team.get("configmap", PLATFORM_MAP)["data"], f"ultramarine-storage.{HOME}.svc"
    context = ssl.create_default_context(cadata=facts["storageCA"])
    with release.team.by_gateway(int(facts["storagePort"])) as port:
        for name in (storage, "localhost"):
            assert serial_at(port, *ALPN, context=context, name=name) == certificates[storage]


@pytest.mark.attack("network/plain-text")
def test_certificates_are_renewed_under_way(release):
    """An upgrade leaves young certificates; old ones are renewed, reach every port without a restart or a failure."""
    before, pods = release.certificates(), release.pods()
    authority = release.home.get("secret", "ultramarine-ca")["data"]
    with Load(release.team, "churn") as load:
        release.upgrade(ON)
        assert release.certificates() == before
        age(release.home)
        age(release.team)
        release.upgrade(ON)
        renewed = release.certificates()
        assert not set(renewed.values()) & set(before.values())

        def shown() -> bool:
            with suppress(OSError):  # a port that does not answer at once is asked again
                return all(serial_at(port, *ALPN, host=host) == renewed[name] for name, host, port in release.ports())
            return False

        wait_for(shown, 300)
        release.team.apply(training_job("third"))
        assert release.team.ended("third")["state"] == "Succeeded"
    assert load.failures == []
    assert release.pods() == pods
    assert release.home.get("secret", "ultramarine-ca")["data"] == authority
    print(f"renewed: {len(load.answers)} requests, none failed")


@pytest.mark.attack("network/posing")
def test_the_key_of_the_authority_is_closed_to_jobs(release):
    """A job beside the platform that names the Secret of the authority gets no pod, and is told why."""
    source = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "ultramarine-ca", "key": "tls.key"}}}
    release.home.apply(training_job("curious", env=[source]))
    said = "a Secret of the platform's own"
    release.home.wait("tj", "curious", lambda s: said in condition(s, "Reconciled").get("message", ""))


def age(platform: Platform) -> None:
    """Have the certificates of a namespace due for renewal, as if the chart had written them long ago."""
    for secret in platform.get("secret"):
        metadata = secret["metadata"]
        if metadata["name"].startswith("ultramarine-tls-"):
            annotations = metadata["annotations"] | {"ultramarine.dev/renew-after": "2020-01-01"}
            kept = {name: metadata[name] for name in ("name", "labels")} | {"annotations": annotations}
            old = json.dumps(secret | {"metadata": kept})
            platform.kubectl(
                "apply", "--server-side", "--force-conflicts", "--field-manager=helm", "-f", "-", input=old
            )


def by_tls(host: str, port: int) -> bool:
    """True if a port takes TLS."""
    try:
        return serial_at(port, *ALPN, host=host) > 0
    except OSError:
        return False


def wait_for(holds, seconds):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(1)
