"""Simulated nodes for scale tests: kwok plays the kubelet for pods whose containers never run.

with kwok.nodes(cluster.find(), 2, seconds=1.5, message='{"outputs": {}}'):
    ...  # cordon the real node to have all pods here; delete them before the end
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import build, network, probes, process
from .cluster import Cluster
from .errors import ClusterError
from .paths import State, write
from .pki import yaml
from .process import Component
from .programs import path as program

LABEL = "ultramarine.dev/simulated"
IMAGE_ID = "sha256:" + "51" * 32
PODS_PER_NODE = 20_000
Manifest = dict[str, Any]

# What kwok patches into a status, as Go templates over the object.
_NODE = """\
conditions:
- {type: Ready, status: "True", reason: Simulated, lastTransitionTime: {{ Now | Quote }}}
"""
_RUNNING = """\
{{ $now := Now | Quote }}
phase: Running
startTime: {{ $now }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ $now }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ $now }}}
- {type: Ready, status: "True", lastTransitionTime: {{ $now }}}
initContainerStatuses:
{{ range .spec.initContainers }}
- {name: {{ .name }}, image: {{ .image | Quote }}, imageID: "IMAGE_ID", ready: true, restartCount: 0,
   state: {terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now }}, finishedAt: {{ $now }}}}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- {name: {{ .name }}, image: {{ .image | Quote }}, imageID: "IMAGE_ID", ready: true, started: true, restartCount: 0,
   state: {running: {startedAt: {{ $now }}}}}
{{ end }}
"""
_SUCCEEDED = """\
{{ $now := Now | Quote }}
{{ $began := .status.startTime | Quote }}
{{ $pod := . }}
phase: Succeeded
conditions:
- {type: ContainersReady, status: "False", reason: PodCompleted, lastTransitionTime: {{ $now }}}
- {type: Ready, status: "False", reason: PodCompleted, lastTransitionTime: {{ $now }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name }}
  image: {{ .image | Quote }}
  imageID: "IMAGE_ID"
  ready: false
  restartCount: 0
  state:
    terminated: {exitCode: 0, reason: Completed, startedAt: {{ $began }}, finishedAt: {{ $now }}}
{{ end }}
"""


@contextmanager
def nodes(running: Cluster, count: int, *, seconds: float, message: str) -> Iterator[None]:
    """Simulate `count` nodes, on which pods of Jobs succeed after `seconds` and all others stay ready.

    Containers of a Job's pod end with `message` as their termination message. Template actions in it are filled in,
    such as `{{ $pod.metadata.name }}`. kwok writes a pod's status twice: it runs, it has succeeded.
    """
    if running.tier != "full":
        raise ClusterError("a bare cluster has no scheduler", "simulate nodes in a full cluster")
    build.ensure(("kwok",))
    names = [f"simulated-{number}" for number in range(count)]
    # Nodes of a killed run.
    _delete(running)
    component = _component(running.state, seconds, message)
    try:
        process.start(running.state, component)
        process.wait(running.state, component)
        running.run("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": _items(names)}))
        running.run("wait", "--for=condition=Ready", "--timeout=30s", *(f"node/{name}" for name in names))
        yield
    finally:
        _delete(running)
        if (simulator := process.recorded(running.state, component.name)) is not None:
            process.stop(simulator)


def _delete(running: Cluster) -> None:
    running.run("delete", "nodes", "-l", f"{LABEL}=true", "--wait")


def _items(names: list[str]) -> list[Manifest]:
    room = {"cpu": "100k", "memory": "1Pi", "ephemeral-storage": "1Pi", "pods": str(PODS_PER_NODE)}
    return [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {LABEL: "true", "kubernetes.io/hostname": name}},
            "status": {"allocatable": room, "capacity": room},
        }
        for name in names
    ]


def _component(state: State, seconds: float, message: str) -> Component:
    file = state.config / "kwok.yaml"
    write(file, "\n---\n".join(yaml(document) for document in _documents(seconds, message)))
    address = f"127.0.0.1:{network.ports(state, ('kwok',))['kwok']}"
    argv = (
        str(program("kwok")),
        f"--config={file}",
        f"--kubeconfig={state.kubeconfig}",
        f"--manage-nodes-with-label-selector={LABEL}=true",
        "--node-lease-duration-seconds=40",
        f"--server-address={address}",
        "--v=WARN",
    )
    return Component("kwok", argv, probes.http_get(f"http://{address}/healthz"), (file,))


def _documents(seconds: float, message: str) -> list[Manifest]:
    """Return kwok's configuration: its parallelism, and the stages of nodes and pods."""
    kept = _where(".metadata.deletionTimestamp", "DoesNotExist")
    deleted = _where(".metadata.deletionTimestamp", "Exists")
    # The API server deletes finished pods without a kubelet.
    alive = _where(".status.phase", "In", "Pending", "Running")
    of_a_job = _where(".metadata.ownerReferences.[].kind", "In", "Job")
    ready = '.status.conditions.[] | select( .type == "Ready" ) | .status'
    # As JSON, which is YAML: a quoted string on one line.
    ended = _SUCCEEDED.replace("reason: Completed,", f"reason: Completed, message: {json.dumps(message)},")
    return [
        {
            "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
            "kind": "KwokConfiguration",
            # The last three are kwok's defaults, which a configuration without them sets to zero.
            "options": {
                "podPlayStageParallelism": 16,
                "nodePlayStageParallelism": 4,
                "nodeLeaseParallelism": 4,
                "podsOnNodeSyncParallelism": 1,
            },
        },
        _stage("node", "Node", [_where(ready, "NotIn", "True")], _patch(_NODE)),
        _stage("pod-runs", "Pod", [kept, _where(".status.phase", "In", "Pending")], _patch(_RUNNING)),
        _stage(
            "pod-succeeds", "Pod", [kept, of_a_job, _where(".status.phase", "In", "Running")], _patch(ended), seconds
        ),
        _stage("pod-goes", "Pod", [deleted, alive], {"delete": True}),
    ]


def _patch(template: str) -> Manifest:
    return {"statusTemplate": template.replace("IMAGE_ID", IMAGE_ID)}


def _where(key: str, operator: str, *values: str) -> Manifest:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


def _stage(name: str, kind: str, where: list[Manifest], next: Manifest, delay: float = 0.0) -> Manifest:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": where},
            "delay": {"durationMilliseconds": int(delay * 1000)},
            "next": next,
        },
    }
