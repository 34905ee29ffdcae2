"""Questions of the operator beside its passes: gateways on loopback that answer well, badly and not at all."""

from __future__ import annotations

import asyncio
import http.server
import json
import pathlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from builders import WEIGHTS, WEIGHTS_DIGEST
from ultramarine_contract import storage
from ultramarine_contract.errors import GatewayError, StorageError
from ultramarine_contract.meta import Key, Manifest
from ultramarine_contract.routes import DeploymentFigures, RouteState
from ultramarine_operator.engine.inquiries import Inquiries
from ultramarine_operator.outside import gateway
from ultramarine_operator.shared.questions import (
    ArtifactFacts,
    AskGateway,
    CheckArtifact,
    CheckMlflow,
    Clients,
    GatewayFacts,
    MlflowFacts,
    ReadText,
    Refusal,
)

KEY = Key("OnlineEndpoint", "team-a", "churn")
CHURN: dict[str, Any] = {"version": "abc", "since": "2030-01-01T12:00:00Z", "ready": {"blue": 2}}


class Gateway:
    """A server that gives one answer to everything, and counts how often it was asked."""

    def __init__(self) -> None:
        self.body, self.status, self.asked = b"{}", 200, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += self.path == "/routes?endpoint=churn"
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def says(self, endpoints: object) -> None:
        self.body = json.dumps({"connected": True, "endpoints": endpoints}).encode()


@pytest.fixture
def gateway_pod() -> Iterator[Gateway]:
    """A gateway pod."""
    made = Gateway()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def unused() -> str:
    """An address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{bound.getsockname()[1]}"


def test_each_pod_says_how_it_routes_the_endpoint(gateway_pod):
    """The entry of the endpoint is read, with what a newer gateway may add left out; one without an entry is empty."""
    gateway_pod.says({"churn": CHURN, "other": {"version": "def"}})
    assert gateway.routes_of(gateway_pod.address, "churn") == (
        RouteState("abc", ready={"blue": 2}, since=CHURN["since"]),
    )

    gateway_pod.says({"other": {"version": "def"}})
    assert gateway.routes_of(gateway_pod.address, "churn") == (RouteState(),)


def test_each_pod_says_what_it_has_counted(gateway_pod):
    """Figures are read as they were told, with what a newer gateway may add left out."""
    blue = {"requests": 5, "errors": 1, "active": 2, "latency": [[1, 0], [2.5, 4]], "new": {}}
    gateway_pod.says({"churn": CHURN | {"pod": "gateway-1", "figures": {"blue": blue}}})

    (state,) = gateway.routes_of(gateway_pod.address, "churn")

    assert state.pod == "gateway-1"
    assert state.figures == {"blue": DeploymentFigures(5, 1, 2, ((1, 0), (2.5, 4)), client_errors=None)}


@pytest.mark.attack(
    "network/false-gateway",
    asset="the operator",
    threat="a stranger's pod answers in the gateway's name",
    control="its words are read as a version, numbers and sentences, up to 8 MiB, and can hold back that "
    "namespace's endpoints only, or scale those with `autoscale` within their bounds",
)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"endpoints": []}',
        b'{"endpoints": {"churn": 7}}',
        b'{"endpoints": {"churn": {"version": 7}}}',
        b'{"endpoints": {"churn": {"ready": {"blue": "two"}}}}',
        b'{"endpoints": {"churn": {"pod": 7}}}',
        b'{"endpoints": {"churn": {"away": 7}}}',
        b'{"endpoints": {"churn": {"away": [7]}}}',
        b'{"endpoints": {"churn": {"signatures": 7}}}',
        b'{"endpoints": {"churn": {"figures": {"blue": {"client_errors": -1}}}}}',
        b'{"endpoints": {"churn": {"figures": {"blue": 7}}}}',
        b'{"endpoints": {"churn": {"figures": {"blue": {"requests": "many"}}}}}',
        b'{"endpoints": {"churn": {"figures": {"blue": {"active": -1}}}}}',
        b'{"endpoints": {"churn": {"figures": {"blue": {"latency": [[1, 2, 3]]}}}}}',
        b'{"endpoints": {"churn": {"figures": {"blue": {"latency": [[NaN, 2]]}}}}}',
        b"[" * 100_000,
    ],
)
def test_an_answer_in_other_words_is_no_answer(gateway_pod, body):
    """Whoever answers at the gateway's name is in a namespace of somebody's: nonsense is an error with a reason."""
    gateway_pod.body = body
    with pytest.raises(GatewayError) as told:
        gateway.routes_of(gateway_pod.address, "churn")
    assert told.value.reason == "BadAnswer"


def test_who_does_not_answer_and_who_is_not_there_are_told_apart(gateway_pod):
    """No address: no gateway pod is ready. An address that refuses, or answers 503: that pod is not well."""
    with pytest.raises(GatewayError) as told:
        gateway.routes_of("gateway.invalid:9902", "churn")
    assert told.value.reason == "NoGateway"

    gateway_pod.status = 503
    for address in (unused(), gateway_pod.address):
        with pytest.raises(GatewayError) as told:
            gateway.routes_of(address, "churn")
        assert told.value.reason == "Unreachable"


class Storage:
    """A storage that answers at once."""

    def read(self, uri: str) -> bytes:
        return uri.encode()

    def artifact_digest(self, uri: str) -> tuple[str, int, str]:
        raise AssertionError(uri)

    def object_digest(self, uri: str, limit: int) -> str:
        raise AssertionError(uri)


async def no_refusal(_namespace: str, _uid: str) -> Refusal:
    return Refusal()


async def no_objection(_manifest: Manifest) -> str:
    return ""


def inquiries_of(storage: Any, rung: asyncio.Event) -> Inquiries:
    """Inquiries with that storage, and the gateways that the questions name."""
    return Inquiries(Clients(storage, gateway.routes_of, no_refusal, no_objection), lambda _: rung.set())


async def test_an_mlflow_folder_is_read_for_its_requirements(
    storage: storage.Storage, bucket: str, tmp_path: pathlib.Path
) -> None:
    """With its manifest, in one question."""
    (tmp_path / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: answering\n")
    (tmp_path / "requirements.txt").write_text("mlflow-skinny\ninflection==0.5.1\n")
    stored, rung = storage.upload_folder(tmp_path, f"s3://{bucket}/models"), asyncio.Event()
    inquiries = inquiries_of(storage, rung)
    facts = MlflowFacts(stored.digest, stored.bytes, ("mlflow-skinny", "inflection==0.5.1"))
    assert await answer(inquiries, rung, CheckMlflow(stored.uri)) == [facts]
    inquiries.close()


async def test_small_objects_are_read_for_their_digest(
    storage: storage.Storage, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And larger ones are not, nor those that the namespace may not read: of these the size alone is known."""
    storage.write(f"s3://{bucket}/m.onnx", WEIGHTS)
    asked, rung = CheckArtifact(f"s3://{bucket}/m.onnx", hashes=True), asyncio.Event()
    inquiries = inquiries_of(storage, rung)
    assert await answer(inquiries, rung, asked) == [ArtifactFacts(WEIGHTS_DIGEST, len(WEIGHTS))]
    foreign = CheckArtifact(asked.uri)
    assert await answer(inquiries, rung, foreign) == [ArtifactFacts("", len(WEIGHTS))]
    monkeypatch.setattr("ultramarine_operator.shared.questions.MAX_HASHED", len(WEIGHTS) - 1)
    assert await answer(inquiries, rung, asked) == [ArtifactFacts("", len(WEIGHTS))]
    inquiries.close()


