"""Remedies for an object that does not exist: the nearest name of its kind, or the fault of the namespace."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ultramarine_contract.errors import listed
from ultramarine_contract.meta import API_VERSION

from .kube.errors import Forbidden, NotFound
from .kube.platform import NoPlatform
from .suggestions import suggest

if TYPE_CHECKING:
    from .client import Client

_OTHER_NAMESPACE = "Choose another with -n or ULTRAMARINE_NAMESPACE."


def explained(client: Client, error: NotFound) -> NotFound:
    """Return an error with the nearest name in place of its remedy; the same error for objects of other platforms."""
    resource, name = error.resource, error.name
    if not name or (resource and resource.api_version != API_VERSION):
        return error
    names: dict[str, str] = {}  # as the user writes them, by name
    for kind in [resource] if resource else [entry.resource for entry in client.kinds.ours()]:
        with suppress(Forbidden):
            for item in client.cluster.list(kind):
                own = str(item["metadata"]["name"])
                names[own] = own if resource else f"{kind.kind.lower()}/{own}"
    what = error.message.split(" `ultramarine get`")[0]
    if not names:
        return NotFound(f"{what} {namespace_problem(client) or f'Namespace {client.namespace} has none.'}")
    kind_there = resource.plural if resource else "objects"
    there = f"The {kind_there} there: {listed(sorted(names.values()))}."
    return NotFound(f"{what} {suggest(name, names, there, names.__getitem__)}")


def namespace_problem(client: Client) -> str:
    """Return a sentence about a namespace that is absent or not watched; empty if the user may not see that."""
    try:
        client.platform.facts  # noqa: B018
    except Forbidden:
        unwatched = ""
    except NoPlatform as error:
        unwatched = f"{error.message[:1].upper()}{error.message[1:]}"
    else:
        return ""
    with suppress(Forbidden):
        if not client.cluster.has_namespace():
            return f"Namespace {client.namespace} does not exist. {_OTHER_NAMESPACE}"
    return unwatched
