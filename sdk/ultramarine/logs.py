"""Logs that exist: those of living pods, and the copies of others in the storage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ultramarine_contract.meta import LABEL_KIND, LABEL_NAME, POD

from .kube.errors import NotFound, Rejected

if TYPE_CHECKING:
    from .runs import Run, Update

_CONTAINER = "trainer"


def log_lines(run: Run) -> Iterator[Update]:
    """Yield the lines of each pod of a run, oldest pod first; archived ones for pods that are gone."""
    from .runs import Update

    cluster = run.client.cluster
    selector = f"{LABEL_KIND}={run.resource.kind},{LABEL_NAME}={run.name}"
    pods = sorted(cluster.list(POD, selector), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    living = {str(pod["metadata"]["name"]) for pod in pods}
    for pod, lines in archived(run, living):
        for line in lines:
            yield Update("log", line, pod)
    for name in (str(pod["metadata"]["name"]) for pod in pods):
        try:
            for line in cluster.logs(name, _CONTAINER):
                yield Update("log", line.partition(" ")[2], name)
        except (NotFound, Rejected):  # the container has not begun, or the pod went meanwhile
            continue


def archived(run: Run, besides: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the archived lines of each pod except those `besides`; nothing if no log was archived."""
    uri = (run.status.get("logs") or {}).get("uri")
    if not uri:
        return
    storage = run.client.storage
    for folder in storage.folders(uri):
        pod = folder.rstrip("/").rpartition("/")[2]
        if pod in besides:
            continue
        files = sorted(storage.objects(folder).items())
        text = b"".join(storage.read(location, 1 << 30) for _, (location, _) in files)
        yield pod, text.decode(errors="replace").splitlines()
