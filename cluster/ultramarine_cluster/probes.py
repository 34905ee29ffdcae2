"""Health probes of components: "" if healthy, otherwise the reason."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3
from ultramarine_contract.transport import cause, inside
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from .network import NODE_ADDRESS
from .paths import State
from .pki import Pair

Probe = Callable[[], str]

urllib3.disable_warnings(InsecureRequestWarning)  # some components make their own certificates


def of(state: State, ports: dict[str, int], tier: str) -> dict[str, Probe]:
    """Return the probe of each component, in the order of their start; it needs only the files of `up`."""

    def pair(name: str) -> Pair:
        return Pair(state.pki / f"{name}.crt", state.pki / f"{name}.key")

    loopback = "127.0.0.1"
    whole = tier == "full"
    address = NODE_ADDRESS if whole else loopback
    asked = {
        "etcd": https(f"https://{loopback}:{ports['etcd']}/health", state.pki / "etcd-ca.crt", pair("etcd-client")),
        "containerd": unix(state.containerd_socket),
        "kube-apiserver": https(f"https://{address}:{ports['apiserver']}/readyz", state.pki / "ca.crt", pair("admin")),
    }
    if not whole:
        del asked["containerd"]
        return asked
    return asked | {
        "kube-controller-manager": https(f"https://{loopback}:{ports['controller-manager']}/healthz"),
        "kube-scheduler": https(f"https://{loopback}:{ports['scheduler']}/healthz"),
        "kubelet": http_get(f"http://{loopback}:{ports['kubelet-health']}/healthz"),
        "kube-proxy": http_get(f"http://{loopback}:{ports['kube-proxy-health']}/livez"),
        "netpol": http_get(f"http://{loopback}:{ports['netpol-health']}/healthz"),
    }


def https(url: str, authority: Path | None = None, client: Pair | None = None) -> Probe:
    """Return a probe over TLS; without an authority any certificate is accepted, since the peer made its own."""

    check = {"ca_certs": str(authority)} if authority else {"ca_certs": None, "cert_reqs": "CERT_NONE"}
    own = {"cert_file": str(client.cert), "key_file": str(client.key)} if client else {}
    return lambda: _get(url, **check, **own)


def http_get(url: str) -> Probe:
    """Return a probe by plain HTTP on loopback."""
    return lambda: _get(url)


def unix(path: Path) -> Probe:
    """Return a probe for a listener on a unix socket."""

    def ask() -> str:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(2)
                probe.connect(str(path))
        except OSError as error:
            return f"{path}: {error}"
        return ""

    return ask


def dns(server: str, name: str) -> Probe:
    """Return a probe that asks a name server for an address."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    # An identity, "recursion desired", one question; then the name, type A, class IN (RFC 1035, section 4).
    question = b"\x75\x6d\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"

    def ask() -> str:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.settimeout(1)
                probe.sendto(question, (server, 53))
                answer = probe.recv(512)
        except OSError as error:
            return f"{server} does not answer for {name}: {error}"
        resolved = answer[:2] == question[:2] and answer[3] & 0x0F == 0 and answer[6:8] != b"\x00\x00"
        return "" if resolved else f"{server} does not know {name}"

    return ask


def _get(url: str, **options: Any) -> str:
    try:
        with inside(**options) as http:
            answer = http.request("GET", url, timeout=3)
    except HTTPError as error:
        return f"{url}: {cause(error)}"
    words = answer.data.decode(errors="replace").strip()[-400:]
    return "" if answer.status == 200 else f"{url} answered {answer.status}: {words}"
