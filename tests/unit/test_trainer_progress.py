"""Telling the operator how far a command is, against a real server on loopback, and Kubeflow's protocol."""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ultramarine_contract.common import METRIC_LIMIT
from ultramarine_contract.training_records import CheckpointRecord, Progress
from ultramarine_operator.kinds.trainingjob.report import read
from ultramarine_trainer.progress import kubeflow
from ultramarine_trainer.progress.kubeflow import KubeflowServer, progress_of
from ultramarine_trainer.progress.reporter import Reporter, Times, resolved_image

QUICK = Times(look=0.01, between=0.05, post=1.0, first_pause=0.02, longest_pause=0.1, patience=0.3, end=2.0)
SAVED = CheckpointRecord("s3://lake/a/checkpoints/1/", "sha256:1", "2030-01-01T12:00:00Z", step=3)


class Operator(ThreadingHTTPServer):
    """Takes what is posted, or answers with the codes that it is given first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Posted)
        self.codes: list[int] = []
        self.always = 204
        self.tokens: list[str] = []
        self.times: list[float] = []
        self.got: list[Progress] = []
        self.images: list[str] = []  # what is answered to who asks for his image, the last one for good
        self.url = f"http://127.0.0.1:{self.server_address[1]}/progress/team-a/churn"


class Posted(BaseHTTPRequestHandler):
    """One post."""

    server: Operator

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        code = self.server.codes.pop(0) if self.server.codes else self.server.always
        self.server.tokens.append(self.headers["Authorization"])
        self.server.times.append(time.monotonic())
        if code == 204:
            self.server.got.append(Progress.from_json(body))
        self.send_response(code)
        self.send_header("Retry-After", "0")
        self.end_headers()
        if code != 204:
            self.wfile.write(b'{"error": "because"}')

    def do_GET(self) -> None:
        images = self.server.images
        self.send_response(200 if images else 503)
        self.end_headers()
        self.wfile.write(json.dumps({"image": images.pop(0) if len(images) > 1 else "".join(images)}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def operator() -> Iterator[Operator]:
    """An operator that listens."""
    with Operator() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


class Command:
    """What a command prints and keeps, and the reporter of it."""

    def __init__(self, folder: Path, url: str, times: Times = QUICK) -> None:
        self.said: list[str] = []
        self.metrics: dict[str, float] = {}
        self.checkpoint: CheckpointRecord | None = None
        self.token = folder / "token"
        self.token.write_text("a.b.c\n")
        self.reporter = Reporter(
            url, self.token, self.said.append, lambda: self.checkpoint, lambda: self.metrics, times
        )


@pytest.fixture
def command(tmp_path: Path, operator: Operator) -> Iterator[Command]:
    """A command whose reporter is not started."""
    made = Command(tmp_path, operator.url)
    yield made
    made.reporter.stop()


def until(holds: Any) -> None:
    """Wait until it holds."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_the_image_is_asked_for_until_its_node_has_told(command, operator):
    """An answer without an image is that of a very young pod, and is asked for again."""
    operator.images = ["", "", "registry/train@sha256:feed"]

    assert resolved_image(operator.url, command.token, QUICK) == "registry/train@sha256:feed"


def test_an_image_that_nobody_knows_holds_nothing_up(command, operator, tmp_path):
    """Without an operator, a token, or an answer in time, there is none: the statement goes without it."""
    assert resolved_image("", command.token, QUICK) == ""
    assert resolved_image(operator.url, tmp_path / "no-token", QUICK) == ""
    assert resolved_image(operator.url, command.token, QUICK) == ""  # 503
    operator.images = [""]
    assert resolved_image(operator.url, command.token, QUICK) == ""


def test_what_a_command_prints_is_reported(command, operator):
    """Steps, their total and metrics of printed lines are posted with the pod's token, and the percentage of them."""
    command.metrics = {"loss": 0.5}
    command.reporter.hear("epoch=1 step=30 total_steps=400 loss=0.5")
    command.reporter.start()
    until(lambda: operator.got)

    (got,) = operator.got
    assert (got.step, got.total_steps, got.percent, got.metrics) == (30, 400, 7, {"loss": 0.5})
    assert operator.tokens == ["Bearer a.b.c"]


def test_nothing_new_is_nothing_to_report(command, operator):
    """Without news there is no post; a new checkpoint is news."""
    command.reporter.start()
    time.sleep(0.2)
    assert operator.times == []
    command.checkpoint = SAVED
    until(lambda: operator.got)
    time.sleep(0.2)
    assert [got.checkpoint for got in operator.got] == [SAVED]


