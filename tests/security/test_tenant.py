"""A tenant on the real cluster: code in its pods, pods beside them, and objects that ask for more than a namespace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.conftest import Manifest, Platform, embedded, platform, restricted  # noqa: F401  fixtures, too
from e2e.manifests import endpoint, model_version, onnx_model, training_job
from security.doors import Issuer
from security.inside import NETWORK, NODE, TRIES
from ultramarine_contract.routes import GATEWAY_PODS
from ultramarine_operator.shared.podspec import CONTAINER_SECURITY, POD_SECURITY

STRANGERS = "ultramarine-strangers"
FOREIGN = "s3://ultramarine/another-team/secret"
JOB, MODEL = "hostile", "besieged"
PROGRAM = (Path(__file__).parent / "inside.py").read_text()
# Of other namespaces' pods a stranger is kept from those that trust whoever reaches them, whatever labels he has.
OF_OURS = [
    f"reach {name}" for name in ("gateway's agent", "server of another endpoint", "gRPC of another endpoint", "storage")
]


@pytest.fixture(scope="module")
def tenant(platform: Platform) -> Iterator[Platform]:  # noqa: F811
    """The platform with an endpoint that asks for tokens, whose pods answer whoever reaches them."""
    with platform.target.bucket(platform.namespace) as root:
        root.put_object(Bucket="ultramarine", Key="another-team/secret", Body=b"x\n1\n")
    content = onnx_model(5)
    platform.apply(model_version(MODEL, 1, platform.put(f"{MODEL}.onnx", content), content))
    keys = json.dumps({"keys": [(issuer := Issuer()).jwk(issuer.key)]})
    token = {"issuer": "https://id.example.com", "audiences": [MODEL], "jwks": keys}
    platform.apply(endpoint(MODEL, f"{MODEL}@1", authMode="token", token=token))
    platform.ready(MODEL, f"{MODEL}-1")
    yield platform
    platform.delete("oe", MODEL)


@pytest.fixture(scope="module")
def addresses(tenant: Platform) -> dict[str, Any]:
    """Return the addresses of all targets that a pod may try."""
    (node,) = tenant.target.json("get", "nodes")["items"]
    (host,) = (a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
    of_kubernetes = ("-n", "default", "-l", "kubernetes.io/service-name=kubernetes")
    (api_server,) = tenant.target.json("get", "endpointslices", *of_kubernetes)["items"]
    (served,) = tenant.pods_of("OnlineEndpoint", MODEL)
    gateway, storage, operator = (
        tenant.get("pod", "", "-l", f"app.kubernetes.io/component={part}")[0]["status"]["podIP"]
        for part in ("gateway", "storage", "operator")
    )
    return {
        "API server": ("kubernetes.default.svc", 443),
        "API server on the node": (api_server["endpoints"][0]["addresses"][0], api_server["ports"][0]["port"]),
        "etcd": (host, 2379),
        "kubelet": (host, node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]),
        "kubelet's health": (host, 10248),
        "SSH of the node": (host, 22),
        "metadata": ("169.254.169.254", 80),
        "metadata by IPv6": ("fd00:ec2::254", 80),
        "link-local neighbour": ("fe80::1%eth0", 9000),
        "metrics server": ("metrics-server.kube-system.svc", 443),
        "DNS server's metrics": ("kube-dns.kube-system.svc", 9153),
        "the internet": ("1.1.1.1", 443),
        "gateway's agent": (gateway, 9902),
        "gateway's readiness": (gateway, 9901),
        "server of another endpoint": (served["status"]["podIP"], 8080),
        "gRPC of another endpoint": (served["status"]["podIP"], 9000),
        "operator's other port": (operator, 8081),
        "storage's other port": (storage, 7071),
        "operator": (operator, 8080),
        "storage": (f"ultramarine-storage.{tenant.namespace}.svc", 7070),
        "names": {"namespace": tenant.namespace, "job": JOB},
    }


def results(output: str) -> dict[str, Manifest]:
    """Return the result of each try, by its name."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"try"')]
    return {line["try"]: line for line in lines}


@pytest.fixture(scope="module")
def in_a_job(tenant: Platform, addresses: dict[str, Any]) -> dict[str, Manifest]:
    """Return the results of a training command. The storage is open to it."""
    tenant.delete("tj", JOB)
    tries = [name for name in TRIES if name != "reach storage"]
    command = ["python", "train.py", json.dumps({**addresses, "tries": tries})]
    tenant.apply(training_job(JOB, PROGRAM, command=command, outputs={}))
    ended = tenant.ended(JOB)
    assert ended["state"] == "Succeeded", ended
    return results(tenant.kubectl("logs", "-l", f"ultramarine.dev/name={JOB}", "--tail=-1"))


@pytest.fixture(scope="module")
def in_a_server(tenant: Platform, addresses: dict[str, Any]) -> dict[str, Manifest]:
    """Return the results of a model's code in the pod that serves it; its own ports are open to it."""
    tries = [name for name in (*NODE, *NETWORK) if name not in OF_OURS or name == OF_OURS[0]]
    words = ("exec", "-i", f"deployment/{MODEL}-blue", "-c", "server", "--", "python", "-")
    return results(tenant.kubectl(*words, json.dumps({**addresses, "tries": tries}), input=PROGRAM))


