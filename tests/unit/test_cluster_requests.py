"""Requests of the command and the SDK to servers that fail: what is sent again, and what the error says."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ultramarine.kube.client import Cluster
from ultramarine.kube.config import Access, NoAccess, load
from ultramarine.kube.errors import LoginRefused
from ultramarine_contract.meta import POD

Handle = Callable[[BaseHTTPRequestHandler, list[str]], None]
PLUGIN = """
import itertools, pathlib, sys
file = pathlib.Path(sys.argv[1])
file.write_text(file.read_text() + "x" if file.exists() else "x")
print('{"status": {"token": "token-%d"}}' % len(file.read_text()))
"""


@pytest.fixture
def serve() -> Iterator[Callable[[Handle], tuple[Cluster, list[str]]]]:
    """Starts a server on loopback; returns its client, and the list of what the server was asked."""
    servers = []

    def start(handle: Handle, **user: object) -> tuple[Cluster, list[str]]:
        calls: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                calls.append(f"{self.command} {self.headers.get('Authorization', '')}".strip())
                handle(self, calls)

            do_POST = do_GET

            def log_message(self, *words: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        return Cluster(Access(address, "team-a", "prod", "kubeconfig", user=dict(user))), calls

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answer(status: int, body: bytes) -> Handle:
    """Return a handler that always answers the same."""

    def handle(request: BaseHTTPRequestHandler, calls: list[str]) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return handle


def plugin(folder: Path) -> dict[str, object]:
    """Return the user of a credential plugin that prints token-1, token-2, and so on."""
    script = folder / "plugin.py"
    script.write_text(PLUGIN)
    return {"exec": {"command": sys.executable, "args": [str(script), str(folder / "calls")]}}


def test_a_write_whose_answer_is_lost_is_sent_once(
    serve: Callable[..., tuple[Cluster, list[str]]], tmp_path: Path
) -> None:
    """The server may have made the object, also if a plugin could get a new token."""
    cluster, calls = serve(lambda request, calls: request.connection.close(), **plugin(tmp_path))

    with pytest.raises(NoAccess, match="does not answer"):
        cluster.create(POD, {"metadata": {"generateName": "a-"}})

    assert calls == ["POST Bearer token-1"]


def test_a_refused_login_is_renewed_once(serve: Callable[..., tuple[Cluster, list[str]]], tmp_path: Path) -> None:
    """The plugin is asked again for objects and for streams, and a second refusal is the user's to cure."""
    cluster, calls = serve(answer(401, b"{}"), **plugin(tmp_path))

    with pytest.raises(LoginRefused, match="Log in again"):
        cluster.get(POD, "a")
    with pytest.raises(LoginRefused, match="Log in again"):
        list(cluster.logs("a"))

    assert calls == [f"GET Bearer token-{number}" for number in (1, 2, 2, 3)]


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"[]x", b"7"])
def test_a_server_that_is_not_kubernetes_is_named(serve: Callable[..., tuple[Cluster, list[str]]], body: bytes) -> None:
    """The page of a proxy's login becomes a sentence."""
    cluster, _ = serve(answer(200, body))

    with pytest.raises(NoAccess, match=r"does not answer as a Kubernetes API does\. Correct the address in kubeconfig"):
        cluster.get(POD, "a")


def test_a_log_that_breaks_off_is_a_sentence(serve: Callable[..., tuple[Cluster, list[str]]]) -> None:
    """The connection is cut before the end of the answer."""

    def handle(request: BaseHTTPRequestHandler, calls: list[str]) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"2026-12-01T10:00:00Z loss=0.5\n")

    cluster, _ = serve(handle)
    lines = cluster.logs("a")

    with pytest.raises(NoAccess, match="does not answer"):
        list(lines)


def test_the_namespace_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ULTRAMARINE_NAMESPACE stands before the context's namespace, and an argument before both."""
    file = tmp_path / "config"
    file.write_text(
        "current-context: a\ncontexts: [{name: a, context: {cluster: a, namespace: of-context}}]\n"
        "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\n"
    )
    monkeypatch.delenv("ULTRAMARINE_NAMESPACE", raising=False)
    assert load(kubeconfig=str(file)).namespace == "of-context"
    monkeypatch.setenv("ULTRAMARINE_NAMESPACE", "team-a")
    assert load(kubeconfig=str(file)).namespace == "team-a"
    assert load(namespace="team-b", kubeconfig=str(file)).namespace == "team-b"
