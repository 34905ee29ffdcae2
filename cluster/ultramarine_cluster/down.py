"""Remove a cluster without a trace: processes, mounts, links, namespaces, tables, cgroups, settings, files.

Every step reads the machine's state, not the plan, so that it works on a half-started or crashed cluster.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from . import network, process
from .console import run, step
from .errors import ClusterError
from .paths import BUSY, State, cache, lock, lock_name, mounts_under, state_root

_DETACH = 2


def down(state: State) -> None:
    """Remove everything of a cluster and print what was removed. The function is idempotent."""
    with lock(lock_name(state), wait=True, busy=BUSY):
        tier = state.tier()
        full = tier == "full" or network.host_record(state).exists()
        with step("processes") as notes:
            notes.append(_processes(state, full))
        if full:
            with step("mounts") as notes:
                notes.append(_mounts(state))
            with step("network") as notes:
                notes.append(_network(state))
            with step("cgroups") as notes:
                notes.append(_cgroups())
            with step("kernel settings and folders outside the state folder") as notes:
                notes.append(_machine(state))
        with step("files") as notes:
            notes.append(_files(state))


def purge_cache() -> None:
    """Remove the cache folder: programs, image layers, downloads."""
    with step("cache") as notes:
        folder = cache()
        for point in reversed(mounts_under(folder)):
            run("umount", "--lazy", point)
        existed = folder.exists()
        shutil.rmtree(folder, ignore_errors=True)
        notes.append(f"removed {folder}" if existed else "none existed")


def _processes(state: State, full: bool) -> str:
    """Kill the components, the processes that they started, and the processes of pods."""
    ended: list[str] = []
    # Repeated until none is left: a shim may start a container meanwhile.
    for _ in range(20):
        processes = list(process.marked(state))
        if full:
            processes += _in_cgroups()
        if not processes:
            return _counted(ended, "none was running")
        for running in processes:
            ended.append(process.name_of(running))
            # No data is kept, so no process needs time to finish.
            running.signal(signal.SIGKILL)
        process.gone(processes, 5.0)
    raise ClusterError(
        f"processes do not end: {', '.join(f'{p.pid} ({process.name_of(p)})' for p in processes)}",
        "Such a process waits for a device or a mount. Look at its /proc/PID/stack, then run `down` again.",
    )


def _in_cgroups() -> list[process.Process]:
    """Return the processes in the pods' cgroup."""
    pids = set()
    for group in _groups():
        try:
            pids |= {int(line) for line in (group / "cgroup.procs").read_text().split()}
        except OSError:
            continue
    return [running for pid in pids if pid > 0 and (running := process.by_pid(pid)) is not None]


def _groups() -> list[Path]:
    """Return the cluster's cgroups in every hierarchy, the innermost first."""
    groups: list[Path] = []
    for hierarchy in network.hierarchies():
        top = hierarchy / network.CGROUP
        if top.is_dir():
            groups += [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]
    return groups


def _mounts(state: State) -> str:
    points = mounts_under(state.root)
    libc = ctypes.CDLL(None, use_errno=True)
    for point in reversed(points):
        # Lazily: a busy mount leaves the tree now and ends with its last user.
        if libc.umount2(os.fsencode(point), _DETACH) != 0 and point in mounts_under(point):
            why = os.strerror(ctypes.get_errno())
            raise ClusterError(f"cannot unmount {point}: {why}", f"run: umount --lazy {point}")
    return f"{len(points)} unmounted" if points else "none"


def _network(state: State) -> str:
    gone = []
    links = json.loads(run("ip", "-j", "link"))
    ours = [link["ifname"] for link in links if link.get("master") == network.POD_LINK]
    ours += [link["ifname"] for link in links if link["ifname"] in (network.POD_LINK, network.NODE_LINK)]
    for link in ours:
        # The kernel may have removed a pod's link with its namespace.
        run("ip", "link", "delete", link, check=False)
        gone.append(link)
    before = _before(state)
    for table in sorted(network.tables()):
        shared = table in network.SHARED_TABLES
        if table == f"ip {network.TABLE}" or (shared and before is not None and table not in before["tables"]):
            run("nft", "delete", "table", *table.split())
            gone.append(f"nft table {table}")
    gone += forget_policies()
    for way in ("-i", "-o"):
        rule = f"FORWARD {way} {network.POD_LINK} -j ACCEPT"
        if f"-A {rule}" in run("iptables", "-S", "FORWARD", check=False):
            run("iptables", "-D", *rule.split())
            gone.append(f"iptables {rule}")
    for result in Path("/var/lib/cni").glob(f"results/{network.CNI_NETWORK}-*"):
        result.unlink(missing_ok=True)
    return ", ".join(gone) or "nothing to remove"


