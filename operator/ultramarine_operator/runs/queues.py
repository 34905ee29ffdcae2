"""Jobs that exist: changes that they take, and queues of Kueue that hold them."""

from __future__ import annotations

from collections.abc import Collection

from ultramarine_contract.meta import Manifest

from ..shared.states import State, pending

LABELS = "kueue.x-k8s.io/"
LABEL_QUEUE = f"{LABELS}queue-name"


def queue(owner: Manifest) -> str:
    """Return the Kueue queue that an object is in, if any."""
    return str((owner["metadata"].get("labels") or {}).get(LABEL_QUEUE, ""))


def is_queued(owner: Manifest) -> bool:
    """True if Kueue decides when its Job runs: then Kueue alone writes the Job's `suspend`."""
    return bool(queue(owner))


def labelled(metadata: Manifest, owner: Manifest) -> Manifest:
    """Return the metadata of a child that goes into its owner's queue."""
    labels = owner["metadata"].get("labels") or {}
    of_queue = {name: value for name, value in labels.items() if name.startswith(LABELS)}
    return {**metadata, "labels": metadata["labels"] | of_queue}


def held(owner: Manifest, subject: str) -> State:
    """Return the state while the queue has no place for `subject`."""
    return pending("Queued", f"queue {queue(owner)} holds {subject} until Kueue finds room (kubectl get workloads)")


def with_changes(live: Manifest, job: Manifest, mutable: Collection[str]) -> Manifest | None:
    """Return a Job that exists with the changes that it takes: `mutable` fields and labels; None if none differs.

    The rest stays as it was made, even by an older operator: Kubernetes forbids changes of a Job's template, and a new
    release of the platform must not disturb a training. `suspend` stays too if a queue holds the Job.
    """
    queued = LABEL_QUEUE in job["metadata"]["labels"]
    old, new = live["spec"], job["spec"]
    mutable = {field for field in mutable if field != "suspend" or not queued}
    labels = live["metadata"].get("labels") or {}
    is_labelled = all(labels.get(name) == value for name, value in job["metadata"]["labels"].items())
    if is_labelled and all(old.get(field) == new.get(field) for field in mutable):
        return None
    metadata = dict(job["metadata"])
    if queued:  # what is kept of `suspend` must not undo what Kueue has written since
        metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
    spec = {field: new[field] if field in mutable else old[field] for field in new if field in mutable or field in old}
    return {**job, "metadata": metadata, "spec": spec}
