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
# `up` ends when these are there; metrics come a quarter of a minute later by themselves.
NEEDED = ("coredns", "local-path-provisioner")


def manifests(state: State, image: str) -> str:
    """The manifests with this cluster's addresses, folders and image in them."""
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
    """Apply the manifests, and let kube-system run what it needs."""
    kubectl(state, "label", "namespace", "kube-system", "--overwrite", "pod-security.kubernetes.io/enforce=privileged")
    kubectl(
        state, "apply", "--server-side", "--force-conflicts", "--field-manager=ultramarine-cluster", "-f", "-",
        input=manifests(state, image),
    )  # fmt: skip


def wait(state: State, within: float = 90) -> None:
    """Return when the addons that others stand on are available; else say which pod is not, and why."""
    until = time.monotonic() + within
    while lacking := _lacking(state):
        if time.monotonic() > until:
            pods = kubectl(state, "-n", "kube-system", "get", "pods", "-o", "wide")
            events = kubectl(state, "-n", "kube-system", "get", "events", "--sort-by=.lastTimestamp")
            raise ClusterError(
                f"{', '.join(lacking)} not available after {within:.0f} s\n{pods}\n{events[-2000:]}",
                "look at the pods in kube-system; `ultramarine-cluster logs kubelet` tells more",
            )
        time.sleep(0.3)


def wait_node(state: State, within: float = 60) -> None:
    """Return when the node says that it is ready; else give its own reason."""
    until = time.monotonic() + within
    while (why := node_state(state)) != "Ready":
        if time.monotonic() > until:
            raise ClusterError(
                f"the node is not ready after {within:.0f} s: {why}",
                "`ultramarine-cluster logs kubelet` and `logs containerd` tell more",
                log=state.logs / "kubelet.log",
            )
        time.sleep(0.2)


def node_state(state: State) -> str:
    """ "Ready", or why the node is not. A condition that the kubelet has stopped renewing does not count."""
    try:
        node = json.loads(kubectl(state, "get", "--raw", f"/api/v1/nodes/{network.NODE_NAME}"))
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip()
    for condition in node["status"].get("conditions", ()):
        if condition["type"] == "Ready":
            return "Ready" if condition["status"] == "True" else str(condition["message"])
    return "it has not reported yet"


def kubectl(state: State, *argv: str, input: str | None = None) -> str:
    """Run kubectl against this cluster and give what it printed."""
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
    # After a restart of the node the API still tells of pods as they were; an answer through the Service is sure.
    if not lacking and probes.dns(network.DNS_SERVICE, "kubernetes.default.svc.cluster.local")():
        return ["coredns"]
    return lacking
