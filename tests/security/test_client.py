"""A client of an endpoint: asks without a key or token, hides requests in others, sends what ends servers."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from security.doors import HEALTH, INFER, MODEL, OTHERS, QUESTION, SILENCE, Door, Issuer, base64url, opened, request
from security.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RESET,
    SETTINGS,
    frame,
    packed,
)
from security.share import tenth
from ultramarine_contract.common import ANSWERS_PATH, COMPARED_HEADER, COPY_HEADER, GATEWAY_HEADER

ISSUER = Issuer()


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Door, Door]]:
    """An endpoint with keys, and one with tokens."""
    with opened(tmp_path_factory.mktemp("doors"), ISSUER) as pair:
        assert [door.ask() for door in pair] == [200, 200], "what is refused below is refused for its own sake"
        yield pair


@pytest.fixture(scope="module")
def keyed(doors: tuple[Door, Door]) -> Door:
    """The endpoint with keys."""
    return doors[0]


@pytest.fixture(scope="module")
def tokened(doors: tuple[Door, Door]) -> Door:
    """The endpoint with tokens, whose pods answer the gateway alone."""
    return doors[1]


def refused(door: Door, *parts: bytes, seconds: float = 60) -> list[int]:
    """Say something, of which the server must answer nothing but health, and return the codes."""
    before = door.answered
    codes, answer = door.say(*parts, seconds=seconds)
    assert door.answered == before, answer
    assert answer.count(b"HTTP/1.1 200") == len(HEALTH.findall(answer)), answer
    return codes


# Without a key

PATHS = [
    "/v2",
    INFER,
    "/v2/",
    f"/{INFER}",
    f"//v2/models/{MODEL}",
    f"/v2//models/{MODEL}",
    f"/v2/models/{MODEL}/",
    f"/v2/models/{MODEL};/ready",
    f"{INFER};/v2/health/live",
    f"{INFER}?/v2/health/live",
    f"{INFER}?x=/ready",
    f"{INFER}/ready",
    f"{INFER}%2fready",
    f"{INFER}%3f/ready",
    f"{INFER}%00/ready",
    f"{INFER}%23/ready",
    f"/v2/health/live/..;/../models/{MODEL}/infer",
    f"/v2/health/live/../../models/{MODEL}/infer",
    f"/v2/health/live%2f..%2f..%2fmodels/{MODEL}/infer",
    f"/v2/health/live/%2e%2e/%2e%2e/models/{MODEL}/infer",
    f"/v2/health/live/%252e%252e/%252e%252e/models/{MODEL}/infer",
    f"/v2/health/live/..\\..\\models/{MODEL}/infer",
    f"/v2/health/live%5c..%5c..%5cmodels/{MODEL}/infer",
    f"/v2/./health/.././models/{MODEL}",
    f"/V2/models/{MODEL}",
    f"/v2/models/{MODEL}/versions/3/../infer/ready",
    f"/v2/models/{MODEL}/versions/../infer",
    f"/v2/models/{MODEL}/INFER",
    f"/v2/models/x/ready/../../{MODEL}/infer",
    f"http://x/v2/health/live/../../models/{MODEL}",
    f"http://x/v2/models/{MODEL}",
    f"http://x{INFER}",
    f"https://churn@x{INFER}",
    "/openapi.json",
    "/score",
    "/invocations",
    "/metrics",
    "/v2/repository/index",
    f"/v2/repository/models/{MODEL}/unload",
    f"/v2/repository/models/{MODEL}/load",
    ANSWERS_PATH,
]


@pytest.mark.attack(
    "client/paths",
    asset="predictions, metadata",
    threat="a path that one takes for that of a probe, and another for that of a prediction: dots, slashes, encodings",
    control="the gateway opens the paths of health to the letter, after it has resolved dots; the server takes paths "
    "as they stand, and decodes names alone",
)
@pytest.mark.parametrize("which", [0, 1], ids=["keys", "tokens"])
@pytest.mark.parametrize("path", tenth(PATHS))
def test_no_path_leads_around_the_key(doors: tuple[Door, Door], which: int, path: str) -> None:
    """Without a key or token each path but those of health is refused, however it is spelled."""
    for method in ("GET", "POST"):
        codes = refused(doors[which], request(method, path))
        assert codes
        assert set(codes) <= {400, 401, 403, 404, 405}


@pytest.mark.attack("client/paths")
@pytest.mark.parametrize(
    "line",
    tenth(
        [
            f"OPTIONS {INFER}",
            "OPTIONS *",
            f"HEAD /v2/models/{MODEL}",
            f"TRACE {INFER}",
            "CONNECT churn:80",
            f"PUT {INFER}",
            f"post {INFER}",
            f"POST\t{INFER}",
            f"X-HTTP-METHOD {INFER}",
            f"GET  {INFER}",
        ]
    ),
)
@pytest.mark.parametrize("which", [0, 1], ids=["keys", "tokens"])
def test_no_method_leads_around_the_key(doors: tuple[Door, Door], which: int, line: str) -> None:
    """Another method is asked for a key too."""
    codes = refused(doors[which], f"{line} HTTP/1.1\r\nHost: churn\r\nConnection: close\r\n\r\n".encode())
    assert set(codes) <= {400, 401, 403, 404, 426}


# A key in the wrong place, or another one


@pytest.mark.attack("client/no-key")
@pytest.mark.parametrize(
    "headers",
    tenth(
        [
            {"api_key": OTHERS},
            {"Authorization": f"Bearer {OTHERS}"},
            {"X_Api_Key": "{key}"},
            {"Proxy_Authorization": "Bearer {key}"},
            {"Cookie": "api-key={key}"},
            {"api_key": "{key}\x7f"},
            {"api_key": "{key},{key}"},
            {"api_key": "wrong\r\napi-key: {key}"},
            {"Authorization": "{key}"},
            {"Authorization": "Basic {key}"},
            {"Authorization": "Bearer wrong, Bearer {key}"},
            {"Authorization": "Bearer {key} x"},
            {"api_key": "primary"},
            {"api_key": "*"},
            {"api_key": "%00"},
            {"X_Forwarded_For": "127.0.0.1"},
            {"X_Envoy_Internal": "true"},
            {"X_Envoy_Original_Path": "/v2/health/live"},
            {"X_Original_URL": "/v2/health/live"},
            {"X_Rewrite_URL": "/v2/health/live"},
            {"X_HTTP_Method_Override": "GET"},
            {"X_Ultramarine_Deployment": "keys"},
            {COMPARED_HEADER: "word 1"},
            {COPY_HEADER: "1"},
            {"Connection": "api-key, close"},
            {"Host": "others"},
        ]
    ),
)
def test_a_key_opens_by_its_own_header_alone(keyed: Door, headers: dict[str, str]) -> None:
    """Another endpoint's key opens nothing, a right one nothing in another header, and none has the server trust it."""
    given = {name: value.format(key=keyed.opens["api-key"]) for name, value in headers.items()}
    assert refused(keyed, request(**given)) in ([401], [400], [200])


