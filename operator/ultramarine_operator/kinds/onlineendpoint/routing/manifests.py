"""How requests come to the pods of an OnlineEndpoint: its Service and, with a gateway, what the gateway goes by."""

from __future__ import annotations

from dataclasses import replace

from ultramarine.resources.onlineendpoint import EndpointDeployment, RequestSettings
from ultramarine_contract.meta import LABEL_NAME, Manifest, child_metadata, content_hash
from ultramarine_contract.routes import (
    GATEWAY_PODS,
    LABEL_ROUTES,
    ROUTES_ENTRY,
    EndpointRoutes,
    RouteAuth,
    RouteDeployment,
)

from ..deployment.manifests import (
    GRPC_PORT,
    LABEL_DEPLOYMENT,
    LABEL_GATEWAY_ONLY,
    PORT,
    Endpoint,
    keys_secret,
    may_sleep,
    proof_secret,
    selector,
)

# Each endpoint has a port of its own at the gateway of its namespace, below those from which connections go out.
FIRST_PORT, PORTS = 10_000, 19_997  # a prime number, so that any stride comes to all of them
LONGEST = 63  # characters of a Service's name
HTTPS = "https"  # the name of a Service's port
# So that the server's own answer, which says what is wrong, comes before the gateway's.
MARGIN_SECONDS = 1.0


def first_port(endpoint: Endpoint) -> int:
    """The port that an endpoint tries first: the same one in every pass, and mostly another one than others'."""
    return FIRST_PORT + int(_hash(endpoint)[:8], 16) % PORTS


def next_port(endpoint: Endpoint, port: int) -> int:
    """The port that is tried after one that another endpoint has: two that once met go different ways."""
    return FIRST_PORT + (port - FIRST_PORT + 1 + int(_hash(endpoint)[8:16], 16) % (PORTS - 1)) % PORTS


def _hash(endpoint: Endpoint) -> str:
    return content_hash([endpoint.namespace, endpoint.name])


def is_port(port: object) -> bool:
    """Whether an endpoint may have that port at the gateway."""
    return isinstance(port, int) and FIRST_PORT <= port < FIRST_PORT + PORTS


def service(endpoint: Endpoint, deployment: str, *, secure: bool = False) -> Manifest:
    """The endpoint's address where there is no gateway: in front of one deployment's pods."""
    ports = _ports(PORT, GRPC_PORT, secure=secure)
    return _service(endpoint, endpoint.name, {"selector": selector(endpoint, deployment), "ports": ports})


def gateway_service(endpoint: Endpoint, port: int, *, secure: bool = False) -> Manifest:
    """The endpoint's address in front of the gateway's pods, all of which know it by `port`; gRPC comes there too."""
    ports = _ports(port, port, secure=secure)
    return _service(endpoint, endpoint.name, {"selector": dict(GATEWAY_PODS), "ports": ports})


def _ports(http: int, grpc: int, *, secure: bool) -> list[Manifest]:
    if secure:
        by_tls = {"name": "grpc", "port": GRPC_PORT, "targetPort": grpc, "appProtocol": "https"}
        return [{"name": HTTPS, "port": 443, "targetPort": http, "appProtocol": "https"}, by_tls]
    return [{"name": "http", "port": 80, "targetPort": http}, _grpc(grpc)]


def is_secure(service: Manifest | None) -> bool:
    """Whether a Service, as seen, is one for TLS."""
    ports = ((service or {}).get("spec") or {}).get("ports") or []
    return any(port.get("name") == HTTPS for port in ports)


def turned_to(service: Manifest | None) -> str | int | None:
    """Where a Service, as seen, sends requests: to the pods of a deployment, to a port of the gateway, or elsewhere."""
    spec = (service or {}).get("spec") or {}
    chosen = spec.get("selector") or {}
    if chosen == GATEWAY_PODS:
        ports = {port.get("targetPort") for port in spec.get("ports") or []}
        port = ports.pop() if len(ports) == 1 else None
        return port if isinstance(port, int) else None
    return str(chosen.get(LABEL_DEPLOYMENT) or "") or None


def pods_service_name(endpoint: Endpoint, deployment: str) -> str:
    """The name of the Service by which the gateway finds a deployment's pods; no endpoint's own, as it ends."""
    name = f"{endpoint.name}-{deployment}-pods"
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 9].rstrip('-')}-{content_hash(name)[:8]}"


def pods_service(endpoint: Endpoint, deployment: str) -> Manifest:
    """A Service that only lists a deployment's pods: the gateway sends requests to them itself."""
    ports = [{"name": "http", "port": PORT, "targetPort": PORT}, _grpc(GRPC_PORT)]
    name = pods_service_name(endpoint, deployment)
    return _service(endpoint, name, {"clusterIP": "None", "selector": selector(endpoint, deployment), "ports": ports})


def _grpc(target: int) -> Manifest:
    return {"name": "grpc", "port": GRPC_PORT, "targetPort": target, "appProtocol": "kubernetes.io/h2c"}


def _service(endpoint: Endpoint, name: str, spec: Manifest) -> Manifest:
    metadata = child_metadata(endpoint.manifest, name)
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def route_deployment(
    endpoint: Endpoint, deployment: EndpointDeployment, weight: int, mirror: int, compare: int = 0, *, tls: bool = False
) -> RouteDeployment:
    """How the gateway routes to a deployment of the spec."""
    settings = deployment.request_settings or RequestSettings()
    return RouteDeployment(
        name=deployment.name,
        service=pods_service_name(endpoint, deployment.name),
        weight=weight,
        mirror_percent=mirror,
        timeout_seconds=settings.timeout_seconds + settings.max_queue_milliseconds / 1000 + MARGIN_SECONDS,
        protocols=("http", "grpc"),
        hold=may_sleep(deployment),
        compare_percent=compare,
        tls=tls,
    )


def endpoint_routes(
    endpoint: Endpoint, port: int, deployments: tuple[RouteDeployment, ...], auth: RouteAuth
) -> EndpointRoutes:
    """What the gateway shall do with the endpoint's requests."""
    certificate = endpoint.spec.tls.secret_name if endpoint.spec.tls else ""
    return EndpointRoutes(endpoint.name, endpoint.namespace, port, deployments, auth, tls_secret=certificate)


def routes_name(endpoint: Endpoint) -> str:
    """The name of the ConfigMap with the endpoint's routes."""
    return f"{endpoint.name}-routes"


def routes_config_map(endpoint: Endpoint, routes: EndpointRoutes) -> Manifest:
    """The routes as the gateway reads them."""
    metadata = child_metadata(endpoint.manifest, routes_name(endpoint))
    metadata["labels"] = {**metadata["labels"], LABEL_ROUTES: endpoint.name}
    data = {ROUTES_ENTRY: routes.to_json()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def routes_in(config_map: Manifest | None) -> EndpointRoutes | None:
    """The routes in a ConfigMap as seen, or nothing where it says none that can be read."""
    try:
        return EndpointRoutes.from_json((config_map or {})["data"][ROUTES_ENTRY])
    except (KeyError, TypeError, ValueError):
        return None


def reweighed(deployment: RouteDeployment, weight: int) -> RouteDeployment:
    """A deployment that the spec no longer has, with another share, and without copies of requests."""
    return replace(deployment, weight=weight, mirror_percent=0, compare_percent=0)


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
