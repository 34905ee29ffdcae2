"""The programs of the cluster: their Go packages, settings and folders."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache as once
from hashlib import sha256
from pathlib import Path

from .paths import CLUSTER_FOLDER, REPOSITORY, cache

KUBERNETES = "1.37.2"
_LABELS = {"gitVersion": f"v{KUBERNETES}", "gitMajor": "1", "gitMinor": "37", "gitTreeState": "clean"}
# Without these labels kubectl cannot parse the server's version.
LDFLAGS = "-s -w " + " ".join(
    f"-X {package}/version.{key}={value}"
    for package in ("k8s.io/component-base", "k8s.io/client-go/pkg")
    for key, value in _LABELS.items()
)


@dataclass(frozen=True)
class Program:
    """A program of a Go module; `seconds` is its share of a build without caches on two quiet cores."""

    name: str
    package: str
    seconds: float
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=lambda: {"CGO_ENABLED": "0"})
    module: Path = CLUSTER_FOLDER
    by_name: bool = False  # built only if it is named
    alone: bool = False  # its imports differ from those of other programs only in case, which Go refuses in one build

    @property
    def executable(self) -> str:
        """Name that Go gives the program: the package's last part that is not a version."""
        return re.sub(r"/v\d+$", "", self.package).rpartition("/")[2]


_PROMETHEUS = "github.com/prometheus/prometheus/cmd/"
# Service discovery by Kubernetes alone, without which the code does not compile.
_DISCOVERY = ("-tags", "remove_all_sd,enable_kubernetes_sd,netgo")
_ALERTS = REPOSITORY / "tests" / "prometheus"

TABLE = (
    Program("loopback", "github.com/containernetworking/plugins/plugins/main/loopback", 25),
    Program("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local", 2),
    Program("bridge", "github.com/containernetworking/plugins/plugins/main/bridge", 8),
    Program("portmap", "github.com/containernetworking/plugins/plugins/meta/portmap", 3),
    Program("tuning", "github.com/containernetworking/plugins/plugins/meta/tuning", 2),
    Program(
        "runc",
        "github.com/opencontainers/runc",
        20,
        # runc enters namespaces in C before Go starts, and filters system calls by libseccomp.
        flags=("-tags", "seccomp,netgo,osusergo"),
        env={"CGO_ENABLED": "1"},
    ),
    Program("etcd", "go.etcd.io/etcd/server/v3", 50),
    Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 240),
    Program("kubectl", "k8s.io/kubernetes/cmd/kubectl", 30),
    Program("containerd", "github.com/containerd/containerd/v2/cmd/containerd", 45),
    Program("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", 4),
    Program("ctr", "github.com/containerd/containerd/v2/cmd/ctr", 5),
    Program("kubelet", "k8s.io/kubernetes/cmd/kubelet", 120),
    Program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 40),
    Program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 12),
    Program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 12),
    Program("helm", "helm.sh/helm/v4/cmd/helm", 25),
    Program("coredns", "./coredns", 25),
    Program("metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server", 12),
    Program("local-path-provisioner", "github.com/rancher/local-path-provisioner", 10, alone=True),
    # Without the commit in it, or equal sources would give other bytes.
    Program(
        "ultramarine-storage",
        "ultramarine.dev/storage",
        35,
        flags=("-buildvcs=false",),
        module=REPOSITORY / "storage-image",
    ),
    Program("netpol", "./netpol", 15),
    Program("kwok", "sigs.k8s.io/kwok/cmd/kwok", 40, by_name=True),
    Program("promtool", _PROMETHEUS + "promtool", 150, flags=_DISCOVERY, module=_ALERTS, by_name=True),
    Program("prometheus", _PROMETHEUS + "prometheus", 75, flags=_DISCOVERY, module=_ALERTS, by_name=True),
)
BARE = ("etcd", "kube-apiserver", "kubectl")


@once
def key(module: Path = CLUSTER_FOLDER) -> str:
    """Return a digest of the inputs of a module's programs."""
    made_of = sha256()
    for file in sorted((module / "go.mod", module / "go.sum", *module.glob("**/*.go"))):
        made_of.update(file.read_bytes())
    for program in TABLE:
        if program.module == module:
            made_of.update(repr((program.name, program.package, LDFLAGS, program.flags, program.env)).encode())
    return made_of.hexdigest()[:12]


def folder(module: Path = CLUSTER_FOLDER) -> Path:
    """Return the folder of the programs of this version of a module."""
    return cache() / f"bin-{key(module)}"


def path(name: str) -> Path:
    """Return the file of the program `name`, which may not be built yet."""
    (program,) = (program for program in TABLE if program.name == name)
    return folder(program.module) / name


def groups(chosen: list[Program]) -> list[list[Program]]:
    """Return the programs by what they can be built together with: equal module, flags and environment."""
    by_settings: dict[str, list[Program]] = {}
    for program in chosen:
        by_settings.setdefault(repr((program.module, program.flags, program.env, program.alone)), []).append(program)
    return list(by_settings.values())


def argv(go: Path, out: Path, group: list[Program]) -> list[str]:
    """Return the command that compiles a group's programs into the folder `out`.

    No program keeps debugging symbols (-s -w), so the compiler need not make them, which is a fifth of its work.
    """
    words = [str(go), "build", "-trimpath", "-gcflags=all=-dwarf=false", "-ldflags", LDFLAGS, *group[0].flags]
    return [*words, "-o", str(out), *(program.package for program in group)]


def missing(names: tuple[str, ...] | None = None) -> list[Program]:
    """Return the programs that are not built yet, of the named ones or of those that the cluster runs."""
    return [p for p in TABLE if (not p.by_name if names is None else p.name in names) and not path(p.name).exists()]