@pytest.mark.attack("client/no-key")
@pytest.mark.parametrize("where", ["api-key", "key", "access_token", "authorization", "token"])
def test_a_key_in_a_url_or_body_opens_nothing(keyed: Door, where: str) -> None:
    """A key in a place that logs and histories keep is ignored."""
    key = keyed.opens["api-key"]
    assert refused(keyed, request(path=f"{INFER}?{where}={key}")) == [401]
    assert refused(keyed, request(body=f"{where}={key}".encode())) == [401]


# Forged tokens


def _hmac(secret: bytes) -> str:
    text = ISSUER.text({"alg": "HS256"})
    return f"{text}.{base64url(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def _by_stranger(**head: Any) -> str:
    return ISSUER.signed(ISSUER.text(head), ISSUER.stranger)


def _changed(**claims: Any) -> str:
    return f"{ISSUER.text(**claims)}.{ISSUER.token().rpartition('.')[2]}"


JWK, FOREIGN = ISSUER.jwk(ISSUER.key), ISSUER.jwk(ISSUER.stranger)
TOKENS: dict[str, str] = {
    "no algorithm": f"{ISSUER.text({'alg': 'none'})}.",
    "no algorithm in capitals": f"{ISSUER.text({'alg': 'nOnE'})}.",
    "no algorithm and a signature": f"{ISSUER.text({'alg': 'none'})}.{ISSUER.token().rpartition('.')[2]}",
    "empty algorithm": f"{ISSUER.text({'alg': ''})}.",
    "symmetric by the modulus": _hmac(JWK["n"].encode()),
    "symmetric by the key set": _hmac(json.dumps({"keys": [JWK]}).encode()),
    "symmetric by nothing": _hmac(b""),
    "another algorithm of the family": ISSUER.signed(ISSUER.text({"alg": "RS512"})),
    "another padding": ISSUER.signed(ISSUER.text({"alg": "PS256"})),
    "another family": ISSUER.signed(ISSUER.text({"alg": "ES256"})),
    "a stranger's key": _by_stranger(),
    "a key in the token": _by_stranger(jwk=FOREIGN),
    "a key set by URL": _by_stranger(jku="http://127.0.0.1/jwks"),
    "a certificate by URL": _by_stranger(x5u="http://127.0.0.1/cert"),
    "a key id that is a path": _by_stranger(kid="../../../dev/null"),
    "a key id that is a query": _by_stranger(kid="1' OR '1'='1"),
    "an unknown key id": ISSUER.signed(ISSUER.text({"kid": "2"})),
    "a key id that is a list": _by_stranger(kid=["1"]),
    "no signature": ISSUER.token().rpartition(".")[0] + ".",
    "no third part": ISSUER.token().rpartition(".")[0],
    "half a signature": ISSUER.token()[:-100],
    "another subject": _changed(sub="root"),
    "another end": _changed(exp=int(time.time()) + 10**6),
    "another audience": ISSUER.token(aud="other"),
    "an audience in capitals": ISSUER.token(aud="CHURN"),
    "an audience with a space": ISSUER.token(aud="churn "),
    "audiences in one word": ISSUER.token(aud="other,churn"),
    "an audience that is an object": ISSUER.token(aud={"churn": "churn"}),
    "no audience": ISSUER.token(aud=None),
    "another issuer": ISSUER.token(iss="https://other.example"),
    "an issuer with a slash": ISSUER.token(iss="https://id.example/"),
    "an issuer in capitals": ISSUER.token(iss="HTTPS://ID.EXAMPLE"),
    "a list of issuers": ISSUER.token(iss=["https://id.example"]),
    "no issuer": ISSUER.token(iss=None),
    "over": ISSUER.token(exp=int(time.time()) - 3600),
    "over since 1970": ISSUER.token(exp=0),
    "before 1970": ISSUER.token(exp=-1),
    "an end in words": ISSUER.token(exp="never"),
    "no end": ISSUER.token(exp=None),
    "not yet": ISSUER.token(nbf=int(time.time()) + 3600),
    "not yet, in words": ISSUER.token(nbf="later"),
    "encrypted": "e30.e30.e30.e30.e30",
    "huge": "e30." + "A" * 50_000 + ".e30",
    "deep": base64url(b"[" * 20_000) + ".e30.e30",
    "no JSON": base64url(b"\xff\xfe") + ".e30.e30",
    "standard base64": ISSUER.token().replace("-", "+").replace("_", "/") + "==",
}


