"""Start a cluster, or repair one.

from ultramarine_cluster import cluster
with cluster.up("bare", name="tests") as running:
    running.run("get", "namespaces")
"""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from . import addons, build, components, down, images, network, packages, process, programs
from .components import Plan
from .console import run, say, step
from .errors import ClusterError
from .paths import BUSY, State, lock, lock_name, mounts_under, states, write
from .process import Component

TIERS = ("full", "bare")
__all__ = ["TIERS", "Cluster", "ClusterError", "find", "states", "up"]


@dataclass(frozen=True)
class Cluster:
    """A running cluster and its access; as a context manager it is removed at the end."""

    state: State
    tier: str
    url: str

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of an administrator."""
        return self.state.kubeconfig

    @property
    def kubectl(self) -> Path:
        """The kubectl that fits the server."""
        return programs.path("kubectl")

    @property
    def helm(self) -> Path:
        """The helm that was built with the cluster."""
        return programs.path("helm")

    @property
    def logs(self) -> Path:
        """The folder with a log for each component."""
        return self.state.logs

    @property
    def audit_log(self) -> Path:
        """The requests of service accounts outside kube-system: an audit event of Kubernetes a line."""
        return self.state.audit_log

    @property
    def environment(self) -> dict[str, str]:
        """The environment for programs that use this cluster: KUBECONFIG, and PATH with kubectl and helm."""
        path = f"{programs.folder()}:{os.environ.get('PATH', '')}"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def run(self, *argv: str, input: str | None = None) -> str:
        """Run kubectl with these arguments and return its output."""
        return run(self.kubectl, "--kubeconfig", self.kubeconfig, *argv, input=input)

    def load(self, reference: str) -> bool:
        """Import a built image into the cluster; return False if it was there."""
        return images.load(reference, self.state)

    def down(self) -> None:
        """Remove the cluster without a trace."""
        down.down(self.state)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()


def up(tier: str = "full", name: str | None = None, beside: tuple[str, ...] = ()) -> Cluster:
    """Start the cluster, or repair it; return when it is ready. The function is idempotent.

    The images `beside` are built while the programs of a full cluster are, if any is missing.
    """
    if tier not in TIERS:
        raise ClusterError(f"no tier {tier} exists", f"choose among {', '.join(TIERS)}")
    state = State(name or tier)
    with lock(lock_name(state), wait=True, busy=BUSY):
        if (was := state.tier()) not in (None, tier):
            raise ClusterError(
                f"{state.root} holds a cluster of the tier {was}",
                f"choose another --name, or end it with `ultramarine-cluster down --name {state.name}`",
            )
        return _full(state, beside) if tier == "full" else _bare(state)


def find(name: str = "full") -> Cluster:
    """Return the cluster of that name without changing it."""
    state = State(name)
    tier = state.tier()
    if tier is None or not state.kubeconfig.exists():
        raise ClusterError(f"no cluster exists in {state.root}", f"start it: ultramarine-cluster up --name {name}")
    server = next(line for line in state.kubeconfig.read_text().splitlines() if "server:" in line)
    return Cluster(state, tier, server.split("server:")[1].strip())


def _bare(state: State) -> Cluster:
    with step("programs") as notes:
        notes.append(build.ensure(programs.BARE))
    with step("state folder, keys and certificates") as notes:
        state.make("bare")
        _forget_old_boot(state)
        plan = components.bare(state)
        notes.append(str(state.root))
    _control_plane(state, plan)
    return Cluster(state, "bare", plan.url)


def _full(state: State, beside: tuple[str, ...]) -> Cluster:
    with step("machine") as notes:
        notes.append(f"Debian packages {packages.ensure()}")
        network.check(state)
    with step("programs") as notes, images.beside(beside) if beside and programs.missing() else nullcontext():
        notes.append(build.ensure())
    with step("the addons image") as notes:
        image = images.build_archive("addons")
        notes.append(image)
    with step("state folder, keys and certificates") as notes:
        state.make("full")
        _forget_old_boot(state)
        plan = components.full(state, image)
        notes.append(str(state.root))
    with step("network and cgroups"):
        network.make(state)
        _share_mounts(state)
    assert plan.containerd is not None
    # containerd depends on no other component, and reads its store while etcd and the API server start.
    runtime = process.start(state, plan.containerd)
    _control_plane(state, plan)
    with step("containerd") as notes:
        notes += _bring_up(state, (plan.containerd,), {"containerd": runtime})
    with step("controller manager, scheduler, kubelet, kube-proxy, network policies") as notes:
        notes += _bring_up(state, plan.clients)
    with step("the addons image in containerd") as notes:
        notes.append("imported" if images.load(image, state) else "already there")
    with step("addons applied: coredns, metrics-server, local-path-provisioner"):
        addons.apply(state, image)
    with step("node ready"):
        addons.wait_node(state)
    with step("addons ready: names and volumes"):
        addons.wait(state)
    return Cluster(state, "full", plan.url)


def _control_plane(state: State, plan: Plan) -> None:
    with step("etcd") as notes:
        # Both at once: an API server works for a second before it needs etcd.
        outcomes = {component.name: process.start(state, component) for component in (plan.etcd, plan.apiserver)}
        notes += _bring_up(state, (plan.etcd,), outcomes)
    with step("kube-apiserver") as notes:
        notes += _bring_up(state, (plan.apiserver,), outcomes)


def _bring_up(state: State, parts: tuple[Component, ...], outcomes: dict[str, str] | None = None) -> list[str]:
    """Start components that do not run or do not answer, wait for them, and return notes about it."""
    outcomes = outcomes or {component.name: process.start(state, component) for component in parts}
    for component in parts:
        if outcomes[component.name] == "running":
            outcomes[component.name] = process.heal(state, component)
        process.wait(state, component)
    words = {component.name: outcomes[component.name] for component in parts}
    return sorted(set(words.values())) if len(set(words.values())) == 1 else [f"{k} {v}" for k, v in words.items()]


def _forget_old_boot(state: State) -> None:
    """Remove records of pods' processes, addresses and mounts, which a reboot has ended."""
    now = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    kept = state.root / "boot"
    if kept.exists() and kept.read_text() != now:
        say("          the machine has rebooted since the last `up`; etcd's data and the images stay")
        for leftover in (state.containerd / "state", state.containerd / "runc", state.root / "addresses", state.run):
            shutil.rmtree(leftover, ignore_errors=True)
        state.run.mkdir(parents=True, exist_ok=True)
    write(kept, now)


def _share_mounts(state: State) -> None:
    """Make the kubelet's folder a mount that propagates new mounts to pods."""
    state.kubelet.mkdir(parents=True, exist_ok=True)
    state.volumes.mkdir(parents=True, exist_ok=True)
    if not any(point == state.kubelet for point in mounts_under(state.kubelet)):
        run("mount", "--bind", state.kubelet, state.kubelet)
    run("mount", "--make-rshared", state.kubelet)
