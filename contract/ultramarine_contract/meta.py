"""Names that all parts share: the API group, the labels of children, keys and references."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

GROUP = "ultramarine.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FIELD_MANAGER = "ultramarine"

# Every child carries these; the watches select by the first one, the mirror finds the owner by the other two.
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_KIND = f"{GROUP}/kind"
LABEL_NAME = f"{GROUP}/name"
CHILD_SELECTOR = f"{LABEL_MANAGED_BY}={FIELD_MANAGER}"

# SHA-256 of the last applied content: tells a field that the operator no longer sets from a default of the server.
ANNOTATION_APPLIED = f"{GROUP}/applied"

# Who made an object, as the chart's admission policy writes it down.
ANNOTATION_REQUESTED_BY = f"{GROUP}/requested-by"

# Who allowed a Model or a ModelVersion to run code when it is loaded, as the chart's admission policy writes it down.
ANNOTATION_TRUSTED_BY = f"{GROUP}/trusted-by"

# On an OnlineEndpoint whose author creates the Secret of its keys, since no author may read what the operator makes.
ANNOTATION_KEYS = f"{GROUP}/keys"
KEYS_OF_AUTHOR = "author"

# User who last changed what an OnlineEndpoint serves, as the chart's admission policy records it.
ANNOTATION_APPROVED_BY = f"{GROUP}/approved-by"

# ConfigMap that the chart writes into each namespace: addresses and names for clients outside the cluster.
PLATFORM_MAP = "ultramarine-platform"

# Child names add a suffix, and a pod's host name must fit 63 characters.
MAX_NAME = 40

Manifest = dict[str, Any]


class Key(NamedTuple):
    """Key of an object in the queue."""

    kind: str
    namespace: str
    name: str

    @classmethod
    def named(cls, kind: str, manifest: Any) -> Key:
        """Return the key of what may not be a proper object, for messages."""
        meta = manifest.get("metadata") if isinstance(manifest, dict) else None
        meta = meta if isinstance(meta, dict) else {}
        return cls(kind, str(meta.get("namespace")), str(meta.get("name")))

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True)
class Resource:
    """Path of a type in the API."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Return the URL path of the collection, of one object, or of its subresource."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)


POD = Resource("", "v1", "pods", "Pod")
SERVICE = Resource("", "v1", "services", "Service")
CONFIG_MAP = Resource("", "v1", "configmaps", "ConfigMap")
SECRET = Resource("", "v1", "secrets", "Secret")
JOB = Resource("batch", "v1", "jobs", "Job")
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
CONTROLLER_REVISION = Resource("apps", "v1", "controllerrevisions", "ControllerRevision")
POD_DISRUPTION_BUDGET = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
NETWORK_POLICY = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
HORIZONTAL_POD_AUTOSCALER = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
EVENT = Resource("", "v1", "events", "Event")
HTTP_ROUTE = Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
GRPC_ROUTE = Resource("gateway.networking.k8s.io", "v1", "grpcroutes", "GRPCRoute")
LEASE = Resource("coordination.k8s.io", "v1", "leases", "Lease")
LEASE_NAME = "ultramarine-operator"
TOKEN_REVIEW = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview")

TRAINING_JOB = Resource(GROUP, VERSION, "trainingjobs", "TrainingJob")
MODEL = Resource(GROUP, VERSION, "models", "Model")
MODEL_VERSION = Resource(GROUP, VERSION, "modelversions", "ModelVersion")
ONLINE_ENDPOINT = Resource(GROUP, VERSION, "onlineendpoints", "OnlineEndpoint")
SWEEP = Resource(GROUP, VERSION, "sweeps", "Sweep")
ENVIRONMENT = Resource(GROUP, VERSION, "environments", "Environment")
SCHEDULE = Resource(GROUP, VERSION, "schedules", "Schedule")
PIPELINE = Resource(GROUP, VERSION, "pipelines", "Pipeline")
PIPELINE_RUN = Resource(GROUP, VERSION, "pipelineruns", "PipelineRun")
AUTOML_JOB = Resource(GROUP, VERSION, "automljobs", "AutoMLJob")
DATASET = Resource(GROUP, VERSION, "datasets", "Dataset")
DATASET_VERSION = Resource(GROUP, VERSION, "datasetversions", "DatasetVersion")


@dataclass(frozen=True)
class Ref:
    """One object as a plan saw it: its delete fails if the object has changed."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    resource_version: str

    @classmethod
    def to(cls, resource: Resource, manifest: Manifest) -> Ref:
        meta = manifest["metadata"]
        return cls(resource, meta["namespace"], meta["name"], meta["uid"], meta["resourceVersion"])


def child_labels(owner_kind: str, owner_name: str) -> dict[str, str]:
    """Return the labels by which the watches and the mirror find a child and its owner."""
    return {LABEL_MANAGED_BY: FIELD_MANAGER, LABEL_KIND: owner_kind, LABEL_NAME: owner_name}


def child_metadata(owner: Manifest, name: str) -> Manifest:
    """Return metadata of a child: in its owner's namespace, labelled, and deleted with its owner."""
    meta = owner["metadata"]
    return {
        "name": name,
        "namespace": meta["namespace"],
        "labels": child_labels(owner["kind"], meta["name"]),
        "ownerReferences": [
            {
                "apiVersion": owner["apiVersion"],
                "kind": owner["kind"],
                "name": meta["name"],
                "uid": meta["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def asked_by(user: str) -> dict[str, str]:
    """Return the annotation of an object that is made in the name of `user`; none without a user."""
    return {ANNOTATION_REQUESTED_BY: user} if user else {}


def approver_of_alias(alias: str) -> str:
    """Return the annotation of a Model or a Dataset with the user who moved an alias last, recorded by the API server.

    An alias has at most 40 characters, so the annotation is never too long.
    """
    return f"approved-by.{GROUP}/{alias}"


def controller_uid(manifest: Manifest) -> str:
    """Return the uid of the object that controls this one, or nothing."""
    for reference in manifest["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return str(reference.get("uid", ""))
    return ""


def content_hash(value: Any) -> str:
    """SHA-256 in hex over the canonical JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
