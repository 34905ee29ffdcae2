"""Plan of an apply: what it would create or change, and the pods that would run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from ultramarine_contract.meta import ENVIRONMENT, ONLINE_ENDPOINT, SWEEP, TRAINING_JOB, Manifest
from ultramarine_contract.quantities import amount
from ultramarine_contract.schemas import fixed

from .checking import Check
from .reading import dotted
from .schemas import Keys, Kind, Schema, kind_named

Action = Literal["create", "change", "recreate", "keep"]
ABSENT: Any = object()  # in place of a value
COORDINATOR: Manifest = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}}


@dataclass(frozen=True)
class Change:
    """Change of one field; ABSENT stands for no value. A `fixed` field can only change with a new object."""

    keys: Keys
    before: Any
    after: Any
    fixed: bool = False

    @property
    def path(self) -> str:
        """Return the path of the field, such as spec.deployments[0].replicas."""
        return dotted(self.keys)


@dataclass(frozen=True)
class Pods:
    """Pods of one sort: at least `least` and at most `most` run at a time, each with these reservations."""

    what: str
    least: int
    most: int
    requests: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """Outcome of comparing a manifest with the live object."""

    action: Action
    changes: tuple[Change, ...] = ()
    pods: tuple[Pods, ...] = ()

    @property
    def totals(self) -> dict[str, Decimal]:
        """Return what all pods together reserve at most, by resource."""
        sums: dict[str, Decimal] = {}
        for pods in self.pods:
            for name, quantity in pods.requests.items():
                sums[name] = sums.get(name, Decimal()) + pods.most * amount(quantity)
        return sums


def plan(manifest: Manifest, live: Manifest | None) -> Plan:
    """Return what applying a valid manifest would do to the live object; None if there is none.

    Fields that the live object has and the manifest lacks count as removed, except in metadata and status.
    """
    kind = kind_named(manifest["kind"])
    spec = stored(kind, manifest)
    pods = tuple(pods_of(kind.name, spec))
    if live is None:
        return Plan("create", pods=pods)
    changes = [*_metadata(manifest, live), *_differences(_spec(kind), stored(kind, live), spec, ("spec",), False)]
    action: Action = "recreate" if any(change.fixed for change in changes) else "change" if changes else "keep"
    return Plan(action, tuple(changes), pods)


def stored(kind: Kind, manifest: Manifest) -> Manifest:
    """Return the spec with its defaults, as the API server stores it."""
    spec: Manifest = Check().value(_spec(kind), manifest.get("spec") or {}, ("spec",))
    return spec


def _spec(kind: Kind) -> Schema:
    schema: Schema = kind.schema["properties"]["spec"]
    return schema


def _metadata(manifest: Manifest, live: Manifest) -> Iterator[Change]:
    """Yield labels and annotations that would be set; those of others stay."""
    for field in ("labels", "annotations"):
        before = live["metadata"].get(field) or {}
        for name, value in (manifest["metadata"].get(field) or {}).items():
            if before.get(name, ABSENT) != value:
                yield Change(("metadata", field, name), before.get(name, ABSENT), value)


def _differences(schema: Schema, before: Any, after: Any, keys: Keys, immutable: bool) -> Iterator[Change]:
    """Yield the differences of two values of a schema, at the deepest field that names them."""
    if before == after:
        return
    if _are_groups(before, after):
        names = fixed(schema)
        before, after = ({} if value is ABSENT else value for value in (before, after))
        for name in [*before, *(name for name in after if name not in before)]:
            child = schema.get("properties", {}).get(name) or schema.get("additionalProperties") or {}
            values = before.get(name, ABSENT), after.get(name, ABSENT)
            yield from _differences(child, *values, (*keys, name), immutable or name in names)
    elif isinstance(before, list) and isinstance(after, list) and schema.get("x-kubernetes-list-map-keys"):
        # Entries with the same key are the same entry, wherever they stand.
        (key,) = schema["x-kubernetes-list-map-keys"]
        olds, news = ({entry[key]: entry for entry in entries} for entries in (before, after))
        for name in [*olds, *(name for name in news if name not in olds)]:
            values = olds.get(name, ABSENT), news.get(name, ABSENT)
            yield from _differences(schema["items"], *values, (*keys, str(name)), immutable)
    else:
        yield Change(keys, before, after, immutable)


def _are_groups(*values: Any) -> bool:
    """True for groups of fields, of which one may be absent: each field is a change of its own."""
    groups = [value for value in values if value is not ABSENT]
    return all(isinstance(group, dict) for group in groups) and any(groups)


def pods_of(kind: str, spec: Manifest) -> Iterator[Pods]:
    """Yield the pods of an object with this stored spec; none while it is suspended."""
    if spec.get("suspend"):
        return
    if kind == TRAINING_JOB.kind:
        nodes = spec["nodes"]
        yield Pods("node", spec.get("elastic", {}).get("minNodes", nodes), nodes, _requests(spec))
    elif kind == SWEEP.kind:
        trial, limits = spec["trialTemplate"]["spec"], spec["limits"]
        trials = min(limits["parallelTrials"], limits.get("maxTrials", limits["parallelTrials"]))
        count = trials * trial["nodes"]
        yield Pods("coordinator", 1, 1, _requests({"resources": COORDINATOR}))
        yield Pods("worker" if spec["execution"] == "Pool" else "pod of a trial", count, count, _requests(trial))
    elif kind == ONLINE_ENDPOINT.kind:
        for deployment in spec["deployments"]:
            replicas = deployment.get("replicas", 1)
            scale = deployment.get("autoscale")
            least, most = (scale.get("minReplicas", 1), scale["maxReplicas"]) if scale else (replicas, replicas)
            yield Pods(f"deployment {deployment['name']}", least, most, _requests(deployment))
    elif kind == ENVIRONMENT.kind:
        yield Pods("build, once", 0, 1, {})


def _requests(part: Manifest) -> dict[str, str]:
    """Return what a container reserves: requests, and the limits of resources without a request."""
    resources = part.get("resources", {})
    return {name: str(size) for name, size in (resources.get("limits", {}) | resources.get("requests", {})).items()}
