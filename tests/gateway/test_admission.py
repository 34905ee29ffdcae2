"""Authentication by a real Envoy: keys, tokens and TLS."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import pytest
from aiohttp import ClientSession
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from gateway_rig import METHOD, Gateway, ask, deployment, eventually, free_port, issuer, pods, routes, who_answers
from ultramarine_contract.common import GATEWAY_HEADER
from ultramarine_contract.routes import RouteAuth
from ultramarine_gateway import envoy

WITH_KEYS = RouteAuth("key", keys_secret="churn-keys")
OLD, NEW = {"api-key": "first-" + "k" * 40}, {"api-key": "second-" + "k" * 40}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"api-key": ""},
        {"api-key": "wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {OLD['api-key']}"},
        {"api-key": "x" * 20_000},
        {"api-key": "ключ"},
    ],
)
async def test_without_a_key_nothing_is_answered(
    gateway: Gateway, client: ClientSession, headers: dict[str, str]
) -> None:
    """A request without a right key is refused in words before any pod sees it."""
    port = free_port()
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        gateway.keys("churn-keys", primary=OLD["api-key"], secondary=NEW["api-key"])
        await gateway.use(routes(port, deployment("blue", 100), auth=WITH_KEYS))
        code, body = await ask(client, port, headers=headers)

    assert code == 401
    assert "a key of this endpoint is needed" in body["error"]
    assert blue.got == []


async def test_either_key_opens_in_either_header(gateway: Gateway, client: ClientSession) -> None:
    """Both keys open at once, as api-key or as bearer token, whatever lengths they have; gRPC too."""
    port = free_port()
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        both = deployment("blue", 100, protocols=("http", "grpc"))
        for length in (1, 55, 56, 63, 64, 65, 200):
            gateway.keys("churn-keys", primary="p" * length, secondary="s" * length)
            await gateway.use(routes(port, both, auth=WITH_KEYS))
            headers = {"api-key": "s" * length}
            await eventually(f"the keys of {length} letters are known", lambda: len(gateway.agent.seen.secrets) == 1)
            while (await ask(client, port, headers=headers))[0] != 200:
                pass
            assert (await ask(client, port, headers={"Authorization": f"bearer  {'p' * length}"}))[0] == 200
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(METHOD)
            assert await call(b"x", metadata=[("api-key", "p" * 200)]) == b"blue:x"
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"x")

    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.attack("client/around-the-gateway")
async def test_the_gateway_proves_itself_to_pods(gateway: Gateway, client: ClientSession) -> None:
    """Whatever a client says in its place, pods get what the Secret says, by HTTP and by gRPC, and soon what is new."""
    port = free_port()
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        both = deployment("blue", 100, protocols=("http", "grpc"))
        gateway.keys("churn-gateway", primary="first", secondary="100%")
        await gateway.use(routes(port, both, auth=RouteAuth("none", proof_secret="churn-gateway")))
        assert (await ask(client, port, headers={GATEWAY_HEADER: "a guess"}))[0] == 200
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await channel.unary_unary(METHOD)(b"x", metadata=[(GATEWAY_HEADER, "a guess")]) == b"blue:x"
        assert [request[GATEWAY_HEADER] for request in blue.got] == ["first 100%"] * 2

        gateway.keys("churn-gateway", primary="next")
        while blue.got[-1][GATEWAY_HEADER] != "next":
            assert (await ask(client, port))[0] == 200


async def test_health_needs_no_key(gateway: Gateway, client: ClientSession) -> None:
    """Whoever probes needs no key, and a path that only looks like health does."""
    port = free_port()
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        gateway.keys("churn-keys", primary=OLD["api-key"])
        await gateway.use(routes(port, deployment("blue", 100), auth=WITH_KEYS))
        open_paths = ("/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/v2/models/m/versions/3/ready?x=1")
        closed = (
            "/v2/health/live/",
            "/v2/models/m/infer/ready",
            "/v2/health/../models/m/infer",
            "/v2",
            "/x/v2/health/live",
        )
        opened = [(await ask(client, port, path))[0] for path in open_paths]
        refused = [(await ask(client, port, path))[0] for path in closed]

    assert opened == [200] * len(open_paths)
    assert refused == [401] * len(closed)


async def test_keys_rotate_without_a_failed_request(gateway: Gateway, client: ClientSession) -> None:
    """While both keys are exchanged one after the other, a client that changes in between is never refused."""
    port = free_port()
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        gateway.keys("churn-keys", primary=OLD["api-key"])
        await gateway.use(routes(port, deployment("blue", 100), auth=WITH_KEYS))
        assert await who_answers(client, port, 100, headers=OLD) == {"blue": 100}
        gateway.keys("churn-keys", primary=OLD["api-key"], secondary=NEW["api-key"])
        while (await ask(client, port, headers=NEW))[0] == 401:
            assert await who_answers(client, port, 1, headers=OLD) == {"blue": 1}
        assert await who_answers(client, port, 100, headers=NEW) == {"blue": 100}
        gateway.keys("churn-keys", primary=NEW["api-key"])
        while (await ask(client, port, headers=OLD))[0] == 200:
            assert await who_answers(client, port, 1, headers=NEW) == {"blue": 1}
        assert await who_answers(client, port, 100, headers=NEW) == {"blue": 100}


async def test_a_lost_secret_locks_nobody_out(gateway: Gateway, client: ClientSession) -> None:
    """After the keys Secret is deleted, the last keys stay valid, and the reason names the missing Secret."""
    port = free_port()
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        gateway.keys("churn-keys", primary=OLD["api-key"])
        await gateway.use(routes(port, deployment("blue", 100), auth=WITH_KEYS))
        gateway.agent.seen.secrets["churn-keys"] = None
        gateway.agent.ring()
        await eventually("it is noticed", lambda: "churn-keys does not exist" in gateway.reason("churn"))
        assert gateway.agent.report()["churn"].missing_secret == "churn-keys"
        assert gateway.version("churn") != "", "what was known goes on"

        assert await who_answers(client, port, 5, headers=OLD) == {"blue": 5}


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _token(key: ec.EllipticCurvePrivateKey, **claims: Any) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "ES256", "kid": "1"}, claims)]
    signed = ".".join(map(_base64, parts))
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _key_set(key: ec.EllipticCurvePrivateKey) -> str:
    numbers = key.public_key().public_numbers()
    point = {name: _base64(value.to_bytes(32, "big")) for name, value in (("x", numbers.x), ("y", numbers.y))}
    return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "1", **point}]})


@pytest.mark.attack("client/forged-token")
async def test_a_token_of_the_issuer_opens(gateway: Gateway, client: ClientSession) -> None:
    """A JWT of the issuer, for the audience to the letter and in time, opens; others, and those without end, do not."""
    port, key, stranger = free_port(), ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    auth = RouteAuth("token", issuer="https://id.example", audiences=("churn",), jwks=_key_set(key))
    now = int(time.time())
    good = {"iss": auth.issuer, "aud": "churn", "exp": now + 600}
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port, deployment("blue", 100), auth=auth))
        tokens = [_token(key, **good), _token(stranger, **good), _token(key, **good | {"aud": "other"})]
        tokens += [_token(key, **good | {"exp": now - 600}), "nonsense"]
        tokens += [
            _token(key, **good | {"aud": aud}) for aud in ("churn/", "https://churn", "http://churn/", ["churn/"])
        ]
        tokens += [_token(key, **good | {"aud": ["other", "churn"]}), _token(key, iss=auth.issuer, aud="churn")]
        asked = [await ask(client, port, headers={"Authorization": f"Bearer {token}"}) for token in tokens]
        without, health = (await ask(client, port))[0], (await ask(client, port, "/v2/health/ready"))[0]
        in_url, _ = await ask(client, port, f"/v2/models/churn?access_token={tokens[0]}")

    assert [code for code, _ in asked] == [200, 401, 403, 401, 401, 403, 403, 403, 403, 200, 401]
    refused = {body["error"] for code, body in asked if code == 403}
    assert refused == {"the token is for another audience; get one for churn"}
    assert (without, in_url, health) == (401, 401, 200)
    assert len(blue.got) == 3


async def test_the_key_set_is_fetched_from_the_issuer(gateway: Gateway, client: ClientSession) -> None:
    """With jwks_uri Envoy gets the key set by way of the agent."""
    key, port = ec.generate_private_key(ec.SECP256R1()), free_port()
    async with pods("blue") as (blue,), issuer(_key_set(key)) as (uri, _):
        gateway.serve("churn-blue", blue)
        auth = RouteAuth("token", issuer="id", jwks_uri=uri)
        await gateway.use(routes(port, deployment("blue", 100), auth=auth))
        headers = {"Authorization": f"Bearer {_token(key, iss='id', exp=int(time.time()) + 600)}"}

        assert await who_answers(client, port, 1, headers=headers) == {"blue": 1}
        assert gateway.agent.report()["churn"].no_key_set == ""


@pytest.mark.attack(
    "client/key-set-fetching",
    asset="whoever serves key sets, or does not",
    threat="the gateway asks again and again",
    control="once in five minutes, and once a minute if the answer is not a key set",
)
async def test_a_key_set_that_is_none_is_told_and_not_fetched_again_at_once(gateway: Gateway) -> None:
    """A server without a key set is asked again after a minute, even if requests need it."""
    async with pods("blue") as (blue,), issuer("[]") as (uri, asked):
        gateway.serve("churn-blue", blue)
        auth = RouteAuth("token", issuer="id", jwks_uri=uri)
        await gateway.use(routes(free_port(), deployment("blue", 100), auth=auth))
        why = "it is not a JSON Web Key Set"
        await eventually("it is told", lambda: gateway.agent.report()["churn"].no_key_set == why)
        await asyncio.sleep(4)  # by Envoy's own default it would ask four times more

    assert len(asked) <= 2  # by each of Envoy's two threads


@pytest.mark.attack(
    "client/silence",
    asset="the gateway's sockets",
    threat="connections that say nothing",
    control="closed after two minutes, within ten seconds of an unfinished handshake or head; "
    "`limits.maxConnections` for each endpoint",
)
async def test_who_says_nothing_is_hung_up_on(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a request is closed: here after a second, otherwise after two minutes."""
    monkeypatch.setattr("ultramarine_gateway.config.listeners.IDLE_SECONDS", 1)
    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        await gateway.use(routes(port := free_port(), deployment("blue", 100)))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()


