"""Plan of a Greeting."""

from __future__ import annotations

from datetime import datetime, timedelta

from ultramarine_contract.meta import Manifest, child_metadata

from ...shared.conditions import Condition, health, merge
from ...shared.plan import Obj, Plan, Seen
from .schema import GreetingSpec


def plan(greeting: Obj[GreetingSpec], seen: Seen, now: datetime) -> Plan:
    """Apply the ConfigMap, and say Ready when it is there."""
    text = greeting.spec.text.upper() if greeting.spec.tone == "loud" else greeting.spec.text
    ready = seen.child("ConfigMap", greeting.name) is not None
    if ready:
        conditions: tuple[Condition, ...] = (Condition("Ready", True, "TextStored", "the ConfigMap has the text"),)
    else:
        waiting = "waiting for the ConfigMap"
        conditions = (Condition("Ready", False, "Pending", waiting), *health(done=False, progress=waiting))
    status: Manifest = {
        "observedGeneration": greeting.generation,
        "length": len(text),
        "conditions": merge(greeting.status.get("conditions") or [], conditions, greeting.generation, now),
    }
    config_map: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(greeting.manifest, greeting.name),
        "data": {"text": text},
    }
    # The operator is not notified of its own writes.
    return Plan(status, apply=(config_map,), after=None if ready else timedelta())
