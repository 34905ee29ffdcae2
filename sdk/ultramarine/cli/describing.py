"""The page of `describe`: state, causes and remedies of one object."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import typer
import yaml
from ultramarine_contract.meta import EVENT, LABEL_KIND, LABEL_NAME, POD, Manifest, Resource

from ultramarine.runs import state_of

from .session import Session

_MACHINE = ("conditions", "observedGeneration", "state", "failure")  # fields with lines of their own, or for programs


def describe_object(session: Session, resource: Resource, name: str) -> None:
    """Print an object's state, conditions, failure, results, pods and events."""
    cluster = session.cluster
    object = cluster.get(resource, name)
    status: dict[str, Any] = object.get("status") or {}
    typer.echo(f"{resource.kind} {cluster.namespace}/{name}: {status.get('state') or _ready(status)}")
    typer.echo(
        f"Created: {object['metadata']['creationTimestamp']} ({_age(object['metadata']['creationTimestamp'])} ago)"
    )
    if failure := status.get("failure"):
        _section("Failure", failure)
    if conditions := status.get("conditions"):
        typer.echo("Conditions:")
        for entry in conditions:
            line = f"  {entry['type']}={entry['status']} {entry.get('reason', '')}"
            typer.echo(f"{line}: {entry['message']}" if entry.get("message") else line)
    results = {key: value for key, value in status.items() if key not in _MACHINE and value not in ("", {}, [], None)}
    if results:
        _section("Status", results)
    _section("Spec", object.get("spec") or {})
    pods = cluster.list(POD, f"{LABEL_KIND}={resource.kind},{LABEL_NAME}={name}")
    if pods:
        typer.echo("Pods:")
        for pod in pods:
            typer.echo(f"  {pod['metadata']['name']}: {_pod(pod)}")
    events = cluster.list(EVENT, fields=f"involvedObject.name={name},involvedObject.kind={resource.kind}")
    if events:
        typer.echo("Events:")
        for event in sorted(events, key=_time)[-15:]:
            count = f" (x{event['count']})" if (event.get("count") or 1) > 1 else ""
            typer.echo(f"  {_age(_time(event))} ago{count} {event.get('reason')}: {event.get('message', '').strip()}")


def _ready(status: dict[str, Any]) -> str:
    for entry in status.get("conditions") or []:
        if entry["type"] == "Ready":
            return "Ready" if entry["status"] == "True" else f"not ready ({entry.get('reason', '')})"
    return state_of({"status": status})


def _section(title: str, content: Any) -> None:
    typer.echo(f"{title}:")
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    typer.echo("\n".join(f"  {line}" for line in text.splitlines()))


def _pod(pod: Manifest) -> str:
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or []:
        state = container.get("state") or {}
        for name in ("waiting", "terminated"):
            if name in state:
                detail = state[name]
                return f"{detail.get('reason', name)} {(detail.get('message') or '').strip()[:200]}".strip()
    return str(status.get("phase", "Unknown"))


def _time(event: Manifest) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])


def _age(moment: str) -> str:
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"
