"""Series of numbered versions with aliases: what models and datasets have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ultramarine_contract.errors import InvalidSpec, listed
from ultramarine_contract.meta import Manifest, Resource

from ..absence import namespace_problem
from ..kube.errors import Exists, NotFound
from ..suggestions import suggest

if TYPE_CHECKING:
    from ultramarine_contract.storage import Progress

    from ..client import Client

LATEST = "latest"
_ATTEMPTS = 10  # to get a version's number, while others register versions too


@dataclass(frozen=True)
class Series:
    """The models or the datasets of a namespace; `noun` is the field of a version that names its series."""

    client: Client
    noun: str
    parent: Resource
    version: Resource

    def versions(self, name: str) -> list[Manifest]:
        """Return the versions of a series, the newest first. Raises NotFound with the nearest name."""
        every = self.client.cluster.list(self.version)
        versions = [version for version in every if version["spec"].get(self.noun) == name]
        if not versions:
            names = {str(version["spec"].get(self.noun)) for version in every}
            others = f"{self.noun.capitalize()}s with versions: {listed(sorted(names)) or 'none'}."
            hint = suggest(name, names, others) if names else namespace_problem(self.client) or others
            raise NotFound(f"{self.noun} {name} has no version in namespace {self.client.namespace}. {hint}")
        return sorted(versions, key=number, reverse=True)

    def newest(self, name: str) -> Manifest | None:
        """Return the newest version of a series, ready or not; None if it has no version."""
        every = self.client.cluster.list(self.version)
        return max((item for item in every if item["spec"].get(self.noun) == name), key=number, default=None)

    def find(self, reference: str) -> Manifest:
        """Return the version of NAME@VERSION, NAME@ALIAS, or the newest ready one of NAME and NAME@latest."""
        name, _, selector = reference.partition("@")
        versions = self.versions(name)
        if selector not in ("", LATEST):
            return self.selected(name, versions, selector)
        for version in versions:
            if is_ready(version):
                return version
        raise NotFound(f"no version of {self.noun} {name} is ready: {why(versions[0])}")

    def selected(self, name: str, versions: list[Manifest], selector: str) -> Manifest:
        """Return the one of `versions` that a number or an alias means. Raises NotFound with the nearest name."""
        target = selector
        if not selector.isdigit():
            aliases = self.aliases(name)
            if selector not in aliases:
                hint = suggest(selector, aliases, f"Aliases: {listed(sorted(aliases)) or 'none'}.")
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
            spec = self.client.cluster.get(self.parent, name).get("spec") or {}
        except NotFound:
            return {}
        return {str(alias): str(target) for alias, target in (spec.get("aliases") or {}).items()}

    def promote(self, reference: str, alias: str) -> Manifest:
        """Let an alias lead to a version, and return that version. Raises InvalidSpec for one that is not ready."""
        version = self.find(reference)
        name, target = str(version["spec"][self.noun]), str(version["spec"]["version"])
        if alias == LATEST:
            raise InvalidSpec("the alias latest is always the newest ready version. Choose another name.")
        if not is_ready(version):
            raise InvalidSpec(f"version {target} of {self.noun} {name} is not ready: {why(version)}")
        change: Manifest = {"spec": {"aliases": {alias: target}}}
        try:
            self.client.cluster.patch(self.parent, name, change)
        except NotFound:
            self.ensure_parent(name)
            self.client.cluster.patch(self.parent, name, change)
        return version

    def ensure_parent(self, name: str) -> None:
        """Create the Model or Dataset of a series if it does not exist."""
        parent = self.parent
        try:
            self.client.cluster.get(parent, name)
        except NotFound:
            try:
                manifest = {"apiVersion": parent.api_version, "kind": parent.kind, "metadata": {"name": name}}
                self.client.create(parent, {**manifest, "spec": {}})
            except Exists:
                return

    def register(self, name: str, spec: Manifest) -> Manifest:
        """Create a version with the next free number, and return it. Raises Exists if others are always faster."""
        resource = self.version
        for _ in range(_ATTEMPTS):
            target = str(self._last_number(name) + 1)
            manifest = {
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "metadata": {"name": f"{name}-{target}"},
                "spec": {**spec, self.noun: name, "version": target},
            }
            try:
                return self.client.create(resource, manifest)
            except Exists:
                continue
        raise Exists(f"other writers register versions of {self.noun} {name} all the time. Try again.")

    def _last_number(self, name: str) -> int:
        newest = self.newest(name)
        numbers = [number(newest)] if newest else []
        try:
            latest = (self.client.cluster.get(self.parent, name).get("status") or {}).get("latestVersion") or "0"
            numbers.append(int(latest))
        except (NotFound, ValueError):
            pass
        return max(numbers, default=0)

    def download(self, reference: str, folder: Path | str, progress: Progress | None) -> Path:
        """Fetch the files of a version into a folder, by default ./NAME-VERSION, and return it."""
        from ..storage.artifacts import Artifact, download
        from ..storage.fetching import Incoming, fetch

        version = self.find(reference)
        target = Path(folder or version["metadata"]["name"])
        uri, digest = str(version["spec"]["uri"]), str(version["spec"]["digest"])
        storage = self.client.platform.storage
        if uri.endswith("/"):
            download(storage, Artifact(uri, digest), target, progress)
        else:
            size = storage.artifact_digest(uri).bytes
            file = target / uri.rpartition("/")[2]
            fetch(storage, [Incoming(uri, file, size, digest.removeprefix("sha256:"))], progress)
        return target


def number(version: Manifest) -> int:
    """Return the number of a version; 0 for a text that is not a number."""
    text = str(version["spec"].get("version"))
    return int(text) if text.isdecimal() else 0


def is_ready(version: Manifest) -> bool:
    """True if a version can be served or read."""
    conditions = (version.get("status") or {}).get("conditions") or []
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def why(version: Manifest) -> str:
    """Return the reason why a version is not ready."""
    conditions = (version.get("status") or {}).get("conditions") or []
    for type in ("Accepted", "Ready"):
        for entry in conditions:
            if entry["type"] == type and entry["status"] != "True" and entry.get("message"):
                return str(entry["message"])
    return "it is being checked. Wait a moment."
