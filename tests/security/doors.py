"""Endpoints as strangers meet them: real servers behind a real gateway, and what says anything to them."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from e2e.manifests import infer, onnx_model
from gateway.gateway_rig import Gateway, Pod, deployment, routes, running
from ports import free_port
from ultramarine_contract.routes import RouteAuth
from unit.serving_process import Server, serving, task_for

MODEL = "cancer"  # as `task_for` calls it
INFER = f"/v2/models/{MODEL}/infer"
QUESTION = json.dumps(infer([[1.0]])).encode()
HEALTH = re.compile(rb'\{"live":true\}|\{"ready":true\}|\{"name":"[^"]*","ready":true\}')
ISSUER, AUDIENCE = "https://id.example", "churn"
OTHERS = "others-" + "k" * 32  # the key of another endpoint
SILENCE = 1.0  # seconds, after which nothing more is expected where perhaps nothing comes
CLIENT = httpx.Client(timeout=60)
Result = TypeVar("Result")


@dataclass
class Door:
    """An endpoint's port at the gateway, and the server behind it."""

    port: int
    server: Server
    grpc: str
    opens: dict[str, str]

    def say(self, *parts: bytes, seconds: float = 60) -> tuple[list[int], bytes]:
        """Send bytes as they are; the codes of all answers until silence, and what was answered."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as sock:
            answer = b""
            try:
                for part in parts:
                    sock.sendall(part)
                while not _is_last(answer) and (got := sock.recv(65536)):
                    answer += got
            except OSError:  # Hung up on, or silent.
                pass
        return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3})", answer)], answer

    @property
    def answered(self) -> float:
        """Answers of the server to anything but health, that were not refusals."""
        counted = re.findall(
            r'requests_total\{code="200",route="\w+"\} (\S+)', CLIENT.get(f"{self.server.url}/metrics").text
        )
        return sum(map(float, counted))

    def ask(self) -> int:
        """The code of a proper request."""
        return CLIENT.post(f"http://127.0.0.1:{self.port}{INFER}", content=QUESTION, headers=self.opens).status_code


def _is_last(answer: bytes) -> bool:
    """True if nothing comes after this answer, which is whole; the gateway waits a second before it closes."""
    head, ended, body = answer[answer.rfind(b"HTTP/1.1 ") :].lower().partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return bool(ended and b"connection: close" in head and length) and len(body) >= int(length[1])


def request(method: str = "POST", path: str = INFER, body: bytes = QUESTION, **headers: str) -> bytes:
    """A request, whose headers' names have - for _."""
    lines = [f"{method} {path} HTTP/1.1", "Host: churn", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body


def base64url(data: bytes) -> str:
    """As JOSE writes bytes."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs tokens, well and otherwise."""

    def __init__(self) -> None:
        self.key, self.stranger = (rsa.generate_private_key(65537, 2048) for _ in range(2))

    def jwk(self, key: rsa.RSAPrivateKey) -> dict[str, str]:
        """The public half."""
        numbers = key.public_key().public_numbers()
        n, e = (base64url(value.to_bytes((value.bit_length() + 7) // 8, "big")) for value in (numbers.n, numbers.e))
        return {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "n": n, "e": e}

    def signed(self, text: str, key: rsa.RSAPrivateKey | None = None) -> str:
        """Text with an RS256 signature."""
        return f"{text}.{base64url((key or self.key).sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def text(self, head: dict[str, Any] | None = None, **claims: Any) -> str:
        """Return a signed token: valid except for the given claims; None removes a claim."""
        good = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 600, "sub": "ada"} | claims
        parts = (
            {"alg": "RS256", "typ": "JWT", "kid": "1"} | (head or {}),
            {k: v for k, v in good.items() if v is not None},
        )
        return ".".join(base64url(json.dumps(part).encode()) for part in parts)

    def token(self, **claims: Any) -> str:
        """Return a good token, except for these claims."""
        return self.signed(self.text(**claims))


class Loop:
    """An event loop on a thread of its own, for what must go on while tests are busy."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Wait for what comes of it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(120)


@contextmanager
def opened(folder: Path, issuer: Issuer) -> Iterator[tuple[Door, Door]]:
    """An endpoint with keys and one with tokens, whose pods answer the gateway alone, as in a cluster."""
    (folder / "model.onnx").write_bytes(onnx_model(1))
    keys, proof = folder / "keys", folder / "proof"
    for secret, word in ((keys, key := "first-" + "k" * 32), (proof, "proof-" + "p" * 32)):
        secret.mkdir()
        (secret / "primary").write_text(word)
    loop = Loop()
    key_set = json.dumps({"keys": [issuer.jwk(issuer.key)]})
    tokens = RouteAuth("token", issuer=ISSUER, audiences=(AUDIENCE,), jwks=key_set, proof_secret="proof")
    made = running("doors")
    with ExitStack() as stack:
        gateway: Gateway = loop.run(made.__aenter__())
        stack.callback(lambda: loop.run(made.__aexit__(None, None, None)))
        gateway.keys("keys", primary=key)
        gateway.keys("others", primary=OTHERS)
        gateway.keys("proof", primary="proof-" + "p" * 32)

        async def put(name: str, pod: Pod, auth: RouteAuth) -> int:
            gateway.serve(f"churn-{name}", pod)
            await gateway.use(
                routes(port := free_port(), deployment(name, 100, protocols=("http", "grpc")), name=name, auth=auth)
            )
            return port

        def door(name: str, auth: RouteAuth, opens: dict[str, str], *arguments: str) -> Door:
            task = task_for(folder / "model.onnx", auth="key" if auth.mode == "key" else "gateway")
            server = stack.enter_context(serving(folder, task, "--grpc-port", str(grpc := free_port()), *arguments))
            pod = Pod(name, port=server.port, grpc_port=grpc)
            port = loop.run(put(name, pod, auth))
            return Door(port, server, f"127.0.0.1:{port}", opens)

        bearer = {"Authorization": f"Bearer {issuer.token()}"}
        with_keys = door("keys", RouteAuth("key", keys_secret="keys"), {"api-key": key}, "--keys-dir", str(keys))
        same = Pod("keys", port=with_keys.server.port)
        loop.run(put("others", same, RouteAuth("key", keys_secret="others")))
        yield with_keys, door("tokens", tokens, bearer, "--keys-dir", str(proof))
