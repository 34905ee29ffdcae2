"""OnlineEndpoint: models behind one address."""

from __future__ import annotations

from dataclasses import replace

from ultramarine.resources.onlineendpoint import OnlineEndpointSpec, OnlineEndpointStatus
from ultramarine_contract.meta import (
    CONFIG_MAP,
    DEPLOYMENT,
    GRPC_ROUTE,
    HORIZONTAL_POD_AUTOSCALER,
    HTTP_ROUTE,
    MAX_NAME,
    MODEL,
    MODEL_VERSION,
    NETWORK_POLICY,
    ONLINE_ENDPOINT,
    POD,
    POD_DISRUPTION_BUDGET,
    SECRET,
    SERVICE,
    Manifest,
)

from ...shared.plan import ANY, Column, Kind
from .plan import plan, questions


def _models(endpoint: Manifest) -> frozenset[str]:
    """The Models that its deployments serve; a pool may serve any."""
    deployments = endpoint["spec"].get("deployments") or []
    named = {str(d.get("model", "")).partition("@")[0] for d in deployments if not d.get("pool")}
    return frozenset(named | {ANY} if any(d.get("pool") for d in deployments) else named)


KIND = Kind(
    resource=ONLINE_ENDPOINT,
    short="oe",
    description="OnlineEndpoint serves model versions by Open Inference Protocol V2 (HTTP, gRPC) behind one address.",
    spec=OnlineEndpointSpec,
    status=OnlineEndpointStatus,
    columns=(
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        Column("ModelVersion", ".status.modelVersion"),
        Column("Replicas", ".status.replicas"),
        Column("URL", ".status.url"),
        Column("Warning", '.status.conditions[?(@.type=="SignatureChanged")].reason'),
        Column("Age", ".metadata.creationTimestamp", "date"),
        Column("Rollout", ".status.rollout.phase", priority=1),
        Column("Keys", ".status.keysSecret", priority=1),
        Column("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1),
        Column("Failure", '.status.conditions[?(@.type=="Stalled")].message', priority=1),
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
    related=(MODEL, MODEL_VERSION),
    rung_by=(MODEL, MODEL_VERSION),
    topics=_models,
    rules=(
        (f"size(self.metadata.name) <= {MAX_NAME}", f"metadata.name must have at most {MAX_NAME} characters"),
        (
            "!self.metadata.name.contains('.') && self.metadata.name.matches('^[a-z]')",
            "metadata.name must start with a letter and must not contain a dot: it becomes a Service's name",
        ),
    ),
    creates=(SECRET,),
    deletes=(DEPLOYMENT, SERVICE, POD_DISRUPTION_BUDGET, NETWORK_POLICY, HORIZONTAL_POD_AUTOSCALER),
)

# Where routes are written for Gateways of the people's own: elsewhere there may be no such types to watch.
GATEWAY_API_KIND = replace(KIND, children=(*KIND.children, HTTP_ROUTE, GRPC_ROUTE), deletes=(*KIND.deletes, GRPC_ROUTE))
