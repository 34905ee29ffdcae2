"""Progress that the pod of node 0 posts while a TrainingJob runs."""

from __future__ import annotations

from ultramarine_contract.common import METRIC_LIMIT, METRIC_NAME_LIMIT
from ultramarine_contract.meta import POD, Manifest
from ultramarine_contract.training_records import Progress

from ...shared.pods import TRAINER, node_index
from ...shared.reporting import Reporting


def read(body: bytes) -> Progress:
    """Read a report that fits the status. Raises ValueError for any other: the user's command can post here too."""
    progress = Progress.from_json(body)
    if len(progress.metrics) > METRIC_LIMIT:
        raise ValueError(f"more than a status has room for: {METRIC_LIMIT} metrics")
    if not all(len(name) <= METRIC_NAME_LIMIT and name.isprintable() for name in progress.metrics):
        raise ValueError(
            f"naming a metric in a way that does not fit: at most {METRIC_NAME_LIMIT} printable characters"
        )
    return progress


def _senders(_name: str, children: list[Manifest]) -> list[Manifest]:
    return [child for child in children if child["kind"] == POD.kind and node_index(child) == 0]


REPORTING = Reporting(
    path="progress",
    read=read,
    record="training_records.Progress",
    senders=_senders,
    sender="the newest pod of node 0",
    image_of=TRAINER,
)
