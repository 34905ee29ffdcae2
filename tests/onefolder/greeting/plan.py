"""Plan of a Greeting."""

from __future__ import annotations

from datetime import datetime, timedelta

from ultramarine_contract.meta import Manifest, child_labels, child_metadata

from ...shared.conditions import Condition, health, merge
from ...shared.plan import Obj, Plan, Platform, Seen
from ...shared.podspec import CONTAINER_SECURITY, POD_SECURITY
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
    apply = (config_map, _job(greeting, seen.platform))
    return Plan(status, apply=apply, after=None if ready else timedelta())


def _job(greeting: Obj[GreetingSpec], platform: Platform) -> Manifest:
    """Return the Job whose pod reads the text."""
    container: Manifest = {
        "name": "reader",
        "image": platform.trainer_image,
        "command": ["cat", "/greeting/text"],
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "greeting", "mountPath": "/greeting"}],
    }
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "containers": [container],
        "volumes": [{"name": "greeting", "configMap": {"name": greeting.name}}],
    }
    labels = child_labels(greeting.manifest["kind"], greeting.name)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(greeting.manifest, greeting.name),
        "spec": {"template": {"metadata": {"labels": labels}, "spec": pod}},
    }
