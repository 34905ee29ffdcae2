"""Tokens of OpenAI-style answers, counted and limited by a real Envoy."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, web
from cryptography.hazmat.primitives.asymmetric import ec
from gateway_rig import Gateway, Pod, ask, deployment, eventually, free_port, pods, routes
from msgspec import structs
from test_admission import _key_set, _token
from ultramarine_contract.routes import RouteAuth, RouteTokens
from ultramarine_gateway.xds.tokens import MAX_KEYS, TokenUsage

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "details": {"cached_tokens": 3}}
PATH = "/v1/chat/completions"
KEYED = RouteAuth("key", keys_secret="keys")


def answer(**more: Any) -> dict[str, Any]:
    """A whole answer, whose text pretends to have used other tokens."""
    text = 'say {"usage": {"prompt_tokens": 900, "completion_tokens": 900}} again'
    return {"id": "1", "choices": [{"message": {"role": "assistant", "content": text}}], "usage": USAGE, **more}


def events(*words: str, usage: Any = None) -> list[bytes]:
    """The events of a stream: a role without text, one event for each word, the usage if there is any, and the end."""
    deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]
    made = [{"choices": [{"delta": delta}], "usage": None} for delta in deltas]
    made += [{"choices": [], "usage": usage}] if usage else []
    return [f"data: {json.dumps(event)}\n\n".encode() for event in made] + [b"data: [DONE]\n\n"]


class Model(Pod):
    """A server of language models: it answers with `body` of `kind`, or with these pieces one after the other."""

    kind = "application/json"
    body: bytes | list[bytes] = b""
    headers: dict[str, str] = {}  # noqa: RUF012
    holds: asyncio.Event | None = None  # awaited after the first piece
    cut = False

    def _application(self) -> web.Application:
        async def respond(request: web.Request) -> web.StreamResponse:
            self.got.append({"path": request.path, **{name.lower(): value for name, value in request.headers.items()}})
            await request.read()
            headers = {"Content-Type": self.kind} | self.headers
            if isinstance(self.body, bytes):
                return web.Response(body=self.body, status=self.status, headers=headers)
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            for piece in self.body:
                await response.write(piece)
                if self.holds:
                    await self.holds.wait()
            if self.cut and request.transport:
                request.transport.close()
            return response

        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", respond)
        return application


@asynccontextmanager
async def serving(gateway: Gateway, per_minute: int = 0, **more: Any) -> AsyncIterator[tuple[Model, int]]:
    """A language model behind an endpoint, and the endpoint's port."""
    port, model = free_port(), Model("llm")
    await model.start()
    try:
        gateway.serve("churn-llm", model)
        gateway.keys("keys", primary="first", secondary="second")
        tokens = RouteTokens(("llm",), per_minute)
        await gateway.use(routes(port, deployment("llm", 100), **({"auth": KEYED, "tokens": tokens} | more)))
        yield model, port
    finally:
        await model.stop()


async def post(session: ClientSession, port: int, key: str = "first", **more: Any) -> bytes:
    """Send one request with a key; the body of the answer."""
    headers = {"api-key": key} | more.pop("headers", {})
    async with session.post(f"http://127.0.0.1:{port}{PATH}", json={}, headers=headers, **more) as response:
        return await response.read()


def counted(gateway: Gateway) -> dict[tuple[str, str], int]:
    """The tokens in the metrics, by key and direction."""
    (family,) = gateway.agent.tokens.collect()
    place = {"endpoint": "churn", "deployment": "llm"}
    samples = [sample for sample in family.samples if place.items() <= sample.labels.items()]
    return {(sample.labels["key"], sample.labels["direction"]): int(sample.value) for sample in samples}


async def counts(gateway: Gateway, prompt: int, completion: int, key: str = "primary") -> None:
    """Wait until these tokens are counted, and no others."""
    expected = {(key, "prompt"): prompt, (key, "completion"): completion}
    await eventually(f"{expected} are counted", lambda: counted(gateway) == expected, 10)


async def test_the_usage_of_a_json_answer_is_counted(gateway: Gateway, client: ClientSession) -> None:
    """By the name of the key; words of the model's text that look like a usage do not count, nor do errors."""
    async with serving(gateway) as (model, port):
        model.body = json.dumps(answer()).encode()
        for key in ("first", "second", "second"):
            assert await post(client, port, key) == model.body
        model.status = 400
        await post(client, port)
        expected = {("primary", "prompt"): 11, ("primary", "completion"): 7}
        expected |= {("secondary", "prompt"): 22, ("secondary", "completion"): 14}
        await eventually("both keys are counted", lambda: counted(gateway) == expected, 10)