def forget_policies() -> list[str]:
    """Remove the network policies' chains and sets, and the filter table if it has no other rule."""
    lines = run("iptables-save", "-t", "filter", check=False).splitlines()
    declared = [line.split()[0].removeprefix(":") for line in lines if line.startswith(":")]
    chains = [chain for chain in declared if chain.startswith(network.POLICY_CHAINS)]
    jumps = [line for line in lines if line.startswith("-A") and not line.startswith("-A KUBE-")]
    words = ["*filter", *(f":{chain} - [0:0]" for chain in chains)]  # a declaration empties a chain
    words += [f"-D{jump.removeprefix('-A')}" for jump in jumps if jump.split()[-1] in chains]
    words += [*(f"-X {chain}" for chain in chains), "COMMIT", ""]
    if not chains:
        return []
    run("iptables-restore", "--noflush", input="\n".join(words))
    names = run("ipset", "list", "-name").split()
    for name in (name for name in names if name.startswith(network.POLICY_SETS)):
        run("ipset", "destroy", name)
    empty = re.compile(r"#|\*filter|COMMIT|:(INPUT|FORWARD|OUTPUT) ACCEPT ")
    left = run("iptables-save", "-t", "filter").splitlines()
    if all(empty.match(line) for line in left) and "ip filter" in network.tables():
        run("nft", "delete", "table", "ip", "filter")
    return [f"{len(chains)} chains of network policies"]


def _cgroups() -> str:
    until = time.monotonic() + 10
    count = 0
    while groups := _groups():
        for group in groups:
            try:
                group.rmdir()
                count += 1
            except OSError as error:
                # The kernel releases a group a moment after its last process.
                if time.monotonic() > until:
                    raise ClusterError(f"cannot remove the cgroup {group}: {error}", "run `down` again") from error
        time.sleep(0.05)
    return f"{count} removed" if count else "none"


def _machine(state: State) -> str:
    before = _before(state)
    if before is None:
        return "untouched"
    notes = []
    for name, value in before["sysctls"].items():
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() != value:
            path.write_text(value)
            notes.append(f"{name.replace('/', '.')} back to {value}")
    for folder in network.FIXED_FOLDERS:
        if folder not in before["folders"] and Path(folder).exists():
            shutil.rmtree(folder, ignore_errors=True)
            notes.append(f"removed {folder}")
    # Folders of buildah and the CNI plugins' lock, removed if they are empty.
    Path("/etc/cni/net.d/cni.lock").unlink(missing_ok=True)
    for folder in ("/etc/cni/net.d", "/etc/cni"):
        with suppress(OSError):
            Path(folder).rmdir()
    for link in Path("/var/log/containers").glob("*.log") if Path("/var/log/containers").is_dir() else ():
        if link.is_symlink() and link.readlink().is_relative_to(state.root):
            link.unlink()
    return ", ".join(notes) or "nothing to restore"


def _before(state: State) -> dict[str, dict[str, str]] | None:
    """Return the machine's state before the cluster; None if it was not recorded."""
    file = network.host_record(state)
    if not file.exists():
        return None
    loaded: dict[str, dict[str, str]] = json.loads(file.read_text())
    return loaded


def _files(state: State) -> str:
    existed = state.root.exists()
    if existed and state.tier() is None and any(state.root.iterdir()):
        raise ClusterError(f"{state.root} was not made by ultramarine-cluster", "look at it and remove it by hand")
    # The files that show another `down` its work go last.
    last = (state.tier_file, network.host_record(state))
    for path in sorted(state.root.iterdir(), key=lambda path: path in last) if existed else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if existed:
        state.root.rmdir()
    # Another cluster may use the folder, or it is gone already.
    with suppress(OSError):
        state_root().rmdir()
    return f"removed {state.root}" if existed else "none existed"


def _counted(names: list[str], otherwise: str) -> str:
    words = [f"{count} {name}" if count > 1 else name for name, count in sorted(Counter(names).items())]
    return ", ".join(words) or otherwise
