"""The programs of the cluster: which Go package each comes from, how it is compiled, where it lies."""

from __future__ import annotations

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
    """One program of a Go module; `seconds` is what it took on two quiet cores, with nothing cached."""

    name: str
    package: str
    seconds: float
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=lambda: {"CGO_ENABLED": "0"})
    module: Path = CLUSTER_FOLDER
    by_name: bool = False  # built only for whoever names it

    def argv(self, go: Path, out: Path) -> list[str]:
        """The command that compiles the program into the file `out`."""
        return [str(go), "build", "-trimpath", "-ldflags", LDFLAGS, *self.flags, "-o", str(out), self.package]


_PROMETHEUS = "github.com/prometheus/prometheus/cmd/"
# Of all ways to find targets Kubernetes alone, which the code cannot be built without.
_DISCOVERY = ("-tags", "remove_all_sd,enable_kubernetes_sd,netgo")
_ALERTS = REPOSITORY / "tests" / "prometheus"

# Small ones first, so that a person soon sees the count go up; what shares packages stands together.
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
        # runc enters namespaces in C before Go starts, and filters system calls with libseccomp.
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
    Program("local-path-provisioner", "github.com/rancher/local-path-provisioner", 10),
    Program("ultramarine-storage", ".", 60, module=REPOSITORY / "storage-image"),
    Program("netpol", "./netpol", 15),
    Program("kwok", "sigs.k8s.io/kwok/cmd/kwok", 40),
    Program("promtool", _PROMETHEUS + "promtool", 150, flags=_DISCOVERY, module=_ALERTS, by_name=True),
    Program("prometheus", _PROMETHEUS + "prometheus", 75, flags=_DISCOVERY, module=_ALERTS, by_name=True),
)
BARE = ("etcd", "kube-apiserver", "kubectl")


@once
def key(module: Path = CLUSTER_FOLDER) -> str:
    """Twelve digits that change with anything that a module's programs are made of."""
    made_of = sha256()
    for file in sorted((module / "go.mod", module / "go.sum", *module.glob("**/*.go"))):
        made_of.update(file.read_bytes())
    for program in TABLE:
        if program.module == module:
            made_of.update(repr((program.name, program.package, LDFLAGS, program.flags, program.env)).encode())
    return made_of.hexdigest()[:12]


def folder(module: Path = CLUSTER_FOLDER) -> Path:
    """Where the programs of this version of a module lie."""
    return cache() / f"bin-{key(module)}"


def path(name: str) -> Path:
    """Where the program `name` lies, or will lie once built."""
    (program,) = (program for program in TABLE if program.name == name)
    return folder(program.module) / name


def missing(names: tuple[str, ...] | None = None) -> list[Program]:
    """The programs that are not built yet, of those named or of those that the cluster runs."""
    return [p for p in TABLE if (not p.by_name if names is None else p.name in names) and not path(p.name).exists()]
