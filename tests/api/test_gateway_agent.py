"""The gateway's agent before a real API server, as a process with rights of its own, and an Envoy beside it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from accounts import account
from bare import Api, Refused, eventually
from ports import free_port
from ultramarine_contract.routes import LABEL_ROUTES, ROUTES_ENTRY, EndpointRoutes, RouteAuth, RouteDeployment

# All that the gateway's service account may do.
RIGHTS = [
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
]


def get(url: str, **more: Any) -> httpx.Response:
    """A request that a busy machine may take its time to answer."""
    return httpx.get(url, timeout=60, **more)


class Wire:
    """The way to the API server, which can be cut: open connections end, and new ones are refused."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._open: list[socket.socket] = []
        self.port = free_port()  # not one that an outgoing connection may take while the wire is cut
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open = []

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._open += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    @staticmethod
    def _copy(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass
class Gateway:
    """The two processes of a gateway pod."""

    api: Api
    folder: Path
    port: int
    wire: Wire
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str) -> None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": path}
        environment |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.wire.port)}
        command = [sys.executable, "-m", "ultramarine_gateway", *arguments, "--folder", str(self.folder)]
        log = (self.folder / "log").open("ab")
        self.processes.append(subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log))

    def state(self, endpoint: str) -> dict[str, Any]:
        """Return the answer of GET /routes about one endpoint."""
        with suppress(httpx.TransportError):
            found: dict[str, Any] = get(f"http://127.0.0.1:{self.port}/routes").json()["endpoints"]
            return found.get(endpoint, {})
        return {}

    def addresses(self, cluster: str) -> set[str]:
        """The addresses that Envoy has of one cluster."""
        transport = httpx.HTTPTransport(uds=str(self.folder / "admin.sock"))
        with httpx.Client(transport=transport, timeout=60) as client, suppress(httpx.TransportError):
            lines = client.get("http://envoy/clusters").text.splitlines()
            fields = [line.split("::") for line in lines if line.startswith(f"{cluster}::")]
            return {one[1] for one in fields if len(one) > 3 and one[2] == "cx_active"}
        return set()

    def says(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def gateway(api: Api, tmp_path: Path) -> Iterator[Gateway]:
    """Agent and Envoy, in the namespace of the test, with exactly the rights above."""
    config = yaml.safe_load(account(api, "gateway", tmp_path).read_text())
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    subject = {"kind": "ServiceAccount", "name": "gateway", "namespace": api.namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "gateway"}
    binding = {"roleRef": reference, "subjects": [subject]}
    api.apply(
        {**kind, "kind": "Role", "metadata": {"name": "gateway"}, "rules": RIGHTS},
        {**kind, "kind": "RoleBinding", "metadata": {"name": "gateway"}, **binding},
    )
    mounted = tmp_path / "account"
    mounted.mkdir()
    (mounted / "token").write_text(config["users"][0]["user"]["token"])
    (mounted / "namespace").write_text(api.namespace)
    server = config["clusters"][0]["cluster"]
    (mounted / "ca.crt").write_bytes(base64.b64decode(server["certificate-authority-data"]))
    url = urlsplit(server["server"])
    folder = Path(f"/tmp/um-gwa-{os.getpid()}")  # short: the address of a socket has room for 108 bytes
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    port = free_port()
    made = Gateway(api, folder, port, Wire((str(url.hostname), int(url.port or 443))))
    arguments = ("agent", "--account", str(mounted), "--host", "127.0.0.1", "--port", str(port))
    made.start(*arguments)
    made.start("envoy", "--concurrency", "1")
    yield made
    for process in made.processes:
        process.kill()
        process.wait()
    shutil.rmtree(folder)


def _routes(api: Api, **more: Any) -> EndpointRoutes:
    deployments = (RouteDeployment("blue", "churn-blue", 100),)
    return EndpointRoutes("churn", api.namespace, free_port(), deployments, **({"auth": RouteAuth("none")} | more))


def _config_map(routes: EndpointRoutes) -> dict[str, Any]:
    metadata = {"name": f"{routes.endpoint}-routes", "labels": {LABEL_ROUTES: routes.endpoint}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {ROUTES_ENTRY: routes.to_json()}}


def _slice(*addresses: str) -> dict[str, Any]:
    """An EndpointSlice of addresses that are nobody's (TEST-NET-1): nothing is sent to them."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "churn-blue-1", "labels": {"kubernetes.io/service-name": "churn-blue"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


def test_what_is_written_reaches_envoy(api: Api, gateway: Gateway) -> None:
    """Routes and addresses reach Envoy when they are written, change as they change, and go when they are deleted."""
    routes = _routes(api)
    api.apply(_config_map(routes), _slice("192.0.2.1"))
    eventually("the version is told", lambda: gateway.state("churn").get("version") == routes.version)
    eventually("one is told", lambda: gateway.state("churn").get("ready") == {"blue": 1})
    assert gateway.addresses("churn/blue/http") == {"192.0.2.1:8080"}
    api.apply(_slice("192.0.2.1", "192.0.2.2"))
    eventually("two are told", lambda: gateway.state("churn").get("ready") == {"blue": 2})
    assert gateway.addresses("churn/blue/http") == {"192.0.2.1:8080", "192.0.2.2:8080"}
    api.run("delete", "endpointslice", "churn-blue-1")
    eventually("none is left", lambda: gateway.state("churn").get("ready") == {"blue": 0})
    assert get(f"http://127.0.0.1:{routes.port}/v2").status_code == 503
    api.run("delete", "configmap", "churn-routes")
    eventually("the endpoint is forgotten", lambda: gateway.state("churn") == {})


@pytest.mark.slow
def test_keys_come_from_their_secret_alone(api: Api, gateway: Gateway) -> None:
    """The keys Secret is read by its name and followed when it changes; other Secrets cannot even be listed."""
    routes = _routes(api, auth=RouteAuth("key", keys_secret="churn-keys"))
    api.apply(_config_map(routes), _slice())
    eventually("it waits for the Secret", lambda: "churn-keys" in gateway.state("churn").get("reason", ""))
    url = f"http://127.0.0.1:{routes.port}/v2"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "churn-keys"}}
    api.apply({**secret, "stringData": {"primary": "one"}})
    eventually("the version is told", lambda: gateway.state("churn").get("version") == routes.version)
    # 503: let in, and nobody is there.
    assert get(url, headers={"api-key": "one"}).status_code == 503
    assert get(url, headers={"api-key": "two"}).status_code == 401
    api.apply({**secret, "stringData": {"primary": "one", "secondary": "two"}})
    eventually("the second key opens", lambda: get(url, headers={"api-key": "two"}).status_code == 503)
    with pytest.raises(Refused, match="cannot list"):
        api.run("--as", f"system:serviceaccount:{api.namespace}:gateway", "get", "secrets")


def test_a_broken_watch_is_taken_up_again(api: Api, gateway: Gateway) -> None:
    """While the API server cannot be reached all goes on as it was; what changed and went meanwhile is caught up."""
    routes, gone = _routes(api), _routes(api)
    gone = EndpointRoutes("gone", api.namespace, gone.port, gone.deployments, gone.auth)
    api.apply(_config_map(routes), _config_map(gone), _slice("192.0.2.1"))
    eventually("both are told", lambda: all(gateway.state(one).get("version") for one in ("churn", "gone")))
    eventually("one pod is told", lambda: gateway.state("churn").get("ready") == {"blue": 1})
    for number in (2, 3):
        gateway.wire.cut()
        api.apply(_slice(f"192.0.2.{number}"))
        if number == 2:
            api.run("delete", "configmap", "gone-routes")
        eventually("the cut is felt", lambda: gateway.says().count("cannot follow") >= 4 * (number - 1))  # noqa: B023
        assert gateway.state("churn")["version"] == routes.version
        assert gateway.addresses("churn/blue/http") == {f"192.0.2.{number - 1}:8080"}
        gateway.wire.mend()
        expected = {f"192.0.2.{number}:8080"}
        eventually("it is caught up", lambda: gateway.addresses("churn/blue/http") == expected)  # noqa: B023
        eventually("what is gone is gone", lambda: gateway.state("gone") == {})


def test_the_metrics_carry_endpoint_and_deployment(api: Api, gateway: Gateway) -> None:
    """Requests are counted by endpoint, and by deployment and code, in Prometheus' words."""
    routes = _routes(api)
    api.apply(_config_map(routes), _slice())
    eventually("the version is told", lambda: gateway.state("churn").get("version") == routes.version)
    assert get(f"http://127.0.0.1:{routes.port}/v2").status_code == 503
    base = f"http://127.0.0.1:{gateway.port}"

    def told() -> bool:
        text = get(f"{base}/metrics").text
        labels = 'endpoint="churn",deployment="blue",protocol="http"'
        lines = ('http_downstream_rq{code="5xx",endpoint="churn"} 1', f'cluster_upstream_rq{{code="5xx",{labels}}} 1')
        return all(f"envoy_{line}\n" in text for line in lines)

    eventually("it is counted", told)
    assert "ultramarine_gateway_endpoints 1" in get(f"{base}/metrics").text
    assert [get(f"{base}/{path}").status_code for path in ("live", "ready")] == [200, 200]
    assert json.loads(get(f"{base}/routes").text)["connected"] is True