@pytest.mark.attack("client/forged-token")
@pytest.mark.parametrize("token", tenth(TOKENS))
def test_a_forged_token_opens_nothing(tokened: Door, token: str) -> None:
    """Only what the issuer has signed by the algorithm of its key, for here and for now, opens."""
    assert refused(tokened, request(Authorization=f"Bearer {TOKENS[token]}"))[0] in (400, 401, 403, 431)


@pytest.mark.attack("client/forged-token")
@pytest.mark.parametrize(
    "headers",
    tenth(
        [
            {"api_key": "{token}"},
            {"Authorization": "{token}"},
            {"Authorization": "Basic {token}"},
            {"X_Authorization": "Bearer {token}"},
            {"Proxy_Authorization": "Bearer {token}"},
            {"Cookie": "access_token={token}"},
            {"X_Goog_Iap_Jwt_Assertion": "{token}"},
            {"X_Jwt_Payload": "{claims}"},
            {"X_Forwarded_Access_Token": "{token}"},
            {GATEWAY_HEADER: "a-guess"},
        ]
    ),
)
def test_a_token_opens_by_its_own_header_alone(tokened: Door, headers: dict[str, str]) -> None:
    """A good token opens nothing by other headers, nor do claims in a header for checked ones."""
    token = ISSUER.token()
    given = {name: value.format(token=token, claims=token.split(".")[1]) for name, value in headers.items()}
    assert refused(tokened, request(**given)) == [401]
    assert refused(tokened, request(path=f"{INFER}?access_token={token}")) == [401]


# Requests in requests