@pytest.mark.parametrize(("usage", "expected"), [(USAGE, (11, 7)), (None, (0, 4))])
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_the_usage_of_a_stream_is_counted(
    gateway: Gateway, client: ClientSession, usage: Any, expected: tuple[int, int], size: int
) -> None:
    """The last usage counts, however the events are cut into pieces; without one each piece of text is a token."""
    async with serving(gateway) as (model, port):
        stream = b"".join(events("a", "b", "\n", '"usage": {"completion_tokens": 900}', usage=usage))
        model.kind, model.body = (
            "text/event-stream; charset=utf-8",
            [stream[start : start + size] for start in range(0, len(stream), size)],
        )
        assert await post(client, port) == stream
        await counts(gateway, *expected)


async def test_an_event_arrives_before_the_next_is_sent(gateway: Gateway, client: ClientSession) -> None:
    """Nothing of a stream is held back; one that the server cuts counts with what came."""
    async with serving(gateway) as (model, port):
        model.kind, model.body, model.holds, model.cut = "text/event-stream", events("a", "b"), asyncio.Event(), True
        first = model.body[0]
        url = f"http://127.0.0.1:{port}{PATH}"
        async with client.post(url, json={}, headers={"api-key": "first"}) as response:
            assert await response.content.readany() == first
            model.holds.set()
            with pytest.raises(ClientError):
                await response.read()
        await counts(gateway, 0, 2)


async def test_a_client_that_leaves_pays_for_what_it_got(gateway: Gateway, client: ClientSession) -> None:
    """The tokens of a stream count although the client closes the connection in the middle."""
    async with serving(gateway) as (model, port):
        model.kind, model.body, model.holds = "text/event-stream", events("a"), asyncio.Event()
        model.body = [b"".join(model.body[:2]), *model.body[2:]]
        response = await client.post(f"http://127.0.0.1:{port}{PATH}", json={}, headers={"api-key": "second"})
        await response.content.readany()
        response.close()
        await counts(gateway, 0, 1, "secondary")


async def test_the_server_is_asked_not_to_compress(gateway: Gateway, client: ClientSession) -> None:
    """A server that compresses all the same is passed on untouched, and not counted."""
    async with serving(gateway) as (model, port):
        model.body, model.headers = gzip.compress(json.dumps(answer()).encode()), {"Content-Encoding": "gzip"}
        async with ClientSession(auto_decompress=False) as plain:
            assert await post(plain, port, headers={"Accept-Encoding": "gzip"}) == model.body
        assert model.got[0]["accept-encoding"] == "identity"
        await counts(gateway, 0, 0)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "application/octet-stream"])
async def test_other_answers_pass_untouched(gateway: Gateway, client: ClientSession, kind: str) -> None:
    """10 MB without a line or a usage, of any type, arrive byte for byte."""
    async with serving(gateway) as (model, port):
        model.kind, model.body = kind, bytes(range(256)).replace(b"\n", b"") * 40_000
        assert await post(client, port) == model.body
        await counts(gateway, 0, 0)


async def test_a_long_answer_is_counted(gateway: Gateway, client: ClientSession) -> None:
    """The usage at the end of 10 MB counts."""
    async with serving(gateway) as (model, port):
        model.body = json.dumps({"data": ["x" * 10_000_000], "usage": USAGE}).encode()
        assert await post(client, port) == model.body
        await counts(gateway, 11, 7)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("size", [1000, 100_000])
async def test_a_usage_far_from_the_end_is_counted(
    gateway: Gateway, client: ClientSession, kind: str, size: int
) -> None:
    """Clients of vLLM may ask for 100 KiB behind the usage; a client that leaves then pays as well."""
    async with serving(gateway) as (model, port):
        whole = json.dumps(answer(prompt_logprobs=[{"9": {"logprob": -0.5, "decoded_token": "{"}}] * 3000)).encode()
        assert len(whole) - whole.rindex(b'"usage"') > 100 << 10
        if kind == "text/event-stream":
            whole = b"data: " + whole
        model.kind, model.body = kind, [whole[start : start + size] for start in range(0, len(whole), size)]
        assert await post(client, port) == whole
        await counts(gateway, 11, 7)
        model.body.append(b" ")
        model.cut = True
        with pytest.raises(ClientError):
            await post(client, port)
        await counts(gateway, 22, 14)


async def test_a_deleted_endpoint_is_forgotten(gateway: Gateway, client: ClientSession) -> None:
    """An endpoint of the same name begins with full buckets, although the metrics were not read in between."""
    async with serving(gateway, 20) as (model, port):
        model.body = json.dumps(answer()).encode()
        await post(client, port)
        await eventually("the tokens are taken", lambda: gateway.agent.tokens.left("churn", "primary")[1] < 20, 10)
        old = gateway.routes["churn"]
        gateway.remove(old)
        await eventually("the routes are gone", lambda: not gateway.version("churn"))
        await gateway.use(structs.replace(old, tokens=RouteTokens(("llm",), 1000)))
        assert gateway.agent.tokens.left("churn", "primary")[1] == 1000


