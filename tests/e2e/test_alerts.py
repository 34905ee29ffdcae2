"""Alerts on the real cluster: a Prometheus scrapes a release of its own, faults are made, and each alert fires.

The rules are those of the chart without their `for`. How long each waits, and the faults that cannot be made here (two
leaders, a defect, listings and watches that stand still for long), are the matter of tests/unit/test_alerts.py. The
tests tell one story and build on each other.
"""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from certificates import Authority
from conftest import Manifest, Platform, restricted
from manifests import endpoint, infer, training_job
from ports import free_port
from ultramarine_cluster import build, programs, target
from ultramarine_cluster.paths import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.exclusive]

HOME = "ultramarine-alerts"
RULES = REPOSITORY / "charts" / "ultramarine" / "files" / "alerts.yaml"
# A model that answers nothing, and a command that fails.
CODE = """
import sys
from pathlib import Path

(Path(sys.argv[1]) / "model.py").write_text('''
class Model:
    signature = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
    }

    def predict(self, inputs):
        raise RuntimeError("never")
''')
"""
FAILS = "raise SystemExit(1)"
DISK_MIB = 64


@dataclass
class Watched:
    """A release, and the Prometheus that watches it."""

    platform: Platform
    url: str

    def fires(self, name: str, seconds: float = 180, **labels: str) -> None:
        """Wait until that alert fires, with these labels among its own."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            alerts = httpx.get(f"{self.url}/api/v1/alerts", timeout=30).raise_for_status().json()["data"]["alerts"]
            firing = [alert["labels"] for alert in alerts if alert["state"] == "firing"]
            if any({"alertname": name, **labels}.items() <= alert.items() for alert in firing):
                return
            time.sleep(1)
        pytest.fail(f"{name} does not fire; others: {sorted(alert['alertname'] for alert in firing)}")

    def quiet(self) -> None:
        """Every target is scraped, every rule evaluated without an error, and no alert fires."""
        end = time.monotonic() + 180
        while True:
            targets = (
                httpx.get(f"{self.url}/api/v1/targets", timeout=30).raise_for_status().json()["data"]["activeTargets"]
            )
            ill = [(one["labels"]["job"], one["lastError"]) for one in targets if one["health"] != "up"]
            if len(targets) == 3 and not ill:
                break
            assert time.monotonic() < end, (len(targets), ill)
            time.sleep(1)
        time.sleep(10)
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=30).raise_for_status().json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert {(rule["health"], rule["state"]) for rule in rules} == {("ok", "inactive")}, rules


def configuration(folder: Path, platform: Platform, kubelet: str, node: str) -> Path:
    """Prometheus' configuration, with the labels that the chart's monitors give, and the rules beside it."""
    rules = yaml.safe_load(
        RULES.read_text().replace("absent(ultramarine_leader)", f'absent(ultramarine_leader{{namespace="{HOME}"}})')
    )
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    words = platform.target.kubectl
    discovery = {
        "role": "pod",
        "kubeconfig_file": words[words.index("--kubeconfig") + 1],
        "namespaces": {"names": [HOME]},
    }
    component = "__meta_kubernetes_pod_label_app_kubernetes_io_component"
    pods = {
        "job_name": "pods",
        "scheme": "https",
        "tls_config": {"insecure_skip_verify": True},
        "kubernetes_sd_configs": [discovery],
        "relabel_configs": [
            {
                "source_labels": [component, "__meta_kubernetes_pod_container_port_name"],
                "regex": "operator;http|gateway;routes",
                "action": "keep",
            },
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
            {"target_label": "job", "replacement": "ultramarine-operator"},
            {
                "source_labels": [component],
                "regex": "gateway",
                "target_label": "job",
                "replacement": f"{HOME}/ultramarine-gateway",
            },
            {"target_label": "endpoint", "replacement": "routes"},  # the Prometheus Operator's own,
            {"action": "labeldrop", "regex": "endpoint"},  # and the chart's answer
        ],
    }
    volumes = {
        "job_name": "kubelet",
        "metrics_path": f"/api/v1/nodes/{node}/proxy/metrics",
        "static_configs": [{"targets": [kubelet]}],
        "metric_relabel_configs": [
            {"source_labels": ["namespace"], "regex": HOME, "action": "keep"},
        ],
    }
    whole = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [pods, volumes],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(whole))
    return folder / "prometheus.yaml"


@contextmanager
def running(*argv: str | Path, log: Path, url: str) -> Iterator[None]:
    """A program that answers at an address, until the block ends."""
    with log.open("w") as out, subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            end = time.monotonic() + 120
            while True:
                try:
                    httpx.get(url, timeout=30)
                    break
                except httpx.TransportError:
                    assert time.monotonic() < end, log.read_text()
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.2)
            yield
        finally:
            process.terminate()


@contextmanager
def small_disk(platform: Platform, folder: Path, node: str) -> Iterator[Path]:
    """A volume of its own file system for the storage, which can be filled."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "alerts", folder], check=True)
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": HOME},
        "spec": {
            "capacity": {"storage": f"{DISK_MIB}Mi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": HOME,
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
        },
    }
    try:
        platform.kubectl("apply", "-f", "-", input=yaml.safe_dump(volume))
        yield folder
    finally:
        platform.kubectl("delete", "pv", HOME, "--wait=false")
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def disk(embedded: target.Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of the storage's files."""
    (node,) = embedded.json("get", "nodes", "-l", "!type")["items"]
    embedded.run("delete", "namespace", HOME, "--ignore-not-found", "--timeout=300s")
    embedded.run("delete", "pv", HOME, "--ignore-not-found")
    restricted(embedded, HOME)
    folder = tmp_path_factory.mktemp("alerts") / "disk"
    with small_disk(Platform(embedded, HOME), folder, node["metadata"]["name"]):
        yield folder
        embedded.run("delete", "namespace", HOME, "--timeout=300s")


@pytest.fixture(scope="module")
def watched(embedded: target.Target, disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The platform with TLS inside, a gateway and a storage, before anything is wrong."""
    build.ensure(("prometheus",))
    claim = f'storage.embedded={{"storageClass": "{HOME}", "size": "{DISK_MIB}Mi"}}'
    target.install(embedded, HOME, "crds.install=false", "tls.internal.enabled=true", claim)
    (node,) = embedded.json("get", "nodes", "-l", "!type")["items"]
    platform, folder = Platform(embedded, HOME), tmp_path_factory.mktemp("prometheus")
    proxy, own = free_port(), free_port()
    with ExitStack() as stack:
        kubelet, url = f"127.0.0.1:{proxy}", f"http://127.0.0.1:{own}"
        forward = (*embedded.kubectl, "proxy", f"--port={proxy}")
        stack.enter_context(running(*forward, log=folder / "proxy.log", url=f"http://{kubelet}/readyz"))
        file = configuration(folder, platform, kubelet, node["metadata"]["name"])
        argv = (programs.path("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}")
        listen = f"--web.listen-address=127.0.0.1:{own}"
        stack.enter_context(running(*argv, listen, log=folder / "prometheus.log", url=f"{url}/-/ready"))
        yield Watched(platform, url)
    subprocess.run([*embedded.helm, "uninstall", "ultramarine", "--namespace", HOME], check=False)
    embedded.run("delete", "priorityclass", f"ultramarine-platform-{HOME}", "--ignore-not-found")


def secret(platform: Platform, name: str, folder: Path) -> None:
    """Write a certificate and its key, as they lie in a folder, into a Secret."""
    data = {file.name: base64.b64encode(file.read_bytes()).decode() for file in folder.iterdir()}
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/tls",
        "data": data,
    }
    platform.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(manifest))


def scale(platform: Platform, component: str, replicas: int) -> None:
    platform.kubectl("scale", f"deployment/ultramarine-{component}", f"--replicas={replicas}")


def operator_pod(platform: Platform) -> Manifest:
    """The operator's one pod, once it runs and no other one is on its way out."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        pods = platform.get("pod", "", "-l", "app.kubernetes.io/component=operator")
        if len(pods) == 1 and pods[0]["status"]["phase"] == "Running":
            pod: Manifest = pods[0]
            return pod
        time.sleep(1)
    pytest.fail("no operator runs")


def test_nothing_fires_while_all_is_well(watched):
    """All targets are up; no rule has an error, none fires."""
    watched.quiet()


def test_endpoints(watched, tmp_path):
    """One whose model fails has errors, its certificate ends soon, and one without a model is not ready."""
    platform = watched.platform
    job = training_job("broken", CODE, model="broken")
    job["spec"]["outputs"]["model"] |= {"format": "python", "allowCodeExecution": True}
    Authority().issue(tmp_path / "tls", f"broken.{HOME}.svc", lasts=timedelta(days=3))
    secret(platform, "broken-tls", tmp_path / "tls")
    platform.apply(job, endpoint("broken", "broken@latest", tls={"secretName": "broken-tls"}))
    platform.apply(endpoint("missing", "missing@1"))
    assert platform.ended("broken")["state"] == "Succeeded"
    platform.ready("broken", "broken-1")
    key = {"Authorization": f"Bearer {platform.secret('broken-keys')['primary']}"}
    with (
        platform.target.reach(HOME, "broken", 443) as url,
        httpx.Client(base_url=url.replace("http:", "https:"), headers=key, verify=False, timeout=60) as client,
    ):
        for _ in range(30):
            assert client.post("/v2/models/broken/infer", json=infer([[1.0]])).status_code == 500
            time.sleep(0.2)

    watched.fires("UltramarineEndpointErrors", namespace=HOME, endpoint="broken")
    watched.fires("UltramarineEndpointCertificateEnds", namespace=HOME, endpoint="broken")
    watched.fires("UltramarineEndpointsNotReady", namespace=HOME)


def test_jobs_that_fail(watched):
    """Five of them."""
    names = [f"fails-{number}" for number in range(5)]
    watched.platform.apply(*(training_job(name, FAILS) for name in names))
    for name in names:
        assert watched.platform.ended(name)["state"] == "Failed"

    watched.fires("UltramarineJobsFail", namespace=HOME, object_namespace=HOME, kind="TrainingJob")


def test_names_that_are_taken(watched):
    """Services that others have made hold three endpoints up."""
    platform, names = watched.platform, [f"taken-{number}" for number in range(3)]
    for name in names:
        platform.kubectl("create", "service", "clusterip", name, "--tcp=80")
    platform.apply(*(endpoint(name, "broken@1") for name in names))

    watched.fires("UltramarinePassesFail", 240, namespace=HOME, kind="OnlineEndpoint", outcome="held")
    platform.delete("oe", *names, "missing")


def test_a_storage_and_a_gateway_that_are_away(watched):
    """Objects that need them are there."""
    platform = watched.platform
    for component in ("storage", "gateway"):
        scale(platform, component, 0)
    digest = "sha256:" + "0" * 64
    spec = {"model": "lost", "version": "1", "uri": f"s3://ultramarine/{HOME}/lost", "digest": digest}
    platform.apply(
        {"kind": "ModelVersion", "metadata": {"name": "lost-1"}, "spec": {**spec, "format": {"name": "onnx"}}}
    )
    platform.apply(endpoint("late", "broken@1"))

    watched.fires("UltramarineStorageUnanswered", 240, namespace=HOME)
    watched.fires("UltramarineGatewayUnanswered", 240, namespace=HOME)
    for component in ("storage", "gateway"):
        scale(platform, component, 1)
        platform.kubectl("rollout", "status", f"deployment/ultramarine-{component}", "--timeout=240s")
    platform.delete("oe", "late")
    platform.delete("mv", "lost-1")


def test_a_disk_that_is_full(watched, disk):
    """The kubelet measures volumes once a minute."""
    (disk / "ballast").write_bytes(bytes(round(DISK_MIB * 0.93) * 2**20))

    watched.fires("UltramarineVolumeFull", 240, namespace=HOME, persistentvolumeclaim="ultramarine-storage")
    (disk / "ballast").unlink()


def test_a_webhook_that_hangs(watched):
    """It holds every new Job longer than the operator waits, so that hundreds of trainings wait for their turn."""
    platform = watched.platform
    with socket.create_server(("0.0.0.0", 0), backlog=200) as silent:  # takes connections, and answers none
        (node,) = platform.target.json("get", "nodes", "-l", "!type")["items"]
        address = next(one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP")
        hook = {
            "name": "hangs.ultramarine.dev",
            "clientConfig": {"url": f"https://{address}:{silent.getsockname()[1]}/"},
            "rules": [{"apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["jobs"], "operations": ["CREATE"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": HOME}},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 20,
        }
        whole = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": HOME},
            "webhooks": [hook],
        }
        try:
            platform.kubectl("apply", "-f", "-", input=yaml.safe_dump(whole))
            platform.apply(*(training_job(f"queued-{number}") for number in range(320)))
            watched.fires("UltramarineAPIUnanswered", 240, namespace=HOME, verb="create")
            watched.fires("UltramarineQueueOld", 240, namespace=HOME)
        finally:
            platform.kubectl("delete", "validatingwebhookconfiguration", HOME)
            platform.kubectl("delete", "tj", "--all", "--wait=false")


def test_an_operator_that_restarts(watched):
    """Three times in its pod."""
    platform = watched.platform
    pod = operator_pod(platform)["metadata"]["name"]
    for count in range(1, 4):
        platform.kubectl("exec", pod, "--", "python3", "-c", "import os; os.kill(1, 15)")
        end = time.monotonic() + 300
        while (status := operator_pod(platform)["status"]["containerStatuses"][0])[
            "restartCount"
        ] < count or not status["ready"]:
            assert time.monotonic() < end, status
            time.sleep(1)
        time.sleep(5)  # so that it is scraped

    watched.fires("UltramarineRestarts", namespace=HOME, pod=pod)


def test_an_operator_without_rights(watched):
    """Without its bindings it sees nothing, is not ready, and cannot take the Lease."""
    platform = watched.platform
    bindings = platform.kubectl("get", "rolebinding", "-o", "json", "-l", "app.kubernetes.io/name=ultramarine")
    names = [one["metadata"]["name"] for one in json.loads(bindings)["items"]]
    platform.kubectl("delete", "rolebinding", *(name for name in names if "gateway" not in name))
    platform.kubectl("delete", "pod", operator_pod(platform)["metadata"]["name"])

    watched.fires("UltramarineListingRefused", 240, namespace=HOME)
    watched.fires("UltramarineForbidden", 240, namespace=HOME)
    watched.fires("UltramarineNoLeader", 240, namespace=HOME)
    watched.fires("UltramarineNotReady", 240, namespace=HOME)
    kept = [one for one in json.loads(bindings)["items"] if "gateway" not in one["metadata"]["name"]]
    for one in kept:
        one["metadata"] = {
            key: one["metadata"][key] for key in ("name", "labels", "annotations") if key in one["metadata"]
        }
    platform.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(kept))


def test_certificates_that_end(watched, tmp_path):
    """The kubelet brings a renewed one within two minutes; the operator tells when it ends."""
    Authority().issue(tmp_path / "tls", f"ultramarine-operator.{HOME}.svc", lasts=timedelta(days=3))
    secret(watched.platform, "ultramarine-tls-operator", tmp_path / "tls")

    watched.fires("UltramarineCertificateEnds", 300, namespace=HOME)


def test_an_operator_that_is_away(watched):
    """The last of all."""
    scale(watched.platform, "operator", 0)

    watched.fires("UltramarineAbsent", 240, namespace=HOME)