INNER = request()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER)
OPEN = b"POST /v2/health/live HTTP/1.1\r\nHost: churn\r\n"
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: churn\r\n"
LENGTH, CODED = b"Content-Length: %d\r\n" % len(INNER), b"Transfer-Encoding: chunked\r\n"
HIDDEN: dict[str, bytes] = {
    "length and chunks": OPEN + b"Content-Length: %d\r\n" % len(CHUNKED) + CODED + b"\r\n0\r\n\r\n" + INNER,
    "chunks and length": OPEN + CODED + b"Content-Length: 4\r\n\r\n" + CHUNKED,
    "two lengths": OPEN + b"Content-Length: 0\r\n" + LENGTH + b"\r\n" + INNER,
    "two lengths in one": OPEN + b"Content-Length: 0, %d\r\n\r\n" % len(INNER) + INNER,
    "a length with a sign": OPEN + b"Content-Length: +%d\r\n\r\n" % len(INNER) + INNER,
    "a negative length": OPEN + b"Content-Length: -1\r\n\r\n" + INNER,
    "a length in hex": OPEN + b"Content-Length: 0x%x\r\n\r\n" % len(INNER) + INNER,
    "a length beyond 64 bits": OPEN + b"Content-Length: 18446744073709551616\r\n\r\n" + INNER,
    "a space before the colon": OPEN + b"Content-Length : %d\r\n\r\n" % len(INNER) + INNER,
    "a length that is folded": OPEN + b"X: y\r\n Content-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "a length behind a bare LF": OPEN + b"X: y\nContent-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "a length behind a bare CR": OPEN + b"X: y\rContent-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "a length behind a NUL": OPEN + b"X: y\0Content-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "a length that is hop by hop": OPEN + LENGTH + b"Connection: content-length\r\n\r\n" + INNER,
    "another coding": OPEN + LENGTH + b"Transfer-Encoding: xchunked\r\n\r\n" + INNER,
    "a coding and none": OPEN + LENGTH + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "none and a coding": OPEN + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + INNER,
    "two codings": OPEN + CODED + b"Transfer-Encoding: cow\r\n" + LENGTH + b"\r\n0\r\n\r\n" + INNER,
    "a coding in quotes": OPEN + LENGTH + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n' + INNER,
    "a coding behind a tab": OPEN + LENGTH + b"Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" + INNER,
    "a coding behind a vertical tab": OPEN + LENGTH + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + INNER,
    "a coding with a space": OPEN + LENGTH + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + INNER,
    "a coding that is folded": OPEN + LENGTH + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + INNER,
    "a coding with a low line": OPEN + LENGTH + b"Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
    "a chunk's size beyond 64 bits": OPEN + CODED + b"\r\n10000000000000000\r\n\r\n0\r\n\r\n" + INNER,
    "a chunk's negative size": OPEN + CODED + b"\r\n-1\r\n\r\n0\r\n\r\n" + INNER,
    "a chunk's size in 0x": OPEN + CODED + b"\r\n0x0\r\n\r\n" + INNER,
    "a chunk's size with a space": OPEN + CODED + b"\r\n0 \r\n\r\n" + INNER,
    "a line in a chunk's extension": OPEN + CODED + b"\r\n1;a\nb\r\nx\r\n0\r\n\r\n" + INNER,
    "chunks by bare LF": OPEN + CODED + b"\n\n0\n\n" + INNER,
    "more than a chunk's size": OPEN + CODED + b"\r\n1\r\nxyz" + INNER,
    "a trailer with a length": OPEN + CODED + b"\r\n0\r\n" + LENGTH + b"\r\n" + INNER,
    "HTTP/1.0 with chunks": OPEN.replace(b"1.1", b"1.0") + CODED + b"Connection: keep-alive\r\n\r\n0\r\n\r\n" + INNER,
    "a body of a GET": GET + LENGTH + b"\r\n" + INNER,
    "a body of a GET in chunks": GET + CODED + b"\r\n" + CHUNKED,
    "a body of a HEAD": GET.replace(b"GET", b"HEAD") + LENGTH + b"\r\n" + INNER,
    "a body of an OPTIONS": GET.replace(b"GET", b"OPTIONS") + LENGTH + b"\r\n" + INNER,
    "a body that waits": GET + LENGTH + b"Expect: 100-continue\r\n\r\n" + INNER,
    "no length": OPEN + b"\r\n" + INNER,
    "an upgrade to WebSocket": GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n" + INNER,
    "an upgrade to HTTP/2": GET
    + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQA\r\n"
    b"\r\n" + INNER,
    "an upgrade to nothing": GET + b"Upgrade: x\r\nConnection: Upgrade\r\n" + LENGTH + b"\r\n" + INNER,
    "lines in a path": b"GET /v2/health/live%0d%0a%0d%0aPOST%20" + INFER.encode() + b" HTTP/1.1\r\nHost: churn\r\n\r\n",
    "a second version in the line": b"GET /v2/health/live HTTP/1.1 HTTP/1.1\r\nHost: churn\r\n\r\n" + INNER,
    "HTTP/0.9": b"GET /v2/health/live\r\n\r\n" + INNER,
    "an unknown version": GET.replace(b"1.1", b"1.9") + b"\r\n" + INNER,
    "two hosts": GET + b"Host: other\r\n\r\n" + INNER,
    "no host": b"GET /v2/health/live HTTP/1.1\r\n\r\n" + INNER,
    "one after the other": GET + b"\r\n" + INNER,
}


