"""Versions of a Model that endpoints serve: named in a deployment, or chosen by a pool's labels and alias."""

from __future__ import annotations

from collections.abc import Iterator

from ultramarine.resources.model import LATEST, ModelSpec, version_name, version_number
from ultramarine_contract.meta import Manifest

from ...shared.conditions import is_true
from ...shared.plan import Obj, Seen

Model = Obj[ModelSpec]


def versions_of(model: Model, seen: Seen) -> list[Manifest]:
    """Return the versions of this Model; the others were seen because of files to delete."""
    return [v for v in seen.others("ModelVersion") if v["spec"].get("model") == model.name and v["spec"].get("version")]


def named(model: Model, seen: Seen) -> set[str]:
    """Return the references to this Model in the specs of endpoints: numbers and aliases."""
    deployments = (d for endpoint in seen.others("OnlineEndpoint") for d in _deployments(endpoint))
    references = (str(deployment.get("model", "")) for deployment in deployments)
    return {reference.rpartition("@")[2] for reference in references if reference.startswith(f"{model.name}@")}


def server_of(model: Model, number: str, seen: Seen) -> str:
    """Name the endpoint or pool that serves a version or may have to fetch it again; empty if none does."""
    name = version_name(model.name, number)
    for endpoint in seen.others("OnlineEndpoint"):
        status = endpoint.get("status") or {}
        # While pods are replaced, both versions answer: "churn-1 and churn-2".
        served = (str(part.get("modelVersion")) for part in (status, *(status.get("deployments") or [])))
        if any(name in versions.split(" and ") for versions in served):
            return f"OnlineEndpoint {endpoint['metadata']['name']}"
    for server, alias, waits in _pools(model, seen):
        if waits:
            # It stays as it was, with a version that may be another one than is chosen now.
            return f"the pool of {server}, whose list cannot be written: its status says why"
        chosen = _chosen(model, alias, seen)
        if chosen == number:
            return f"the pool of {server}"
        if not chosen:
            # Its list goes on naming the one that it had, whichever that was.
            return f"the pool of {server}, until {alias} is a ready version or the Model has other labels"
    return ""


def _deployments(endpoint: Manifest) -> list[Manifest]:
    return endpoint["spec"].get("deployments") or []


def _pools(model: Model, seen: Seen) -> Iterator[tuple[str, str, bool]]:
    """Yield each pool that has the Model: its endpoint, its alias, and True if its list waits to be written."""
    labels = model.manifest["metadata"].get("labels") or {}
    for endpoint in seen.others("OnlineEndpoint"):
        statuses = (endpoint.get("status") or {}).get("deployments") or []
        waiting = {status.get("name") for status in statuses if status.get("state") == "Waiting"}
        for deployment in _deployments(endpoint):
            pool = deployment.get("pool")
            selector = ((pool or {}).get("selector") or {}).get("matchLabels") or {}
            if pool and all(labels.get(key) == value for key, value in selector.items()):
                name = f"OnlineEndpoint {endpoint['metadata']['name']}"
                yield name, str(pool.get("alias") or LATEST), deployment.get("name") in waiting


def _chosen(model: Model, alias: str, seen: Seen) -> str:
    """Return the number of the version that a pool serves under this alias; empty if that version is not ready."""
    versions = versions_of(model, seen)
    ready = [str(v["spec"]["version"]) for v in versions if is_true(v.get("status") or {}, "Ready")]
    if alias == LATEST:
        return max(ready, key=version_number, default="")
    number = model.spec.aliases.get(alias, "")
    return number if number in ready else ""
