"""An OnlineEndpoint as its plan sees it: names that derive from it, and its former status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ultramarine.resources.onlineendpoint import OnlineEndpointSpec, OnlineEndpointStatus
from ultramarine.resources.onlineendpoint_deployment import EndpointDeployment
from ultramarine_contract.meta import GROUP, child_labels

from ...shared import statuses
from ...shared.plan import Obj

LABEL_DEPLOYMENT = f"{GROUP}/deployment"
LABEL_GATEWAY_ONLY = f"{GROUP}/gateway-only"  # on pods that answer the gateway alone: with tokens, or a container
ANNOTATION_REVISION = f"{GROUP}/revision"
ANNOTATION_VERSION = f"{GROUP}/model-version"  # on a Deployment the version to serve, on a pod the one it serves
ANNOTATION_ENVIRONMENT = f"{GROUP}/environment"  # on a Deployment, the name of its Environment
# Phases of status.rollout.
WAITING, PROGRESSING, PAUSED, ROLLED_BACK, PROMOTED = "Waiting", "Progressing", "Paused", "RolledBack", "Promoted"
PORT = 8080
GRPC_PORT = 9000  # not among the container's ports, which only inform: adding one would restart every live pod

Shares = Mapping[str, int]  # percent of the requests by deployment; a deployment without requests is left out


@dataclass(frozen=True)
class Endpoint(Obj[OnlineEndpointSpec]):
    """An OnlineEndpoint with its spec read, and its status if that can be read."""

    @classmethod
    def of(cls, obj: Obj[OnlineEndpointSpec]) -> Endpoint:
        """Make one of what the engine passes."""
        return cls(obj.manifest, obj.spec)

    @cached_property
    def former(self) -> OnlineEndpointStatus:
        """The status as it was written last, without conditions; damaged fields have their defaults."""
        return statuses.former(self, OnlineEndpointStatus, without=("conditions",))

    @property
    def former_traffic(self) -> dict[str, int]:
        """The deployments that answered when the status was written, in percent; never more than 100 together."""
        shares = {name: share for name, share in self.former.traffic.items() if 0 < share <= 100}
        return shares if sum(shares.values()) <= 100 else {}

    @property
    def rollout_phase(self) -> str:
        """The phase of the rollout that the spec asks for; empty if it asks for none, or before it begins."""
        rollout = self.former.rollout
        return rollout.phase if rollout is not None and self.spec.rollout is not None else ""


def keys_secret(endpoint: Endpoint) -> str:
    """Return the name of the Secret with the endpoint's keys; empty if it needs no key."""
    if endpoint.spec.auth_mode != "key":
        return ""
    return endpoint.spec.keys_secret_ref.name if endpoint.spec.keys_secret_ref else f"{endpoint.name}-keys"


def proof_secret(endpoint: Endpoint) -> str:
    """Return the name of the Secret by which the gateway authenticates to pods, which cannot check a token."""
    return f"{endpoint.name}-gateway" if endpoint.spec.auth_mode == "token" else ""


def pods_secret(endpoint: Endpoint) -> str:
    """Return the name of the Secret with the keys that the pods check; empty if they check none."""
    return proof_secret(endpoint) or keys_secret(endpoint)


def gateway_only(endpoint: Endpoint, deployment: EndpointDeployment) -> dict[str, str]:
    """Return the label of pods that answer the gateway alone; empty for pods that answer any client."""
    return {LABEL_GATEWAY_ONLY: "true"} if proof_secret(endpoint) or deployment.container is not None else {}


def selector(endpoint: Endpoint, deployment: str) -> dict[str, str]:
    """Return the labels of the pods of one deployment."""
    return {**child_labels("OnlineEndpoint", endpoint.name), LABEL_DEPLOYMENT: deployment}


def deployment_name(endpoint: Endpoint, deployment: str) -> str:
    """Return the name of the Deployment of a deployment."""
    return f"{endpoint.name}-{deployment}"


def may_sleep(deployment: EndpointDeployment) -> bool:
    """True if a deployment may scale to zero for lack of traffic."""
    return deployment.autoscale is not None and deployment.autoscale.min_replicas == 0
