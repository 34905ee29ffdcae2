"""The Debian packages that the cluster needs."""

from __future__ import annotations

import os
import shutil

from .console import Progress, run, run_logged, say
from .errors import ClusterError
from .paths import CLUSTER_FOLDER, cache, lock

LIST = CLUSTER_FOLDER / "debian-packages.txt"


def required() -> list[str]:
    """Return the packages of debian-packages.txt."""
    lines = (line.partition("#")[0].strip() for line in LIST.read_text().splitlines())
    return [line for line in lines if line]


def missing(names: list[str]) -> list[str]:
    """Return the packages of `names` that are not installed."""
    if shutil.which("dpkg-query") is None:
        # Not a Debian: package names differ, so look for the programs.
        programs = {"buildah": "buildah", "nftables": "nft", "iproute2": "ip", "debootstrap": "debootstrap"}
        return [name for name in names if name in programs and shutil.which(programs[name]) is None]
    asked = run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names, check=False)
    there = {line.split()[0] for line in asked.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in there]


def ensure(*names: str) -> str:
    """Install those of the packages that are missing, by default of the cluster's, and print the command.

    Raises ClusterError with the command if that is not possible.
    """
    if not missing([*(names or required())]):
        return "all there"
    with lock("apt", wait=True, busy="another process installs Debian packages"):
        return _install(missing([*(names or required())]))


def _install(lacking: list[str]) -> str:
    if not lacking:
        return "all there"
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *lacking]
    shown = f"apt-get update && {' '.join(install)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(f"missing packages: {' '.join(lacking)}", f"run as root: {shown}")
    say(f"          {shown}")
    log = cache() / "logs" / "apt.log"
    progress = Progress(60)
    progress.begin(f"installing {len(lacking)} Debian packages")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    remedy = f"run it by hand: {shown}"
    try:
        # A broken third-party source must not stop packages of other sources.
        run_logged(["apt-get", "update"], log, progress, remedy=remedy, env=env)
    except ClusterError:
        say("          apt-get update failed (see the log); trying to install anyway")
    run_logged(install, log, progress, remedy=remedy, env=env)
    progress.end()
    return f"installed {' '.join(lacking)}"