def _certificate(name: str) -> dict[str, str]:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
    signed = made.not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {"tls.crt": signed.public_bytes(serialization.Encoding.PEM).decode(), "tls.key": private.decode()}


async def test_a_certificate_is_renewed_under_way(gateway: Gateway, client: ClientSession) -> None:
    """TLS comes from the Secret; a renewed certificate is shown to new connections, and an old one goes on unharmed."""
    port = free_port()
    url, quiet = f"https://127.0.0.1:{port}/v2", ssl.create_default_context()
    quiet.check_hostname, quiet.verify_mode = False, ssl.CERT_NONE

    def shown() -> str:
        certificate = x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", port)).encode())
        return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)

    async with pods("blue") as (blue,):
        gateway.serve("churn-blue", blue)
        gateway.keys("tls", **_certificate("one"))
        await gateway.use(routes(port, deployment("blue", 100), tls_secret="tls"))
        async with client.get(url, ssl=quiet) as answer:
            assert answer.status == 200
        assert shown() == "one"
        text, series = (await envoy.metrics(gateway.folder)).decode(), "ssl_certificate_expiration_unix_time_seconds"
        (ends,) = re.findall(rf'^envoy_listener_{series}{{endpoint="churn",certificate="churn"}} (\d+)$', text, re.M)
        assert abs(int(ends) - time.time() - 86_400) < 600
        gateway.keys("tls", **_certificate("two"))
        await eventually("the new one is shown", lambda: shown() == "two")
        async with client.get(url, ssl=quiet) as answer:
            assert answer.status == 200
        gateway.keys("tls", **{"tls.crt": "nonsense", "tls.key": "nonsense"})
        await eventually("it is refused", lambda: gateway.reason("churn"))

        assert shown() == "two"


async def test_a_secret_that_is_missing_is_waited_for(gateway: Gateway, client: ClientSession) -> None:
    """An endpoint whose Secret is not there is not routed, says so, and is as soon as it comes."""
    asked = routes(free_port(), deployment("blue", 100), auth=WITH_KEYS)
    gateway.put(asked)
    await eventually("the reason is told", lambda: "Secret churn-keys was not read yet" in gateway.reason("churn"))
    gateway.agent.seen.secrets["churn-keys"] = None
    gateway.agent.ring()
    await eventually("it is missed", lambda: gateway.agent.report()["churn"].missing_secret == "churn-keys")
    assert gateway.version("churn") == ""
    gateway.keys("churn-keys", primary="k")

    await gateway.used(asked)
    assert gateway.reason("churn") == ""