def test_reports_keep_their_distance(command, operator):
    """However fast the steps are, reports come no faster than the time between them, and the last one is the newest."""
    command.reporter.start()
    for step in range(300):
        command.reporter.hear(f"step={step}")
        time.sleep(0.001)
    command.reporter.stop()

    apart = [later - earlier for earlier, later in zip(operator.times, operator.times[1:-1], strict=False)]
    assert apart
    assert min(apart) > QUICK.between * 0.8
    assert operator.got[-1].step == 299


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("step=5", 5),
        ("step=5, loss=1", 5),
        ("step=5.0", 5),
        ("step=1e3", 1000),
        ("total_steps=9", -1),
        ("steps=5", -1),
        ("footstep=5", -1),
        ("step 5", -1),
        ("step=5/10", -1),
        ("step=-2", -1),
        ("step=1e300", -1),
        ("epoch=4", -1),
    ],
)
def test_steps_are_words_of_a_line(tmp_path, line, step):
    """Only a whole word `step=NUMBER` tells the step; it is known without anybody to report to."""
    reporter = Command(tmp_path, "").reporter
    reporter.start()
    reporter.hear(line)
    reporter.stop()

    assert reporter.step == step


@given(st.text())
def test_any_line_can_be_heard(tmp_path_factory, line):
    """No line disturbs, and what it tells can be posted."""
    reporter = Command(tmp_path_factory.mktemp("any"), "").reporter
    reporter.hear(f"step=1 {line}")
    assert Progress.from_json(reporter._state().to_json()) == reporter._state()


def test_the_end_comes_from_the_rate_of_the_steps(tmp_path, monkeypatch):
    """Ten steps a second leave ten seconds for a hundred; a step back begins a new measurement."""
    now = 1000.0
    monkeypatch.setattr("ultramarine_trainer.progress.reporter.time.monotonic", lambda: now)
    reporter = Command(tmp_path, "").reporter
    reporter.hear("step=0 total_steps=1000")
    assert reporter._eta(now) == -1
    now += 90
    reporter.hear("step=900")
    assert reporter._eta(now) == 10
    assert reporter._eta(now + 4) == 6
    assert reporter._eta(now + 60) == 0

    reporter.hear("step=500")
    assert reporter._eta(now) == -1
    now += 10
    reporter.hear("step=510")
    assert reporter._eta(now) == 490


def test_what_is_reported_another_way_is_merged(command, operator):
    """A report by Kubeflow's protocol stands beside the printed ones; what it does not know stays as it was."""
    command.metrics = {"loss": 0.5}
    command.reporter.hear("step=3")
    command.reporter.take(Progress(percent=20, eta_seconds=60, metrics={"eval_loss": 0.7}))
    command.reporter.start()
    until(lambda: operator.got)

    (got,) = operator.got
    assert (got.step, got.total_steps, got.percent) == (3, -1, 20)
    assert 55 <= got.eta_seconds <= 60
    assert got.metrics == {"eval_loss": 0.7, "loss": 0.5}


def test_metrics_have_an_end(tmp_path):
    """As many metrics are reported as the status has room for."""
    command = Command(tmp_path, "")
    command.metrics = {f"printed{n}": 1.0 for n in range(METRIC_LIMIT)}
    command.reporter.take(Progress(metrics={f"told{n}": 1.0 for n in range(METRIC_LIMIT)}))

    assert len(command.reporter._state().metrics) == METRIC_LIMIT


def test_a_standby_is_not_worth_a_word(command, operator):
    """503 of a replica that does not lead is tried again soon, without a word in the log."""
    operator.codes = [503, 503, 429]
    command.reporter.hear("step=1")
    command.reporter.start()
    until(lambda: operator.got)

    assert command.said == []


@pytest.mark.parametrize("code", [401, 403, 404, 413])
def test_a_refusal_is_said_once(command, operator, code):
    """What will not pass by itself is said at once, with the operator's words, and only once; it is tried on."""
    operator.always = code
    command.reporter.hear("step=1")
    command.reporter.start()
    until(lambda: len(operator.times) > 3)
    operator.always = 204
    until(lambda: operator.got)

    (said,) = command.said
    assert f"the operator answered {code}" in said
    assert "because" in said


def test_an_operator_that_is_away_for_long_is_said(tmp_path):
    """What may pass by itself is said when it has lasted, and once."""
    command = Command(tmp_path, "http://127.0.0.1:9/progress/a/b")
    command.reporter.hear("step=1")
    command.reporter.start()
    time.sleep(0.15)
    assert command.said == []
    until(lambda: command.said)
    command.reporter.stop()

    assert len(command.said) == 1
    assert "which does not disturb the job" in command.said[0]


def test_a_missing_token_is_said(command, operator):
    """A token that is not there is named; once it is, the report goes out."""
    command.token.unlink()
    command.reporter.hear("step=1")
    command.reporter.start()
    until(lambda: command.said)
    assert str(command.token) in command.said[0]
    command.token.write_text("d.e.f")
    until(lambda: operator.got)

    assert operator.tokens == ["Bearer d.e.f"]


def test_the_last_state_is_posted_at_the_end(command, operator):
    """What was told a moment before the end is posted once more, without a pause."""
    command.reporter.start()
    command.reporter.hear("step=9 total_steps=10")
    until(lambda: operator.got)
    command.reporter.hear("step=10")
    command.reporter.stop()
    command.reporter.stop()

    assert [got.step for got in operator.got] == [9, 10]


