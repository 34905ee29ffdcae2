"""Vocabulary of `kinds/KIND/testing`: one Material a kind, from which every tier of the tests takes its material.

Data and builders only. The operator never imports a module called testing, and the image has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from ultramarine_contract import common as contract
from ultramarine_contract.meta import API_VERSION, Manifest, child_labels

from .conditions import find, is_true
from .plan import Builds, Obj, Plan, Platform, Seen

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
NAME_OF_40 = "a" * 40
WEIGHTS = b"weights"  # content of an artifact that is a single object
WEIGHTS_DIGEST = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
MODEL_FILE = "model.skops"  # the file in an artifact that is a folder

PLATFORM = Platform(
    trainer_image="ultramarine/trainer:1",
    server_image="ultramarine/server:1",
    storage_endpoint="http://storage:7070",
    storage_region="",
    storage_bucket="lake",
    storage_secret="ultramarine-storage",
    training_disk="100Gi",
    serving_disk="50Gi",
    environments=Builds(
        index_url="https://pypi.example.com/simple",
        secret="ultramarine-index",
        max_bytes=10 * 2**30,
        resources={"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}},
    ),
)


def artifact_digest(content: str) -> str:
    """Digest of an artifact whose one file has that content."""
    data = content.encode()
    entry = contract.FileEntry(MODEL_FILE, len(data), hashlib.sha256(data).hexdigest())
    return contract.ArtifactManifest((entry,), "sklearn").digest


# ---- Manifests


def applied(kind: str, name: str, spec: Manifest, **meta: object) -> Manifest:
    """An object as a user applies it."""
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, **meta}, "spec": spec}


def stored(kind: str, name: str, spec: Manifest, status: Manifest | None = None, **meta: Any) -> Manifest:
    """An object as the API server returns it."""
    identity = {"namespace": "team-a", "uid": f"{kind}-{name}-uid", "generation": 1, "resourceVersion": "10"}
    metadata = {**identity, "creationTimestamp": "2030-01-01T11:00:00Z", **meta}
    whole = applied(kind, name, spec, **metadata)
    return whole if status is None else {**whole, "status": status}


def child(
    kind: str, name: str, owner: Obj[Any], spec: Manifest | None = None, status: Manifest | None = None
) -> Manifest:
    """A child of `owner`, with the operator's labels and its owner reference."""
    return {
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "uid": f"{kind}-{name}-uid",
            "generation": 1,
            "resourceVersion": "20",
            "creationTimestamp": "2030-01-01T11:30:00Z",
            "labels": child_labels(owner.manifest["kind"], owner.name),
            "ownerReferences": [{"uid": owner.uid, "controller": True}],
        },
        "spec": spec or {},
        "status": status or {},
    }


def seen(*children: Manifest, related: tuple[Manifest, ...] = (), platform: Platform = PLATFORM, **more: Any) -> Seen:
    """Input of a plan."""
    objects = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in (*children, *related)}
    more = {"look": lambda kind, name: objects.get((kind, name)), **more}
    return Seen(platform, tuple(children), related, **more)


def merged(base: Any, patch: Any) -> Any:
    """`base` with `patch` laid over it: objects are merged, None removes a field, anything else replaces."""
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    over = {name: merged(base.get(name, {}), value) for name, value in patch.items() if value is not None}
    return {name: value for name, value in base.items() if name not in patch} | over


# ---- Rules of the API


@dataclass(frozen=True)
class Rule:
    """A constraint that no bound, enum or pattern of the schema expresses, with patches of the whole object.

    `words` are part of the message: of one CEL rule of the schema, or else of what the API server answers. With
    `anywhere` a `bad` patch breaks the rule in any valid object, not only in `Material.whole`.
    """

    words: str
    ok: Manifest
    bad: tuple[Manifest, ...]
    anywhere: bool = False

    def __str__(self) -> str:
        return self.words


def rule(words: str, ok: Manifest, *bad: Manifest, anywhere: bool = False) -> Rule:
    """A rule about the spec, by patches of the spec."""
    return Rule(words, {"spec": ok}, tuple({"spec": patch} for patch in bad), anywhere)


def clash(words: str, ok: Manifest, *bad: Manifest) -> Rule:
    """A rule about fields of the spec that do not go together, whatever else the spec has."""
    return rule(words, ok, *bad, anywhere=True)


def named(words: str, ok: str, *bad: str) -> Rule:
    """A rule about metadata.name."""
    return Rule(words, {"metadata": {"name": ok}}, tuple({"metadata": {"name": name}} for name in bad))


# ---- Lives before the fault harness

# Fate of a pod. A trainer's pod succeeds, fails, or needs more memory. A compiled model may differ from its original, a
# coordinator may give up, a sweep may stop a trial. Three fates keep a pod from starting.
Fate = Literal[
    "runs", "succeeds", "fails", "is-stopped", "is-hungry", "differs", "gives-up", "no-image", "no-node", "no-secret"
]
Id = tuple[str, str]  # kind and name


