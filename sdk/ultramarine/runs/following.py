"""Stream of a run's states, log lines and metrics, across lost connections."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

from ultramarine_contract.meta import LABEL_KIND, LABEL_NAME, POD, TRAINING_JOB, Manifest

from .logs import containers_of, followed
from .measuring import Measurements
from .parts import Part
from .run import BUILT, ENDED, Run, RunFailed, Update, explanation, state_of

_LAST_LINES_SECONDS = 20  # after the end, for the rest of the logs


class Follower:
    """Threads that watch a run's object, its pods and their logs, and put what they see into one queue."""

    def __init__(self, run: Run, part: Part | None = None) -> None:
        self.run, self.cluster, self.part = run, run.client.cluster, part or Part()
        self.queue: queue.Queue[Update | Manifest | Exception | None] = queue.Queue()
        self.stop = threading.Event()
        self.measurements = Measurements()
        self.readers: dict[tuple[str, str], threading.Thread] = {}  # by pod and container

    def updates(self) -> Iterator[Update]:
        """Yield states, log lines and metrics until the run ends. Raises RunFailed if its object is deleted."""
        for target in (self._object, self._pods):
            threading.Thread(target=self._guarded, args=(target,), daemon=True).start()
        last, end = ("", ""), None
        try:
            while end is None:
                news = self.queue.get()
                if isinstance(news, Exception):
                    raise news
                if isinstance(news, Update):
                    self.measurements.hear(news.text)
                    yield news
                elif news is None:
                    raise RunFailed(
                        f"{self.run.resource.kind} {self.run.name} was deleted before it ended. Submit it again."
                    )
                else:
                    state = state_of(news)
                    text = explanation(news)
                    if (state, text) != last:
                        last = (state, text)
                        if state in (*ENDED, BUILT):
                            end = Update("state", text, state=state)
                        else:
                            yield Update("state", text, state=state)
                    if end is None and (line := self._news(news)):
                        yield Update("metrics", line)
            yield from self._rest()
            yield end
        finally:
            self.stop.set()

    def end(self) -> None:
        """End `updates`, which another thread may be reading."""
        self.stop.set()
        self.queue.put(RunFailed("the stream was closed"))

    def _news(self, object: Manifest) -> str:
        """Return the line about a running job's metrics and progress, which the operator writes every ten seconds."""
        is_job = self.run.resource.kind == TRAINING_JOB.kind
        return self.measurements.news(object.get("status") or {}) if is_job else ""

    def _rest(self) -> Iterator[Update]:
        """Yield the lines that the log's readers still get after the end."""
        deadline = time.monotonic() + _LAST_LINES_SECONDS
        while time.monotonic() < deadline:
            try:
                news = self.queue.get(timeout=0.2)
            except queue.Empty:
                if not any(reader.is_alive() for reader in self.readers.values()):
                    return
                continue
            if isinstance(news, Update):
                yield news

    def _guarded(self, target: Any) -> None:
        try:
            target()
        except Exception as error:  # a bug too is raised where the updates are read, which would wait without end
            if not self.stop.is_set():
                self.queue.put(error)

    def _object(self) -> None:
        for event in self.cluster.watch(self.run.resource, self.run.name, stop=self.stop):
            self.queue.put(None if event.type == "DELETED" else event.object)

    def _pods(self) -> None:
        selector = f"{LABEL_KIND}={self.run.resource.kind},{LABEL_NAME}={self.run.name}"
        for event in self.cluster.watch(POD, selector=selector, stop=self.stop):
            pod, status = event.object["metadata"]["name"], event.object.get("status") or {}
            if event.type == "DELETED" or not self.part.has_pod(pod):
                continue
            logged = containers_of(event.object)
            for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
                begun = "running" in container["state"] or "terminated" in container["state"]
                place = (pod, container["name"])
                if container["name"] in logged and begun and place not in self.readers:
                    reader = threading.Thread(
                        target=self._guarded, args=(lambda place=place: self._log(*place),), daemon=True
                    )
                    self.readers[place] = reader
                    reader.start()

    def _log(self, pod: str, container: str) -> None:
        for text in followed(self.cluster, pod, container, self.stop):
            if self.part.has_line(pod, text):
                self.queue.put(Update("log", text, pod))
