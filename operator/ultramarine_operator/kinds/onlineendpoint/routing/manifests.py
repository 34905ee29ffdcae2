"""Objects that lead requests to pods: Services, routes of the gateway, and the network policy of its pods."""

from __future__ import annotations

from msgspec import structs
from ultramarine.resources.onlineendpoint_deployment import EndpointDeployment, RequestSettings
from ultramarine_contract.meta import LABEL_NAME, Manifest, child_metadata, content_hash
from ultramarine_contract.routes import (
    GATEWAY_PODS,
    LABEL_ROUTES,
    PROTOCOLS,
    ROUTES_ENTRY,
    EndpointRoutes,
    RouteAuth,
    RouteDeployment,
    RouteTokens,
)

from ..endpoint import (
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

# Each endpoint has its own port at the gateway of its namespace, below the ephemeral ports.
FIRST_PORT, PORTS = 10_000, 19_997  # a prime number of ports, so that any stride visits all of them
MAX_SERVICE_NAME = 63
HTTPS = "https"  # the name of a Service's port
# The server's own timeout answer, which names the cause, comes before the gateway's.
MARGIN_SECONDS = 1.0


def first_port(endpoint: Endpoint) -> int:
    """Return the port that an endpoint tries first: the same in every pass, and rarely that of another endpoint."""
    return FIRST_PORT + int(_hash(endpoint)[:8], 16) % PORTS


def next_port(endpoint: Endpoint, port: int) -> int:
    """Return the port to try after one that is taken; two endpoints that collided differ in their strides."""
    return FIRST_PORT + (port - FIRST_PORT + 1 + int(_hash(endpoint)[8:16], 16) % (PORTS - 1)) % PORTS


def _hash(endpoint: Endpoint) -> str:
    return content_hash([endpoint.namespace, endpoint.name])


def is_port(port: object) -> bool:
    """True if an endpoint may have that port at the gateway."""
    return isinstance(port, int) and FIRST_PORT <= port < FIRST_PORT + PORTS


def service(endpoint: Endpoint, deployment: str, *, secure: bool = False) -> Manifest:
    """Return the endpoint's Service without a gateway, which selects the pods of one deployment."""
    ports = _ports(PORT, GRPC_PORT, secure=secure)
    return _service(endpoint, endpoint.name, {"selector": selector(endpoint, deployment), "ports": ports})


def gateway_service(endpoint: Endpoint, port: int, *, secure: bool = False) -> Manifest:
    """Return the endpoint's Service in front of the gateway's pods; `port` serves HTTP and gRPC."""
    ports = _ports(port, port, secure=secure)
    return _service(endpoint, endpoint.name, {"selector": dict(GATEWAY_PODS), "ports": ports})


def _ports(http: int, grpc: int, *, secure: bool) -> list[Manifest]:
    if secure:
        by_tls = {"name": "grpc", "port": GRPC_PORT, "targetPort": grpc, "appProtocol": "https"}
        return [{"name": HTTPS, "port": 443, "targetPort": http, "appProtocol": "https"}, by_tls]
    return [{"name": "http", "port": 80, "targetPort": http}, _grpc(grpc)]


def is_secure(service: Manifest | None) -> bool:
    """True if a live Service is for TLS."""
    ports = ((service or {}).get("spec") or {}).get("ports") or []
    return any(port.get("name") == HTTPS for port in ports)


def service_target(service: Manifest | None) -> str | int | None:
    """Return the deployment or the gateway's port to which a live Service sends requests; None if it is neither."""
    spec = (service or {}).get("spec") or {}
    selected = spec.get("selector") or {}
    if selected == GATEWAY_PODS:
        ports = {port.get("targetPort") for port in spec.get("ports") or []}
        port = ports.pop() if len(ports) == 1 else None
        return port if isinstance(port, int) else None
    return str(selected.get(LABEL_DEPLOYMENT) or "") or None


def pods_service_name(endpoint: Endpoint, deployment: str) -> str:
    """Return the name of the Service by which the gateway finds a deployment's pods."""
    name = f"{endpoint.name}-{deployment}-pods"
    return (
        name
        if len(name) <= MAX_SERVICE_NAME
        else f"{name[: MAX_SERVICE_NAME - 9].rstrip('-')}-{content_hash(name)[:8]}"
    )


def pods_service(endpoint: Endpoint, route: RouteDeployment) -> Manifest:
    """Return a headless Service that lists a deployment's pods for the gateway."""
    # The port of a container goes by its name, since pods of an earlier spec may listen at another number.
    http, grpc = ("http", "grpc") if route.own else (PORT, GRPC_PORT)
    by_protocol = {"http": {"name": "http", "port": PORT, "targetPort": http}, "grpc": _grpc(grpc)}
    ports = [port for protocol, port in by_protocol.items() if protocol in route.protocols or not route.own]
    spec = {"clusterIP": "None", "selector": selector(endpoint, route.name), "ports": ports}
    return _service(endpoint, pods_service_name(endpoint, route.name), spec)


def _grpc(target: int | str) -> Manifest:
    return {"name": "grpc", "port": GRPC_PORT, "targetPort": target, "appProtocol": "kubernetes.io/h2c"}


def _service(endpoint: Endpoint, name: str, spec: Manifest) -> Manifest:
    metadata = child_metadata(endpoint.manifest, name)
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def route_deployment(
    endpoint: Endpoint, deployment: EndpointDeployment, weight: int, mirror: int, compare: int = 0, *, tls: bool = False
) -> RouteDeployment:
    """Return the gateway's route to a deployment of the spec."""
    settings = deployment.request_settings or RequestSettings()
    route = RouteDeployment(
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
    if deployment.container is None:
        return route
    ports = deployment.container.ports.model_dump(exclude_none=True)
    protocols = tuple(protocol for protocol in PROTOCOLS if protocol in ports)
    v2 = deployment.container.api == "v2"
    timeout = settings.timeout_seconds
    return structs.replace(route, timeout_seconds=timeout, protocols=protocols, tls=False, own=True, v2=v2)


def endpoint_routes(
    endpoint: Endpoint, port: int, deployments: tuple[RouteDeployment, ...], auth: RouteAuth
) -> EndpointRoutes:
    """Return the gateway's routes of the endpoint."""
    certificate = endpoint.spec.tls.secret_name if endpoint.spec.tls else ""
    tokens = _tokens(endpoint)
    return EndpointRoutes(
        endpoint.name, endpoint.namespace, port, deployments, auth, tls_secret=certificate, tokens=tokens
    )


def _tokens(endpoint: Endpoint) -> RouteTokens:
    """Return whose tokens the gateway counts, and the limit of each key."""
    spec = endpoint.spec
    names = tuple(d.name for d in spec.deployments if d.container is not None and d.container.api == "openai")
    return RouteTokens(names, spec.token_limits.tokens_per_minute if names and spec.token_limits else 0)


def routes_name(endpoint: Endpoint) -> str:
    """Return the name of the ConfigMap with the endpoint's routes."""
    return f"{endpoint.name}-routes"


def routes_config_map(endpoint: Endpoint, routes: EndpointRoutes) -> Manifest:
    """Return the ConfigMap from which the gateway reads the routes."""
    metadata = child_metadata(endpoint.manifest, routes_name(endpoint))
    metadata["labels"] = {**metadata["labels"], LABEL_ROUTES: endpoint.name}
    data = {ROUTES_ENTRY: routes.to_json()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def routes_in(config_map: Manifest | None) -> EndpointRoutes | None:
    """Read the routes in a live ConfigMap; None if it has none that can be read."""
    try:
        return EndpointRoutes.from_json((config_map or {})["data"][ROUTES_ENTRY])
    except (KeyError, TypeError, ValueError):
        return None


def reweighed(deployment: RouteDeployment, weight: int) -> RouteDeployment:
    """Return the route of a deployment that left the spec, with another weight and without copies of requests."""
    return structs.replace(deployment, weight=weight, mirror_percent=0, compare_percent=0)


def policy_name(endpoint: Endpoint) -> str:
    """Return the name of the NetworkPolicy of pods that answer the gateway alone."""
    return f"{endpoint.name}-gateway-only"


def network_policy(endpoint: Endpoint, *, containers: bool = False) -> Manifest:
    """Return the policy that lets only the gateway reach pods that leave keys or tokens to it.

    With `containers` it is for any port: those of a container may differ in the pods of an earlier spec.
    """
    ports = [{"port": port, "protocol": "TCP"} for port in (PORT, GRPC_PORT)]
    by_port = {} if containers else {"ports": ports}
    # By a label, so that older pods, which check keys, stay reachable.
    selected = {LABEL_NAME: endpoint.name, LABEL_GATEWAY_ONLY: "true"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": child_metadata(endpoint.manifest, policy_name(endpoint)),
        "spec": {
            "podSelector": {"matchLabels": selected},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": dict(GATEWAY_PODS)}}], **by_port}],
        },
    }


def route_auth(endpoint: Endpoint) -> RouteAuth:
    """Return how the gateway authenticates requests."""
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


def gateway_features(endpoint: Endpoint) -> str:
    """Name the fields of the spec that only a gateway can fulfil; empty if it has none."""
    spec = endpoint.spec
    has_container = any(deployment.container is not None for deployment in spec.deployments)
    features = (
        ("authMode: token", spec.auth_mode == "token"),
        ("tls", spec.tls is not None),
        ("a container", has_container),
    )
    return " and ".join(name for name, is_set in features if is_set)
