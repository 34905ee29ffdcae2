"""Pools: many Models in the same pods, listed in a catalogue that the pods follow."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from msgspec import structs
from ultramarine.resources.onlineendpoint_deployment import EndpointDeployment, Pool
from ultramarine_contract import common as contract
from ultramarine_contract.catalogue import LIMIT, CatalogueEntry, pack, unpack
from ultramarine_contract.errors import counted, listed
from ultramarine_contract.meta import Manifest, child_metadata, controller_uid
from ultramarine_contract.serving_records import ServingTask

from ....shared.plan import Platform, Seen
from ....shared.podspec import with_disk
from ..endpoint import Endpoint, deployment_name
from ..resolve import Resolved, Unresolved, resolve
from .manifests import deployment_of, pods_auth, request_bounds
from .own_code import SERVER, TMP

MIB = 2**20
MAX_SHOWN = 20  # names of Models in a message
# boto3 needs 70 MiB, and the files of a model come in parts of 16 MiB.
FETCHER_RESOURCES = {"requests": {"cpu": "10m", "memory": "96Mi"}, "limits": {"memory": "384Mi"}}


@dataclass(frozen=True)
class ResolvedPool:
    """The catalogue as a ConfigMap, and a summary of its models."""

    catalogue: Manifest
    note: str


def resolve_pool(endpoint: Endpoint, deployment: str, pool: Pool, seen: Seen) -> ResolvedPool | Unresolved:
    """Find the version of each Model of the pool; a Model without one keeps its entry in the catalogue."""
    labels = pool.selector.match_labels
    models = [model for model in seen.others("Model") if _has(model, labels)]
    if not models:
        required = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
        return Unresolved(f"no Model has the labels {required}; label some, or change pool.selector of {deployment}")
    versions: dict[str, list[Manifest]] = defaultdict(list)
    for version in seen.others("ModelVersion"):
        versions[str(version["spec"].get("model"))].append(version)
    current = _current_catalogue(endpoint, deployment, seen)
    entries, lacking, why = [], [], Unresolved("", transient=True)
    for model in models:
        name = str(model["metadata"]["name"])
        resolved = resolve(f"{name}@{pool.alias}", replace(seen, related=(model, *versions[name])))
        if isinstance(resolved, Resolved):
            entries.append(_entry(resolved))
        else:
            why = why if why.message else resolved
            lacking.append(name)
            entries += [current[name]] if name in current else []
    if not entries:
        message = f"none of {counted(len(models), 'model')} can be served: {why.message}"
        return replace(why, message=message, stalled=False)
    packed = b64encode(pack(entries)).decode()
    if len(packed) > LIMIT:
        return Unresolved(
            f"the list of {counted(len(entries), 'model')} takes {len(packed)} bytes, and a ConfigMap holds {LIMIT} of "
            f"it: make several pools, or register the models without spec.signature, which the server can infer"
        )
    return ResolvedPool(_config_map(endpoint, deployment, packed), _note(len(models), lacking))


def _has(model: Manifest, labels: Mapping[str, str]) -> bool:
    own = model["metadata"].get("labels") or {}
    return not model["metadata"].get("deletionTimestamp") and all(own.get(key) == labels[key] for key in labels)


def _entry(resolved: Resolved) -> CatalogueEntry:
    spec = resolved.spec
    return CatalogueEntry(
        model=spec.model,
        version=spec.version,
        uri=spec.uri,
        digest=spec.digest,
        format=spec.format.name,
        allow_code_execution=spec.allow_code_execution,
        signature=spec.signature.model_dump(by_alias=True) if spec.signature else None,
    )


def _current_catalogue(endpoint: Endpoint, deployment: str, seen: Seen) -> dict[str, CatalogueEntry]:
    """Read the live catalogue; empty if it does not exist or cannot be read."""
    config_map = seen.child("ConfigMap", catalogue_name(endpoint, deployment))
    if config_map is None or controller_uid(config_map) != endpoint.uid:
        return {}
    try:
        return unpack(b64decode((config_map.get("binaryData") or {})[contract.CATALOGUE_NAME]))
    except (KeyError, TypeError, ValueError):
        return {}


def _note(count: int, lacking: list[str]) -> str:
    note = counted(count, "model")
    if not lacking:
        return note
    return f"{note}, {len(lacking)} without a ready version: {listed(lacking, MAX_SHOWN)}"


def catalogue_name(endpoint: Endpoint, deployment: str) -> str:
    """Return the name of the ConfigMap with a deployment's catalogue."""
    return f"{deployment_name(endpoint, deployment)}-models"


def _config_map(endpoint: Endpoint, deployment: str, packed: str) -> Manifest:
    metadata = child_metadata(endpoint.manifest, catalogue_name(endpoint, deployment))
    data = {contract.CATALOGUE_NAME: packed}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": data}


def pool_deployment(
    endpoint: Endpoint, deployment: EndpointDeployment, pool: Pool, platform: Platform, live: Manifest | None
) -> Manifest:
    """Return the Deployment whose pods serve a pool; changes of its models do not restart them."""
    size = pool.max_loaded_mebibytes * MIB
    empty = ServingTask("", "", "", "", "", auth=pods_auth(endpoint), pool_bytes=size)
    task = structs.replace(empty, **request_bounds(deployment))
    made = deployment_of(endpoint, deployment, task.to_json(), {}, platform, live)
    _with_fetcher(made["spec"]["template"]["spec"], catalogue_name(endpoint, deployment.name), pool)
    return made


def _with_fetcher(pod: Manifest, catalogue: str, pool: Pool) -> None:
    """Turn the init container into a sidecar that fetches models; the server never sees its storage keys."""
    [fetcher], [server] = pod["initContainers"], [c for c in pod["containers"] if c["name"] == SERVER]
    fetcher["command"] = ["ultramarine-server", "fetch-pool"]
    fetcher["restartPolicy"] = "Always"
    # Room for the files of loaded models, and for a model that is being written.
    size = f"{pool.max_loaded_mebibytes + 64}Mi"
    [model, tmp] = [next(v for v in pod["volumes"] if v["name"] == name) for name in ("model", TMP)]
    model["emptyDir"] = {"sizeLimit": size}
    fetcher["resources"] = with_disk(FETCHER_RESOURCES, size if tmp["emptyDir"] else "")
    mount = {"name": "catalogue", "mountPath": contract.CATALOGUE_DIR, "readOnly": True}
    # Not /tmp, its home: a container with the keys must not read what a model's code has left there.
    kept = [own for own in fetcher["volumeMounts"] if own["name"] != "tmp"]
    fetcher["volumeMounts"] = [*kept, mount]
    server["volumeMounts"] = [*server["volumeMounts"], mount]
    pod["volumes"].append({"name": "catalogue", "configMap": {"name": catalogue}})
