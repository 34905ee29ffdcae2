"""Importing from an MLflow registry: its REST API, on loopback; the real server is in tests/e2e/test_mlflow.py."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from ultramarine_trainer.data.outputs import format_of
from ultramarine_trainer.progress.metrics import metrics_in
from ultramarine_trainer.tracking import importing

FILES = {"MLmodel": b"flavors: {}\n", "model.skops": b"weights" * 1000, "data/deep er/rows.csv": b"1,2\n", "empty": b""}
ROOT = "1/models/m-1/artifacts"


class Registry(ThreadingHTTPServer):
    """MLflow with the model `who leaves`, whose version 3 is called champion; what it says can be changed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"
        self.location = f"mlflow-artifacts:/{ROOT}"
        self.files = dict(FILES)
        self.sizes: dict[str, int] = {}  # where another is listed than the file has
        self.run: dict[str, Any] | None = {"data": {"metrics": [{"key": "accuracy", "value": 0.97}]}}
        self.seen: list[str] = []  # who asked

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        """What MLflow would say."""
        at = "/api/2.0/mlflow-artifacts/artifacts"
        if path.startswith(f"{at}/"):
            name = unquote(path.removeprefix(f"{at}/")).removeprefix(f"{ROOT}/")
            return (200, self.files[name]) if name in self.files else (404, b"gone")
        said: dict[str, Any] | None = None
        if path == at:
            said = {"files": self.listed(query["path"].removeprefix(ROOT).strip("/"))}
        elif (path.rpartition("/")[2], query) in (
            ("get", {"name": "who leaves", "version": "3"}),
            ("alias", {"name": "who leaves", "alias": "champion"}),
        ):
            said = {"model_version": {"name": "who leaves", "version": "3", "run_id": "abc"}}
        elif path.endswith("/get-download-uri"):
            said = {"artifact_uri": self.location}
        elif path.endswith("/logged-models/m-1"):
            said = {"model": {"info": {"artifact_uri": self.location, "creation_timestamp_ms": "2000"}}}
        elif path.endswith("/logged-models/m-0"):
            said = {"model": {"info": {"artifact_uri": "mlflow-artifacts:/older", "creation_timestamp_ms": "1000"}}}
        elif path.endswith("/runs/get") and query == {"run_id": "abc"} and self.run is not None:
            said = {"run": self.run}
        if said is None:
            return 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such thing"}'
        return 200, json.dumps(said).encode()

    def listed(self, folder: str) -> list[dict[str, Any]]:
        """A folder, as the proxy lists it: names without their folder, and no size of what is one."""
        prefix = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for name, content in self.files.items():
            first, _, rest = name.removeprefix(prefix).partition("/") if name.startswith(prefix) else ("", "", "")
            if first:
                size = {} if rest else {"file_size": self.sizes.get(name, len(content))}
                found[first] = {"path": first, "is_dir": bool(rest), **size}
        return list(found.values())


