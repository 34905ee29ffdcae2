"""Network policies, proven by pods that try to get out, and by one that no policy holds back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from conftest import NAMESPACE, Platform
from manifests import endpoint, infer, model_version, onnx_model, training_job
from ultramarine_operator.shared.podspec import CONTAINER_SECURITY, POD_SECURITY

Targets = dict[str, tuple[str, int]]
Found = dict[str, int]

# Says of each target whether it takes a connection; again until all is as wanted, for a network learns of a new pod a
# moment after it has started.
PROBE = """
import json, socket, sys, time

def reached(address):
    try:
        socket.create_connection(address, timeout=2).close()
    except OSError:
        return 0
    return 1

targets, wanted = map(json.loads, sys.argv[1:])
for _ in range(20):
    found = {name: reached(address) for name, address in targets.items()}
    print(*(f"{name}={value}" for name, value in found.items()), flush=True)
    if found == wanted:
        break
    time.sleep(1)
"""
# Says which ports of a pod take a connection at its address of the link, which follows from its hardware's: network
# policies do not see what stays on a link.
LINK = """
import socket, sys

def taken(host, port):
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True

host, *ports = sys.argv[1:]
taken(host, ports[0])  # so that the hardware's address is known
(mac,) = [line.split()[3] for line in open("/proc/net/arp") if line.split()[0] == host]
a, *rest = (int(part, 16) for part in mac.split(":"))
b, c, d, e, f = rest
link = f"fe80::{a ^ 2:02x}{b:02x}:{c:02x}ff:fe{d:02x}:{e:02x}{f:02x}%eth0"
print([port for port in ports if taken(link, port)])
"""
STRANGER = "stranger"
# What is closed to pods that train and serve; those that train report to the operator.
CLOSED = {"stranger": 0, "operator": 0, "gateway": 0, "elsewhere": 0, "apiserver": 0, "host": 0}


@pytest.fixture(scope="module")
def stranger(platform: Platform) -> Iterator[str]:
    """A pod in the same namespace that is none of ours, listens on a port, and is held by no policy."""
    image = platform.settings.images.trainer
    container = {
        "name": "stranger",
        "image": image,
        "command": ["python", "-m", "http.server", "8000", "--directory", "/tmp"],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "securityContext": CONTAINER_SECURITY,
    }
    spec = {"securityContext": POD_SECURITY, "automountServiceAccountToken": False, "containers": [container]}
    metadata = {"name": STRANGER, "labels": {"app": STRANGER}}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    platform.delete("pod", STRANGER)
    platform.kubectl("apply", "-f", "-", input=yaml.safe_dump(manifest))
    platform.kubectl("wait", "--for=condition=Ready", f"pod/{STRANGER}", "--timeout=240s")
    yield platform.get("pod", STRANGER)["status"]["podIP"]
    platform.kubectl("delete", "pod", STRANGER, "--grace-period=1")


@pytest.fixture(scope="module")
def targets(platform: Platform, stranger: str) -> Targets:
    """Return targets of a pod: the storage, DNS, other pods, another namespace, the API server, the node."""
    (node,) = platform.target.json("get", "nodes")["items"]
    (address,) = (a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
    return {
        "storage": (f"ultramarine-storage.{NAMESPACE}.svc", 7070),
        "dns": ("kube-dns.kube-system.svc", 53),
        "stranger": (stranger, 8000),
        "operator": (f"ultramarine-operator.{NAMESPACE}.svc", 8080),
        "gateway": (f"ultramarine-gateway.{NAMESPACE}.svc", 9902),
        "elsewhere": ("metrics-server.kube-system.svc", 443),
        "apiserver": ("kubernetes.default.svc", 443),
        "host": (address, node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]),
    }


@pytest.fixture(scope="module")
def served(platform: Platform) -> str:
    """An endpoint that answers."""
    content = onnx_model(5)
    platform.apply(model_version("walled", 1, platform.put("walled.onnx", content), content))
    platform.apply(endpoint("walled", "walled@1", authMode="none"))
    platform.ready("walled", "walled-1")
    return "walled"


def attempt(platform: Platform, where: tuple[str, ...], targets: Targets, wanted: Found) -> Found:
    """Return the targets that a running pod reaches in the end."""
    words = ("python", "-c", PROBE, json.dumps(targets), json.dumps(wanted))
    last = platform.kubectl("exec", *where, "--", *words).splitlines()[-1]
    return {name: int(value) for name, _, value in (word.partition("=") for word in last.split())}


@pytest.mark.attack("network/egress")
@pytest.mark.attack("network/storage-port")
def test_a_pod_without_policies_reaches_everything_but_the_storage(platform, targets):
    """Each closed target exists; the storage and the gateway's agent answer pods of the platform alone."""
    wanted = dict.fromkeys(targets, 1) | {"storage": 0, "gateway": 0}

    assert attempt(platform, (STRANGER,), targets, wanted) == wanted


