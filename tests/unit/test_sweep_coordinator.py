"""The coordinator's edges: strangers on its port, the operator that it tells, commits that are made together."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from ultramarine_contract.common import TERMINATION_LIMIT
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import BestTrial, SweepSummary, SweepTask, WantedTrial
from ultramarine_operator.progress import BODY_LIMIT
from ultramarine_sweep.service.coordinator import Coordinator
from ultramarine_sweep.service.coordinator import Times as CoordinatorTimes
from ultramarine_sweep.service.http import BadRequest, Server
from ultramarine_sweep.service.pods import PodCoordinator
from ultramarine_sweep.service.recording import Recorder
from ultramarine_sweep.service.summary import SummaryReporter, Times, last_words
from ultramarine_sweep.state import journal
from ultramarine_sweep.state import trials as trials_module
from ultramarine_sweep.state.commits import Commits
from ultramarine_sweep.state.journal import Fenced, Journal
from ultramarine_trainer.trials.connection import Connection, Refused, Unreachable
from unit.conftest import eventually, free_port
from unit.sweeping import Counting

# Strangers


@pytest.fixture
def port() -> Iterator[int]:
    """A server with the token `right` that answers at /echo with what it was asked."""
    ready, box = threading.Event(), dict[str, Any]()

    async def echo(document: dict[str, Any]) -> dict[str, Any]:
        if "bad" in document:
            raise BadRequest("bad is not known")
        if "bug" in document:
            raise ValueError("a bug, and no worker's fault")
        return document

    async def serve() -> None:
        server = Server("right", {"/echo": echo}, lambda error: box.update(error=error))
        box.update(port=await server.listen(0), loop=asyncio.get_running_loop(), ended=asyncio.Event())
        ready.set()
        await box["ended"].wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait()
    yield box["port"]
    box["loop"].call_soon_threadsafe(box["ended"].set)
    thread.join()


def connection(port: int, token: str = "right") -> Connection:
    return Connection(f"http://127.0.0.1:{port}", token, 5)


def test_one_connection_serves_many_requests(port: int) -> None:
    """Each request has its own answer, also large ones."""
    one = connection(port)
    for i in range(100):
        assert one.post("/echo", {"i": i, "text": "x" * i * 1000})["i"] == i


@pytest.mark.parametrize("token", ["wrong", "", "righ", "right2"])
def test_without_the_token_nothing_opens(port: int, token: str) -> None:
    """A request of another sweep's worker, or of any pod's, is refused, and says why."""
    with pytest.raises(Refused, match="401 the token is another sweep's"):
        connection(port, token).post("/echo", {})


@pytest.mark.parametrize(("path", "document"), [("/other", {}), ("/echo", {"bad": 1})])
def test_what_makes_no_sense_is_refused(port: int, path: str, document: dict[str, Any]) -> None:
    """The worker is told, and the next request is answered."""
    one = connection(port)
    with pytest.raises(Refused, match=r"40[04]"):
        one.post(path, document)

    assert one.post("/echo", {"good": 1}) == {"good": 1}


def test_a_bug_hangs_up(port: int) -> None:
    """The worker takes it for a coordinator that has died, and tries again."""
    with pytest.raises(Unreachable):
        connection(port).post("/echo", {"bug": 1})


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 100 + b"\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nAuthorization: Bearer right\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nAuthorization: Bearer right\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nAuthorization: Bearer right\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nAuthorization: Bearer right\r\nContent-Length: 2\r\n\r\n[]",
        b"POST /echo HTTP/1.1\r\nAuthorization: Bearer right\r\nContent-Length: 1\r\n\r\n{",
        b"POST /echo HTTP/1.1\r\nAuthorization: Bearer \xe9\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /echo HTTP/1.1\r\nAuthorization: Bearer right\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100000,
        b"x" * 100_000,
    ],
)
def test_nonsense_on_the_port_hurts_nobody(port: int, data: bytes) -> None:
    """It gets a refusal or a closed connection, and workers go on."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(data)
        stranger.shutdown(socket.SHUT_WR)
        try:
            answer = stranger.recv(1000)
        except ConnectionResetError:
            answer = b""
    assert not answer or answer.startswith(b"HTTP/1.1 4")

    assert connection(port).post("/echo", {"a": 1}) == {"a": 1}