@pytest.mark.attack(
    "client/smuggling",
    asset="predictions, metadata",
    threat="a request hidden in the body or the head of one that needs no key, where gateway and server differ in "
    "where it ends; by HTTP/1 and HTTP/2",
    control="the gateway refuses what is ambiguous, and writes each request again; so does the server",
)
@pytest.mark.parametrize("hidden", tenth(HIDDEN))
@pytest.mark.parametrize("which", [0, 1], ids=["keys", "tokens"])
def test_no_request_hides_another(doors: tuple[Door, Door], which: int, hidden: str) -> None:
    """Behind a probe, which needs no key, nothing that needs one reaches the server."""
    before = doors[which].answered
    codes, _ = doors[which].say(HIDDEN[hidden], request("GET", "/v2/health/live", b""), seconds=SILENCE)
    assert doors[which].answered == before
    assert codes == [] or {400, 401, 403, 404, 405, 426, 501} & set(codes) or set(codes) <= {100, 200}


HEAD = [(":method", "POST"), (":scheme", "http"), (":authority", "churn"), (":path", "/v2/health/live")]
HIDDEN_2: dict[str, list[tuple[str, str]]] = {
    "a length that is too short": [*HEAD, ("content-length", "0")],
    "two lengths": [*HEAD, ("content-length", "0"), ("content-length", str(len(INNER)))],
    "a coding": [*HEAD, ("transfer-encoding", "chunked")],
    "a connection": [*HEAD, ("connection", "transfer-encoding"), ("transfer-encoding", "chunked")],
    "lines in a value": [*HEAD, ("x", "y\r\nTransfer-Encoding: chunked\r\n\r\n")],
    "lines in a name": [*HEAD, ("x: y\r\ntransfer-encoding", "chunked")],
    "lines in a path": [*HEAD[:3], (":path", f"/v2/health/live HTTP/1.1\r\nHost: x\r\n\r\nPOST {INFER}")],
    "lines in a method": [(":method", f"GET /v2/health/live HTTP/1.1\r\n\r\nPOST {INFER}"), *HEAD[1:]],
    "a space in a path": [*HEAD[:3], (":path", f"/v2/health/live HTTP/1.1 {INFER}")],
    "lines in a host": [*HEAD[:2], (":authority", "x\r\n\r\nPOST / HTTP/1.1"), HEAD[3]],
    "two paths": [*HEAD, (":path", INFER)],
    "no path": HEAD[:3],
    "a path behind a header": [*HEAD[:3], ("x", "y"), (":path", INFER)],
    "a name in capitals": [*HEAD, ("Content-Length", "0")],
    "a NUL": [*HEAD, ("x", "a\0b")],
    "a scheme that is none": [HEAD[0], (":scheme", "http://x/v2\r\n"), *HEAD[2:]],
    "an upgrade": [(":method", "CONNECT"), (":protocol", "websocket"), *HEAD[1:]],
    "another path": [*HEAD[:3], (":path", f"/v2/health/live/../../models/{MODEL}/infer")],
    "no key": [*HEAD[:3], (":path", INFER)],
}


@pytest.mark.attack("client/smuggling")
@pytest.mark.parametrize("hidden", tenth(HIDDEN_2))
def test_no_request_hides_another_by_http2(tokened: Door, hidden: str) -> None:
    """Text of HTTP/2 that means something different in HTTP/1.1 does not reach the server."""
    before = tokened.answered
    tokened.say(
        PREFACE
        + frame(HEADERS, END_HEADERS, 1, packed(*HIDDEN_2[hidden]))
        + frame(DATA, END_STREAM, 1, b"0\r\n\r\n" + INNER)
        + frame(GOAWAY, 0, 0, bytes(8)),
        seconds=SILENCE,
    )
    assert tokened.answered == before
    assert tokened.ask() == 200


# Too much

RESETS = [frame(HEADERS, END_HEADERS, n, packed(*HEAD)) + frame(RESET, 0, n, bytes(4)) for n in range(1, 8_001, 2)]
ENDLESS: dict[str, list[bytes]] = {
    "a header": [request(x="a" * 70_000)],
    "headers": [request(**{f"x{number}": "y" for number in range(2_000)})],
    "a query": [request(path=INFER + "?" + "a" * 70_000)],
    "folders": [request(path="/" + "a/" * 40_000)],
    "dots": [request(path="/" + "%2e%2e/" * 12_000)],
    "a method": [request(method="A" * 70_000)],
    "headers that go on": [
        PREFACE,
        frame(HEADERS, 0, 1, packed(("x", "y"))),
        *[frame(CONTINUATION, 0, 1, packed(("x", "y" * 9_000)))] * 99,
    ],
    "settings": [PREFACE, *[frame(SETTINGS, 0, 0, b"")] * 20_000],
    "pings": [PREFACE, *[frame(PING, 0, 0, bytes(8))] * 20_000],
    "requests that are taken back": [PREFACE, *RESETS],
    "data of no stream": [PREFACE, *[frame(DATA, 0, 1, b"")] * 20_000],
    "a handshake": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)],
    "zeros": [bytes(100_000)],
}