async def answer(
    inquiries: Inquiries, rung: asyncio.Event, *questions: AskGateway | ReadText | CheckArtifact
) -> list[object]:
    """The answers, when the key was rung."""
    rung.clear()
    assert inquiries.answers(KEY, questions) is None
    await asyncio.wait_for(rung.wait(), 60)
    answers = inquiries.answers(KEY, questions)
    assert answers is not None
    return [answers[question] for question in questions]


async def test_a_gateway_is_asked_beside_the_storage(gateway_pod):
    """Both kinds of questions are answered together, and a gateway that is away is no reason to leave the storage."""
    rung = asyncio.Event()
    inquiries = inquiries_of(Storage(), rung)
    gateway_pod.says({"churn": CHURN})
    here, text = AskGateway(gateway_pod.address, "churn"), ReadText("s3://lake/a")
    assert await answer(inquiries, rung, here, text) == [
        GatewayFacts((RouteState("abc", ready={"blue": 2}, since=CHURN["since"]),)),
        "s3://lake/a",
    ]

    gateway_pod.status = 503
    for _ in range(3):
        away, read = await answer(inquiries, rung, here, text)
        assert isinstance(away, GatewayError)
        assert read == "s3://lake/a"
    assert gateway_pod.asked == 2, "one that did not answer is left alone for a while"
    inquiries.close()


async def test_nonsense_about_one_endpoint_holds_up_no_other(gateway_pod):
    """A gateway that says something odd of one endpoint is asked about the others all the same, and at once."""
    rung = asyncio.Event()
    inquiries = inquiries_of(Storage(), rung)
    gateway_pod.says({"churn": {"version": 1}, "other": CHURN})
    [odd] = await answer(inquiries, rung, AskGateway(gateway_pod.address, "churn"))
    [other] = await answer(inquiries, rung, AskGateway(gateway_pod.address, "other"))
    assert isinstance(odd, GatewayError)
    assert odd.reason == "BadAnswer"
    assert other == GatewayFacts((RouteState("abc", ready={"blue": 2}, since=CHURN["since"]),))
    inquiries.close()


async def test_a_storage_that_is_away_is_told_in_the_same_words_to_all(monkeypatch):
    """A later question gets the same answer at once, with its own URI alone different: a status stays unchanged."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    rung = asyncio.Event()
    inquiries = inquiries_of(storage.Storage(f"http://{unused()}"), rung)
    first, second = ReadText("s3://lake/a"), ReadText("s3://lake/b")
    [told] = await answer(inquiries, rung, first)
    [echoed] = await answer(inquiries, rung, second)
    assert isinstance(told, StorageError)
    assert isinstance(echoed, StorageError)
    assert told.reason == echoed.reason == "Unreachable"
    assert "s3://lake/b" in echoed.message
    assert echoed.message == told.message.replace(first.uri, second.uri)
    inquiries.close()