def test_silent_strangers_keep_nobody_out(port: int) -> None:
    """Connections on which nothing is said leave room for workers."""
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]

    assert connection(port).post("/echo", {"a": 1}) == {"a": 1}
    for one in silent:
        one.close()


def test_a_connection_that_was_lost_is_made_again() -> None:
    """Also one that was closed while nothing was said, as by a coordinator that has been replaced."""
    one = Connection(f"http://127.0.0.1:{free_port()}", "right", 5)

    with pytest.raises(Unreachable, match="refused"):
        one.post("/echo", {})


# Commits


async def test_what_comes_together_is_one_segment(storage: Storage, bucket: str) -> None:
    """While a segment is on its way the records of many requests gather; each is durable when it is answered."""
    uri = f"s3://{bucket}/journal/"
    book = Journal(storage, uri, "one", lambda line: None)
    commits = Commits(book, lambda: [])
    writing = asyncio.ensure_future(commits.run())

    async def one(number: int) -> None:
        commits.add([{"kind": "entry", "number": number}])
        await commits.durable()
        stored = await asyncio.to_thread(journal.read, storage, uri)
        assert {"kind": "entry", "number": number} in stored

    await asyncio.gather(*(one(number) for number in range(50)))
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)

    assert [record["number"] for record in journal.read(storage, uri)] == list(range(50))
    assert len(storage.objects(uri)) < 10


async def test_who_waits_hears_of_the_fence(storage: Storage, bucket: str) -> None:
    """No worker is told of a result that is not in the journal, for another coordinator has it."""
    uri = f"s3://{bucket}/journal/"
    commits = Commits(Journal(storage, uri, "one", lambda line: None), lambda: [])
    Journal(storage, uri, "two", lambda line: None)
    writing = asyncio.ensure_future(commits.run())
    commits.add([{"kind": "entry"}])

    with pytest.raises(Fenced):
        await commits.durable()
    with pytest.raises(Fenced):
        await writing