@pytest.fixture(scope="module")
def beside(tenant: Platform, addresses: dict[str, Any]) -> Iterator[dict[str, Manifest]]:
    """Yield the results of a pod outside the platform, in the same namespace, with labels of trusted pods."""
    image = tenant.settings.images.trainer
    container = {"name": "main", "image": image, "command": ["sleep", "3600"], "securityContext": CONTAINER_SECURITY}
    spec = {"securityContext": POD_SECURITY, "automountServiceAccountToken": False, "containers": [container]}
    labels = {**GATEWAY_PODS, "ultramarine.dev/kind": "TrainingJob", "ultramarine.dev/name": MODEL}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger", "labels": labels}, "spec": spec}
    there, run = ("-n", STRANGERS), tenant.target.run
    restricted(tenant.target, STRANGERS)
    run("apply", *there, "-f", "-", input=yaml.safe_dump(pod))
    run("wait", *there, "--for=condition=Ready", "pod/stranger", "--timeout=60s")
    words = ("exec", "-i", *there, "stranger", "--", "python", "-")
    yield results(run(*words, json.dumps({**addresses, "tries": [*OF_OURS, "reach API server"]}), input=PROGRAM))
    run("delete", "namespace", STRANGERS, "--wait=false")


@pytest.mark.attack(
    "training/pod",
    asset="the node, other pods, the operator, other namespaces' data",
    threat="a command in its pod: root, mounts, devices, the kernel's namespaces and modules; addresses around the "
    "policies; reports for others; other prefixes, accounts and scopes by the keys of its trainer",
    control="Pod Security `restricted`, a read-only root, seccomp's default profile, network policies, no IPv6, tokens "
    "for one job, storage keys for one task",
)
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRIES if name != "reach storage"])
def test_a_command_gets_no_further_than_its_pod(in_a_job: dict[str, Manifest], name: str) -> None:
    """A training command that tries everything is refused everything."""
    assert "refused" in in_a_job[name], in_a_job[name]


@pytest.mark.attack(
    "model/pod",
    asset="the node, other pods",
    threat="a model's code in the pod that serves it: root, mounts, devices, addresses around the policies",
    control="as for a training command, and no token unless `podTemplate` names a ServiceAccount",
)
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in (*NODE, *NETWORK) if name not in OF_OURS or name == OF_OURS[0]])
def test_a_models_code_gets_no_further_than_its_pod(in_a_server: dict[str, Manifest], name: str) -> None:
    """A model that tries everything from its server is refused everything."""
    assert "refused" in in_a_server[name], in_a_server[name]


@pytest.mark.attack(
    "network/borrowed-labels",
    asset="endpoints behind tokens, the storage, the gateway's agent",
    threat="a pod of another namespace takes the labels of the gateway, of a training pod and of the endpoint",
    control="the policies name namespaces, too",
)
@pytest.mark.parametrize("name", OF_OURS)
def test_labels_of_another_namespaces_pod_open_nothing(beside: dict[str, Manifest], name: str) -> None:
    """A pod with the platform's labels in another namespace reaches the API server, and no part that trusts callers."""
    assert "got" in beside["reach API server"]
    assert "refused" in beside[name], beside[name]


@pytest.fixture(scope="module")
def thieves(tenant: Platform) -> Iterator[Platform]:
    """Objects whose fields name what another namespace has stored, by every field that names a URI."""
    stolen = {
        "inputs": {"inputs": {"data": {"uri": FOREIGN}}},
        "source": {"source": {"uri": f"{FOREIGN}.tar.gz"}},
        "resume": {"checkpoint": {"resumeFrom": f"{FOREIGN}/checkpoints/00001/"}},
    }
    names = [f"thief-{name}" for name in stolen]
    tenant.delete("tj", *names)
    tenant.delete("oe", "thief")
    tenant.delete("mv", "thief-1")
    for name, spec in stolen.items():
        tenant.apply(training_job(f"thief-{name}", command=["true"], outputs={}, **spec))
    tenant.apply(model_version("thief", 1, FOREIGN, b"x\n1\n", "onnx"), endpoint("thief", "thief@1", authMode="none"))
    yield tenant
    tenant.delete("oe", "thief")


@pytest.mark.attack("author/foreign-artifact")
@pytest.mark.slow
@pytest.mark.parametrize("field", ["inputs", "source", "resume"])
def test_no_field_of_a_job_opens_another_namespaces_prefix(thieves: Platform, field: str) -> None:
    """A job that names what another namespace has stored fails, and is told that the storage refused it."""
    status = thieves.ended(f"thief-{field}")
    assert (status["state"], status["failure"]["reason"]) == ("Failed", "AccessDenied")


@pytest.mark.attack("author/foreign-artifact")
@pytest.mark.slow
def test_a_version_of_another_namespaces_file_is_not_served(thieves: Platform) -> None:
    """A ModelVersion with the right digest of another namespace's files is refused, and never served."""
    thieves.wait("mv", "thief-1", lambda status: status.get("state") == "Refused")
    assert not thieves.status("oe", "thief").get("modelVersion")