class Asked(BaseHTTPRequestHandler):
    """One request."""

    server: Registry

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.seen.append(self.headers.get("Authorization", ""))
        code, said = self.server.answer(parts.path, {name: each[0] for name, each in parse_qs(parts.query).items()})
        self.send_response(code)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry with one version."""
    with Registry() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def ran(registry: Registry, folder: Path, model: str = "models:/who leaves/3", **environment: str) -> int:
    """Run the command, and return its exit code."""
    return importing.main([model, str(folder)], {"MLFLOW_TRACKING_URI": f"{registry.uri}/", **environment})


@pytest.mark.parametrize("model", ["models:/who leaves/3", "models:/who%20leaves/3", "models:/who leaves@champion"])
def test_a_version_is_copied_whole_and_its_metrics_are_printed(registry, tmp_path, capsys, model):
    """By number or by alias: every file is there, the trainer knows it for a model of MLflow, and takes the metrics."""
    assert ran(registry, tmp_path, model) == 0

    assert {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == FILES
    assert format_of("model", tmp_path, "auto") == "mlflow"
    said, metrics = capsys.readouterr().out.splitlines()
    assert said == f"who leaves version 3 copied from MLflow: 4 files of mlflow-artifacts:/{ROOT}"
    assert metrics_in(metrics) == {"accuracy": 0.97}


def test_a_location_at_the_proxy_itself_will_do(registry, tmp_path):
    """MLflow may be told to write the http address of its proxy, or the name of a host, into locations."""
    for location in (
        f"http://elsewhere/api/2.0/mlflow-artifacts/artifacts/{ROOT}",
        f"mlflow-artifacts://a:5000/{ROOT}",
    ):
        registry.location = location
        assert ran(registry, tmp_path / location[:5]) == 0


def test_a_model_outlives_its_run(registry, tmp_path, capsys):
    """A run that was deleted costs the metrics, not the model."""
    registry.run = None
    assert ran(registry, tmp_path) == 0
    assert "its metrics are left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "run",
    [
        {"outputs": {"model_outputs": [{"model_id": "m-1", "step": "0"}, {"model_id": "m-0", "step": "0"}]}},
        {  # MLflow 2
            "info": {"artifact_uri": f"mlflow-artifacts:/{ROOT.rpartition('/')[0]}"},
            "data": {"tags": [{"key": "mlflow.log-model.history", "value": '[{"artifact_path": "artifacts"}]'}]},
        },
    ],
)
def test_the_model_that_a_run_logged_last_is_copied(registry, tmp_path, run):
    """By the run's outputs or, of an older server, by its history."""
    registry.run = run
    assert importing.copy_logged(importing.Registry(registry.uri, {}), "abc", tmp_path)

    assert {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == FILES


def test_a_run_may_have_logged_no_model(registry, tmp_path):
    """Nothing is copied then."""
    assert not importing.copy_logged(importing.Registry(registry.uri, {}), "abc", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, ""),
        ({"MLFLOW_TRACKING_TOKEN": "abc", "MLFLOW_TRACKING_USERNAME": "ada"}, "Bearer abc"),
        ({"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "x"}, "Basic YWRhOng="),
    ],
)
def test_a_registry_may_want_a_password(registry, tmp_path, environment, wanted):
    """MLflow's own variables name user and password, or a token, for each request."""
    assert ran(registry, tmp_path, **environment) == 0
    assert set(registry.seen) == {wanted}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: setattr(r, "location", "s3://mlflow/1/artifacts"), "apply a ModelVersion with their uri and digest"),
        (lambda r: setattr(r, "location", "file:///api/2.0/mlflow-artifacts/artifacts/x"), "does not hand out"),
        (lambda r: r.files.pop("MLmodel"), "no file MLmodel"),
        (lambda r: r.sizes.update({"model.skops": 8000}), "model.skops has 7000 bytes here and 8000 in MLflow"),
        (lambda r: r.files.update({"..": b""}), "bad name"),
        (lambda r: r.files.update({"a\\b": b""}), "bad name"),
        (lambda r: setattr(r, "listed", lambda folder: [{"path": "../x", "file_size": 1}]), "bad name"),
        (lambda r: setattr(r, "listed", lambda folder: [{"path": "d", "is_dir": True}]), "more than 50 files"),
        (lambda r: setattr(r, "listed", lambda folder: [{"path": "gone", "file_size": 1}]), "answered 404"),
        (lambda r: setattr(r, "answer", lambda *_: (200, b"<html>")), "what MLflow would not"),
    ],
)
def test_what_cannot_be_imported_is_told(registry, tmp_path, capsys, monkeypatch, change, words):
    """Files that MLflow does not hand out, that are missing, cut off, without end, or would be written elsewhere."""
    monkeypatch.setattr(importing, "MOST_FILES", 50)
    change(registry)
    assert ran(registry, tmp_path / "in") == 1
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name != "in"] == []


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("models:/who leaves/4", "RESOURCE_DOES_NOT_EXIST"),
        ("models:/who leaves@nobody", "RESOURCE_DOES_NOT_EXIST"),
        ("models:/who leaves/latest", "is neither models:/NAME/VERSION nor models:/NAME@ALIAS"),
        ("who leaves", "is neither"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(registry, tmp_path, capsys, model, words):
    """MLflow's own words for what it does not have."""
    assert ran(registry, tmp_path, model) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "server", "words"),
    [
        (["models:/a/1"], "http://x", "give a model"),
        (["models:/a/1", "/x"], "", "MLFLOW_TRACKING_URI is not an http"),
        (["models:/a/1", "/x"], "file:///etc", "MLFLOW_TRACKING_URI is not an http"),
        (["models:/a/1", "/x"], "http://127.0.0.1:9", "does not answer"),
    ],
)
def test_a_call_that_cannot_work_says_what_it_needs(capsys, arguments, server, words):
    """Arguments, the server's address, and a way there."""
    assert importing.main(arguments, {"MLFLOW_TRACKING_URI": server}) == 1
    assert words in capsys.readouterr().err