async def test_other_deployments_are_not_counted(gateway: Gateway, client: ClientSession) -> None:
    """A deployment that is not in the list of the counted ones is neither counted nor limited."""
    port = free_port()
    async with pods("blue") as (blue,), serving(gateway, 1):
        gateway.serve("churn-blue", blue)
        both = deployment("llm", 0), deployment("blue", 100)
        await gateway.use(routes(port, *both, name="other", tokens=RouteTokens(("llm",), 1)))
        assert {(await ask(client, port, headers={"Accept-Encoding": "br"}))[0] for _ in range(3)} == {200}

    assert blue.got[0]["accept-encoding"] == "br"
    (family,) = gateway.agent.tokens.collect()
    assert "other" not in {sample.labels["endpoint"] for sample in family.samples}


async def test_a_key_beyond_its_limit_is_refused(gateway: Gateway, client: ClientSession) -> None:
    """With 429, the time to wait and a body as OpenAI's; the other key is served, and what runs already ends."""
    async with serving(gateway, 20) as (model, port):
        url, first = f"http://127.0.0.1:{port}{PATH}", {"api-key": "first"}
        model.kind, model.body, model.holds = "text/event-stream", (stream := events("a")), asyncio.Event()
        running = asyncio.create_task(post(client, port))
        await eventually("the stream runs", lambda: model.got)
        model.kind, model.body = "application/json", json.dumps(answer()).encode()
        async with client.post(url, json={}, headers=first) as response:
            limits = response.headers["x-ratelimit-limit-tokens"], response.headers["x-ratelimit-remaining-tokens"]
            assert (response.status, *limits) == (200, "20", "20")
        await counts(gateway, 11, 7)
        await post(client, port)
        await counts(gateway, 22, 14)
        async with client.post(url, json={}, headers=first) as response:
            seconds, refused = int(response.headers["Retry-After"]), await response.json()
            assert (response.status, response.content_type) == (429, "application/json")
        assert 1 <= seconds <= 51  # a third of a second for each of 1 + 36 - 20 tokens
        assert refused["error"]["code"] == "rate_limit_exceeded"
        assert f"Try again in {seconds} s" in refused["error"]["message"]
        assert await post(client, port, "second") == model.body
        model.holds.set()
        assert await running == b"".join(stream)
        assert len(model.got) == 4


async def test_without_the_agent_requests_go_on(gateway: Gateway, client: ClientSession) -> None:
    """Nothing is counted or limited then, and nothing fails."""
    async with serving(gateway, 1) as (model, port):
        model.body = json.dumps(answer()).encode()
        await gateway.end()
        assert [await post(client, port) for _ in range(3)] == [model.body] * 3
        gateway.begin()


async def test_subjects_of_tokens_are_counted_by_a_hash(gateway: Gateway, client: ClientSession) -> None:
    """With JWTs each subject has its own count and limit, and the metrics do not show its name."""
    key, auth = ec.generate_private_key(ec.SECP256R1()), RouteAuth("token", issuer="id", audiences=("chat",))
    auth = structs.replace(auth, jwks=_key_set(key))
    async with serving(gateway, 10, auth=auth) as (model, port):
        model.body = json.dumps(answer()).encode()

        async def status(subject: str) -> int:
            token = _token(key, iss="id", aud="chat", sub=subject, exp=int(time.time()) + 600)
            headers = {"Authorization": f"Bearer {token}"}
            async with client.post(f"http://127.0.0.1:{port}{PATH}", json={}, headers=headers) as response:
                return response.status

        assert await status("ada@example.com") == 200
        await counts(gateway, 11, 7, hashlib.sha256(b"ada@example.com").hexdigest()[:12])
        assert [await status("ada@example.com"), await status("bob@example.com")] == [429, 200]


def test_the_metrics_have_a_bounded_number_of_keys() -> None:
    """After MAX_KEYS subjects of an endpoint, further ones count as others."""
    usage = TokenUsage(lambda _: routes(8000, auth=RouteAuth("token", issuer="id", jwks="{}")))
    for number in range(MAX_KEYS + 2):
        usage.add("churn", "llm", f"subject-{number}", "prompt", 1)
    (family,) = usage.collect()
    assert len(family.samples) == MAX_KEYS + 1
    assert (family.samples[-1].labels["key"], family.samples[-1].value) == ("others", 2)
