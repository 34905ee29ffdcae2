"""The cluster's part of the machine's network, cgroups and kernel settings."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from .console import run
from .errors import ClusterError
from .paths import State, lock, states, write

# Addresses that do not depend on the machine's network.
NODE_NAME = "ultramarine"
NODE_LINK = "um-node"
NODE_ADDRESS = "10.123.0.1"
NODE_NETWORK = "10.123.0.0/24"
POD_LINK = "um-pods"
POD_NETWORK = "10.123.16.0/20"
SERVICE_NETWORK = "10.124.0.0/16"
API_SERVICE = "10.124.0.1"
DNS_SERVICE = "10.124.0.10"
CNI_NETWORK = "ultramarine"
# The cluster's nftables table: pods reach the outside with the machine's address.
TABLE = "ultramarine"

CGROUP = "ultramarine"
CGROUPS = Path("/sys/fs/cgroup")

# Kernel settings that Kubernetes changes; `down` restores their values.
SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# Fixed folders of the programs; `down` removes those that did not exist before.
FIXED_FOLDERS = (
    "/run/containerd",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/lib/containerd",
    "/opt/containerd",
    "/var/lib/runc",
    "/run/runc",
)
# Tables of the cluster's programs whose names other programs use too.
SHARED_TABLES = ("ip kube-proxy", "ip6 kube-proxy", "ip cni_hostport", "ip6 cni_hostport")
# Network policies in the kernel: chains of iptables' filter table, and sets of addresses.
POLICY_CHAINS = ("KUBE-ROUTER-", "KUBE-NWPLCY-", "KUBE-POD-FW-")
POLICY_SETS = ("KUBE-SRC-", "KUBE-DST-")


def ports(state: State, names: tuple[str, ...]) -> dict[str, int]:
    """Return a free port on 127.0.0.1 for each name, chosen once for the life of the cluster."""
    kept = state.root / "ports.json"
    with lock("ports", wait=True, busy="another launcher chooses its ports"):
        mine = chosen_ports(state)
        taken = {port for cluster in states() for port in chosen_ports(cluster).values()}
        # Below the range from which the kernel takes ports for outgoing connections.
        candidates = iter(range(21000, 29000))
        for name in names:
            if name not in mine:
                mine[name] = next(port for port in candidates if port not in taken and _free(port))
                taken.add(mine[name])
        write(kept, json.dumps(mine))
    return mine


def chosen_ports(state: State) -> dict[str, int]:
    """Return the ports that were chosen for the cluster; none if it has not chosen any."""
    kept = state.root / "ports.json"
    loaded: dict[str, int] = json.loads(kept.read_text()) if kept.exists() else {}
    return loaded


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def check(state: State) -> None:
    """Fail with the reason if the full tier cannot run on this machine."""
    if os.geteuid() != 0:
        raise ClusterError("the full tier needs root", "run it as root, or use `up --tier bare`, or kind")
    for other in states():
        if other != state and other.tier() == "full":
            raise ClusterError(
                f"another full cluster has its state in {other.root}; a machine can run only one",
                f"use that cluster, or remove it with `ultramarine-cluster down --name {other.name}`",
            )
    ours = [ipaddress.ip_network(net) for net in (NODE_NETWORK, POD_NETWORK, SERVICE_NETWORK)]
    for link in json.loads(run("ip", "-j", "-4", "address")):
        for address in link["addr_info"]:
            network = ipaddress.ip_network(f"{address['local']}/{address['prefixlen']}", strict=False)
            if link["ifname"] not in (NODE_LINK, POD_LINK) and any(network.overlaps(net) for net in ours):
                raise ClusterError(
                    f"{link['ifname']} has the address {address['local']}, within {POD_NETWORK} or {SERVICE_NETWORK}",
                    "change the networks at the top of cluster/ultramarine_cluster/network.py",
                )
    if not host_record(state).exists() and "ip kube-proxy" in tables():
        raise ClusterError(
            "another kube-proxy has its nftables table on this machine",
            "Use that Kubernetes by its context, or stop it. To remove a leftover: nft delete table ip kube-proxy.",
        )


def host_record(state: State) -> Path:
    """Return the file with the machine's state before the cluster."""
    return state.root / "host.json"