def test_an_operator_that_hangs_does_not_keep_the_job(command, operator):
    """The end waits for nobody longer than it says."""
    with Operator() as deaf:  # takes connections, and never answers
        command = Command(command.token.parent, deaf.url, Times(look=0.01, post=60, end=0.2))
        command.reporter.start()
        command.reporter.hear("step=1")
        time.sleep(0.1)
        started = time.monotonic()
        command.reporter.stop()
    assert time.monotonic() - started < 30


def test_a_proxy_is_not_for_the_operator(command, operator, monkeypatch):
    """A proxy for the world outside is not asked for what is in the cluster."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    command = Command(command.token.parent, operator.url)
    command.reporter.hear("step=1")
    command.reporter.start()
    until(lambda: operator.got)
    command.reporter.stop()


@pytest.fixture
def taken() -> list[Progress]:
    """What the server handed on."""
    return []


@pytest.fixture
def server(taken: list[Progress], tmp_path: Path) -> Iterator[KubeflowServer]:
    """Kubeflow's server, as a command finds it."""
    made = KubeflowServer(taken.append, tmp_path / "run")
    assert made.environment == {}
    made.start()
    yield made
    made.stop()
    assert made.environment == {}


def post(server: KubeflowServer, body: Any, path: str = "", **headers: str) -> int:
    """Post as Transformers' KubeflowCallback does: urllib, the token from its file, a TLS context if there is a CA."""
    environment = server.environment
    ca = environment.get("KUBEFLOW_TRAINER_SERVER_CA_CERT")
    context = ssl.create_default_context(cafile=ca) if ca else None
    token = Path(environment["KUBEFLOW_TRAINER_SERVER_TOKEN"]).read_text().strip()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"} | headers
    url = environment["KUBEFLOW_TRAINER_SERVER_URL"] + path
    request = urllib.request.Request(url, data=data, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code if json.loads(error.read())["message"] else 0


def transformers_status(step: int, total: int, **metrics: Any) -> dict[str, Any]:
    """The body that KubeflowCallback sends after a step."""
    values = {**metrics, "current_step": step, "total_steps": total}
    return {
        "trainerStatus": {
            "lastUpdatedTime": "2030-01-01T12:00:00+00:00",
            "progressPercentage": int(100 * step / total),
            "estimatedRemainingSeconds": 42,
            "metrics": [{"name": name, "value": str(value)} for name, value in values.items()],
        }
    }


def test_a_report_of_transformers_is_taken(server, taken):
    """Percentage, time left and metrics are taken over; steps, which it tells as metrics, become steps."""
    assert post(server, transformers_status(30, 400, loss=0.5, learning_rate=5e-05)) == 200
    expected = Progress(
        step=30, total_steps=400, percent=7, eta_seconds=42, metrics={"loss": 0.5, "learning_rate": 5e-05}
    )
    assert taken == [expected]


def test_who_has_no_token_reports_nothing(server, taken):
    """The token is in a file that is its owner's alone, and nothing is taken without it."""
    token = Path(server.environment["KUBEFLOW_TRAINER_SERVER_TOKEN"])
    assert token.stat().st_mode & 0o777 == 0o600
    for header in ("", "Bearer", "Bearer x", token.read_text(), "Bearer ü".encode().decode("latin-1")):
        assert post(server, transformers_status(1, 2), Authorization=header) == 401
    assert taken == []


def test_what_is_no_report_gets_its_code(server, taken):
    """Other paths, other documents and huge ones are refused in a word, and the next report is taken."""
    assert post(server, transformers_status(1, 2), path="/other") == 404
    for body in (b"", b"{", b"\xff", [], {}, {"trainerStatus": 7}, {"trainerStatus": {"metrics": [7]}}):
        assert post(server, body) == 400
    assert post(server, b" " * (kubeflow.BODY_LIMIT + 1)) == 413
    assert post(server, transformers_status(1, 2)) == 200
    assert len(taken) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(json_values, json_values, st.lists(st.fixed_dictionaries({"name": json_values, "value": json_values})))
def test_any_report_becomes_one_that_the_operator_takes(percent, eta, metrics):
    """Whatever a client sends is refused, or becomes a Progress that the operator reads as the same."""
    status = {"progressPercentage": percent, "estimatedRemainingSeconds": eta, "metrics": metrics}
    try:
        progress = progress_of(json.dumps({"trainerStatus": status}).encode())
    except ValueError:
        return
    assert read(progress.to_json()) == progress


def test_a_folder_that_takes_nothing_leaves_the_command_without(taken, tmp_path):
    """Where the token cannot be written the command gets no variables, and starts all the same."""
    (tmp_path / "file").write_text("in the way")
    server = KubeflowServer(taken.append, tmp_path / "file" / "run")
    server.start()
    server.stop()

    assert server.environment == {}


def test_a_second_start_has_a_token_of_its_own(taken, tmp_path):
    """A server that is started anew takes over the file of an earlier one."""
    tokens = set()
    for _ in range(2):
        server = KubeflowServer(taken.append, tmp_path)
        server.start()
        path = Path(server.environment["KUBEFLOW_TRAINER_SERVER_TOKEN"])
        tokens.add(path.read_text())
        server.stop()
        assert not os.path.lexists(path)
    assert len(tokens) == 2
