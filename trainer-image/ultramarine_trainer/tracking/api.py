"""MLflow's tracking server, spoken to without mlflow: experiments, runs, and what is logged to them.

Source: MLflow's REST API 2.0, which every release since 1.0 answers.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ultramarine_contract.common import MLFLOW_ACCOUNT, MLFLOW_PREFIX, UNREADABLE, OutputRecord
from ultramarine_contract.transport import cause, outside
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

UID = "ultramarine.uid"  # the tag by which the run of a job or sweep is found again
OUTPUT, DIGEST = "ultramarine.output.", "ultramarine.digest."  # and an output's name: the tags with its URI and digest
BATCH, PARAMS = 1000, 100  # metrics and parameters that one `log` takes
TEXT_LIMIT = 500  # characters of a parameter that every release takes

_PAGE = 200  # runs
# What all releases take as a metric's name; one bad name would cost its whole batch.
_NAME = re.compile(r"\w[\w.\-/ ]{0,249}", re.ASCII)
_ID = re.compile(r"[0-9a-zA-Z]{1,64}")


class Failure(Exception):
    """A request that failed: MLflow's own code or one of this module, and `passing` if it may succeed later."""

    def __init__(self, kind: str, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.kind, self.passing = kind, passing


class Complaints:
    """Says that `what` is not wholly recorded, once for each kind of failure."""

    def __init__(self, what: str, say: Callable[[str], None]) -> None:
        self._what, self._say = what, say
        self._reported: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._reported)

    def add(self, failure: Failure) -> None:
        """Say it, unless the like has been said."""
        if failure.kind not in self._reported:
            self._reported.add(failure.kind)
            self._say(f"{self._what} is not wholly recorded in MLflow, which does not disturb it: {failure}")

    def attempt(self, *steps: Callable[[], None]) -> bool:
        """Do one step after the other, up to the first that fails, which is said; say whether all went well."""
        try:
            for step in steps:
                step()
        except Failure as failure:
            self.add(failure)
            return False
        return True


@dataclass(frozen=True)
class Run:
    """A run as MLflow has it; `started` is in milliseconds since 1970."""

    id: str
    started: int = 0
    status: str = "RUNNING"
    tags: Mapping[str, str] = field(default_factory=dict)


def metric(name: str, value: float, timestamp: int, step: int) -> dict[str, Any]:
    """One value for `log`; sent once more it is the same value, which MLflow keeps once."""
    return {"key": name, "value": value, "timestamp": timestamp, "step": step}


def is_metric(name: str) -> bool:
    """True if every release takes this as a metric's name."""
    return _NAME.fullmatch(name) is not None and posixpath.normpath(name) == name


def account_in(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the account that the container has for the server that records, by MLflow's own names."""
    return {name: value for name in MLFLOW_ACCOUNT if (value := environment.get(f"{MLFLOW_PREFIX}{name}", ""))}


def authorization(account: Mapping[str, str]) -> dict[str, str]:
    """Return the header that proves an account, which MLflow's own variables name; none without an account."""
    if token := account.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := account.get("MLFLOW_TRACKING_USERNAME"):
        both = f"{user}:{account.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(both.encode()).decode()}"}
    return {}


def output_tags(outputs: Mapping[str, OutputRecord]) -> dict[str, str]:
    """Return the tags that tell a run's outputs; a ModelVersion is known by the digest."""
    tags = {f"{OUTPUT}{name}": output.uri for name, output in outputs.items()}
    return tags | {f"{DIGEST}{name}": output.digest for name, output in outputs.items()}


