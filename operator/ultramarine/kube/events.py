"""Events: the diary that `kubectl describe` shows."""

from __future__ import annotations

from datetime import datetime

from ..shared.conditions import timestamp
from ..shared.meta import API_VERSION, EVENT, FIELD_MANAGER, Manifest, content_hash
from ..shared.plan import Event
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
