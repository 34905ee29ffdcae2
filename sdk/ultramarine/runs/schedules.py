"""Runs of a Schedule that a user starts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ultramarine_contract.meta import API_VERSION, SCHEDULE, Manifest, Resource

from ..kube.errors import Exists

if TYPE_CHECKING:
    from ..client import Client

_QUEUE = "kueue.x-k8s.io/"
_ATTEMPTS = 10  # to get a name, while other users start runs too


def start_run(client: Client, schedule: str) -> tuple[Resource, str]:
    """Create a run of a Schedule in the name of this user; return its type and name.

    The run belongs to the Schedule, whose history and concurrencyPolicy count it. Raises NotFound, and what
    Client.create() raises.
    """
    owner = client.cluster.get(SCHEDULE, schedule)
    second = begin = int(time.time())
    while True:
        run = _run_of(owner, f"{schedule}-m{second:010}")
        resource = client.kinds.of(run)
        try:
            return resource, str(client.create(resource, run)["metadata"]["name"])
        except Exists:
            second += 1
            if second == begin + _ATTEMPTS:
                raise


def _run_of(owner: Manifest, name: str) -> Manifest:
    meta, template = owner["metadata"], owner["spec"]["template"]
    reference = {"apiVersion": API_VERSION, "kind": SCHEDULE.kind, "name": meta["name"], "uid": meta["uid"]}
    labels = {key: value for key, value in (meta.get("labels") or {}).items() if key.startswith(_QUEUE)}
    metadata = {"name": name, "labels": labels, "ownerReferences": [{**reference, "controller": True}]}
    return {"apiVersion": API_VERSION, "kind": template["kind"], "metadata": metadata, "spec": template["spec"]}