@pytest.mark.attack(
    "client/too-much",
    asset="the gateway, the server",
    threat="heads without end, streams without headers' end, requests that are reset at once, many connections",
    control="heads of 60 KiB and 100 headers at most; floods of frames and resets end their connection",
)
@pytest.mark.parametrize("kind", tenth(ENDLESS))
def test_what_has_no_end_is_hung_up_on(keyed: Door, kind: str) -> None:
    """Whoever sends that is refused or hung up on, and others are answered."""
    assert not set(refused(keyed, *ENDLESS[kind], seconds=SILENCE)) & {200, 500, 502, 503}
    assert keyed.ask() == 200


def _tensor(**changes: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]} | changes
    return json.dumps({"inputs": [tensor]}).encode()


def _replaced(data: bytes) -> bytes:
    return QUESTION.replace(b"[1.0]", data)


def _zeros(size: int) -> Iterator[bytes]:
    made = zlib.compressobj(9, wbits=31)
    for _ in range(size // 2**20):
        yield made.compress(bytes(2**20))
    yield made.flush()


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\x80\x04K\x01.",
    "a list": b"[]",
    "a word": b'"x"',
    "lists in lists": b"[" * 500_000,
    "objects in objects": b'{"a":' * 200_000,
    "data in data": _replaced(b"[" * 100_000 + b"1" + b"]" * 100_000),
    "not a number": _replaced(b"[NaN]"),
    "a constant": _replaced(b"[-Infinity]"),
    "an object for a number": _replaced(b'[{"__class__": "os.system"}]'),
    "a whole number of a million digits": _replaced(b"[" + b"9" * 1_000_000 + b"]"),
    "an exponent": _replaced(b"[1e999999999]"),
    "a fraction of a million digits": _replaced(b"[0." + b"0" * 1_000_000 + b"x]"),
    "half a surrogate": QUESTION.replace(b'"x"', b'"\\ud800"'),
    "UTF-16": QUESTION.decode().encode("utf-16"),
    "bytes that UTF-8 does not have": QUESTION.replace(b'"x"', b'"\xff\xfe"'),
    "a shape beyond 64 bits": _tensor(shape=[2**64, 1]),
    "a shape that overflows": _tensor(shape=[2**32, 2**32]),
    "a shape that overflows to its size": _tensor(shape=[2**63, 2]),
    "a negative shape": _tensor(shape=[-1, 1]),
    "two negative sizes": _tensor(shape=[-1, -1]),
    "a shape of fractions": _tensor(shape=[0.5, 2]),
    "a shape of truth": _tensor(shape=[True, True]),
    "a shape of a thousand": _tensor(shape=[1] * 1_000),
    "a string as a shape": _tensor(shape="1,1"),
    "no shape": _tensor(shape=None),
    "a large shape of little": _tensor(shape=[10**9, 10**9]),
    "another type": _tensor(datatype="object"),
    "a type that is a list": _tensor(datatype=["FP32"]),
    "text for numbers": _tensor(datatype="BYTES", data=["1.0"]),
    "a name that is a path": _tensor(name="../../etc/passwd"),
    "a name of a megabyte": _tensor(name="x" * 2**20),
    "a name that is a list": _tensor(name=["x"]),
    "shared memory": _tensor(parameters={"shared_memory_region": "/dev/shm/x", "shared_memory_byte_size": 8}),
    "bytes that are not there": _tensor(data=None, parameters={"binary_data_size": 4}),
    "negative bytes": _tensor(data=None, parameters={"binary_data_size": -4}),
    "a shape of nothing that overflows": _tensor(shape=[2**63, 0], data=[]),
    "many bytes": _tensor(data=None, parameters={"binary_data_size": 2**62}),
    "one input twice": json.dumps({"inputs": json.loads(QUESTION)["inputs"] * 2}).encode(),
    "many inputs": json.dumps({"inputs": json.loads(QUESTION)["inputs"] * 50_000}).encode(),
    "many outputs": QUESTION[:-1] + b', "outputs": [' + b'{"name":"z"},' * 50_000 + b'{"name":"z"}]}',
    "an unknown output": QUESTION[:-1] + b', "outputs": [{"name": "__class__"}]}',
}


@pytest.mark.attack(
    "client/bad-bodies",
    asset="the server",
    threat="a body that its parser, its numbers or its memory could not bear",
    control="a parser of bounded depth; shapes are compared with what came; all is refused in words",
)
@pytest.mark.parametrize("body", tenth(BODIES))
def test_a_bad_body_is_refused_in_words(keyed: Door, body: str) -> None:
    """Whoever has a key gets a 400 for it, and the server goes on."""
    assert refused(keyed, request(body=BODIES[body], **keyed.opens))[0] in (400, 413, 415)
    assert keyed.ask() == 200


