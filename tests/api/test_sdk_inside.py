"""The SDK as in a pod: endpoints by https whose certificates are of a private authority."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import ultramarine
from bare import Api, whole
from certificates import Authority
from ultramarine.kube.client import Cluster
from ultramarine.serving.trust import ENV_CA, CertificateRefused


class Handler(BaseHTTPRequestHandler):
    """Answers each request, as an endpoint without keys."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"live")

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Served:
    """An endpoint of the namespace whose URL is a TLS server on loopback."""

    def __init__(self, api: Api, folder: Path, port: int) -> None:
        self.folder, self.authority = folder, Authority()
        self._api, self._port = api, port
        deployments = [{"name": "blue", "model": "churn@1"}]
        spec = {"deployments": deployments, "authMode": "none", "tls": {"secretName": "churn-tls"}}
        api.apply({**whole("OnlineEndpoint"), "spec": spec})
        self.at("localhost")

    def at(self, host: str) -> None:
        """Publish the endpoint's URL."""
        self._api.status("OnlineEndpoint", "churn", {"url": f"https://{host}:{self._port}", "gatewayPort": 8443})


@pytest.fixture
def served(api: Api, tmp_path: Path) -> Iterator[Served]:
    """An endpoint with a certificate for localhost, of an authority that nothing trusts yet."""
    with ThreadingHTTPServer(("", 0), Handler) as server:
        served = Served(api, tmp_path / "tls", server.server_port)
        served.authority.issue(served.folder, "localhost")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(served.folder / "tls.crt", served.folder / "tls.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield served
        server.shutdown()


@pytest.fixture
def inside(client: ultramarine.Client, monkeypatch: pytest.MonkeyPatch) -> ultramarine.Client:
    """The client as a service account has it, which reaches endpoints by their URLs."""
    monkeypatch.delenv(ENV_CA, raising=False)
    client.cluster = Cluster(replace(client.cluster.access, context="in-cluster"))
    client.platform.cluster = client.cluster
    return client


def _ask(client: ultramarine.Client, ca: str = "") -> bytes:
    return client.endpoint("churn", ca=ca).request("GET", "/livez", repeat=True).body


def test_an_unknown_authority_is_named_with_its_remedy(served: Served, inside: ultramarine.Client) -> None:
    """The request is refused at once, and the message has the address, the parameter and the Secret."""
    with pytest.raises(CertificateRefused, match=r"authority of https://localhost:\d+ is unknown here\. Give its file"):
        _ask(inside)


def test_the_endpoints_secret_brings_its_authority(served: Served, inside: ultramarine.Client, api: Api) -> None:
    """A Secret as cert-manager writes it has ca.crt; nothing is to be set."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "churn-tls"}}
    api.apply({**secret, "stringData": {"ca.crt": served.authority.pem}})

    assert _ask(inside) == b"live"


def test_the_platforms_authority_is_trusted(served: Served, inside: ultramarine.Client, api: Api) -> None:
    """The ConfigMap of the namespace has it, with tls.internal or a private authority of the cluster."""
    facts = api.get("configmap", "ultramarine-platform")
    api.apply({**facts, "data": {**facts["data"], "storageCA": served.authority.pem}})

    assert _ask(inside) == b"live"


def test_a_caller_names_the_authority(
    served: Served, inside: ultramarine.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a parameter or a variable; a missing file and a wrong host are told apart from an unknown authority."""
    file = str(served.folder / "ca.crt")
    assert _ask(inside, file) == b"live"
    monkeypatch.setenv(ENV_CA, file)
    assert _ask(inside) == b"live"

    served.at("127.0.0.2")
    with pytest.raises(CertificateRefused, match="its certificate is not for the host"):
        _ask(inside)
    with pytest.raises(CertificateRefused, match=r"absent\.crt cannot be read: .*Correct ca or ULTRAMARINE_CA"):
        _ask(inside, str(tmp_path / "absent.crt"))
    (tmp_path / "empty.crt").write_text("")
    with pytest.raises(CertificateRefused, match=r"empty\.crt has no certificate"):
        _ask(inside, str(tmp_path / "empty.crt"))
