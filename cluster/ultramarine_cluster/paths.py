"""Folders: the cache that outlives clusters, and a state folder for each cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from hashlib import sha256
from pathlib import Path

from .errors import ClusterError

BUSY = "another ultramarine-cluster uses this cluster"  # of a lock
HERE = Path(__file__).resolve().parent
CLUSTER_FOLDER = HERE.parent
REPOSITORY = CLUSTER_FOLDER.parent


def cache() -> Path:
    """Return the folder of what is slow to make and equal for every clone: programs, image layers, downloads."""
    if chosen := os.environ.get("ULTRAMARINE_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(base).expanduser() / "ultramarine").absolute()


def state_root() -> Path:
    """Return the parent of the state folders of running clusters."""
    return Path(os.environ.get("ULTRAMARINE_STATE") or "/var/lib/ultramarine").absolute()


@dataclass(frozen=True)
class State:
    """A cluster's folder; its processes write only below it."""

    name: str

    def __post_init__(self) -> None:
        # `down` removes the folder of this name, so the name must not lead elsewhere.
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.name):
            raise ClusterError(
                f"{self.name!r} is not a valid name of a cluster", "use lower-case letters, digits, dots and dashes"
            )

    @property
    def root(self) -> Path:
        return state_root() / self.name

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def audit_log(self) -> Path:
        # Not *.log, which are the components' logs.
        return self.logs / "audit.jsonl"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def etcd(self) -> Path:
        return self.root / "etcd"

    @property
    def kubelet(self) -> Path:
        return self.root / "kubelet"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def containerd(self) -> Path:
        return self.root / "containerd"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def tier_file(self) -> Path:
        return self.root / "tier"

    def tier(self) -> str | None:
        """Return the tier of this state folder; None if it has no cluster."""
        return self.tier_file.read_text().strip() if self.tier_file.exists() else None

    def make(self, tier: str) -> None:
        """Make the folders; only root may read those with keys."""
        # A unix socket's path has room for 107 bytes.
        if len(str(self.containerd_socket)) > 100:
            raise ClusterError(
                f"the state folder's path is too long for unix sockets: {self.root}",
                "set ULTRAMARINE_STATE to a shorter path",
            )
        self.root.mkdir(parents=True, exist_ok=True)
        # Written first: by this file `down` recognizes the folder.
        write(self.tier_file, tier)
        for folder in (self.logs, self.run, self.pki, self.config):
            folder.mkdir(exist_ok=True)
        self.root.chmod(0o711)
        self.pki.chmod(0o700)
        self.config.chmod(0o700)


def states() -> list[State]:
    """Return the clusters with a state folder on this machine."""
    root = state_root()
    return [State(path.parent.name) for path in sorted(root.glob("*/tier"))] if root.is_dir() else []


def write(path: Path, text: str, mode: int = 0o644) -> bool:
    """Write `text` to `path` atomically, only if it differs; return True if it did.

    kube-proxy exits if its configuration is rewritten, even with the same text.
    """
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.chmod(mode)
    fresh.rename(path)
    return True


@contextmanager
def lock(name: str, *, wait: bool, busy: str) -> Iterator[None]:
    """Hold the machine-wide lock `name`; if another process holds it, wait or fail with `busy`.

    Lock files stay in the cache folder: to remove a file while another process opens it would admit two holders.
    """
    folder = cache() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise ClusterError(busy, "wait until it ends, then run the command again") from None
            print(f"{busy}; waiting for it", flush=True)
            flock(file, LOCK_EX)
        yield


def lock_name(state: State) -> str:
    """Return the lock of a cluster, which differs for equal names under other state folders."""
    return f"{state.name}-{sha256(str(state.root).encode()).hexdigest()[:8]}"


def mounts_under(folder: Path) -> list[Path]:
    """Return the mount points at and under a folder, in the order of mounting."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if point.is_relative_to(folder):
            points.append(point)
    return points
