"""Outgoing HTTP against servers on loopback: what is repeated, which proxy is taken, and how failures read."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ports import free_port
from ultramarine_contract.transport import RETRIES, cause, inside, outside, proxy_of
from urllib3.exceptions import HTTPError

ROOT = Path(__file__).resolve().parents[2]
Reply = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(reply: Reply) -> Iterator[tuple[str, list[BaseHTTPRequestHandler]]]:
    """Run a server for the block; yield its URL and the requests that it got."""
    requests: list[BaseHTTPRequestHandler] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            if (line := self.rfile.readline()) and self.parse(line):
                requests.append(self)
                reply(self)

        def parse(self, line: bytes) -> bool:
            self.raw_requestline = line
            return self.parse_request()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", requests
        server.shutdown()
        thread.join()


def hang_up(request: BaseHTTPRequestHandler) -> None:
    """Close the connection without an answer."""
    request.close_connection = True


def answer(status: int, **headers: str) -> Reply:
    """Return a reply with an empty body."""

    def reply(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()

    return reply


@pytest.mark.parametrize(("method", "count"), [("GET", 2), ("PUT", 2), ("POST", 1)])
def test_a_lost_connection_repeats_idempotent_requests_once(method: str, count: int) -> None:
    """A POST may have had its effect, so only its sender can decide to repeat it."""
    with serving(hang_up) as (url, requests), inside() as http, pytest.raises(HTTPError) as caught:
        http.request(method, url)
    assert len(requests) == count
    assert cause(caught.value) == "Remote end closed connection without response"


def test_a_sender_can_declare_its_posts_repeatable() -> None:
    """A connection that was closed while idle costs no request of a client whose requests bear repetition."""
    with serving(hang_up) as (url, requests), pytest.raises(HTTPError):
        inside(retries=RETRIES.new(allowed_methods=None)).request("POST", url)
    assert len(requests) == 2


def test_silence_is_not_repeated() -> None:
    """A second wait would double the caller's timeout."""
    ended = threading.Event()
    with serving(lambda _: ended.wait() and None) as (url, requests), inside() as http:
        with pytest.raises(HTTPError) as caught:
            http.request("GET", url, timeout=0.3)
        ended.set()
    assert (len(requests), cause(caught.value)) == (1, "timed out")


def test_an_answer_is_final() -> None:
    """Even with Retry-After, which would otherwise block the caller's thread."""
    with serving(answer(503, Retry_After="3600")) as (url, requests), inside() as http:
        assert http.request("GET", url).status == 503
    assert len(requests) == 1


def test_no_redirect_leads_out_of_the_cluster() -> None:
    """A tenant's pod must not send the operator to another address."""
    with serving(answer(200)) as (other, others), serving(answer(302, Location=other)) as (url, _), inside() as http:
        assert http.request("GET", url, headers={"Authorization": "Bearer a.b.c"}).status == 302
    assert others == []


def test_a_redirect_to_another_host_gets_no_credentials() -> None:
    """Servers outside may redirect; the credentials are for the first one."""
    with serving(answer(200)) as (other, others):
        other = other.replace("127.0.0.1", "localhost")
        with serving(answer(302, Location=other)) as (url, requests), outside(url) as http:
            assert http.request("GET", url, headers={"Authorization": "Bearer a.b.c"}).status == 200
    assert [request.headers["Authorization"] for request in requests + others] == ["Bearer a.b.c", None]


def test_a_proxy_of_the_environment_serves_outside_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy gets the whole URL and its own account; hosts of NO_PROXY and the cluster are asked directly."""
    with serving(answer(200)) as (proxy, requests):
        monkeypatch.setenv("http_proxy", proxy.removeprefix("http://").rstrip("/").replace("127", "user:p%40ss@127"))
        monkeypatch.setenv("no_proxy", "near.invalid")
        with outside("http://far.invalid") as http:
            assert http.request("GET", "http://far.invalid/a").status == 200
        (request,) = requests
        assert request.path == "http://far.invalid/a"
        assert request.headers["Proxy-Authorization"] == "Basic dXNlcjpwQHNz"
        for connections in (outside("http://near.invalid"), inside()):
            with connections as http, pytest.raises(HTTPError) as caught:
                http.request("GET", "http://near.invalid/a")
            assert cause(caught.value).startswith("Failed to resolve 'near.invalid'")
    assert proxy_of("https://far.invalid") == ""


def test_a_refused_connection_has_a_plain_cause() -> None:
    """The words have no address of an object, so that equal failures read alike."""
    with inside() as http, pytest.raises(HTTPError) as caught:
        http.request("GET", f"http://127.0.0.1:{free_port()}/")
    assert cause(caught.value) == "Connection refused"


def test_no_other_module_makes_connections() -> None:
    """Retries, proxies and proofs of names are decided in one place; scripts of templates belong to users."""
    ways = re.compile(r"http\.client|urllib\.request|^(import|from) (requests|httpx)\b", re.MULTILINE)
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("*/ultramarine*/**/*.py")
        if "templates" not in path.parts and ways.search(path.read_text())
    }
    assert modules == {"contract/ultramarine_contract/transport.py"}
