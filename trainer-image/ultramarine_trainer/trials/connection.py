"""Asking the coordinator of a sweep for trials, and telling it how they go, over one connection each."""

from __future__ import annotations

import http.client
import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ultramarine_contract import tls
from ultramarine_contract.common import TLS_DIR


class Unreachable(Exception):
    """The coordinator did not answer; another one may, soon."""


class Refused(Exception):
    """The coordinator understood, and does not want it."""


class Connection:
    """A connection to the coordinator at `url`, made again whenever it is lost; for one thread after the other.

    By https, at SERVICE.NAMESPACE.svc, it has to prove the name of the namespace's sweeps.
    """

    def __init__(self, url: str, token: str, timeout: float) -> None:
        place = urlsplit(url)
        self._lock = threading.Lock()
        host, port = place.hostname or "", place.port or 80
        self._http: http.client.HTTPConnection
        if place.scheme == "https":
            name = tls.server_name("sweep", host.split(".")[1])
            self._http = tls.Connection(host, port, timeout, Path(TLS_DIR), name)
        else:
            self._http = http.client.HTTPConnection(host, port, timeout=timeout)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def post(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """Post JSON and return the answer. Raises Unreachable and Refused."""
        body = json.dumps(document, separators=(",", ":")).encode()
        with self._lock:
            if self._http.sock:
                # One that was lost while nothing was said is found out by the next word. All requests bear repetition.
                try:
                    return self._post(path, body)
                except TimeoutError as error:
                    raise Unreachable(f"no answer within {self._http.timeout:g} s") from error
                except (OSError, http.client.HTTPException, ValueError):
                    self._http.close()
            try:
                return self._post(path, body)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise Unreachable(str(error) or type(error).__name__) from error

    def _post(self, path: str, body: bytes) -> dict[str, Any]:
        try:
            self._http.request("POST", path, body, self._headers)
            answer = self._http.getresponse()
            content = answer.read()
        except BaseException:  # a signal's, too: half an answer would be taken for the next one's
            self._http.close()
            raise
        if answer.will_close:
            self._http.close()
        if answer.status >= 500:
            raise ValueError(f"{answer.status} {answer.reason}")
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError("no JSON object")
        if answer.status != 200:
            raise Refused(f"{answer.status} {document.get('error') or answer.reason}")
        return document

    def close(self) -> None:
        """Hang up."""
        self._http.close()
