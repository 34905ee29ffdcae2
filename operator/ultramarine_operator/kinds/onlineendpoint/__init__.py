"""OnlineEndpoint: models behind one address."""

from __future__ import annotations

from ultramarine.resources.onlineendpoint import OnlineEndpointSpec, OnlineEndpointStatus
from ultramarine_contract.meta import (
    CONFIG_MAP,
    DEPLOYMENT,
    ENVIRONMENT,
    GRPC_ROUTE,
    HORIZONTAL_POD_AUTOSCALER,
    HTTP_ROUTE,
    MODEL,
    MODEL_VERSION,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    SECRET,
    SERVICE,
    Manifest,
)

from ...shared.environments import topics_of
from ...shared.kind import ANY, READY, SERVICE_NAME, Column, Feature, Kind, PodGroup
from .endpoint import GRPC_PORT, LABEL_GATEWAY_ONLY, PORT
from .plan import plan, questions


def _topics(endpoint: Manifest) -> frozenset[str]:
    """Return the Models that its deployments serve, and their Environments; a pool may serve any Model."""
    topics = set(topics_of(endpoint))
    for deployment in endpoint["spec"].get("deployments") or []:
        topics.add(ANY if deployment.get("pool") else str(deployment.get("model", "")).partition("@")[0])
    return frozenset(topics)


PORTS = (PORT, GRPC_PORT)

KIND = Kind(
    short="oe",
    description="OnlineEndpoint serves model versions by Open Inference Protocol V2 (HTTP, gRPC) behind one address.",
    spec=OnlineEndpointSpec,
    status=OnlineEndpointStatus,
    columns=(
        READY,
        Column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
        Column("ModelVersion", ".status.modelVersion"),
        Column("Replicas", ".status.replicas"),
        Column("URL", ".status.url"),
        Column("Warning", '.status.conditions[?(@.type=="SignatureChanged")].reason'),
        Column("Rollout", ".status.rollout.phase"),
        Column("Keys", ".status.keysSecret", priority=1),
    ),
    plan=plan,
    questions=questions,
    children=(
        DEPLOYMENT,
        POD,
        SERVICE,
        CONFIG_MAP,
        POD_DISRUPTION_BUDGET,
        NETWORK_POLICY,
        HORIZONTAL_POD_AUTOSCALER,
    ),
    related=(MODEL, MODEL_VERSION, ENVIRONMENT),
    rung_by=(MODEL, MODEL_VERSION, ENVIRONMENT),
    topics=_topics,
    names=SERVICE_NAME,
    creates=(SECRET, ENVIRONMENT),
    deletes=(DEPLOYMENT, SERVICE, CONFIG_MAP, POD_DISRUPTION_BUDGET, NETWORK_POLICY, HORIZONTAL_POD_AUTOSCALER),
    # A Gateway of the platform's users routes to endpoints: its types may not exist elsewhere.
    features={"gatewayApi": Feature((HTTP_ROUTE, GRPC_ROUTE), deletes=(GRPC_ROUTE,))},
    pods=(
        PodGroup("serving", serves=PORTS, matches=({"key": LABEL_GATEWAY_ONLY, "operator": "DoesNotExist"},)),
        # Pods that check no key, since the gateway has checked a token. Each such endpoint has a policy of its own
        # that says the same of its pods: this one outlives it, until the last pod is gone.
        PodGroup(
            "serving-guarded",
            serves=PORTS,
            serves_to={"app.kubernetes.io/name": "ultramarine", "app.kubernetes.io/component": "gateway"},
            matches=({"key": LABEL_GATEWAY_ONLY, "operator": "Exists"},),
        ),
    ),
)
