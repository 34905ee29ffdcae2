"""Events, which `kubectl describe` shows."""

from __future__ import annotations

from datetime import datetime

from ultramarine_contract.meta import API_VERSION, EVENT, FIELD_MANAGER, Manifest, content_hash

from ..shared.conditions import timestamp
from ..shared.plan import Event
from ..shared.questions import Refusal
from .client import ApiError, Client


async def record(client: Client, about: Manifest, event: Event, now: datetime) -> None:
    """Write one event about an object; the same one in the same second is written once."""
    meta = about["metadata"]
    name = f"{meta['name']}.{content_hash([meta['uid'], event.reason, event.message, timestamp(now)])[:16]}"
    manifest = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": about["kind"],
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        },
        "reason": event.reason,
        "message": event.message[:1024],
        "type": event.type,
        "source": {"component": FIELD_MANAGER},
        "firstTimestamp": timestamp(now),
        "lastTimestamp": timestamp(now),
        "count": 1,
    }
    try:
        await client.create(EVENT, manifest)
    except ApiError as error:
        if error.code != 409:
            raise


async def refusal(client: Client, namespace: str, job_uid: str) -> Refusal:
    """Find the newest Event of a pod that was refused; a role without the right to look finds none."""
    try:
        events = await client.events(namespace, job_uid, "FailedCreate")
    except ApiError:
        return Refusal()
    refusals = [Refusal(str(event.get("message") or ""), _last(event)) for event in events]
    return max(refusals, key=lambda refusal: refusal.time, default=Refusal())


def _last(event: Manifest) -> str:
    """Return the time when an event was last seen, in whole seconds, as the API writes it."""
    series = event.get("series") or {}
    last = event.get("lastTimestamp") or series.get("lastObservedTime") or event.get("eventTime") or ""
    return f"{str(last)[:19]}Z"
