"""Series of numbered versions with aliases: what models and datasets have in common."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from ultramarine_contract.errors import listed
from ultramarine_contract.meta import Manifest, Resource

from .kube.client import Cluster
from .kube.errors import NotFound

LATEST = "latest"


class Series(NamedTuple):
    """The models or the datasets of a namespace; `noun` is the field of a version that names its series."""

    cluster: Cluster
    noun: str
    parent: Resource
    version: Resource

    def versions(self, name: str) -> list[Manifest]:
        """Return the versions of a series, the newest first. Raises NotFound with the nearest name."""
        every = self.cluster.list(self.version)
        versions = [version for version in every if version["spec"].get(self.noun) == name]
        if not versions:
            names = {str(version["spec"].get(self.noun)) for version in every}
            near = difflib.get_close_matches(name, names, 1)
            others = f"{self.noun.capitalize()}s with versions: {listed(sorted(names)) or 'none'}."
            hint = f"Did you mean {near[0]}?" if near else others
            raise NotFound(f"{self.noun} {name} has no version in namespace {self.cluster.namespace}. {hint}")
        return sorted(versions, key=number, reverse=True)

    def selected(self, name: str, versions: list[Manifest], selector: str) -> Manifest:
        """Return the one of `versions` that a number or an alias means. Raises NotFound with the nearest name."""
        target = selector
        if not selector.isdigit():
            aliases = self.aliases(name)
            if selector not in aliases:
                near = difflib.get_close_matches(selector, aliases, 1)
                hint = f"Did you mean {near[0]}?" if near else f"Aliases: {listed(sorted(aliases)) or 'none'}."
                raise NotFound(f"{self.noun} {name} has no alias {selector}. {hint}")
            target = aliases[selector]
        for version in versions:
            if version["spec"]["version"] == target:
                return version
        numbers = listed(version["spec"]["version"] for version in versions)
        raise NotFound(f"{self.noun} {name} has no version {target}. Versions: {numbers}.")

    def aliases(self, name: str) -> dict[str, str]:
        """Return the version's number of each alias; empty if the series has none."""
        try:
            spec = self.cluster.get(self.parent, name).get("spec") or {}
        except NotFound:
            return {}
        return {str(alias): str(target) for alias, target in (spec.get("aliases") or {}).items()}


def number(version: Manifest) -> int:
    """Return the number of a version; 0 for a text that is not a number."""
    text = str(version["spec"].get("version"))
    return int(text) if text.isdecimal() else 0


def why(version: Manifest) -> str:
    """Return the reason why a version is not ready."""
    conditions = (version.get("status") or {}).get("conditions") or []
    for type in ("Accepted", "Ready"):
        for entry in conditions:
            if entry["type"] == type and entry["status"] != "True" and entry.get("message"):
                return str(entry["message"])
    return "it is being checked. Wait a moment."
