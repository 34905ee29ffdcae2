"""The page of `describe`: state, causes and remedies of one object."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ultramarine_contract.errors import counted
from ultramarine_contract.meta import EVENT, LABEL_KIND, LABEL_NAME, POD, Manifest, Resource

from ultramarine.display.causes import diagnosis, warnings
from ultramarine.files.writing import yaml_text
from ultramarine.runs import reference_of, state_of

from .details import details
from .session import Session, echo

_TAIL = 15  # lines of a failed command


def describe_object(session: Session, resource: Resource, name: str) -> None:
    """Print an object's state, its cause and remedy, results, spec, pods and events."""
    cluster = session.cluster
    object = cluster.get(resource, name)
    status, spec = object.get("status") or {}, object.get("spec") or {}
    head(object)
    for label, text in details(resource.kind, spec, status):
        if isinstance(text, str):
            echo(f"{label}: {text}")
        else:
            echo(f"{label}:")
            for line in text:
                echo(f"  {line}")
    _section("Spec", _short(spec))
    pods = cluster.list(POD, f"{LABEL_KIND}={resource.kind},{LABEL_NAME}={name}")
    if pods:
        echo("Pods:")
        for pod in pods:
            echo(f"  {pod['metadata']['name']}: {_pod(pod)}")
    events = cluster.list(EVENT, fields=f"involvedObject.uid={object['metadata']['uid']}")
    if events:
        echo("Events:")
        for event in sorted(events, key=_time)[-15:]:
            count = f" (x{event['count']})" if (event.get("count") or 1) > 1 else ""
            echo(f"  {_age(_time(event))} ago{count} {event.get('reason')}: {event.get('message', '').strip()}")


def head(object: Manifest) -> None:
    """Print state and age of an object, what happened, why, and what to do."""
    status, meta = object.get("status") or {}, object["metadata"]
    kind, name, created = object["kind"], meta["name"], meta["creationTimestamp"]
    echo(f"{kind} {meta['namespace']}/{name}: {status.get('state') or _ready(status)}")
    by = f" by {status['requestedBy']}" if status.get("requestedBy") else ""
    took = f", took {status['duration']}" if status.get("duration") else ""
    echo(f"Created: {_age(created)} ago{by}{took}")
    cause = diagnosis(object)
    if cause.what:
        echo(f"What happened: {cause.what}")
    if cause.meaning:
        echo(f"Why: {cause.reason}: {cause.meaning}")
    if cause.remedy:
        echo(f"What to do: {cause.remedy}")
    for warning in warnings(object):
        echo(f"Warning: {warning}")
    if tail := (status.get("failure") or {}).get("tail"):
        echo("Last lines of the command:")
        for line in tail.splitlines()[-_TAIL:]:
            echo(f"  {line}")
        echo(f"Whole log: ultramarine logs {reference_of(kind, name)}")


def _short(spec: Any) -> Any:
    """Return a spec in which inline files are named and not shown."""
    if not isinstance(spec, dict):
        return [_short(part) for part in spec] if isinstance(spec, list) else spec
    return {
        key: {name: counted(len(text.splitlines()), "line") for name, text in part.items()}
        if key == "inline" and isinstance(part, dict)
        else _short(part)
        for key, part in spec.items()
    }


def _ready(status: dict[str, Any]) -> str:
    for entry in status.get("conditions") or []:
        if entry["type"] == "Ready":
            return "Ready" if entry["status"] == "True" else f"not ready ({entry.get('reason', '')})"
    return state_of({"status": status})


def _section(title: str, content: Any) -> None:
    echo(f"{title}:")
    text = yaml_text(content)
    echo("\n".join(f"  {line}" for line in text.splitlines()))


def _pod(pod: Manifest) -> str:
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or []:
        state = container.get("state") or {}
        for name in ("waiting", "terminated"):
            if name in state:
                detail = state[name]
                message = (detail.get("message") or "").strip()
                shown = "" if message.startswith("{") else message[:200]  # a record for the operator
                return f"{detail.get('reason', name)} {shown}".strip()
    return str(status.get("phase", "Unknown"))


def _time(event: Manifest) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])


def _age(moment: str) -> str:
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"
