"""The cluster's own pods: names, metrics and volumes, applied from cluster/manifests/."""

from __future__ import annotations

import json
import subprocess
import time
from string import Template

from . import config, network, probes
from .console import run
from .errors import ClusterError
from .paths import CLUSTER_FOLDER, State
from .programs import path as program

DEPLOYMENTS = ("coredns", "metrics-server", "local-path-provisioner")
# `up` waits for these; metrics-server becomes ready a quarter of a minute later.
NEEDED = ("coredns", "local-path-provisioner")


def manifests(state: State, image: str) -> str:
    """Return the manifests with this cluster's addresses, folders and image."""
    forward = " ".join(config.nameservers())
    values = {
        "IMAGE": image,
        "DNS_SERVICE": network.DNS_SERVICE,
        "VOLUMES": str(state.volumes),
        "FORWARD": f"forward . {forward}" if forward else "# no name server to forward to",
    }
    files = sorted((CLUSTER_FOLDER / "manifests").glob("*.yaml"))
    return "\n---\n".join(Template(file.read_text()).substitute(values) for file in files)


def apply(state: State, image: str) -> None:
    """Apply the manifests, and allow privileged pods in kube-system."""
    kubectl(state, "label", "namespace", "kube-system", "--overwrite", "pod-security.kubernetes.io/enforce=privileged")
    kubectl(
        state, "apply", "--server-side", "--force-conflicts", "--field-manager=ultramarine-cluster", "-f", "-",
        input=manifests(state, image),
    )  # fmt: skip


def wait(state: State, within: float = 90) -> None:
    """Wait until the needed addons are available; otherwise fail with the pods and their events."""
    until = time.monotonic() + within
    while lacking := _lacking(state):
        if time.monotonic() > until:
            pods = kubectl(state, "-n", "kube-system", "get", "pods", "-o", "wide")
            events = kubectl(state, "-n", "kube-system", "get", "events", "--sort-by=.lastTimestamp")
            raise ClusterError(
                f"{', '.join(lacking)} not available after {within:.0f} s\n{pods}\n{events[-2000:]}",
                "Look at the pods in kube-system; `ultramarine-cluster logs kubelet` shows more.",
            )
        time.sleep(0.3)


def wait_node(state: State, within: float = 60) -> None:
    """Wait until the node is ready; otherwise fail with the node's own reason."""
    until = time.monotonic() + within
    while (why := node_state(state)) != "Ready":
        if time.monotonic() > until:
            raise ClusterError(
                f"the node is not ready after {within:.0f} s: {why}",
                "Read `ultramarine-cluster logs kubelet` and `logs containerd`.",
                log=state.logs / "kubelet.log",
            )
        time.sleep(0.2)


def node_state(state: State) -> str:
    """Return "Ready", or the reason why not. A condition that the kubelet no longer renews does not count."""
    try:
        node = json.loads(kubectl(state, "get", "--raw", f"/api/v1/nodes/{network.NODE_NAME}"))
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip()
    for condition in node["status"].get("conditions", ()):
        if condition["type"] == "Ready":
            return "Ready" if condition["status"] == "True" else str(condition["message"])
    return "the node has not reported yet"


def kubectl(state: State, *argv: str, input: str | None = None) -> str:
    """Run kubectl against this cluster and return its output."""
    return run(program("kubectl"), "--kubeconfig", state.kubeconfig, "--request-timeout=20s", *argv, input=input)


def _lacking(state: State) -> list[str]:
    listed = json.loads(kubectl(state, "get", "--raw", "/apis/apps/v1/namespaces/kube-system/deployments"))
    well = {
        item["metadata"]["name"]
        for item in listed["items"]
        if item["status"].get("observedGeneration") == item["metadata"]["generation"]
        and item["status"].get("availableReplicas", 0) >= 1
        and item["status"].get("updatedReplicas", 0) >= 1
    }
    lacking = [name for name in NEEDED if name not in well]
    # After a restart of the node the API shows the pods' old state; an answer through the Service is proof.
    if not lacking and probes.dns(network.DNS_SERVICE, "kubernetes.default.svc.cluster.local")():
        return ["coredns"]
    return lacking
