"""The values between looking and acting: what was seen, what is wanted, and what one kind consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from ultramarine_contract.meta import ANNOTATION_REQUESTED_BY, Key, Manifest, Ref

from .questions import Question

MAX_USER = 500  # characters


@dataclass(frozen=True)
class ParentRef:
    """A Gateway of the people's own, as Gateway API refers to it: of the route's namespace, unless it says another."""

    name: str
    namespace: str = ""
    section_name: str = ""
    port: int = 0


@dataclass(frozen=True)
class GatewayApi:
    """How endpoints are reached by Gateways of the people's own.

    `url` has {endpoint} and {namespace} in its host name: scheme, host, and the port where it is another than the
    scheme's. With `grpc` there is a second host name for gRPC: that of the endpoint ENDPOINT-grpc.
    """

    parents: tuple[ParentRef, ...]
    url: str
    grpc: bool = True

    def url_of(self, namespace: str, endpoint: str) -> str:
        """Where an endpoint answers."""
        return self.url.replace("{endpoint}", endpoint).replace("{namespace}", namespace)

    def host_of(self, namespace: str, endpoint: str, *, grpc: bool = False) -> str:
        """The host name of an endpoint, for HTTP or for gRPC."""
        where = self.url_of(namespace, f"{endpoint}-grpc" if grpc else endpoint)
        return where.partition("://")[2].partition(":")[0]


@dataclass(frozen=True)
class MadePods:
    """Fields that the installation gives to the pods that the operator makes.

    `training` and `serving` have nodeSelector and tolerations; `env` are proxies and the authorities' file for programs
    that ask something outside the cluster, and `ca` is the source of the volume with that file.
    """

    training: Manifest = field(default_factory=dict)
    serving: Manifest = field(default_factory=dict)
    env: tuple[Manifest, ...] = ()
    ca: Manifest = field(default_factory=dict)


@dataclass(frozen=True)
class Platform:
    """What the installation gives to every kind: images, object storage, and where pods post their progress."""

    trainer_image: str
    server_image: str
    storage_endpoint: str
    storage_region: str
    storage_bucket: str
    storage_secret: str
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    training_disk: str = ""  # the most of a node's disk that a pod that trains may use, where its author says nothing
    serving_disk: str = ""  # the same for one that serves or compiles
    storage_confined: bool = False  # a namespace's keys open BUCKET/NAMESPACE/ and BUCKET/shared/, and no more
    knows_requester: bool = False  # the API server writes it into the annotation that nobody else can write
    username: str = ""  # the operator's own, as the API server knows it
    progress_url: str = ""  # without the path; empty where nobody listens
    mlflow_uri: str = ""  # of the tracking server, where jobs are recorded in one
    mlflow_secret: str = ""  # each namespace's Secret with its account there, by the names in contract.MLFLOW_ACCOUNT
    gateway: str = ""  # HOST:PORT at which the gateway pods of {namespace} say what they route by
    gateway_namespaces: frozenset[str] = frozenset()  # those that have a gateway
    tls: bool = False  # storage, operator, gateways and pods that serve speak TLS
    pods: MadePods = field(default_factory=MadePods)
    gateway_api: GatewayApi | None = None  # where routes are written for Gateways of the people's own

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the optional features of this platform, for Kind.features."""
        return ("gatewayApi",) if self.gateway_api else ()

    def requester(self, manifest: Manifest) -> str:
        """Return the user who created an object; nothing if the API server does not record that: anybody could have."""
        annotations = manifest["metadata"].get("annotations") or {}
        return str(annotations.get(ANNOTATION_REQUESTED_BY, ""))[:MAX_USER] if self.knows_requester else ""

    def gateway_of(self, namespace: str) -> str:
        """Where the gateway of a namespace is asked, or nothing where there is none."""
        return self.gateway.replace("{namespace}", namespace) if namespace in self.gateway_namespaces else ""


class Lazily(Iterable[Manifest]):
    """Manifests that are gathered when somebody looks at them: most passes do not, and a Model can have thousands."""

    def __init__(self, gather: Callable[[], tuple[Manifest, ...]]) -> None:
        self._gather = gather
        self._gathered: tuple[Manifest, ...] | None = None

    def __iter__(self) -> Iterator[Manifest]:
        if self._gathered is None:
            self._gathered = self._gather()
        return iter(self._gathered)


@dataclass(frozen=True)
class Seen:
    """The world at the moment of deciding: our children, the objects that we refer to, and what was answered outside.

    `report` is the newest that a pod of the object has posted to this process: None after a restart, until it posts
    again.
    """

    platform: Platform
    children: tuple[Manifest, ...] = ()
    related: Iterable[Manifest] = ()
    answers: Mapping[Question, Any] = field(default_factory=dict)
    report: Any = None

    def of(self, kind: str) -> list[Manifest]:
        """Children of that kind, by name."""
        return sorted((c for c in self.children if c["kind"] == kind), key=lambda c: str(c["metadata"]["name"]))

    def one(self, kind: str, name: str) -> Manifest | None:
        """The child of that kind and name, or nothing."""
        return next((c for c in self.children if c["kind"] == kind and c["metadata"]["name"] == name), None)

    def others(self, kind: str) -> list[Manifest]:
        """Related objects of that kind, by name."""
        return sorted((o for o in self.related if o["kind"] == kind), key=lambda o: str(o["metadata"]["name"]))


@dataclass(frozen=True)
class Event:
    """One line of the object's diary, shown by `kubectl describe`."""

    reason: str
    message: str
    type: str = "Normal"


@dataclass(frozen=True)
class GenerateSecret:
    """An effect: create a Secret with a random value under each key, unless it is there. Its values are never read.

    The event is written when it was created.
    """

    manifest_metadata: tuple[tuple[str, Any], ...]
    keys: tuple[str, ...]
    event: Event | None = None

    @property
    def metadata(self) -> Manifest:
        return dict(self.manifest_metadata)


Effect = GenerateSecret


@dataclass(frozen=True)
class Plan:
    """What one pass wants.

    `apply` are children of ours, by server-side apply; `create` are objects that live longer than their maker, made
    only where the name is free; `after` asks for another look without a ring of the doorbell. Nothing is done while
    one of `absent`, objects of our kinds, is there: the API server itself is asked, since the mirror may be behind.
    """

    status: Manifest
    apply: tuple[Manifest, ...] = ()
    create: tuple[Manifest, ...] = ()
    delete: tuple[Ref, ...] = ()
    absent: tuple[Key, ...] = ()
    effects: tuple[Effect, ...] = ()
    events: tuple[Event, ...] = ()
    after: timedelta | None = None


SpecT = TypeVar("SpecT", bound=BaseModel)


@dataclass(frozen=True)
class Obj(Generic[SpecT]):
    """One of our objects with its spec read."""

    manifest: Manifest
    spec: SpecT

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        return str(self.manifest["metadata"]["uid"])

    @property
    def generation(self) -> int:
        return int(self.manifest["metadata"].get("generation", 0))

    @property
    def status(self) -> Manifest:
        return self.manifest.get("status") or {}


def no_questions(_obj: Obj[Any], _seen: Seen) -> tuple[Question, ...]:
    """A kind that asks nothing of the storage or of a gateway."""
    return ()


ANY = "*"  # the topic of who looks at all objects of the namespace


def no_topics(_manifest: Manifest) -> frozenset[str]:
    """A kind that looks at its own children only."""
    return frozenset()
