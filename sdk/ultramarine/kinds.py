"""Kinds of objects by every name that their users know, as the cluster's API lists them."""

from __future__ import annotations

from typing import NamedTuple

from ultramarine_contract.errors import UltramarineError, listed
from ultramarine_contract.meta import API_VERSION, Manifest, Resource

from .kube.client import Cluster
from .kube.errors import NotFound
from .suggestions import suggest

_MORE_NAMES = {"Dataset": ("ds",)}  # which kubectl takes for DaemonSets


class UnknownKind(UltramarineError):
    """No kind has this name."""

    reason = "UnknownKind"


class Kind(NamedTuple):
    """A kind: its resource, and all of its names in lower case."""

    resource: Resource
    names: tuple[str, ...]
    namespaced: bool


class Kinds:
    """The kinds of a cluster, read once for each group and version."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._groups: dict[str, list[Kind]] = {}

    def ours(self) -> list[Kind]:
        """Return the kinds of the platform. Raises UnknownKind if the cluster has none."""
        return self._group(API_VERSION)

    def named(self, name: str) -> Resource:
        """Return the resource of a name such as tj, trainingjob, TrainingJobs. Raises UnknownKind."""
        by_name = {alias: kind.resource for kind in self.ours() for alias in kind.names}
        if resource := by_name.get(name.lower().removesuffix(f".{API_VERSION.partition('/')[0]}")):
            return resource
        kinds = listed((kind.resource.plural for kind in self.ours()), 30)
        raise UnknownKind(f"no kind is named {name!r}. {suggest(name.lower(), by_name, f'Kinds: {kinds}.')}")

    def of(self, manifest: Manifest) -> Resource:
        """Return the resource of a manifest. Raises UnknownKind for a kind that the cluster does not serve."""
        version, name = str(manifest.get("apiVersion", "")), str(manifest.get("kind", ""))
        if not version or not name:
            raise UnknownKind(
                "a manifest has no apiVersion or no kind. Add both, such as ultramarine.dev/v1alpha1 and TrainingJob."
            )
        kinds = self._group(version)
        for kind in kinds:
            if kind.resource.kind == name:
                if not kind.namespaced:
                    raise UnknownKind(f"{name} belongs to the whole cluster. Use kubectl for it.")
                return kind.resource
        hint = suggest(name, [kind.resource.kind for kind in kinds], "Correct apiVersion or kind.")
        raise UnknownKind(f"the cluster has no kind {name} in {version}. {hint}")

    def _group(self, version: str) -> list[Kind]:
        if version not in self._groups:
            try:
                entries = self._cluster.discover(version)
            except NotFound:
                remedy = "Run `ultramarine doctor`." if version == API_VERSION else "Correct apiVersion."
                raise UnknownKind(f"the cluster does not serve {version}. {remedy}") from None
            self._groups[version] = [kind for entry in entries if (kind := _kind(version, entry))]
        return self._groups[version]


def _kind(version: str, entry: Manifest) -> Kind | None:
    if "/" in entry["name"]:  # a subresource
        return None
    group, _, number = version.rpartition("/")
    names = (entry["name"], entry.get("singularName") or entry["kind"].lower(), *entry.get("shortNames", []))
    names += _MORE_NAMES.get(entry["kind"], ()) if version == API_VERSION else ()
    return Kind(Resource(group, number, entry["name"], entry["kind"]), names, bool(entry.get("namespaced")))