async def test_a_long_journal_is_put_together(storage: Storage, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot takes the place of all segments, and says what was added up to its moment."""
    monkeypatch.setattr(journal, "_COMPACT_SEGMENTS", 10)
    uri = f"s3://{bucket}/journal/"
    state: list[dict[str, Any]] = []
    commits = Commits(Journal(storage, uri, "one", lambda line: None), lambda: list(state))
    writing = asyncio.ensure_future(commits.run())
    for number in range(95):
        state.append({"kind": "entry", "number": number})
        commits.add(state[-1:])
        await commits.durable()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)

    assert journal.read(storage, uri) == state
    eventually(lambda: len(storage.objects(uri)) < 25)


# The operator


class Operator:
    """Takes what is posted, with a status that the test may change."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, SweepSummary]] = []
        self.status, self.said = 204, b""
        operator = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                summary = SweepSummary.from_json(self.rfile.read(int(self.headers["Content-Length"])))
                operator.taken.append((self.headers["Authorization"], summary))
                self.send_response(operator.status)
                self.send_header("Content-Length", str(len(operator.said)))
                self.end_headers()
                self.wfile.write(operator.said)

            def log_message(self, *arguments: object) -> None:
                return

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/sweeps/team-a/hpo"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def operator() -> Iterator[Operator]:
    """An operator's endpoint."""
    operator = Operator()
    yield operator
    operator.close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """The projected token."""
    (tmp_path / "token").write_text("projected\n")
    return tmp_path / "token"


def test_the_operator_hears_what_changes(operator: Operator, token: Path) -> None:
    """The newest summary is posted with the pod's token, once; the last one says that it is."""
    teller = SummaryReporter(operator.url, token, pytest.fail, Times(between=0.05))
    teller.tell(SweepSummary(succeeded=1))
    eventually(lambda: bool(operator.taken))
    teller.tell(SweepSummary(succeeded=1, cpu_hours=0.1))  # hours alone are told now and then
    teller.tell(SweepSummary(succeeded=2))
    eventually(lambda: len(operator.taken) == 2)
    teller.close(SweepSummary(outcome="Succeeded", succeeded=2))

    assert operator.taken == [
        ("Bearer projected", SweepSummary(succeeded=1)),
        ("Bearer projected", SweepSummary(succeeded=2)),
        ("Bearer projected", SweepSummary(outcome="Succeeded", succeeded=2, over=True)),
    ]


def test_who_hears_the_answers_asks_for_them(operator: Operator, token: Path) -> None:
    """Again and again, though nothing changes; and at once where other trials are wanted. Nonsense is left out."""
    heard: list[Any] = []
    operator.status, operator.said = 200, b"no JSON"
    teller = SummaryReporter(operator.url, token, pytest.fail, Times(between=60, asking=0.1, least=0.05))
    teller.answer_to(heard.append)
    teller.tell(SweepSummary(running=1))
    eventually(lambda: len(operator.taken) >= 2)
    operator.said = b'{"parallel": 2}'
    eventually(lambda: {"parallel": 2} in heard)
    teller.close(SweepSummary())
    assert {json.dumps(each) for each in heard} == {'{"parallel": 2}'}

    slow = SummaryReporter(operator.url, token, pytest.fail, Times(between=60, asking=60, least=0.05))
    slow.answer_to(heard.append)
    slow.tell(SweepSummary())
    count = len(operator.taken)
    for number in range(3):
        summary = SweepSummary(wanted=(WantedTrial(number),))
        slow.tell(summary)
        eventually(lambda summary=summary: operator.taken[-1][1] == summary)
    slow.close(SweepSummary())
    assert len(operator.taken) <= count + 5


def test_a_huge_summary_still_fits(operator: Operator, token: Path) -> None:
    """What is wanted is told in any case, and of the best trials as many as there is room for."""
    huge = {f"p{number}": "é" * 256 for number in range(64)}
    summary = SweepSummary(
        best=tuple(BestTrial(number, (0.5,), huge) for number in range(10)), wanted=(WantedTrial(1),)
    )
    teller = SummaryReporter(operator.url, token, pytest.fail, Times(between=0.05))
    teller.tell(summary)
    eventually(lambda: bool(operator.taken))
    teller.close(summary)

    taken = operator.taken[0][1]
    assert taken.wanted == summary.wanted
    assert 0 < len(taken.best) < 10
    assert len(taken.to_json()) < BODY_LIMIT


async def test_a_storage_that_is_away_is_no_trials_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker hears of its trial when the storage has that; until then it is not missed, however long it takes."""
    monkeypatch.setattr(trials_module, "SILENCE", 0.1)

    class Away:
        records, is_long, back = (), False, threading.Event()

        def append(self, records: Any) -> None:
            assert self.back.wait(60)

    book: Any = Away()
    task = SweepTask("team-a/hpo", "u", "s3://lake/", ({"metric": "loss"},), {}, max_trials=10)
    recorder, times = Recorder(task, "", lambda line: None), CoordinatorTimes(tick=0.01, deaf=0.05)
    told: list[SweepSummary] = []
    coordinator = Coordinator(task, "token", book, Counting(task), None, told.append, recorder, times)
    port, running = await coordinator.listen(0), asyncio.ensure_future(coordinator.run())
    asks = asyncio.ensure_future(asyncio.to_thread(connection(port, "token").post, "/lease", {"worker": "w/1"}))
    await asyncio.sleep(1.2)
    assert not asks.done()
    assert (told[-1].running, told[-1].failed) == (1, 0)
    book.back.set()
    lease = (await asks)["trial"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert (lease["number"], lease["attempt"]) == (0, 1)


async def test_a_job_that_stores_its_outputs_when_the_sweep_ends_is_waited_for(storage: Storage, bucket: str) -> None:
    """Its command has ended well, and its value may be the best; what still runs is not waited for."""
    book = Journal(storage, f"s3://{bucket}/journal/", "one", lambda line: None)
    objectives = ({"metric": "loss", "stopAt": 0.6},)
    task = SweepTask(
        "team-a/hpo", "u", f"s3://{bucket}/", objectives, {}, max_trials=9, outputs=("model",), pod_per_trial=True
    )
    told: list[SweepSummary] = []
    recorder, times = Recorder(task, "", lambda line: None), CoordinatorTimes(tick=0.02, ending=0.2)
    coordinator = PodCoordinator(task, "token", book, Counting(task), None, told.append, recorder, times)
    port, running = await coordinator.listen(0), asyncio.ensure_future(coordinator.run())
    coordinator.hear({"parallel": 3})
    while not told or told[-1].running < 3:
        await asyncio.sleep(0.01)

    async def post(path: str, trial: int, **words: Any) -> None:
        said = {"worker": f"trial-{trial}", "trial": trial, "attempt": 1, **words}
        await asyncio.to_thread(connection(port, "token").post, path, said)

    async def ends(trial: int, loss: float) -> None:
        finished = {"trial": trial, "attempt": 1, "outcome": "Succeeded", "metrics": {"loss": loss}, "outputs": {}}
        await post("/finished", trial, finished=finished)

    await post("/report", 0, storing=True)
    await ends(1, 0.5)
    await asyncio.sleep(1)
    assert not running.done()
    await ends(0, 0.4)
    summary = await running
    assert [(best.trial, best.values) for best in summary.best] == [(0, (0.4,)), (1, (0.5,))]
    assert (summary.outcome, summary.succeeded, summary.stopped) == ("Succeeded", 2, 1)


async def test_more_trials_than_a_summary_has_room_for_wait(storage: Storage, bucket: str) -> None:
    """Those with the lowest numbers are wanted first."""
    book = Journal(storage, f"s3://{bucket}/journal/", "one", lambda line: None)
    task = SweepTask("team-a/hpo", "u", f"s3://{bucket}/", ({"metric": "loss"},), {}, pod_per_trial=True)
    huge = {f"p{number}": "é" * 256 for number in range(64)}
    book.records = [
        {"kind": "started", "at": 1.0, "trial": n, "attempt": 1, "worker": f"trial-{n}", "params": huge}
        for n in range(9)
    ]
    told: list[SweepSummary] = []
    recorder = Recorder(task, "", lambda line: None)
    coordinator = PodCoordinator(task, "token", book, Counting(task), None, told.append, recorder)
    running = asyncio.ensure_future(coordinator.run())
    while not told:
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    numbers = [trial.trial for trial in told[-1].wanted]
    assert numbers == list(range(len(numbers)))
    assert 0 < len(numbers) < 9
    assert told[-1].running == 9


def test_an_operator_that_is_away_is_told_later(operator: Operator, token: Path) -> None:
    """It is said once, and the newest summary comes when the operator takes it."""
    operator.status = 503
    said: list[str] = []
    teller = SummaryReporter(operator.url, token, said.append, Times(between=0.05, patience=0.01))
    teller.tell(SweepSummary(succeeded=1))
    eventually(lambda: len(operator.taken) >= 3)
    operator.status = 204
    teller.close(SweepSummary(succeeded=3))

    assert operator.taken[-1][1] == SweepSummary(succeeded=3, over=True)
    assert len(said) == 1
    assert "does not disturb it" in said[0]


def test_where_trials_wait_for_the_operator_that_is_said(operator: Operator, token: Path) -> None:
    """That a replica refuses now and then is no trouble; an operator that takes nothing keeps all trials back."""
    said: list[str] = []
    teller = SummaryReporter(operator.url, token, said.append, Times(asking=0.02, again=0.0, patience=0.5))
    teller.answer_to(said.append)
    teller.tell(SweepSummary())
    for status in (503, 204, 429, 204, 403, 204):
        operator.status, count = status, len(operator.taken)
        eventually(lambda count=count: len(operator.taken) >= count + 2)
    assert said == []
    operator.status = 503
    eventually(lambda: len(said) > 0)
    operator.status = 204
    teller.close(SweepSummary())

    (only,) = said
    assert "no trial begins before it is" in only


def test_last_words_are_cut_to_fit() -> None:
    """The best trials go first, from the last one, and then the message is shortened."""
    best = tuple(BestTrial(i, (0.1,), {"text": "x" * 300}) for i in range(10))
    summary = SweepSummary("Succeeded", "MaxTrialsReached", 'é"' * 200, succeeded=200, best=best)
    words = last_words(summary)
    short = last_words(SweepSummary("Failed", "CanaryFailed", 'é"\n' * 3000))

    assert len(words) <= TERMINATION_LIMIT
    assert SweepSummary.from_json(words).best == best[: len(SweepSummary.from_json(words).best)]
    assert SweepSummary.from_json(words).best
    assert TERMINATION_LIMIT * 0.8 < len(short) <= TERMINATION_LIMIT
    assert json.loads(short)["reason"] == "CanaryFailed"
