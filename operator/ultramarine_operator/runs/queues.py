"""Jobs that are there already: what may change of them, and what a queue of Kueue's has to say about them."""

from __future__ import annotations

from collections.abc import Collection

from ultramarine_contract.meta import Manifest

from ..shared.states import State, pending

LABELS = "kueue.x-k8s.io/"
LABEL_QUEUE = f"{LABELS}queue-name"


def queue(owner: Manifest) -> str:
    """The Kueue queue that an object is in, if any."""
    return str((owner["metadata"].get("labels") or {}).get(LABEL_QUEUE, ""))


def is_queued(owner: Manifest) -> bool:
    """Whether Kueue decides when its Job runs: then the Job's `suspend` is Kueue's, and never ours."""
    return bool(queue(owner))


def labelled(metadata: Manifest, owner: Manifest) -> Manifest:
    """The metadata of a child that goes into its owner's queue."""
    labels = owner["metadata"].get("labels") or {}
    told = {name: value for name, value in labels.items() if name.startswith(LABELS)}
    return {**metadata, "labels": metadata["labels"] | told}


def held(owner: Manifest, whom: str) -> State:
    """What is said while the queue gives no place."""
    return pending("Queued", f"queue {queue(owner)} holds {whom} until Kueue finds room (kubectl get workloads)")


def with_changes(live: Manifest, wanted: Manifest, mutable: Collection[str]) -> Manifest | None:
    """A Job that is there, with what may change of it: the `mutable` fields and its labels; nothing if none differs.

    The rest stays as it was made, even by an older operator: Kubernetes forbids to change a Job's template, and a new
    release of the platform must not disturb a training. Where a queue holds the Job, so does its `suspend`.
    """
    queued = LABEL_QUEUE in wanted["metadata"]["labels"]
    old, new = live["spec"], wanted["spec"]
    mutable = {field for field in mutable if field != "suspend" or not queued}
    labels = live["metadata"].get("labels") or {}
    is_labelled = all(labels.get(name) == value for name, value in wanted["metadata"]["labels"].items())
    if is_labelled and all(old.get(field) == new.get(field) for field in mutable):
        return None
    metadata = dict(wanted["metadata"])
    if queued:  # what is kept of `suspend` must not undo what Kueue has written since
        metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
    spec = {field: new[field] if field in mutable else old[field] for field in new if field in mutable or field in old}
    return {**wanted, "metadata": metadata, "spec": spec}
