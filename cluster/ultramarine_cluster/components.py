"""The processes of a cluster, described as values: how each is started and how it is asked for its health."""

from __future__ import annotations

from dataclasses import dataclass

from . import config, network, pki, probes
from .network import API_SERVICE, NODE_ADDRESS, NODE_NAME, SERVICE_NETWORK
from .paths import State
from .pki import Authority, Leaf, Pair
from .process import Component
from .programs import path as program

BARE_PORTS = ("etcd", "etcd-peer", "apiserver")
FULL_PORTS = (
    *BARE_PORTS,
    "controller-manager",
    "scheduler",
    "kubelet",
    "kubelet-health",
    "kube-proxy-health",
    "kube-proxy-metrics",
    "netpol-health",
)


@dataclass(frozen=True)
class Plan:
    """All components of a cluster, in the order of their start."""

    url: str
    etcd: Component
    apiserver: Component
    containerd: Component | None = None
    # Clients of the API server, which start once it is ready.
    clients: tuple[Component, ...] = ()


def bare(state: State) -> Plan:
    """Return etcd and an API server, on separate ports of loopback."""
    ports = network.ports(state, BARE_PORTS)
    authority = Authority(state.pki, "ca")
    etcd, to_etcd = _etcd(state, ports)
    apiserver, url = _apiserver(state, ports, authority, "127.0.0.1", to_etcd)
    return Plan(url, etcd, apiserver)


def full(state: State, sandbox: str) -> Plan:
    """Return a whole node; `sandbox` is the image of every pod's first process."""
    ports = network.ports(state, FULL_PORTS)
    authority = Authority(state.pki, "ca")
    etcd, to_etcd = _etcd(state, ports)
    apiserver, url = _apiserver(state, ports, authority, NODE_ADDRESS, to_etcd)
    runtime_config = config.containerd(state, sandbox)
    config.cni(state)
    containerd = Component(
        "containerd",
        (str(program("containerd")), "--config", str(runtime_config)),
        probes.of(state, ports, "full")["containerd"],
        reads=(runtime_config,),
    )
    clients = (
        _controller_manager(state, ports, authority, url),
        _scheduler(state, ports, authority, url),
        _kubelet(state, ports, authority, url),
        _kube_proxy(state, ports, authority, url),
        _netpol(state, ports, authority, url),
    )
    return Plan(url, etcd, apiserver, containerd, clients)


def _etcd(state: State, ports: dict[str, int]) -> tuple[Component, Pair]:
    authority = Authority(state.pki, "etcd-ca")
    pair = authority.issue("etcd", Leaf("etcd", hosts=("127.0.0.1", "localhost")))
    client = authority.issue("etcd-client", Leaf("kube-apiserver"))
    url, peer = (f"https://127.0.0.1:{ports[name]}" for name in ("etcd", "etcd-peer"))
    tls = [f"--{p}{flag}" for p in ("", "peer-") for flag in (
        f"cert-file={pair.cert}", f"key-file={pair.key}", f"trusted-ca-file={authority.pair.cert}", "client-cert-auth",
    )]  # fmt: skip
    argv = (
        str(program("etcd")),
        "--name=ultramarine",
        f"--data-dir={state.etcd}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=ultramarine={peer}",
        *tls,
        # A cluster for tests and demos may lose its last second in a power failure.
        "--unsafe-no-fsync",
        "--log-level=warn",
        "--auto-compaction-retention=1h",
        "--quota-backend-bytes=4294967296",
    )
    return Component("etcd", argv, probes.of(state, ports, "bare")["etcd"], reads=(pair.cert,)), client


def _apiserver(
    state: State, ports: dict[str, int], authority: Authority, address: str, to_etcd: Pair
) -> tuple[Component, str]:
    whole = address == NODE_ADDRESS
    url = f"https://{address}:{ports['apiserver']}"
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    hosts = (address, "127.0.0.1", "localhost", API_SERVICE, NODE_NAME, *names)
    serving = authority.issue("apiserver", Leaf("kube-apiserver", hosts=hosts))
    to_kubelet = authority.issue("apiserver-kubelet", Leaf("kube-apiserver-kubelet", "system:masters"))
    admin = authority.issue("admin", Leaf("ultramarine-admin", "system:masters"))
    front = Authority(state.pki, "front-proxy-ca")
    to_extension = front.issue("front-proxy", Leaf("front-proxy-client"))
    tokens = pki.signing_key(state.pki)
    audit = config.audit(state)
    pki.kubeconfig(state.kubeconfig, url, authority, admin)
    flags = [
        f"--bind-address={address}",
        f"--secure-port={ports['apiserver']}",
        f"--tls-cert-file={serving.cert}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={authority.pair.cert}",
        f"--etcd-servers=https://127.0.0.1:{ports['etcd']}",
        f"--etcd-cafile={state.pki / 'etcd-ca.crt'}",
        f"--etcd-certfile={to_etcd.cert}",
        f"--etcd-keyfile={to_etcd.key}",
        "--authorization-mode=Node,RBAC",
        # The second plugin is off by default and on in stricter clusters: setting an owner needs rights on it.
        "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={tokens.cert}",
        f"--service-account-signing-key-file={tokens.key}",
        "--allow-privileged=true",
        "--profiling=false",
        f"--audit-policy-file={audit}",
        f"--audit-log-path={state.audit_log}",
        "--audit-log-maxsize=50",
        "--audit-log-maxbackup=1",
        # The aggregation layer, for metrics-server.
        f"--requestheader-client-ca-file={front.pair.cert}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={to_extension.cert}",
        f"--proxy-client-key-file={to_extension.key}",
        "--enable-aggregator-routing=true",
    ]
    if whole:
        flags += [
            f"--kubelet-certificate-authority={authority.pair.cert}",
            f"--kubelet-client-certificate={to_kubelet.cert}",
            f"--kubelet-client-key={to_kubelet.key}",
            # Otherwise logs and exec look up the node's name in DNS.
            "--kubelet-preferred-address-types=InternalIP",
        ]
    else:
        # No controller makes service accounts here, and an endpoint must not be a loopback address.
        flags += ["--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"]
    component = Component(
        "kube-apiserver",
        (str(program("kube-apiserver")), *flags),
        probes.of(state, ports, "full" if whole else "bare")["kube-apiserver"],
        reads=(serving.cert, to_extension.cert, to_kubelet.cert, audit),
        patience=120,
    )
    return component, url


