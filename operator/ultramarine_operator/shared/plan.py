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
    """A Gateway of Gateway API, in the namespace of the route unless `namespace` names another."""

    name: str
    namespace: str = ""
    section_name: str = ""
    port: int = 0


@dataclass(frozen=True)
class GatewayApi:
    """Routes to endpoints by Gateways of Gateway API.

    `url` has {endpoint} and {namespace} in its host name: scheme, host, and a port unless it is the scheme's. With
    `grpc` an endpoint has a second host name for gRPC, that of the endpoint ENDPOINT-grpc.
    """

    parents: tuple[ParentRef, ...]
    url: str
    grpc: bool = True

    def url_of(self, namespace: str, endpoint: str) -> str:
        """Return the URL of an endpoint."""
        return self.url.replace("{endpoint}", endpoint).replace("{namespace}", namespace)

    def host_of(self, namespace: str, endpoint: str, *, grpc: bool = False) -> str:
        """Return the host name of an endpoint, for HTTP or for gRPC."""
        where = self.url_of(namespace, f"{endpoint}-grpc" if grpc else endpoint)
        return where.partition("://")[2].partition(":")[0]


@dataclass(frozen=True)
class MadePods:
    """Fields that the installation gives to the pods that the operator makes.

    `training` and `serving` have nodeSelector and tolerations. `env` are proxies and the file of authorities for
    connections that leave the cluster; `ca` is the source of the volume with that file.
    """

    training: Manifest = field(default_factory=dict)
    serving: Manifest = field(default_factory=dict)
    env: tuple[Manifest, ...] = ()
    ca: Manifest = field(default_factory=dict)


@dataclass(frozen=True)
class Builds:
    """Settings of builds of environments.

    `secret` has credentials for the package index. `ca` is the source of the volume with its authorities, unless
    `authorities` has them as PEM.
    `max_bytes` limits the unpacked files. `unused_days` is the time after which a shared Environment goes; 0: never.
    """

    index_url: str = ""
    extra_index_urls: tuple[str, ...] = ()
    secret: str = ""
    ca: Manifest = field(default_factory=dict)
    unused_days: int = 14
    max_bytes: int = 0  # no limit
    resources: Manifest = field(default_factory=dict)
    authorities: str = ""


@dataclass(frozen=True)
class Platform:
    """Settings of the installation for every kind: images, object storage, the address for reports."""

    trainer_image: str
    server_image: str
    storage_endpoint: str
    storage_region: str
    storage_bucket: str
    storage_secret: str
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    training_disk: str = ""  # default limit of a training pod's ephemeral storage
    serving_disk: str = ""  # default limit of a serving or compiling pod's
    storage_confined: bool = False  # a namespace's keys open BUCKET/NAMESPACE/ and BUCKET/shared/ alone
    knows_requester: bool = False  # the API server records it in an annotation that no user can write
    username: str = ""  # of the operator, at the API server
    progress_url: str = ""  # without the path; empty if pods do not report
    mlflow_uri: str = ""  # of the tracking server, if any
    mlflow_secret: str = ""  # Secret of each namespace with its account, by the names in MLFLOW_ACCOUNT
    gateway: str = ""  # HOST:PORT of the gateway pods of {namespace}, for questions
    gateway_namespaces: frozenset[str] = frozenset()  # namespaces with a gateway
    tls: bool = False  # storage, operator, gateways and pods that serve speak TLS
    pods: MadePods = field(default_factory=MadePods)
    environments: Builds = field(default_factory=Builds)
    gateway_api: GatewayApi | None = None  # None without Gateways of Gateway API

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the optional features of this platform, for Kind.features."""
        return ("gatewayApi",) if self.gateway_api else ()

    def requester(self, manifest: Manifest) -> str:
        """Return the user who created an object; empty if the API server does not record it."""
        annotations = manifest["metadata"].get("annotations") or {}
        return str(annotations.get(ANNOTATION_REQUESTED_BY, ""))[:MAX_USER] if self.knows_requester else ""

    def gateway_of(self, namespace: str) -> str:
        """Return the address of a namespace's gateway; empty without one."""
        return self.gateway.replace("{namespace}", namespace) if namespace in self.gateway_namespaces else ""


class Lazily(Iterable[Manifest]):
    """Manifests that are gathered on first use: most passes do not use them, and a Model can have thousands."""

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
    again. `look` returns any object of the platform's kinds in the namespace, by kind and name.
    """

    platform: Platform
    children: tuple[Manifest, ...] = ()
    related: Iterable[Manifest] = ()
    answers: Mapping[Question, Any] = field(default_factory=dict)
    report: Any = None
    look: Callable[[str, str], Manifest | None] = lambda kind, name: None

    def of(self, kind: str) -> list[Manifest]:
        """Return the children of that kind, by name."""
        return sorted((c for c in self.children if c["kind"] == kind), key=lambda c: str(c["metadata"]["name"]))

    def child(self, kind: str, name: str) -> Manifest | None:
        """Return the child of that kind and name; None if it does not exist."""
        return next((c for c in self.children if c["kind"] == kind and c["metadata"]["name"] == name), None)

    def others(self, kind: str) -> list[Manifest]:
        """Return the related objects of that kind, by name."""
        return sorted((o for o in self.related if o["kind"] == kind), key=lambda o: str(o["metadata"]["name"]))


@dataclass(frozen=True)
class Event:
    """An Event of the object, which `kubectl describe` shows."""

    reason: str
    message: str
    type: str = "Normal"


@dataclass(frozen=True)
class GenerateSecret:
    """An effect: create a Secret with a random value under each key, unless it is there. Its values are never read.

    The event is written when it was created. `shown_in` is the field of the status that names it, which keeps its value
    while the API server refuses what a pass writes.
    """

    manifest_metadata: tuple[tuple[str, Any], ...]
    keys: tuple[str, ...]
    event: Event | None = None
    shown_in: str = ""

    @property
    def metadata(self) -> Manifest:
        return dict(self.manifest_metadata)


Effect = GenerateSecret


@dataclass(frozen=True)
class Edit:
    """Change of an object that a user has made and asks to be changed: one field of the very object that was seen."""

    ref: Ref
    path: str  # as in a JSON Patch
    value: Any


@dataclass(frozen=True)
class Plan:
    """Result of one pass.

    `apply` are children, by server-side apply. `create` are objects that outlive their creator, made only if the name
    is free. `edits` come after all of them. `after` asks for another pass without an event. If one of `absent`, which
    are custom resources, exists, the plan is not carried out: the API server is asked, since the mirror may be late.
    """

    status: Manifest
    apply: tuple[Manifest, ...] = ()
    create: tuple[Manifest, ...] = ()
    delete: tuple[Ref, ...] = ()
    edits: tuple[Edit, ...] = ()
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
