"""The Debian packages that the cluster stands on."""

from __future__ import annotations

import os
import shutil

from .console import Progress, run, run_logged, say
from .errors import ClusterError
from .paths import CLUSTER_FOLDER, cache

LIST = CLUSTER_FOLDER / "debian-packages.txt"


def wanted() -> list[str]:
    """The packages named in debian-packages.txt, without its comments."""
    lines = (line.partition("#")[0].strip() for line in LIST.read_text().splitlines())
    return [line for line in lines if line]


def missing(names: list[str]) -> list[str]:
    """Those of `names` that are not installed."""
    if shutil.which("dpkg-query") is None:
        # Not a Debian: judge by the programs, for package names differ there.
        programs = {"buildah": "buildah", "nftables": "nft", "iproute2": "ip", "debootstrap": "debootstrap"}
        return [name for name in names if name in programs and shutil.which(programs[name]) is None]
    asked = run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names, check=False)
    there = {line.split()[0] for line in asked.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in there]


def ensure() -> str:
    """Install what is missing, showing the command; where that cannot be done, say the command and stop."""
    lacking = missing(wanted())
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
        # A broken third-party source must not stop packages that the others have.
        run_logged(["apt-get", "update"], log, progress, remedy=remedy, env=env)
    except ClusterError:
        say("          apt-get update complained (see the log); trying to install all the same")
    run_logged(install, log, progress, remedy=remedy, env=env)
    progress.end()
    return f"installed {' '.join(lacking)}"
