"""Steady requests to an endpoint while something happens around it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Self

import httpx
from conftest import Platform
from manifests import Manifest, infer


class Background:
    """Threads that work until the block ends, and are waited for."""

    def __init__(self, *work: Callable[[], None]) -> None:
        self.stopping = threading.Event()
        self._threads = [threading.Thread(target=each) for each in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join()


class Load(Background):
    """Clients that ask one thing after another, each on a connection of its own kind, and count every answer."""

    def __init__(self, platform: Platform, name: str) -> None:
        self.platform, self.name = platform, name
        self.answers: list[float] = []
        self.failures: list[str] = []
        super().__init__(*(partial(self._ask, fresh) for fresh in (True, False, False)))

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        print(f"{self.name}: {len(self.answers)} answers, {len(self.failures)} failures")

    def _ask(self, fresh: bool) -> None:
        with self.platform.client(self.name) as client:
            url, headers = str(client.base_url), dict(client.headers)
            while not self.stopping.is_set():
                try:
                    path = f"/v2/models/{self.name}/infer"
                    if fresh:
                        answer = httpx.post(url + path, headers=headers, json=infer([[0.0]]), timeout=60)
                    else:
                        answer = client.post(path, json=infer([[0.0]]))
                    if answer.status_code == 200:
                        self.answers.append(answer.json()["outputs"][0]["data"][0])
                    else:
                        self.failures.append(f"{answer.status_code} {answer.text}")
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                time.sleep(0.005)


class Clients(Background):
    """Clients that each send one request after another, and record every failed answer."""

    def __init__(self, platform: Platform, name: str, count: int) -> None:
        self.platform, self.name = platform, name
        self.answers, self.failures = 0, list[str]()
        super().__init__(*[self._ask] * count)

    def _ask(self) -> None:
        with self.platform.client(self.name) as client:
            while not self.stopping.is_set():
                try:
                    answer = client.post(f"/v2/models/{self.name}/infer", json=infer([[1.0]]))
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if answer.status_code == 200:
                    self.answers += 1
                else:
                    self.failures.append(f"{answer.status_code} {answer.text}")


class OpenLoad(Background):
    """Requests at a fixed rate, whether or not the earlier ones are answered: who is slow does not get fewer."""

    PER_SECOND = 40
    AT_ONCE = 64

    def __init__(self, platform: Platform, name: str, body: Manifest | None = None, path: str = "") -> None:
        self.platform, self.name, self.body = platform, name, body or infer([[0.0]])
        self.path = path or f"/v2/models/{name}/infer"
        self.versions: list[str] = []  # that have answered, in the order of their answers
        self.outputs: set[str] = set()  # all that were answered, each once
        self.failures: list[str] = []
        super().__init__(self._run)

    def _run(self) -> None:
        with self.platform.client(self.name) as client, ThreadPoolExecutor(self.AT_ONCE) as pool:
            due = time.monotonic()
            while not self.stopping.is_set():
                pool.submit(self._ask, client)
                due += 1 / self.PER_SECOND
                time.sleep(max(0.0, due - time.monotonic()))

    def _ask(self, client: httpx.Client) -> None:
        try:
            answer = client.post(self.path, json=self.body)
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
            return
        if answer.status_code == 200:
            document = answer.json()
            self.outputs.add(json.dumps(document.get("outputs") or document))
            self.versions.append(document.get("model_version", ""))
        else:
            self.failures.append(f"{answer.status_code} {answer.text}")
