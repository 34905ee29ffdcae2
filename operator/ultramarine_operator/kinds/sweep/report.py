"""Summary that a Sweep's coordinator posts, and the reply that it gets."""

from __future__ import annotations

from ultramarine_contract.meta import JOB, POD, Manifest, controller_uid
from ultramarine_contract.sweep_records import SweepSummary, coordinator_name

from ...shared.pods import node_index
from ...shared.reporting import Reporting
from .podpertrial import answer


def _senders(name: str, children: list[Manifest]) -> list[Manifest]:
    """Return the pods of the coordinator's Job: those of workers run the user's command."""
    jobs = [child for child in children if child["kind"] == JOB.kind]
    uids = {job["metadata"].get("uid") for job in jobs if job["metadata"]["name"] == coordinator_name(name)}
    pods = [child for child in children if child["kind"] == POD.kind and node_index(child) == 0]
    return [pod for pod in pods if controller_uid(pod) in uids]


REPORTING = Reporting(
    path="sweeps",
    read=SweepSummary.from_json,
    record="sweep_records.SweepSummary",
    senders=_senders,
    sender="the coordinator's newest pod",
    urgency=lambda summary: summary.urgent,
    reply=answer,
)
