"""A pool: many Models in the same pods. What its catalogue says, and how its pods differ from those of one model."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ultramarine.resources.onlineendpoint import EndpointDeployment, Pool
from ultramarine_contract import common as contract
from ultramarine_contract.catalogue import LIMIT, CatalogueEntry, pack, unpack
from ultramarine_contract.errors import listed
from ultramarine_contract.meta import Manifest, child_metadata, controller_uid
from ultramarine_contract.serving_records import ServingTask

from ....shared.plan import Platform, Seen
from ....shared.podspec import with_disk
from ..resolve import Resolved, Unresolved, resolve
from .manifests import SERVER, TMP, Endpoint, deployment_name, deployment_of, pods_ask, request_bounds

MIB = 2**20
SHOWN = 20  # names of Models in a message
# Of the container that fetches: boto3 takes 70 MiB, and the files of a model come in parts of 16.
FETCHER_RESOURCES = {"requests": {"cpu": "10m", "memory": "96Mi"}, "limits": {"memory": "384Mi"}}


@dataclass(frozen=True)
class Resolution:
    """The catalogue as a ConfigMap, and a sentence on the models in it."""

    catalogue: Manifest
    note: str


def resolve_pool(endpoint: Endpoint, deployment: str, pool: Pool, seen: Seen) -> Resolution | Unresolved:
    """Find the version of each Model of the pool. One that has none now stays as it was, if it was there."""
    labels = pool.selector.match_labels
    models = [model for model in seen.others("Model") if _has(model, labels)]
    if not models:
        wanted = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
        return Unresolved(f"no Model has the labels {wanted}; label some, or mend pool.selector of {deployment}")
    versions: dict[str, list[Manifest]] = defaultdict(list)
    for version in seen.others("ModelVersion"):
        versions[str(version["spec"].get("model"))].append(version)
    known = _known(endpoint, deployment, seen)
    entries, lacking, why = [], [], Unresolved("", passes=True)
    for model in models:
        name = str(model["metadata"]["name"])
        found = resolve(f"{name}@{pool.alias}", replace(seen, related=(model, *versions[name])))
        if isinstance(found, Resolved):
            entries.append(_entry(found))
        else:
            why = why if why.message else found
            lacking.append(name)
            entries += [known[name]] if name in known else []
    if not entries:
        return replace(why, message=f"none of {len(models)} models can be served: {why.message}")
    packed = b64encode(pack(entries)).decode()
    if len(packed) > LIMIT:
        return Unresolved(
            f"the list of {len(entries)} models takes {len(packed)} bytes, and a ConfigMap holds {LIMIT} of it: "
            f"make several pools, or register the models without spec.signature, which the server can infer"
        )
    return Resolution(_config_map(endpoint, deployment, packed), _note(len(models), lacking))


def _has(model: Manifest, labels: Mapping[str, str]) -> bool:
    found = model["metadata"].get("labels") or {}
    return not model["metadata"].get("deletionTimestamp") and all(found.get(key) == labels[key] for key in labels)


def _entry(found: Resolved) -> CatalogueEntry:
    spec = found.spec
    return CatalogueEntry(
        model=spec.model,
        version=spec.version,
        uri=spec.uri,
        digest=spec.digest,
        format=spec.format.name,
        allow_code_execution=spec.allow_code_execution,
        signature=spec.signature.model_dump(by_alias=True) if spec.signature else None,
    )


def _known(endpoint: Endpoint, deployment: str, seen: Seen) -> dict[str, CatalogueEntry]:
    """The catalogue as it is now."""
    there = seen.one("ConfigMap", catalogue_name(endpoint, deployment))
    if there is None or controller_uid(there) != endpoint.uid:
        return {}
    try:
        return unpack(b64decode((there.get("binaryData") or {})[contract.CATALOGUE_NAME]))
    except (KeyError, TypeError, ValueError):
        return {}


def _note(count: int, lacking: list[str]) -> str:
    note = "1 model" if count == 1 else f"{count} models"
    if not lacking:
        return note
    return f"{note}, {len(lacking)} without a ready version: {listed(lacking, SHOWN)}"


def catalogue_name(endpoint: Endpoint, deployment: str) -> str:
    """The name of the ConfigMap with a deployment's catalogue."""
    return f"{deployment_name(endpoint, deployment)}-models"


def _config_map(endpoint: Endpoint, deployment: str, packed: str) -> Manifest:
    metadata = child_metadata(endpoint.manifest, catalogue_name(endpoint, deployment))
    data = {contract.CATALOGUE_NAME: packed}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": data}


def pool_deployment(
    endpoint: Endpoint, deployment: EndpointDeployment, pool: Pool, platform: Platform, live: Manifest | None
) -> Manifest:
    """The Deployment whose pods serve a pool; other models in it change nothing about them."""
    size = pool.max_loaded_mebibytes * MIB
    nothing = ServingTask("", "", "", "", "", auth=pods_ask(endpoint), pool_bytes=size)
    task = replace(nothing, **request_bounds(deployment))
    made = deployment_of(endpoint, deployment, task.to_json(), {}, platform, live)
    _with_fetcher(made["spec"]["template"]["spec"], catalogue_name(endpoint, deployment.name), pool)
    return made


def _with_fetcher(pod: Manifest, catalogue: str, pool: Pool) -> None:
    """Let the first container go on beside the server: it has the storage keys, which the server never sees."""
    [fetcher], [server] = pod["initContainers"], [c for c in pod["containers"] if c["name"] == SERVER]
    fetcher["command"] = ["ultramarine-server", "fetch-pool"]
    fetcher["restartPolicy"] = "Always"
    # The files of the models that fill it, and those of one that is being written.
    size = f"{pool.max_loaded_mebibytes + 64}Mi"
    [model, tmp] = [next(v for v in pod["volumes"] if v["name"] == name) for name in ("model", TMP)]
    model["emptyDir"] = {"sizeLimit": size}
    fetcher["resources"] = with_disk(FETCHER_RESOURCES, size if tmp["emptyDir"] else "")
    mount = {"name": "catalogue", "mountPath": contract.CATALOGUE_DIR, "readOnly": True}
    # Not /tmp, its home: what a model that runs code leaves there must not be read by who has the keys.
    kept = [each for each in fetcher["volumeMounts"] if each["name"] != "tmp"]
    fetcher["volumeMounts"] = [*kept, mount]
    server["volumeMounts"] = [*server["volumeMounts"], mount]
    pod["volumes"].append({"name": "catalogue", "configMap": {"name": catalogue}})
