"""The command `doctor`: what is wrong on the way to the platform, and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import API_VERSION, POD, SECRET, TRAINING_JOB

from .session import Session, echo, session_of


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(doctor)


def doctor(context: typer.Context) -> None:
    """Check the way to the cluster, the platform, your rights, and the storage; exit with 1 if something is wrong."""
    session = session_of(context)
    failed = 0
    for title, check, needed in _CHECKS:
        try:
            echo(f"ok      {title}: {check(session)}", state="ok")
        except UltramarineError as error:
            failed += 1
            echo(f"FAILED  {title}: {error.message}", state="FAILED")
            if needed:
                break
    if failed:
        raise typer.Exit(1)


def _configuration(session: Session) -> str:
    access = session.client.cluster.access
    return f"context {access.context} of {access.source}"


def _server(session: Session) -> str:
    return f"Kubernetes {session.cluster.version()} at {session.cluster.access.server}"


def _kinds(session: Session) -> str:
    kinds = session.client.kinds.ours()
    return f"{len(kinds)} kinds of {API_VERSION}"


def _namespace(session: Session) -> str:
    facts = session.client.platform.facts
    return f"{session.cluster.namespace} belongs to release {facts.release}, version {facts.version}"


def _rights(session: Session) -> str:
    cluster = session.cluster
    needed = [
        ("list", TRAINING_JOB, ""),
        ("create", TRAINING_JOB, ""),
        ("get", POD, "log"),
        ("create", POD, "portforward"),
    ]
    missing = [
        f"{verb} {resource.plural}{'/' + part if part else ''}"
        for verb, resource, part in needed
        if not cluster.may(verb, resource, part)
    ]
    if missing:
        raise UltramarineError(
            f"you may not {', '.join(missing)} in namespace {cluster.namespace}. Ask your administrator for the"
            " ClusterRole ultramarine-data-scientist."
        )
    return "you may create and follow runs"


def _gateway(session: Session) -> str:
    return f"pod {session.client.platform.gateway_pod()} is ready"


def _storage(session: Session) -> str:
    platform = session.client.platform
    session.cluster.get(SECRET, platform.facts.storage_secret)
    platform.storage.folders(platform.prefix)
    return f"{platform.prefix} can be read"


_CHECKS: tuple[tuple[str, Callable[[Session], Any], bool], ...] = (
    ("configuration", _configuration, True),
    ("server", _server, True),
    ("kinds", _kinds, True),
    ("rights", _rights, False),
    ("namespace", _namespace, True),
    ("gateway", _gateway, True),
    ("storage", _storage, False),
)
