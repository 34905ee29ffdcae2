"""Scoring scripts side by side in Azure's own inference server and in this one: status, type and body are equal."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import free_port
from ultramarine_cluster.venvs import python_with
from unit.conftest import eventually
from unit.test_server_scoring import ENVIRONMENT, SCRIPTS, scored_task, scoring

pytestmark = pytest.mark.slow

AZURE = "azureml-inference-server-http==1.5.1"  # It takes 150 MB with its requirements: a virtualenv of its own.
JSON = {"content-type": "application/json"}
# By script: requests whose answers are equal. A request is a method, a path's query, headers and a body.
REQUESTS: dict[str, list[tuple[str, str, dict[str, str], bytes]]] = {
    "behaves.py": [
        ("POST", "", JSON, b'{"do": "echo", "value": {"a": [1, 2.5, null], "b": "\xc3\xa9"}}'),
        ("POST", "", JSON, b'{"do": "echo", "value": "text"}'),
        ("POST", "", {}, b'{"do": "nothing"}'),
        ("POST", "", JSON, b'{"do": "nan"}'),
        ("GET", "?do=echo&value=[1,2]", {}, b""),
        ("GET", "?do=echo&value=a&value=2", {}, b""),
        ("OPTIONS", "", {}, b""),
    ],
    "raw.py": [
        ("GET", "?name=x", {}, b""),
        ("OPTIONS", "", {}, b""),
        ("POST", "", {"content-type": "image/png"}, b"\x00\xffabc"),
        (
            "POST",
            "",
            {"content-type": "multipart/form-data; boundary=B"},
            b'--B\r\nContent-Disposition: form-data; name="file[]"; filename="a.bin"\r\n\r\n\r\n\x00\xff--\r\n'
            b'--B\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n--B--\r\n',
        ),
    ],
    "schema.py": [
        ("POST", "", JSON, b'{"age": 3, "plan": "gold"}'),
        ("POST", "", JSON, b'{"age": 3}'),
        ("GET", "?age=3", {}, b""),
    ],
}
# Requests whose status alone is equal: errors have other words.
REFUSED: dict[str, list[tuple[str, str, dict[str, str], bytes]]] = {
    "behaves.py": [
        ("POST", "", JSON, b"\xff"),
        ("POST", "", JSON, b'{"do": "fail"}'),
        ("POST", "", JSON, b'{"do": "a_set"}'),
        ("POST", "", JSON, b'{"do": "generator"}'),
        ("POST", "", JSON, b'{"do": "some_bytes"}'),
        ("DELETE", "", {}, b""),
    ],
    "raw.py": [("DELETE", "", {}, b"")],
    "schema.py": [
        ("POST", "", JSON, b'{"plan": "gold"}'),
        ("POST", "", JSON, b"[1]"),
        ("POST", "", JSON, b"{"),
        ("POST", "", {"content-type": "text/plain"}, b'{"age": 3}'),
    ],
}


@contextmanager
def azure(python: Path, entry: str, folder: Path) -> Iterator[str]:
    """Run Azure's server with a script until the block ends."""
    port = free_port()
    arguments = ["--entry_script", str(SCRIPTS / entry), "--model_dir", str(folder), "--port", str(port)]
    program = [str(python), "-m", "azureml_inference_server_http", *arguments]
    log = folder.parent / "azure.log"
    with log.open("w") as stream, subprocess.Popen(program, stdout=stream, stderr=stream, cwd=SCRIPTS) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            eventually(lambda: process.poll() is not None or _answers(url))
            assert process.poll() is None, log.read_text()
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def asked(url: str, request: tuple[str, str, dict[str, str], bytes]) -> httpx.Response:
    method, query, headers, body = request
    return httpx.request(method, f"{url}/score{query}", headers=headers, content=body, timeout=60)


def shown(answer: httpx.Response) -> Any:
    return answer.status_code, answer.headers.get("content-type") if answer.content else None, answer.content


@pytest.mark.parametrize(
    ("entry", "own_package"), [("behaves.py", False), ("raw.py", False), ("raw.py", True), ("schema.py", True)]
)
def test_answers_equal_those_of_azures_server(tmp_path: Path, entry: str, own_package: bool) -> None:
    """Scripts answer the same, by the shim and by Azure's package in the environment."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "words.txt").write_text("one two")
    python = python_with("azure", AZURE)
    task = scored_task(folder, entry, environment=ENVIRONMENT if own_package else None)
    environment = ("--environment-dir", str(python.parent.parent))
    with azure(python, entry, folder) as theirs, scoring(folder, task, *environment) as ours:
        for request in REQUESTS[entry]:
            assert shown(asked(ours.url, request)) == shown(asked(theirs, request)), request
        for request in REFUSED[entry]:
            assert asked(ours.url, request).status_code == asked(theirs, request).status_code, request
