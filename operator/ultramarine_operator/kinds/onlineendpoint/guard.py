"""Who may ask at the gateway, and what keeps others from going around it. No I/O here."""

from __future__ import annotations

from ultramarine_contract.meta import LABEL_NAME, Manifest, child_metadata
from ultramarine_contract.routes import GATEWAY_PODS, RouteAuth

from .manifests import GRPC_PORT, LABEL_GATEWAY_ONLY, PORT, Endpoint, keys_secret, proof_secret


def policy_name(endpoint: Endpoint) -> str:
    """The name of the NetworkPolicy of an endpoint whose pods answer the gateway alone."""
    return f"{endpoint.name}-gateway-only"


def network_policy(endpoint: Endpoint) -> Manifest:
    """Let the pods that leave tokens to the gateway be reached by it alone."""
    ports = [{"port": port, "protocol": "TCP"} for port in (PORT, GRPC_PORT)]
    # By their label, so that pods which check keys, as those from before, can be reached as ever.
    chosen = {LABEL_NAME: endpoint.name, LABEL_GATEWAY_ONLY: "true"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": child_metadata(endpoint.manifest, policy_name(endpoint)),
        "spec": {
            "podSelector": {"matchLabels": chosen},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": dict(GATEWAY_PODS)}}], "ports": ports}],
        },
    }


def route_auth(endpoint: Endpoint) -> RouteAuth:
    """Whom the gateway lets in."""
    token = endpoint.spec.token
    if endpoint.spec.auth_mode == "token" and token is not None:
        return RouteAuth(
            mode="token",
            issuer=token.issuer,
            audiences=tuple(token.audiences),
            jwks=token.jwks or "",
            jwks_uri=token.jwks_uri or "",
            proof_secret=proof_secret(endpoint),
        )
    return RouteAuth(mode=endpoint.spec.auth_mode, keys_secret=keys_secret(endpoint))


def gateways_work(endpoint: Endpoint) -> str:
    """What of the spec nobody but a gateway can do, in words; nothing where pods can do it all."""
    spec = endpoint.spec
    asked = (("authMode: token", spec.auth_mode == "token"), ("tls", spec.tls is not None))
    return " and ".join(words for words, wanted in asked if wanted)