class MlflowApi:
    """One tracking server. Everything here raises Failure, and waits for `seconds` at most in each request."""

    def __init__(self, uri: str, seconds: float, account: Mapping[str, str]) -> None:
        self.uri, self._seconds = uri.rstrip("/"), seconds
        self._http = outside(self.uri)
        # A kept connection could be lost under a POST, which is not repeated.
        self._headers = {"Content-Type": "application/json", "Connection": "close", **authorization(account)}

    def experiment(self, name: str) -> str:
        """The id of the experiment, which is made if there is none."""
        query = f"experiments/get-by-name?{urllib.parse.urlencode({'experiment_name': name})}"
        with self._reading():
            try:
                return str(self._call(query)["experiment"]["experiment_id"])
            except Failure as failure:
                if failure.kind != "RESOURCE_DOES_NOT_EXIST":
                    raise
            try:
                return str(self._post("experiments/create", {"name": name})["experiment_id"])
            except Failure as failure:
                if failure.kind != "RESOURCE_ALREADY_EXISTS":  # another job was quicker
                    raise
            return str(self._call(query)["experiment"]["experiment_id"])

    def runs(self, experiment_id: str, tags: Mapping[str, str]) -> Iterator[Run]:
        """Yield all runs with these tags that are not deleted."""
        filter = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        asked = {"experiment_ids": [experiment_id], "filter": filter, "max_results": _PAGE}
        page: dict[str, str] = {}
        while True:
            with self._reading():
                answer = self._post("runs/search", asked | page)
                runs = [_run(run) for run in answer.get("runs", [])]
                token = answer.get("next_page_token")
            yield from runs
            if not token:
                return
            page = {"page_token": str(token)}

    def create(self, experiment_id: str, name: str, tags: Mapping[str, str], started: int) -> Run:
        """Make a run; if the answer gets lost, it is found by its tags."""
        made = {"experiment_id": experiment_id, "run_name": name, "start_time": started, "tags": _pairs(tags)}
        with self._reading():
            return _run(self._post("runs/create", made)["run"])

    def log(
        self,
        run_id: str,
        metrics: Sequence[Mapping[str, Any]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add to a run what one batch takes: BATCH metrics, and PARAMS parameters and tags."""
        given = {"metrics": list(metrics), "params": _pairs(params or {}), "tags": _pairs(tags or {})}
        with self._reading():
            self._post("runs/log-batch", {"run_id": run_id, **{word: all for word, all in given.items() if all}})

    def update(self, run_id: str, status: str, ended: int = 0) -> None:
        """Say how a run is: RUNNING again, or since when FINISHED, FAILED or KILLED."""
        end = {"end_time": ended} if ended else {}
        with self._reading():
            self._post("runs/update", {"run_id": run_id, "status": status, **end})

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (*UNREADABLE, ValueError) as error:
            raise Failure("answer", f"{self.uri} answers what MLflow would not: {error!r}", passing=False) from error

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._call(path, body, "POST")

    def _call(self, path: str, body: dict[str, Any] | None = None, method: str = "GET") -> dict[str, Any]:
        url = f"{self.uri}/api/2.0/mlflow/{path}"
        try:
            answer = self._http.request(method, url, json=body, headers=self._headers, timeout=self._seconds)
        except HTTPError as error:
            raise Failure("unreachable", f"{self.uri} does not answer: {cause(error)}", passing=True) from error
        if answer.status >= 300:
            raise _refused(path, answer)
        document: dict[str, Any] = answer.json()
        return document


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in values.items()]


def _run(document: dict[str, Any]) -> Run:
    info, data = document["info"], document.get("data") or {}
    if not isinstance(info["run_id"], str) or not _ID.fullmatch(info["run_id"]):
        raise ValueError(f"{info['run_id']!r} as a run's id")
    tags = {str(tag["key"]): str(tag["value"]) for tag in data.get("tags", [])}
    return Run(info["run_id"], int(info.get("start_time") or 0), str(info.get("status", "RUNNING")), tags)


def _refused(path: str, answer: BaseHTTPResponse) -> Failure:
    text = answer.data[:2000].decode(errors="replace")
    try:
        document = json.loads(text)
        kind, text = str(document["error_code"]), str(document.get("message", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        kind = str(answer.status)
    passing = answer.status in (408, 429) or answer.status >= 500
    message = f"it answered {answer.status} to {path.partition('?')[0]}: {text.strip()[:300] or answer.reason}"
    return Failure(kind, message, passing=passing)
