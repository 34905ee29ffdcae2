"""Traces of the embedded cluster on a machine, one per line: .ci/run compares them before and after.

It needs nothing but Python, since it runs before anything is installed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

STATE = os.environ.get("ULTRAMARINE_STATE", "/var/lib/ultramarine")
# Where the parts of a Kubernetes write beside their state folder, whatever they are told.
PLACES = (
    STATE,
    *("/run/containerd", "/run/cni", "/run/flannel", "/run/kubernetes", "/run/runc", "/run/netns/*"),
    *("/var/lib/cni", "/var/lib/kubelet", "/var/lib/etcd", "/var/lib/containerd", "/var/lib/kube-proxy"),
    *("/var/log/containers", "/var/log/pods", "/var/log/kubernetes"),
    *("/etc/cni", "/etc/kubernetes", "/etc/containerd", "/opt/cni", "/opt/local-path-provisioner"),
)
SETTINGS = ("net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")


def printed(*argv: str) -> list[str]:
    """The lines that a command prints; none where it is not installed."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()
    except FileNotFoundError:
        return []


def traces() -> Iterator[str]:
    """Processes, mounts, links, tables, sets, cgroups, folders and kernel settings."""
    for folder in Path("/proc").iterdir():
        try:
            argv = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if folder.name.isdigit() and any(STATE in word for word in argv) and argv[0] != "bash":
            yield f"process {' '.join(argv)[:200]}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if STATE in line or "/run/netns" in line:
            yield f"mount {line.split()[4]}"
    for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
        yield f"link {line.split(':')[0].strip()}"
    for line in printed("nft", "list", "tables"):
        if line.split()[-1] not in ("filter", "nat", "mangle", "raw"):  # iptables' own; their rules are below
            yield f"nft {line}"
    for name in printed("ipset", "list", "-name"):
        yield f"ipset {name}"
    for line in printed("iptables-save"):
        if line.startswith("-A"):
            yield f"iptables {line}"
    for top in Path("/sys/fs/cgroup").glob("**/*ultramarine*"):
        yield f"cgroup {top}"
    for place in PLACES:
        yield from (f"path {path}" for path in Path("/").glob(place.lstrip("/")))
    for name in SETTINGS:
        path = Path("/proc/sys") / name
        if path.exists():
            yield f"setting {name} = {path.read_text().strip()}"


if __name__ == "__main__":
    print("\n".join(sorted(set(traces()))))