@pytest.mark.attack("author/api-token")
@pytest.mark.attack("network/egress")
def test_a_training_pod_reaches_the_storage_dns_and_the_operator_alone(platform, targets):
    """A job's command finds no other pod but the operator's, no other namespace, not the API server, not the node."""
    wanted = {"storage": 1, "dns": 1} | CLOSED | {"operator": 1}
    command = ["python", "train.py", json.dumps(targets), json.dumps(wanted)]
    platform.delete("tj", "walled")
    platform.apply(training_job("walled", PROBE, command=command, outputs={}))

    assert platform.ended("walled")["metrics"]["latest"] == wanted


@pytest.mark.attack("network/egress")
def test_a_serving_pod_reaches_the_storage_and_dns_alone(platform, served, targets):
    """A model's process finds no more than a training command does."""
    wanted = {"storage": 1, "dns": 1} | CLOSED

    assert attempt(platform, (f"deployment/{served}-blue", "-c", "server"), targets, wanted) == wanted


def test_a_serving_pod_answers(platform, stranger, served):
    """Requests come in from the node and from any pod, although the serving pod's own ways out are closed."""
    with platform.client(served, key="none") as client:
        answer = client.post(f"/v2/models/{served}/infer", json=infer([[1.0]]))
    assert answer.status_code == httpx.codes.OK
    wanted = {"serving": 1}
    way: Any = {"serving": (f"{served}.{NAMESPACE}.svc", 80)}

    assert attempt(platform, (STRANGER,), way, wanted) == wanted


@pytest.mark.attack(
    "network/link",
    asset="everything that policies close",
    threat="a pod asks its neighbours by their addresses of the link (IPv6), which no NetworkPolicy sees",
    control="servers, gateway, operator and storage listen at their pods' own addresses alone; the embedded "
    "cluster's pods have no IPv6",
)
def test_no_pod_of_ours_answers_on_the_link(platform, stranger, served):
    """A neighbour's address of the link is no way around the policies: to servers, gateway, operator and storage."""
    ours = platform.get("pod", "", "-l", f"ultramarine.dev/name={served}")
    for component in ("gateway", "operator", "storage"):
        ours += platform.get("pod", "", "-l", f"app.kubernetes.io/component={component}")
    for pod in ours:
        words = (LINK, pod["status"]["podIP"], "7070", "8080", "9000", "9902")
        assert platform.kubectl("exec", STRANGER, "--", "python", "-c", *words).strip() == "[]", pod["metadata"]["name"]


@pytest.mark.exclusive
@pytest.mark.parametrize("foreign", ["", "-A FORWARD -s 192.0.2.1/32 -j DROP"])
def test_down_takes_the_policies_out_of_the_kernel(platform, stranger, foreign):
    """Of chains and sets like those that are there now, `down` leaves none, and a rule of somebody else's stays."""
    sets = subprocess.run(["ipset", "save"], capture_output=True, text=True, check=True).stdout
    rules = subprocess.run(["iptables-save", "-t", "filter"], capture_output=True, text=True, check=True).stdout
    forget = f"{sys.executable} -c 'from ultramarine_cluster import down; down.forget_policies()'"
    # In a network namespace, which has a kernel's worth of rules of its own and ends with the shell.
    script = (
        f"ipset restore <<'END'\n{sets}\nEND\niptables-restore <<'END'\n{rules}\nEND\n"
        f"{f'iptables {foreign}' if foreign else ''}\n{forget}\nipset list -name\niptables-save\n"
    )
    words = ["unshare", "--net", "sh", "-e"]  # from standard input: an argument holds 128 KiB
    left = subprocess.run(words, input=script, capture_output=True, text=True, check=True).stdout.splitlines()

    assert "KUBE-POD-FW-" in rules
    assert "KUBE-SRC-" in sets
    assert [line for line in left if line.startswith(("KUBE-", "-A"))] == ([foreign] if foreign else [])
    assert foreign or not left
