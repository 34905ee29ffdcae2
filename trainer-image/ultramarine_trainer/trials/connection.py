"""Asking the coordinator of a sweep for trials, and telling it how they go, over one connection each."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from ultramarine_contract.tls import server_name
from ultramarine_contract.transport import RETRIES, cause, inside
from urllib3.exceptions import HTTPError


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
        name = server_name("sweep", str(place.hostname).split(".")[1]) if place.scheme == "https" else ""
        # All requests bear repetition.
        self._http = inside(name, block=True, timeout=timeout, retries=RETRIES.new(allowed_methods=None))
        self._url = f"{place.scheme}://{place.netloc}"
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def post(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """Post JSON and return the answer. Raises Unreachable and Refused."""
        body = json.dumps(document, separators=(",", ":")).encode()
        try:
            answer = self._http.request("POST", self._url + path, body=body, headers=self._headers)
            reply = None if answer.status >= 500 else answer.json()
        except (HTTPError, ValueError) as error:
            raise Unreachable(cause(error)) from error
        if not isinstance(reply, dict):
            raise Unreachable(f"{answer.status} {answer.reason}, and no JSON object")
        if answer.status != 200:
            raise Refused(f"{answer.status} {reply.get('error') or answer.reason}")
        return reply