def remember(state: State) -> None:
    """Record, once, what `down` has to restore."""
    file = host_record(state)
    if file.exists():
        return
    settings = {name: path.read_text().strip() for name in SYSCTLS if (path := _sysctl(name)).exists()}
    write(
        file,
        json.dumps(
            {
                "sysctls": settings,
                "folders": [folder for folder in FIXED_FOLDERS if Path(folder).exists()],
                "tables": [table for table in SHARED_TABLES if table in tables()],
            },
            indent=1,
        ),
    )


def make(state: State) -> None:
    """Make the node's link and address, the pods' route to the outside, and the cgroup. The function is idempotent."""
    remember(state)
    links = {link["ifname"] for link in json.loads(run("ip", "-j", "link"))}
    if NODE_LINK not in links:
        run("ip", "link", "add", NODE_LINK, "type", "bridge")
    run("ip", "link", "set", NODE_LINK, "up")
    run("ip", "address", "replace", f"{NODE_ADDRESS}/24", "dev", NODE_LINK)
    # The machine reaches Services even without a default route.
    run("ip", "route", "replace", SERVICE_NETWORK, "dev", NODE_LINK, "src", NODE_ADDRESS)
    for name in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"):
        if not _sysctl(name).exists() and name.startswith("net/bridge") and shutil.which("modprobe"):
            run("modprobe", "br_netfilter", check=False)
        if (path := _sysctl(name)).exists() and path.read_text().strip() != "1":
            path.write_text("1")
    run("nft", "-f", "-", input=_ruleset())
    if "-P FORWARD DROP" in run("iptables", "-S", "FORWARD", check=False):
        for way in ("-i", "-o"):
            rule = ("FORWARD", way, POD_LINK, "-j", "ACCEPT")
            if "no" in run("sh", "-c", f"iptables -C {' '.join(rule)} 2>/dev/null || echo no"):
                run("iptables", "-I", *rule)
    make_cgroup()


def _ruleset() -> str:
    # `table`, `delete`, `table`: the same result if the table existed or not.
    return f"""
table ip {TABLE} {{}}
delete table ip {TABLE}
table ip {TABLE} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {POD_NETWORK} ip daddr != {{ {POD_NETWORK}, {NODE_NETWORK}, {SERVICE_NETWORK} }} masquerade
    }}
}}
"""


def make_cgroup() -> None:
    """Make the cgroup of all pods in every hierarchy of the machine."""
    if (CGROUPS / "cgroup.controllers").exists():
        group = CGROUPS / CGROUP
        controllers = (CGROUPS / "cgroup.controllers").read_text().split()
        try:
            for parent in (CGROUPS, group):
                parent.mkdir(exist_ok=True)
                enabled = (parent / "cgroup.subtree_control").read_text().split()
                for controller in controllers:
                    if controller not in enabled:
                        (parent / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError as error:
            raise ClusterError(
                f"cannot delegate the cgroup controllers: {error}",
                "in a container, move its processes out of the root cgroup first (as kind's entrypoint does), "
                "or run it privileged",
            ) from error
        return
    for hierarchy in hierarchies():
        group = hierarchy / CGROUP
        group.mkdir(exist_ok=True)
        # In version 1 a new cpuset is empty, and no process may enter an empty cpuset.
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (group / file).exists() and not (group / file).read_text().strip():
                (group / file).write_text((hierarchy / file).read_text().strip())


def hierarchies() -> list[Path]:
    """Return the mounted cgroup hierarchies: one in version 2, several in version 1."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] in ("cgroup", "cgroup2"):
            points.append(Path(left.split()[4]))
    return points


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name


def tables() -> set[str]:
    """Return the existing nftables tables, as "family name"."""
    try:
        listed: dict[str, list[dict[str, Any]]] = json.loads(run("nft", "-j", "list", "tables"))
    except (OSError, ValueError):
        return set()
    return {f"{i['table']['family']} {i['table']['name']}" for i in listed["nftables"] if "table" in i}
