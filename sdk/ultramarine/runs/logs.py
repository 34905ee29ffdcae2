"""Logs that exist: those of living pods, and the copies of others in the storage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ultramarine_contract.meta import LABEL_KIND, LABEL_NAME, POD, Manifest

from ..kube.client import Cluster
from ..kube.config import NoAccess
from ..kube.errors import ApiError, NotFound, Rejected
from .parts import Part

if TYPE_CHECKING:
    from .run import Run, Update

TRAINER = "trainer"  # container of a run's pods


def log_lines(run: Run, part: Part) -> Iterator[Update]:
    """Yield the lines of a part of a run's log, oldest pod first; archived ones for pods that are gone."""
    from .run import Update

    cluster = run.client.cluster
    selector = f"{LABEL_KIND}={run.resource.kind},{LABEL_NAME}={run.name}"
    pods = sorted(cluster.list(POD, selector), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    living = {str(pod["metadata"]["name"]) for pod in pods}
    for gone, lines in archived(run, living):
        for line in lines:
            if part.has_pod(gone) and part.has_line(gone, line):
                yield Update("log", line, gone)
    for pod in pods:
        if not part.has_pod(name := str(pod["metadata"]["name"])):
            continue
        for container in containers_of(pod):
            try:
                for line in cluster.logs(name, container):
                    if part.has_line(name, text := line.partition(" ")[2]):
                        yield Update("log", text, name)
            except (NotFound, Rejected):  # the container has not begun, or the pod went meanwhile
                continue


def containers_of(pod: Manifest) -> list[str]:
    """Return the containers whose log is a run's: the trainer, or all where a pod has none, as a build's."""
    spec = pod["spec"]
    names = [str(container["name"]) for container in (*spec.get("initContainers", ()), *spec["containers"])]
    return [TRAINER] if TRAINER in names else names


def followed(cluster: Cluster, pod: str, container: str, stop: threading.Event, restarts: int = 0) -> Iterator[str]:
    """Yield the lines of a container until it ends, across lost connections; `restarts` is its number of restarts."""
    since, shown = "", set[str]()  # a moment, and the lines of its second
    while not stop.is_set():
        try:
            for line in cluster.logs(pod, container, follow=True, since=since):
                moment, _, text = line.partition(" ")
                if moment[:19] != since[:19]:
                    since, shown = moment, set()
                if line not in shown:
                    shown.add(line)
                    yield text
            if not _runs(cluster, pod, container, restarts):
                return
        except (NoAccess, ApiError):
            pass
        except (NotFound, Rejected):
            return
        stop.wait(1)


def _runs(cluster: Cluster, pod: str, container: str, restarts: int) -> bool:
    status = cluster.get(POD, pod).get("status") or {}
    return any(
        entry["name"] == container and "running" in entry["state"] and int(entry.get("restartCount") or 0) == restarts
        for entry in status.get("containerStatuses") or []
    )


def archived(run: Run, besides: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the archived lines of each pod except those `besides`; nothing if no log was archived."""
    from ..storage.artifacts import NothingStored, logs_of

    try:
        uri = logs_of(run)
    except NothingStored:
        return
    storage = run.client.storage
    for folder in storage.folders(uri):
        pod = folder.rstrip("/").rpartition("/")[2]
        if pod in besides:
            continue
        files = sorted(storage.objects(folder).items())
        text = b"".join(storage.read(location, 1 << 30) for _, (location, _) in files)
        yield pod, text.decode(errors="replace").splitlines()
