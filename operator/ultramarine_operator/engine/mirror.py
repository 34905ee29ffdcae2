"""The local copy of our objects and their children, fed by the watches and set right by a relist every ten minutes.

It answers all reads of a pass, so a pass costs no request. It may be behind; nothing is deleted on its word alone,
since deletes carry the uid and the resourceVersion that it had seen. Whoever reads gets a copy of his own.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ultramarine_contract.meta import GROUP, LABEL_KIND, LABEL_NAME, Key, Manifest, Resource, controller_uid

from ..shared.conditions import ENDED, state_of
from ..shared.kind import ANY, Kind

Name = tuple[str, str]  # namespace, name


def _version(manifest: Manifest) -> int:
    """The resourceVersion as a number; Kubernetes promises since 1.35 that they compare so."""
    text = str(manifest["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdigit() else 0


def _generation(manifest: Manifest) -> int:
    """The number of the spec; 0 for what has none."""
    number = manifest["metadata"].get("generation")
    return number if isinstance(number, int) else 0


def _completion(manifest: Manifest) -> str:
    """The time of a run's end; empty while it goes on."""
    status = manifest.get("status")
    return str(status.get("completionTime") or "") if isinstance(status, dict) else ""


def owner_key(manifest: Manifest) -> Key | None:
    """Return the key of the object that controls this one or, for a pod of a child, that its labels name."""
    meta = manifest["metadata"]
    for reference in meta.get("ownerReferences") or []:
        if reference.get("controller") and str(reference.get("apiVersion", "")).startswith(f"{GROUP}/"):
            kind, name = reference.get("kind"), reference.get("name")
            break
    else:
        labels = meta.get("labels") or {}
        kind, name = labels.get(LABEL_KIND), labels.get(LABEL_NAME)
    return Key(sys.intern(kind), sys.intern(meta["namespace"]), name) if kind and name else None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One object: the whole of it compressed, since a parsed one takes fifteen times that, and what finds it."""

    version: int
    uid: str
    generation: int
    owner: Key | None
    topics: frozenset[str]
    state: str
    controller: str  # the uid of who controls it
    completed: str  # time of its end, if it has ended
    packed: bytes

    def outline(self, kind: str, namespace: str, name: str) -> Manifest:
        """Return its identity, owner, state and end."""
        owners = [{"uid": self.controller, "controller": True}]
        meta = {"name": name, "namespace": namespace, "uid": self.uid, "ownerReferences": owners}
        end = {"completionTime": self.completed} if self.completed else {}
        meta["resourceVersion"] = str(self.version)
        return {"kind": kind, "metadata": meta, "status": {"state": self.state, **end}}

    @property
    def manifest(self) -> Manifest:
        unpacked: Manifest = json.loads(zlib.decompress(self.packed))
        return unpacked


class Mirror:
    """Objects by type, namespace and name; children by their owner; ours by their topics too."""

    def __init__(self, kinds: Iterable[Kind] = ()) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._objects: dict[str, dict[Name, _Entry]] = defaultdict(dict)
        self._children: dict[Key, set[tuple[str, str]]] = defaultdict(set)
        self._about: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        # Uids seen deleted, with the version of that moment, since the last relist and since the one before it.
        self._gone: dict[str, int] = {}
        self._gone_before: dict[str, int] = {}

    def put(self, resource: Resource, manifest: Manifest) -> bool:
        """Take in an object; return True if it is newer than the copy."""
        meta = manifest["metadata"]
        name = (sys.intern(meta["namespace"]), meta["name"])
        copy = self._objects[resource.kind].get(name)
        version, uid = _version(manifest), str(meta.get("uid", ""))
        # An older answer must not revive the dead. A newer one was only out of sight: without its label for a while.
        if version <= max(self._gone.get(uid, -1), self._gone_before.get(uid, -1)):
            return False
        if copy is not None and copy.version >= version:
            return False
        manifest.setdefault("kind", resource.kind)  # the items of a list come without them
        manifest.setdefault("apiVersion", resource.api_version)
        meta.pop("managedFields", None)  # half of an object's size, and never read here
        kind = self._kinds.get(resource.kind)
        entry = _Entry(
            version=version,
            uid=uid,
            generation=_generation(manifest),
            owner=owner_key(manifest),
            topics=kind.topics(manifest) if kind is not None else frozenset(),
            state=sys.intern(state_of(manifest)) if kind is not None else "",
            controller=sys.intern(controller_uid(manifest)),
            completed=_completion(manifest) if kind is not None and kind.ends else "",
            packed=zlib.compress(json.dumps(manifest).encode(), 1),
        )
        if copy is not None:
            self._forget(resource, name, copy)
        self._objects[resource.kind][name] = entry
        for topic in entry.topics:
            self._about[resource.kind, name[0], topic].add(name[1])
        if entry.owner is not None:
            self._children[entry.owner].add((resource.kind, name[1]))
        return True

    def is_edited(self, resource: Resource, manifest: Manifest) -> bool:
        """True if this is another object, or has another spec, than the one that is copy."""
        meta = manifest["metadata"]
        copy = self._objects[resource.kind].get((meta["namespace"], meta["name"]))
        return copy is None or (copy.uid, copy.generation) != (str(meta.get("uid", "")), _generation(manifest))

    def drop(self, resource: Resource, manifest: Manifest) -> None:
        """Take out an object that was deleted; a newer one of the same name stays."""
        meta = manifest["metadata"]
        uid = str(meta.get("uid", ""))
        self._gone[uid] = _version(manifest)
        name = (meta["namespace"], meta["name"])
        copy = self._objects[resource.kind].get(name)
        if copy is not None and copy.uid == uid:
            self._forget(resource, name, copy)

    def _forget(self, resource: Resource, name: Name, copy: _Entry) -> None:
        del self._objects[resource.kind][name]
        for topic in copy.topics:
            where = (resource.kind, name[0], topic)
            self._about[where].discard(name[1])
            if not self._about[where]:
                del self._about[where]
        if copy.owner is not None:
            self._children[copy.owner].discard((resource.kind, name[1]))
            if not self._children[copy.owner]:
                del self._children[copy.owner]

    def prune(
        self, resource: Resource, listed: set[str], of: int, before: dict[Name, tuple[str, int]]
    ) -> list[Manifest]:
        """Take out, and return, what a full listing lacks.

        `listed` are the uids in it, `of` is its resourceVersion, and `before` is what was copy before it was asked
        for. What came in or changed meanwhile is newer than the listing, and so is what it is too old to have.
        """
        gone = []
        for name, (uid, version) in before.items():
            copy = self._objects[resource.kind].get(name)
            if uid not in listed and version <= of and copy is not None and (copy.uid, copy.version) == (uid, version):
                gone.append(copy.manifest)
                self.drop(resource, gone[-1])
                # A listing can be from the past: one that has this object again, as it was, is to be believed.
                self._gone[uid] = version - 1
        return gone

    def forget_the_gone(self) -> None:
        """Drop the memory of uids that were deleted before the last relist: nothing older is still under way."""
        self._gone_before, self._gone = self._gone, {}

    def versions(self, resource: Resource, namespace: str | None) -> dict[Name, tuple[str, int]]:
        """Return uid and version of all objects of a type, in one namespace or in all."""
        copies = self._objects[resource.kind].items()
        return {name: (copy.uid, copy.version) for name, copy in copies if namespace in (None, name[0])}

    def states(self, resource: Resource) -> Iterator[str]:
        """Yield the state of each object of a kind."""
        return (copy.state for copy in self._objects[resource.kind].values())

    def get(self, key: Key) -> Manifest | None:
        """Return one object; None if it does not exist."""
        copy = self._objects[key.kind].get((key.namespace, key.name))
        return copy.manifest if copy is not None else None

    def uid(self, key: Key) -> str | None:
        """Return the uid of an object; None if it does not exist."""
        copy = self._objects[key.kind].get((key.namespace, key.name))
        return copy.uid if copy is not None else None

    def children(self, key: Key, *kinds: str) -> tuple[Manifest, ...]:
        """Return all children of an object, or those of some kinds; of custom resources that have ended the outline.

        A sweep can have a thousand jobs that have ended.
        """
        children = []
        for kind, name in self._children.get(key, ()):
            if not kinds or kind in kinds:
                copy = self._objects[kind][key.namespace, name]
                children.append(copy.outline(kind, key.namespace, name) if copy.state in ENDED else copy.manifest)
        return tuple(children)

    def about(self, resource: Resource, namespace: str, topics: Iterable[str]) -> set[str]:
        """Return the names of a kind's objects that share one of these topics; ANY is shared by all."""
        if ANY in topics:
            return {name for where, name in self._objects[resource.kind] if where == namespace}
        return self.lookers(resource, namespace, topics)

    def lookers(self, resource: Resource, namespace: str, topics: Iterable[str]) -> set[str]:
        """Return the names of a kind's objects that look at one of these topics, or at any."""
        return {name for topic in {*topics, ANY} for name in self._about.get((resource.kind, namespace, topic), ())}
