"""Which versions of a Model endpoints serve: what they name, and what a pool chooses by labels and an alias."""

from __future__ import annotations

from collections.abc import Iterator

from ultramarine.resources.model import LATEST, ModelSpec, version_name, version_number
from ultramarine_contract.meta import Manifest

from ...shared.conditions import is_true
from ...shared.plan import Obj, Seen

Model = Obj[ModelSpec]


def versions_of(model: Model, seen: Seen) -> list[Manifest]:
    """The versions of this Model; others that are seen have to do with what is deleted."""
    return [v for v in seen.others("ModelVersion") if v["spec"].get("model") == model.name and v["spec"].get("version")]


def named(model: Model, seen: Seen) -> set[str]:
    """The references to this Model in the specs of endpoints: numbers and aliases."""
    deployments = (d for endpoint in seen.others("OnlineEndpoint") for d in _deployments(endpoint))
    wanted = (str(deployment.get("model", "")) for deployment in deployments)
    return {reference.rpartition("@")[2] for reference in wanted if reference.startswith(f"{model.name}@")}


def server_of(model: Model, number: str, seen: Seen) -> str:
    """Who serves a version, or may have to fetch it again, in words; nothing where nobody does."""
    name = version_name(model.name, number)
    for endpoint in seen.others("OnlineEndpoint"):
        status = endpoint.get("status") or {}
        # While pods are replaced, both versions answer: "churn-1 and churn-2".
        told = (str(each.get("modelVersion")) for each in (status, *(status.get("deployments") or [])))
        if any(name in words.split(" and ") for words in told):
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
    """Each pool that has the Model: whose it is, its alias, and whether its list waits for something."""
    labels = model.manifest["metadata"].get("labels") or {}
    for endpoint in seen.others("OnlineEndpoint"):
        told = (endpoint.get("status") or {}).get("deployments") or []
        waiting = {each.get("name") for each in told if each.get("state") == "Waiting"}
        for deployment in _deployments(endpoint):
            pool = deployment.get("pool")
            wanted = ((pool or {}).get("selector") or {}).get("matchLabels") or {}
            if pool and all(labels.get(key) == value for key, value in wanted.items()):
                name = f"OnlineEndpoint {endpoint['metadata']['name']}"
                yield name, str(pool.get("alias") or LATEST), deployment.get("name") in waiting


def _chosen(model: Model, alias: str, seen: Seen) -> str:
    """The number of the version that a pool serves under this alias; nothing where none of that is ready."""
    versions = versions_of(model, seen)
    ready = [str(v["spec"]["version"]) for v in versions if is_true(v.get("status") or {}, "Ready")]
    if alias == LATEST:
        return max(ready, key=version_number, default="")
    number = model.spec.aliases.get(alias, "")
    return number if number in ready else ""