@pytest.mark.attack("client/bad-bodies")
@pytest.mark.parametrize(
    ("headers", "body"),
    tenth([
        ({"Content_Encoding": "gzip"}, lambda: b"".join(_zeros(2**30))),
        ({"Content_Encoding": "gzip"}, gzip.compress(QUESTION)[:-9]),
        ({"Content_Encoding": "gzip"}, QUESTION),
        ({"Content_Encoding": "gzip, gzip"}, gzip.compress(gzip.compress(QUESTION))),
        ({"Content_Encoding": "deflate"}, lambda: zlib.compress(bytes(2**27), 9)),
        ({"Content_Encoding": "br"}, QUESTION),
        ({"Inference_Header_Content_Length": "-1"}, QUESTION),
        ({"Inference_Header_Content_Length": "99999999999999999999"}, QUESTION),
        ({"Inference_Header_Content_Length": "1"}, QUESTION),
        ({"Inference_Header_Content_Length": "\xb2"}, QUESTION),
        ({"Inference_Header_Content_Length": "1" * 5_000}, QUESTION),
        ({"Content_Type": "application/x-python-pickle"}, b"\x80\x04K\x01."),
        ({"Content_Type": "multipart/form-data; boundary=x"}, b"--x\r\n\r\n"),
    ]),
    ids=["bomb", "half", "no gzip", "twice", "deflated bomb", "brotli", "negative", "huge", "short", "a power",
         "digits", "pickle", "form"],
)  # fmt: skip
def test_a_body_that_is_not_as_its_head_says_is_refused(
    keyed: Door, headers: dict[str, str], body: bytes | Callable[[], bytes]
) -> None:
    """Compressed, cut or packed: it is refused, and the server goes on. A body that takes seconds is made here."""
    content = body() if callable(body) else body
    assert refused(keyed, request(body=content, **headers, **keyed.opens))[0] in (400, 413, 415)
    assert keyed.ask() == 200


# With a key, to what is not for clients


@pytest.mark.attack(
    "client/other-routes",
    asset="models, the pod's inside",
    threat="other models, versions and folders; load, unload and debug routes as other servers have them",
    control="one model with one version, by its name alone; nothing is loaded from a path or by parameters",
)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    tenth(
        [
            ("POST", ANSWERS_PATH, b'{"reader": "x"}'),
            ("POST", "/v2/models/other/infer", QUESTION),
            ("POST", f"/v2/models/{MODEL}/versions/4/infer", QUESTION),
            ("POST", f"/v2/models/{MODEL}/versions/..%2f..%2fother/infer", QUESTION),
            ("GET", "/v2/models/..%2f..%2f..%2fetc%2fpasswd", b""),
            ("GET", "/v2/models/%2e%2e", b""),
            ("GET", "/v2/models/%00", b""),
            ("POST", "/v2/repository/models/other/load", b""),
            ("POST", "/v2/repository/models/..%2fother/load", b""),
            (
                "POST",
                f"/v2/repository/models/{MODEL}/load",
                b'{"parameters": {"config": "{\\"backend\\": \\"python\\"}"}}',
            ),
            ("POST", f"/v2/repository/models/{MODEL}/load", b'{"parameters": {"file:1/model.py": "cHJpbnQoMSk="}}'),
            ("GET", f"/v2/models/{MODEL}/config", b""),
            ("GET", f"/v2/models/{MODEL}/stats", b""),
            ("POST", f"/v2/models/{MODEL}/generate", b"{}"),
            ("POST", "/v2/systemsharedmemory/region/x/register", b'{"key": "/x", "offset": 0, "byte_size": 8}'),
            ("POST", "/v2/cudasharedmemory/region/x/register", b"{}"),
            ("POST", "/v2/logging", b'{"log_file": "/tmp/x"}'),
            ("POST", "/v2/trace/setting", b'{"trace_file": "/tmp/x"}'),
            ("GET", "/docs", b""),
            ("GET", "/debug/pprof/heap", b""),
            ("GET", "/config_dump", b""),
            ("POST", "/quitquitquit", b""),
            ("GET", "/stats/prometheus", b""),
            ("GET", "/.env", b""),
            ("GET", "/..%2f..%2f..%2fproc/self/environ", b""),
            ("GET", "//proc/self/environ", b""),
            ("PUT", "/model.onnx", b"x"),
            ("DELETE", f"/v2/models/{MODEL}", b""),
        ]
    ),
)
def test_a_key_opens_the_protocols_routes_of_one_model(keyed: Door, method: str, path: str, body: bytes) -> None:
    """A key permits requests to the one model, and nothing more."""
    assert refused(keyed, request(method, path, body, **keyed.opens))[0] in (400, 404, 405)
    assert keyed.ask() == 200


