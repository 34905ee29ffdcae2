"""The local copy of our objects and their children, fed by the watches and set right by a relist every ten minutes.

It answers all reads of a pass, so a pass costs no request. It may be behind; nothing is deleted on its word alone,
since deletes carry the uid and the resourceVersion that it had seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ..shared.meta import LABEL_KIND, LABEL_NAME, Key, Manifest, Resource

Name = tuple[str, str]  # namespace, name


def _version(manifest: Manifest) -> int:
    """The resourceVersion as a number; Kubernetes promises since 1.35 that they compare so."""
    text = str(manifest["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdigit() else 0


def owner_key(manifest: Manifest) -> Key | None:
    """The key of the object that a child's labels name, or nothing for an object without those labels."""
    meta = manifest["metadata"]
    labels = meta.get("labels") or {}
    kind, name = labels.get(LABEL_KIND), labels.get(LABEL_NAME)
    return Key(kind, meta["namespace"], name) if kind and name else None


class Mirror:
    """Objects by type, namespace and name, and children by their owner."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[Name, Manifest]] = defaultdict(dict)
        self._children: dict[Key, dict[tuple[str, str], Manifest]] = defaultdict(dict)
        self._namespaces: dict[tuple[str, str], dict[str, Manifest]] = defaultdict(dict)
        # Uids seen deleted, with the version of that moment, since the last relist and since the one before it.
        self._gone: dict[str, int] = {}
        self._gone_before: dict[str, int] = {}

    def put(self, resource: Resource, manifest: Manifest) -> bool:
        """Take in an object; says whether it was news. An older version than the one known is ignored."""
        meta = manifest["metadata"]
        name = (meta["namespace"], meta["name"])
        known = self._objects[resource.kind].get(name)
        # An older answer must not revive the dead. A newer one was only out of sight: without its label for a while.
        uid = str(meta.get("uid", ""))
        if _version(manifest) <= max(self._gone.get(uid, -1), self._gone_before.get(uid, -1)):
            return False
        if known is not None and _version(known) >= _version(manifest):
            return False
        manifest.setdefault("kind", resource.kind)  # the items of a list come without them
        manifest.setdefault("apiVersion", resource.api_version)
        meta.pop("managedFields", None)  # half of an object's size, and nobody here reads it
        if known is not None:
            self._forget(resource, known)
        self._objects[resource.kind][name] = manifest
        self._namespaces[resource.kind, meta["namespace"]][meta["name"]] = manifest
        if (owner := owner_key(manifest)) is not None:
            self._children[owner][resource.kind, meta["name"]] = manifest
        return True

    def drop(self, resource: Resource, manifest: Manifest) -> None:
        """Take out an object that was deleted; a newer one of the same name stays."""
        meta = manifest["metadata"]
        self._gone[str(meta.get("uid", ""))] = _version(manifest)
        known = self._objects[resource.kind].get((meta["namespace"], meta["name"]))
        if known is not None and known["metadata"].get("uid") == meta.get("uid"):
            self._forget(resource, known)

    def _forget(self, resource: Resource, known: Manifest) -> None:
        meta = known["metadata"]
        self._objects[resource.kind].pop((meta["namespace"], meta["name"]), None)
        siblings = self._namespaces[resource.kind, meta["namespace"]]
        siblings.pop(meta["name"], None)
        if not siblings:
            del self._namespaces[resource.kind, meta["namespace"]]
        if (owner := owner_key(known)) is not None:
            self._children[owner].pop((resource.kind, meta["name"]), None)
            if not self._children[owner]:
                del self._children[owner]

    def replace(self, resource: Resource, listed: Iterable[Manifest], before: dict[Name, str]) -> list[Manifest]:
        """Set a type right by a full listing, and return every object that was news or is gone.

        `before` are the uids that were known before the listing was asked for: one that is missing in it is gone,
        while one that came in meanwhile is simply newer than the listing.
        """
        items = list(listed)
        there = {item["metadata"]["uid"] for item in items}
        changed = [item for item in items if self.put(resource, item)]
        for name, uid in before.items():
            known = self._objects[resource.kind].get(name)
            if uid not in there and known is not None and known["metadata"].get("uid") == uid:
                self.drop(resource, known)
                changed.append(known)
        return changed

    def forget_the_gone(self) -> None:
        """Drop the memory of uids that were deleted before the last relist: nothing older is still under way."""
        self._gone_before, self._gone = self._gone, {}

    def uids(self, resource: Resource, namespace: str | None) -> dict[Name, str]:
        """The uids of all known objects of a type, in one namespace or in all."""
        known = self._objects[resource.kind].items()
        return {name: str(found["metadata"].get("uid")) for name, found in known if namespace in (None, name[0])}

    def all(self, resource: Resource) -> Iterable[Manifest]:
        """All known objects of a type."""
        return self._objects[resource.kind].values()

    def get(self, key: Key) -> Manifest | None:
        """One object of one of our kinds."""
        return self._objects[key.kind].get((key.namespace, key.name))

    def children(self, key: Key) -> tuple[Manifest, ...]:
        """All known children of an object."""
        return tuple(self._children[key].values()) if key in self._children else ()

    def in_namespace(self, resource: Resource, namespace: str) -> tuple[Manifest, ...]:
        """All known objects of a type in a namespace."""
        known = self._namespaces.get((resource.kind, namespace))
        return tuple(known.values()) if known else ()