class World(Protocol):
    """One namespace of the fault harness: its users, its kubelets and controllers, and the object storage."""

    objects: dict[Id, Manifest]
    deleted: list[str]  # URIs of deleted artifacts

    @property
    def coordinators(self) -> Any:
        """Coordinators of sweeps."""

    async def apply(self, *manifests: Manifest) -> None:
        """Server-side apply."""

    async def edit(self, kind: str, name: str, patch: Manifest, subresource: str = "") -> None:
        """Merge a patch into an object."""

    async def delete(self, kind: str, name: str, uid: str = "") -> None:
        """Delete an object; an absent one is fine."""

    async def store(self, name: str) -> None:
        """Put an artifact into the storage."""

    async def until(self, what: str, look: Callable[[], object]) -> None:
        """Wait until `look` returns something true."""

    def decide(self, name: str, *fates: Fate) -> None:
        """Set the fates of the pods of a Job, one attempt after another, or of a Deployment."""

    def load(self, deployment: str, load: float, pods: int) -> None:
        """Set the load of a Deployment, and the number of pods that it takes."""

    def make_room(self, enough: bool) -> None:
        """Give the queues room, or take it from them."""

    def get(self, kind: str, name: str) -> Manifest | None:
        """An object, or None."""

    def all(self, kind: str) -> list[Manifest]:
        """All objects of a kind, by name."""

    def status(self, kind: str, name: str) -> Manifest:
        """The status of an object, or an empty one."""


async def until_state(world: World, kind: str, name: str, word: str) -> None:
    """Wait until status.state of an object is that word."""
    await world.until(f"{kind} {name} is {word}", lambda: world.status(kind, name).get("state") == word)


async def until_true(world: World, kind: str, name: str, condition: str = "Ready") -> None:
    """Wait until a condition of an object is True."""
    await world.until(f"{condition} of {kind} {name}", lambda: is_true(world.status(kind, name), condition))


async def until_message(world: World, kind: str, name: str, condition: str, words: str) -> None:
    """Wait until the message of a condition has these words."""

    def look() -> bool:
        return words in (find(world.status(kind, name), condition) or {}).get("message", "")

    await world.until(f"{condition} of {kind} {name} says {words!r}", look)


async def until_none(world: World, *kinds: str) -> None:
    """Wait until no object of these kinds is left."""
    await world.until(f"no {' and no '.join(kinds)} is left", lambda: not any(map(world.all, kinds)))


async def no_story(_: World) -> None:
    """Do nothing to an object once it is applied."""


@dataclass(frozen=True)
class Life:
    """One life of objects of a kind, from the manifests that begin it until nothing more happens.

    `story` plays users and the world. It waits for states, not for moments: it must go on after the operator was away.
    `artifacts` are in the storage from the beginning. The word NAMESPACE in a manifest becomes the run's own. With
    `routed` the namespace has a gateway; `loads` are the first loads of Deployments, with the pods that they take. With
    `heard` the operator listens to what pods post. `edits` are patches of the spec, each of which ends as if the edited
    spec had been applied at first. `refused` are patches with words of their refusal. Both are of the first manifest
    of the life's kind.
    """

    name: str
    manifests: tuple[Manifest, ...]
    story: Callable[[World], Awaitable[None]] = no_story
    artifacts: tuple[str, ...] = ()
    routed: bool = False
    loads: tuple[tuple[str, float, int], ...] = ()
    heard: bool = False
    edits: tuple[Manifest, ...] = ()
    refused: tuple[tuple[Manifest, str], ...] = ()
    kind: str = ""  # set by Material

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def subject(self) -> str:
        """The name of the object that edits are about."""
        return str(next(m["metadata"]["name"] for m in self.manifests if m["kind"] == self.kind))


# ---- All of one kind

Sample = Callable[[Platform], Plan]  # its name is a golden file's, its docstring the title of that file


def fit(resources: Manifest) -> None:
    """Remove drawn requests that a limit may contradict, and those for what cannot be shared."""
    if requests := resources.get("requests"):
        limited = resources.get("limits", {})
        resources["requests"] = {
            name: size for name, size in requests.items() if name not in limited and "/" not in name
        }


def leave(_manifest: Manifest, _spec: Manifest) -> None:
    """Leave a manifest as it is."""


@dataclass(frozen=True)
class Neighbour:
    """An object of the kind among objects of all kinds with the same name, some of which are poisoned.

    `manifest` is built from that name and from the artifact of a model. The object has converged once `children` exist
    and, with `ready`, its condition Ready is True. `pods` run: for each its name, and the owner of its template. The
    word NAME stands for the name.
    """

    manifest: Callable[[str, Manifest], Manifest]
    children: tuple[Id, ...] = ()
    pods: tuple[tuple[str, Id], ...] = ()
    ready: bool = False


@dataclass(frozen=True)
class Material:
    """Test material of one kind.

    `whole` has every field of the spec; `least` is the smallest spec, and `defaults` are what the API server adds to
    it. `free` are patches of the spec that are always allowed, `edit` one of them that every life bears. `complete`
    makes the fields of a drawn manifest agree with each other. The spec has another kind's schema at `borrowed`; the
    rules of that schema are tested there. A status in one of the `final` states keeps it.
    """

    kind: str
    whole: Manifest
    least: Manifest
    edit: Manifest
    neighbour: Neighbour
    defaults: Manifest = field(default_factory=dict)
    lives: tuple[Life, ...] = ()
    samples: tuple[Sample, ...] = ()
    rules: tuple[Rule, ...] = ()
    free: tuple[Manifest, ...] = ()
    complete: Callable[[Manifest, Manifest], None] = leave
    borrowed: tuple[str, ...] = ()
    final: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # that its plans read
    annotations: tuple[str, ...] = ()  # that its plans read

    def __post_init__(self) -> None:
        object.__setattr__(self, "lives", tuple(replace(life, kind=self.kind) for life in self.lives))