def _controller_manager(state: State, ports: dict[str, int], authority: Authority, url: str) -> Component:
    who = authority.issue("controller-manager", Leaf("system:kube-controller-manager"))
    to_api = pki.kubeconfig(state.config / "controller-manager.kubeconfig", url, authority, who)
    argv = (
        str(program("kube-controller-manager")),
        f"--kubeconfig={to_api}",
        f"--authentication-kubeconfig={to_api}",
        f"--authorization-kubeconfig={to_api}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports['controller-manager']}",
        f"--service-account-private-key-file={state.pki / 'service-account.key'}",
        f"--root-ca-file={authority.pair.cert}",
        f"--cluster-signing-cert-file={authority.pair.cert}",
        f"--cluster-signing-key-file={authority.pair.key}",
        "--use-service-account-credentials=true",
        f"--kube-api-qps={config.CLIENT_QPS}",
        f"--kube-api-burst={config.CLIENT_BURST}",
        "--concurrent-job-syncs=20",
        # A single instance needs no lease, which would cost writes and a slower start.
        "--leader-elect=false",
        "--profiling=false",
    )
    return Component(
        "kube-controller-manager", argv, probes.of(state, ports, "full")["kube-controller-manager"], (to_api,)
    )


def _scheduler(state: State, ports: dict[str, int], authority: Authority, url: str) -> Component:
    who = authority.issue("scheduler", Leaf("system:kube-scheduler"))
    to_api = pki.kubeconfig(state.config / "scheduler.kubeconfig", url, authority, who)
    file = config.scheduler(state, to_api)
    argv = (
        str(program("kube-scheduler")),
        f"--config={file}",
        f"--authentication-kubeconfig={to_api}",
        f"--authorization-kubeconfig={to_api}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports['scheduler']}",
    )
    return Component("kube-scheduler", argv, probes.of(state, ports, "full")["kube-scheduler"], (file, to_api))


def _kubelet(state: State, ports: dict[str, int], authority: Authority, url: str) -> Component:
    who = authority.issue("kubelet", Leaf(f"system:node:{NODE_NAME}", "system:nodes"))
    hosts = (NODE_ADDRESS, NODE_NAME)
    serving = authority.issue("kubelet-server", Leaf(f"system:node:{NODE_NAME}", "system:nodes", hosts))
    to_api = pki.kubeconfig(state.config / "kubelet.kubeconfig", url, authority, who)
    file = config.kubelet(state, ports, authority.pair.cert, serving)
    argv = (
        str(program("kubelet")),
        f"--config={file}",
        f"--kubeconfig={to_api}",
        f"--root-dir={state.kubelet}",
        f"--cert-dir={state.pki}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={NODE_ADDRESS}",
        "--v=1",
    )
    return Component("kubelet", argv, probes.of(state, ports, "full")["kubelet"], (file, to_api, serving.cert))


def _kube_proxy(state: State, ports: dict[str, int], authority: Authority, url: str) -> Component:
    who = authority.issue("kube-proxy", Leaf("system:kube-proxy"))
    to_api = pki.kubeconfig(state.config / "kube-proxy.kubeconfig", url, authority, who)
    file = config.kube_proxy(state, ports, to_api)
    argv = (str(program("kube-proxy")), f"--config={file}")
    return Component("kube-proxy", argv, probes.of(state, ports, "full")["kube-proxy"], (file, to_api))


def _netpol(state: State, ports: dict[str, int], authority: Authority, url: str) -> Component:
    # No built-in role fits its reads of nodes, pods, namespaces and policies, and no other role exists at its start.
    who = authority.issue("netpol", Leaf("ultramarine-netpol", "system:masters"))
    to_api = pki.kubeconfig(state.config / "netpol.kubeconfig", url, authority, who)
    argv = (
        str(program("netpol")),
        f"--kubeconfig={to_api}",
        f"--hostname-override={NODE_NAME}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        f"--healthz-bind-address=127.0.0.1:{ports['netpol-health']}",
    )
    return Component("netpol", argv, probes.of(state, ports, "full")["netpol"], (to_api,))
