"""A tracking server for tests: the words of MLflow's REST API, on loopback. The real one: tests/e2e/test_mlflow.py."""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Tracking(ThreadingHTTPServer):
    """Keeps runs as MLflow does, or answers with the codes that it is given first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"
        self.experiments: list[str] = []
        self.runs: list[dict[str, Any]] = []
        self.batches: list[int] = []
        self.refused: list[tuple[str, int]] = []  # path and code
        self.lost: list[str] = []  # paths that are done, and answered with 500
        self.delay = 0.0  # seconds before an answer
        self.page = 1000  # runs
        self.headers: set[str | None] = set()  # by which requests proved an account
        self._lock = threading.Lock()

    def children(self, parent: dict[str, Any]) -> dict[int, dict[str, Any]]:
        """The runs below one, by the trial's number; fails where there are two of a number."""
        own = [run for run in self.runs if run["tags"].get("mlflow.parentRunId") == parent["run_id"]]
        found = {int(run["tags"]["ultramarine.trial"]): run for run in own}
        assert len(found) == len(own)
        return found

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The answer, late or lost as it may be."""
        time.sleep(self.delay)
        with self._lock:
            code, said = self.answer(path, body)
            if self.lost and self.lost[0] == path:
                self.lost.pop(0)
                return 500, {"error_code": "LOST", "message": "on the way"}
        return code, said

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the answer of the simulated MLflow."""
        if self.refused and self.refused[0][0] == path:
            return self.refused.pop(0)[1], {"error_code": "BECAUSE", "message": "of the test"}
        if path == "experiments/get-by-name":
            if body["experiment_name"] not in self.experiments:
                return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
            return 200, {"experiment": {"experiment_id": str(self.experiments.index(body["experiment_name"]))}}
        if path == "experiments/create":
            self.experiments.append(body["name"])
            return 200, {"experiment_id": str(len(self.experiments) - 1)}
        if path == "runs/search":
            return 200, self._search(body)
        if path == "runs/create":
            tags = {tag["key"]: tag["value"] for tag in body["tags"]}
            run_id = f"{len(self.runs):032x}"
            fresh: dict[str, Any] = {"params": {}, "metrics": [], "status": ["RUNNING"], "end_time": None}
            run = body | fresh | {"run_id": run_id, "tags": tags}
            self.runs.append(run)
            return 200, {"run": _document(run)}
        (run,) = (run for run in self.runs if run["run_id"] == body["run_id"])
        if path == "runs/update":
            run["status"].append(body["status"])
            run["end_time"] = body.get("end_time", run["end_time"])
            return 200, {}
        assert path == "runs/log-batch"
        return self._log(run, body)

    def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        wanted = dict(re.findall(r"tags\.`([^`]+)` = '([^']*)'", body["filter"]))
        assert wanted
        assert body["filter"].count("=") == len(wanted)
        found = [run for run in self.runs if wanted.items() <= run["tags"].items()]
        first = int(body.get("page_token", 0))
        last = first + min(self.page, body["max_results"])
        more = {"next_page_token": str(last)} if last < len(found) else {}
        return {"runs": [_document(run) for run in found[first:last]], **more}

    def _log(self, run: dict[str, Any], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        metrics, params, tags = (body.get(word, []) for word in ("metrics", "params", "tags"))
        assert len(metrics) <= 1000
        assert len(params) <= 100
        assert len(tags) <= 100
        self.batches.append(len(metrics))
        for one in params:
            if run["params"].setdefault(one["key"], one["value"]) != one["value"]:
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": f"{one['key']} has another value"}
        kept = run.setdefault("logged", set())
        for one in metrics:
            if (point := (one["key"], one["step"], one["value"], one["timestamp"])) not in kept:
                kept.add(point)
                run["metrics"].append(point[:3])
        run["tags"] |= {one["key"]: one["value"] for one in tags}
        return 200, {}


def _document(run: dict[str, Any]) -> dict[str, Any]:
    info = {"run_id": run["run_id"], "start_time": run["start_time"], "status": run["status"][-1]}
    return {"info": info, "data": {"tags": [{"key": name, "value": value} for name, value in run["tags"].items()]}}


class Asked(BaseHTTPRequestHandler):
    """One request."""

    server: Tracking

    def do_GET(self) -> None:
        self._answer({name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict[str, Any]) -> None:
        self.server.headers.add(self.headers["Authorization"])
        code, said = self.server.reply(urlsplit(self.path).path.removeprefix("/api/2.0/mlflow/"), body)
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