@pytest.mark.attack("client/other-routes")
@pytest.mark.parametrize("what", ["load", "unload"])
def test_a_token_takes_no_model_away(tokened: Door, what: str) -> None:
    """On pods without keys no caller loads or unloads a model, even with a valid token."""
    assert refused(tokened, request("POST", f"/v2/repository/models/{MODEL}/{what}", b"", **tokened.opens)) == [403]


# gRPC

SERVICE = "/inference.GRPCInferenceService"
EMPTY_KINDS = [(1, "x"), (2, "FP32")]
CALLS = [
    *(
        f"{SERVICE}/{name}"
        for name in ("ServerMetadata", "ModelMetadata", "ModelInfer", "ModelStreamInfer", "ModelConfig")
    ),
    *(f"{SERVICE}/{name}" for name in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")),
    f"{SERVICE}/ServerLive/../ModelInfer",
    f"{SERVICE}/ModelInfer/ServerLive",
    f"{SERVICE}/serverlive",
    f"{SERVICE}%2fServerLive",
    f"/x{SERVICE}/ServerLive",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.channelz.v1.Channelz/GetServers",
    "/grpc.health.v1.Health/Watch",
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
]


def _call(door: Door, method: str, body: bytes, **options: Any) -> grpc.StatusCode:
    """The status that a call ends with."""
    with grpc.insecure_channel(door.grpc, [("grpc.max_send_message_length", -1)]) as channel:
        try:
            channel.unary_unary(method)(body, timeout=20, **options)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def _length(size: int) -> bytes:
    """A number as protobuf writes it."""
    return bytes([size]) if size < 128 else bytes([size % 128 + 128]) + _length(size // 128)


def _fields(*fields: tuple[int, bytes]) -> bytes:
    """Fields of bytes as protobuf writes them."""
    return b"".join(_length(number * 8 + 2) + _length(len(value)) + value for number, value in fields)


def _shape(*sizes: int) -> bytes:
    return b"".join(map(_length, (size % 2**64 for size in sizes)))


@pytest.mark.attack("client/paths")
@pytest.mark.parametrize("method", tenth(CALLS))
def test_no_call_leads_around_the_token(tokened: Door, method: str) -> None:
    """Without a token each call but those of health is refused, and none of those that other servers have is open."""
    assert _call(tokened, method, b"") == grpc.StatusCode.UNAUTHENTICATED


def _inferring(shape: bytes, *raw: bytes, datatype: bytes = b"FP32", name: bytes = b"x") -> bytes:
    tensor = _fields((1, name), (2, datatype), (3, shape))
    return _fields((1, MODEL.encode()), (5, tensor), *((7, part) for part in raw))


@pytest.mark.attack("client/bad-bodies")
@pytest.mark.parametrize(
    "body",
    tenth([
        b"\xff" * 100,
        _inferring(_shape(1, 1)),
        _inferring(_shape(1, 1), b"123"),
        _inferring(_shape(1, 1), b"1234", b"1234"),
        _inferring(_shape(2**32, 2**32), b""),
        _inferring(_shape(2**62, 4), b""),
        _inferring(_shape(-1, -1), b"1234"),
        _inferring(_shape(*[1] * 1_000), b"1234"),
        _inferring(_shape(1, 1), b"\xff\xff\xff\x7f1234", datatype=b"BYTES"),
        _inferring(_shape(1, 1), b"1234", datatype=b"\xff"),
        _inferring(_shape(1, 1), b"1234", name=b"../x"),
        _fields((1, b"\xff\xfe")),
        _fields((1, b"other")),
        b"\x0b" * 100_000,
        bytes(80 * 2**20),
    ]),
    ids=["no message", "no contents", "short", "many", "overflow", "overflow to 0", "negative", "dimensions", "texts",
         "type", "name", "no text", "model", "groups", "giant"],
)  # fmt: skip
def test_a_bad_message_is_refused(keyed: Door, body: bytes) -> None:
    """Whoever has a key is told what is wrong, and the server goes on."""
    code = _call(keyed, f"{SERVICE}/ModelInfer", body, metadata=list(keyed.opens.items()))
    assert code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNKNOWN,  # A malformed message is not read.
    )
    assert keyed.ask() == 200


@pytest.mark.attack("client/bad-bodies")
@pytest.mark.slow
def test_a_compressed_message_is_bounded_by_what_it_becomes(keyed: Door) -> None:
    """A megabyte that unpacks into more than a message may be is refused."""
    options = {"metadata": list(keyed.opens.items()), "compression": grpc.Compression.Gzip}
    code = _call(keyed, f"{SERVICE}/ModelInfer", bytes(2**27), **options)
    assert code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)  # Told, or hung up on.
    assert keyed.ask() == 200
