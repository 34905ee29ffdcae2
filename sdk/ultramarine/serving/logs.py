"""Logs of an endpoint's pods, several at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from ultramarine_contract.meta import LABEL_KIND, LABEL_NAME, POD, Manifest

from ..kube.client import Cluster
from ..runs import Update
from ..runs.logs import followed
from .route import LABEL_DEPLOYMENT

_CONTAINERS = ("server", "container")  # of the platform, and of the author
_News = Update | Exception


def log_lines(cluster: Cluster, endpoint: str, deployment: str = "", *, follow: bool = False) -> Iterator[Update]:
    """Yield the lines of the pods that exist; with `follow` go on, also with pods that begin later."""
    labels = {LABEL_KIND: "OnlineEndpoint", LABEL_NAME: endpoint}
    labels |= {LABEL_DEPLOYMENT: deployment} if deployment else {}
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    if not follow:
        for pod in sorted(cluster.list(POD, selector), key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
            for container, _ in _begun(pod):
                for line in cluster.logs(pod["metadata"]["name"], container):
                    yield Update("log", line.partition(" ")[2], pod["metadata"]["name"])
        return
    lines: queue.Queue[_News] = queue.Queue()
    stop = threading.Event()
    threading.Thread(target=_watch, args=(cluster, selector, lines, stop), daemon=True).start()
    try:
        while True:
            news = lines.get()
            if isinstance(news, Exception):
                raise news
            yield news
    finally:
        stop.set()


def _watch(cluster: Cluster, selector: str, lines: queue.Queue[_News], stop: threading.Event) -> None:
    """Start a reader for each container that begins."""
    read: set[tuple[str, int]] = set()
    try:
        for event in cluster.watch(POD, selector=selector, stop=stop):
            name = str(event.object["metadata"]["name"])
            for container, restarts in _begun(event.object):
                if event.type != "DELETED" and (name, restarts) not in read:
                    read.add((name, restarts))
                    reader = (cluster, name, container, restarts, lines, stop)
                    threading.Thread(target=_read, args=reader, daemon=True).start()
    except Exception as error:
        lines.put(error)


def _read(
    cluster: Cluster, pod: str, container: str, restarts: int, lines: queue.Queue[_News], stop: threading.Event
) -> None:
    """Put the lines of a container into the queue until it ends."""
    try:
        for text in followed(cluster, pod, container, stop, restarts):
            lines.put(Update("log", text, pod))
    except Exception as error:  # raised where the lines are read, which would wait without end
        lines.put(error)


def _begun(pod: Manifest) -> list[tuple[str, int]]:
    """Return the container that serves with its number of restarts, if it has begun."""
    return [
        (str(status["name"]), int(status.get("restartCount") or 0))
        for status in (pod.get("status") or {}).get("containerStatuses") or []
        if status["name"] in _CONTAINERS and {"running", "terminated"} & set(status.get("state") or {})
    ]
