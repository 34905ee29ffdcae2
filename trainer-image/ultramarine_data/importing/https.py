"""A file at an http or https address, fetched if it has changed since the last time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import urllib3
from ultramarine_contract.dataset_records import PLACE_OF_SECRET, ImportSummary, ImportTask
from ultramarine_contract.transport import cause, outside

from ultramarine_data.errors import DataError

ATTEMPTS, PAUSE_SECONDS = 5, 1.0  # the pause doubles
CHUNK = 1 << 20
TIMEOUT = urllib3.Timeout(connect=20, read=120)
UNCHANGED, TRANSIENT = 304, (408, 425, 429, 500, 502, 503, 504)


def fetch(task: ImportTask, _: Path, data: Path) -> ImportSummary:
    """Fetch the file unless the server says that its ETag is still that of the task. Raises DataError."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "ultramarine-data"}
    if token := os.environ.get(PLACE_OF_SECRET):
        headers["Authorization"] = f"Bearer {token}"
    if task.etag:
        headers["If-None-Match" if task.etag.startswith(('"', "W/")) else "If-Modified-Since"] = task.etag
    error = ""
    with outside(task.url, timeout=TIMEOUT) as pool:
        for attempt in range(ATTEMPTS):
            try:
                return _fetched(pool, task, headers, data)
            except _AgainError as again:
                error = str(again)
                time.sleep(min(PAUSE_SECONDS * 2**attempt, 10))
            except urllib3.exceptions.HTTPError as failure:
                error = cause(failure)
                time.sleep(min(PAUSE_SECONDS * 2**attempt, 10))
    raise DataError(f"{_shown(task.url)} does not answer: {error}; check the address and the network", transient=True)


class _AgainError(Exception):
    """The server may answer later."""


def _fetched(pool: urllib3.PoolManager, task: ImportTask, headers: dict[str, str], data: Path) -> ImportSummary:
    answer = pool.request("GET", task.url, headers=headers, preload_content=False, redirect=True)
    try:
        if answer.status == UNCHANGED:
            return ImportSummary(etag=task.etag)
        if answer.status in TRANSIENT:
            raise _AgainError(f"HTTP {answer.status}")
        if answer.status != 200:
            remedy = "correct the address, or the token in tokenSecretRef"
            raise DataError(f"{_shown(task.url)} answers HTTP {answer.status}; {remedy}")
        size = 0
        with (data / _name(task.url)).open("wb") as stream:
            for chunk in answer.stream(CHUNK):
                size += stream.write(chunk)
        expected = answer.headers.get("Content-Length")
        if expected is not None and expected.isdigit() and int(expected) != size:
            raise _AgainError(f"the connection ended after {size} of {expected} bytes")
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        return ImportSummary(changed=True, etag=mark[:1024])
    finally:
        answer.release_conn()


def _name(url: str) -> str:
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return name if name and not name.startswith(".") and "\\" not in name and "\0" not in name else "data"


def _shown(url: str) -> str:
    """Return an address without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"
