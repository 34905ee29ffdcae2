"""What the embedded cluster could leave on a machine, a line each: compared before and after by .ci/run.

It needs nothing but Python, since it runs before anything is installed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

STATE = os.environ.get("ULTRAMARINE_STATE", "/var/lib/ultramarine")
FOLDERS = ("/var/lib", "/run", "/run/netns", "/etc/cni", "/var/log", "/opt", "/var/lib/cni")
SETTINGS = ("net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
# Made by apt and dpkg as they install.
NOT_OURS = {"/run/lock", "/var/lib/containers", "/var/log/apt", "/var/log/alternatives.log", "/var/log/dpkg.log"}


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
        yield f"nft {line}"
    for name in printed("ipset", "list", "-name"):
        yield f"ipset {name}"
    for line in printed("iptables-save"):
        if line.startswith("-A"):
            yield f"iptables {line}"
    for top in Path("/sys/fs/cgroup").glob("**/*ultramarine*"):
        yield f"cgroup {top}"
    for folder in map(Path, FOLDERS):
        for found in folder.iterdir() if folder.is_dir() else ():
            if str(found) not in NOT_OURS:
                yield f"path {found}"
    for name in SETTINGS:
        path = Path("/proc/sys") / name
        if path.exists():
            yield f"setting {name} = {path.read_text().strip()}"


if __name__ == "__main__":
    print("\n".join(sorted(set(traces()))))
