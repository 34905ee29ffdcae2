"""The configuration files of the node's programs, written only if they change."""

from __future__ import annotations

import json
from pathlib import Path

from . import network, programs
from .network import DNS_SERVICE, NODE_ADDRESS, POD_LINK, POD_NETWORK
from .paths import State, write
from .pki import Pair, yaml

CAP_SYS_RESOURCE = 24


# The default of 20 requests a second is for clusters with many nodes.
CLIENT_QPS, CLIENT_BURST = 1000, 2000


def audit(state: State) -> Path:
    """Write an audit policy that records which rights installed software uses."""
    path = state.config / "audit.yaml"
    document = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            # Kubernetes' own controllers make most of the requests.
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
            {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
            {"level": "None"},
        ],
    }
    write(path, yaml(document))
    return path


def scheduler(state: State, kubeconfig: Path) -> Path:
    """Write the settings of a single scheduler, which binds as many pods a second as a scale test makes."""
    path = state.config / "scheduler.yaml"
    document = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": CLIENT_QPS, "burst": CLIENT_BURST},
        "leaderElection": {"leaderElect": False},
        "enableProfiling": False,
    }
    write(path, yaml(document))
    return path


def containerd(state: State, sandbox: str) -> Path:
    """Write the settings of containerd, with `sandbox` as the image of every pod's first process."""
    root = state.containerd
    text = f"""\
version = 3
root = "{root}/root"
state = "{root}/state"
imports = []
oom_score = 0

[grpc]
  address = "{state.containerd_socket}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{sandbox}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = {str(not may_raise_priority()).lower()}
  netns_mounts_under_state_dir = true
  cdi_spec_dirs = []
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{programs.folder()}"]
    conf_dir = "{state.config}/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    runtime_path = "{programs.path("containerd-shim-runc-v2")}"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{programs.path("runc")}"
      Root = "{root}/runc"
      SystemdCgroup = false

[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"

[plugins."io.containerd.nri.v1.nri"]
  disable = true
"""
    path = state.config / "containerd.toml"
    write(path, text)
    return path


def cni(state: State) -> Path:
    """Write the pods' network: one bridge, addresses from a file store, host ports through nftables."""
    path = state.config / "cni" / "10-ultramarine.conflist"
    document = {
        "cniVersion": "1.0.0",
        "name": network.CNI_NETWORK,
        "plugins": [
            {
                "type": "bridge",
                "bridge": POD_LINK,
                "isGateway": True,
                # For a pod that calls its own Service.
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(state.root / "addresses"),
                    "ranges": [[{"subnet": POD_NETWORK}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            # Policies cover IPv4 here; an IPv6 link-local address would bypass them.
            {"type": "tuning", "sysctl": {"net.ipv6.conf.all.disable_ipv6": "1"}},
            {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables", "snat": True},
        ],
    }
    write(path, json.dumps(document, indent=1))
    return path


def kubelet(state: State, ports: dict[str, int], authority: Path, serving: Pair) -> Path:
    """Write the settings of a kubelet that stays in its folder and evicts nothing for the machine's other load."""
    path = state.config / "kubelet.yaml"
    document = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "port": ports["kubelet"],
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": ports["kubelet-health"],
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving.cert),
        "tlsPrivateKeyFile": str(serving.key),
        "containerRuntimeEndpoint": f"unix://{state.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{network.CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolv(state)),
        "podLogsDir": str(state.root / "pod-logs"),
        "volumePluginDir": str(state.root / "volume-plugins"),
        "makeIPTablesUtilChains": False,
        "maxPods": 200,
        "oomScoreAdj": -999 if may_raise_priority() else 0,
        "serializeImagePulls": False,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
            "imagefs.inodesFree": "1%",
        },
        # No registry has the images, so a collected image could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # A changed Secret or ConfigMap reaches a pod's files within one and a half of this.
        "syncFrequency": "30s",
    }
    write(path, yaml(document))
    return path


def kube_proxy(state: State, ports: dict[str, int], kubeconfig: Path) -> Path:
    """Write the settings of kube-proxy with nftables, which leaves the machine's connection tracking unchanged."""
    path = state.config / "kube-proxy.yaml"
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "nftables",
        "clusterCIDR": POD_NETWORK,
        "hostnameOverride": network.NODE_NAME,
        "bindAddress": NODE_ADDRESS,
        "healthzBindAddress": f"127.0.0.1:{ports['kube-proxy-health']}",
        "metricsBindAddress": f"127.0.0.1:{ports['kube-proxy-metrics']}",
        "oomScoreAdj": -999 if may_raise_priority() else 0,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"syncPeriod": "1m", "minSyncPeriod": "200ms"},
    }
    write(path, yaml(document))
    return path


def nameservers() -> list[str]:
    """Return the machine's name servers, except those on loopback, which a pod cannot reach."""
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if path.exists():
            lines = [line.split() for line in path.read_text().splitlines()]
            servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
            if reachable := [server for server in servers if not server.startswith("127.") and server != "::1"]:
                return reachable
    return []


def resolv(state: State) -> Path:
    """Write the resolv.conf of pods that use the node's own name service."""
    path = state.config / "resolv.conf"
    write(path, "".join(f"nameserver {server}\n" for server in nameservers()))
    return path


def may_raise_priority() -> bool:
    """True if this process may lower an oom_score_adj; on some machines even root may not."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
    return False
