"""Rules of an OnlineEndpoint's API, with examples."""

from __future__ import annotations

from typing import Any

from ultramarine_contract.meta import Manifest

from ....shared.testing import NAME_OF_40, Rule, clash, merged, named, rule

LONE: Manifest = {"mirrorTraffic": None, "rollout": None}  # without fields that name another deployment
# Without what an endpoint may have beside its deployments.
BARE: Manifest = {**LONE, "traffic": None, "dataCollector": None}
KEY_SET = '{"keys": [{"kty": "RSA", "kid": "1", "n": "AQAB", "e": "AQAB"}]}'
SMALL: Manifest = {"selector": {"matchLabels": {"tier": "small"}}}
KEPT = "s3://lake/team-a/kept/"
NO_GATE = {"errorRateIncrease": None, "clientErrorRateIncrease": None, "p99Ratio": None, "agreement": None}
SERVER: Manifest = {"image": "registry.example.com/chat:1", "ports": {"http": 8000}}
DATA: Manifest = {"volumes": [{"claimName": "data", "mountPath": "/data"}]}
A = {"name": "a", "model": "m@1"}
B = {"name": "b", "model": "m@2"}


def blue(**fields: Any) -> Manifest:
    """The spec of an endpoint with one deployment."""
    return {**BARE, "deployments": [merged(A, fields)]}


def two(second: Manifest, **spec: Any) -> Manifest:
    """The spec of an endpoint whose deployment a answers, beside another one."""
    return {**BARE, "deployments": [A, second], "traffic": {"blue": None, "green": None, "a": 100}, **spec}


def token(**fields: Any) -> Manifest:
    """An endpoint that requires tokens; a field that is None is left out."""
    whole = {"issuer": "https://id.example.com", "audiences": ["churn"], "jwks": KEY_SET, "jwksUri": None} | fields
    return {"authMode": "token", "keysSecretRef": None, "token": whole}


def scaled(**fields: Any) -> Manifest:
    """The spec of an endpoint that is scaled."""
    limits = {"minReplicas": 1, "maxReplicas": 3, "metric": "concurrency", "target": 2, **fields}
    return blue(autoscale=limits, resources={"requests": {"cpu": "100m"}})


def scaled_by_cpu(resources: Manifest | None) -> Manifest:
    """The spec of an endpoint that is scaled by the CPU that it uses, with these resources."""
    deployment = {**A, "autoscale": {"minReplicas": 1, "maxReplicas": 3, "metric": "cpu", "target": 2}}
    return {**BARE, "deployments": [deployment | ({} if resources is None else {"resources": resources})]}


def pool(**fields: Any) -> Manifest:
    """The spec of an endpoint with one deployment, a pool."""
    return blue(model=None, pool=merged(SMALL, fields))


def container(**fields: Any) -> Manifest:
    """The spec of an endpoint with one deployment, a container without a model."""
    return blue(model=None, container=merged(SERVER, fields))


def rollout(**fields: Any) -> Manifest:
    """Fields of the rollout."""
    return {"rollout": fields}


def rolled_out(**fields: Any) -> Manifest:
    """The spec of an endpoint whose deployment b is rolled out."""
    whole = {"candidate": "b", "steps": [10, 100], "stepSeconds": None, "gates": None, "onFailure": None}
    return two(B, rollout=whole | fields)


def collector(**fields: Any) -> Manifest:
    """Fields of the data collector."""
    return {"dataCollector": fields}


_NAMES = (
    named("metadata.name must have at most 40", NAME_OF_40, NAME_OF_40 + "a"),
    named("metadata.name must start with a letter", "a-b", "1a", "a.b"),
)
_TRAFFIC = (
    rule("several deployments need traffic", blue(), {"traffic": None}),
    clash(
        "traffic names a deployment that", {"traffic": {"blue": 0, "green": 100}}, {"traffic": {"red": 0, "other": 100}}
    ),
    rule(
        "traffic must sum to 100",
        {"traffic": {"blue": 50, "green": 50}},
        {"traffic": {"blue": 89, "green": 10}},
        {"traffic": {"blue": 50, "green": 51}},
        {"traffic": {"blue": 0, "green": 0}},
    ),
    clash("traffic must sum to 100", blue(), {"deployments": [A], "traffic": {"a": 99}}),
    rule(
        "mirrorTraffic names a deployment that spec", {"mirrorTraffic": {"green": 10}}, {"mirrorTraffic": {"red": 10}}
    ),
    rule(
        "mirrorTraffic names a deployment that answers",
        {"mirrorTraffic": {"green": 10, "blue": 0}},
        {"mirrorTraffic": {"blue": 10}},
    ),
    clash(
        "mirrorTraffic names a deployment that answers",
        {"mirrorTraffic": None},
        {**blue(), "mirrorTraffic": {"a": 10}},
        {**two(B), "mirrorTraffic": {"a": 10}},
    ),
    rule("spec.deployments[1]: Duplicate value", two(B), two({**B, "name": "a"})),
)
_ACCESS = (
    clash("keysSecretRef needs authMode", {"authMode": "key"}, {"authMode": "none", "keysSecretRef": {"name": "mine"}}),
    clash("keysSecretRef needs authMode", token(), {**token(), "keysSecretRef": {"name": "mine"}}),
    clash("authMode: token needs token", token(), {"authMode": "token", "token": None}),
    clash(
        "token needs authMode: token; remove", token(), {**token(), "authMode": "none"}, {**token(), "authMode": "key"}
    ),
    clash(
        "give one of jwks and jwksUri",
        token(jwks=None, jwksUri="https://id.example.com/keys"),
        token(jwks=None),
        token(jwksUri="https://id.example.com/keys"),
    ),
    rule(
        "must be a complete JSON Web Key Set",
        token(),
        *(token(jwks=part) for part in (KEY_SET[: len(KEY_SET) // 2], KEY_SET[:-1], '{"keys": []}', "keys")),
    ),
    rule(
        "must be http:// or https:// and a host name",
        token(jwks=None, jwksUri="http://id.team-a.svc:8080/.well-known/jwks.json?v=1"),
        *(
            token(jwks=None, jwksUri=uri)
            for uri in ("id.example.com/keys", "file:///etc/passwd", "https://ada:secret@example.com/", "https://a b/")
        ),
    ),
)
_SCALING = (
    clash("minReplicas must not be larger", scaled(minReplicas=3), scaled(minReplicas=4)),
    clash("metric: cpu needs minReplicas", scaled(metric="cpu"), scaled(metric="cpu", minReplicas=0)),
    clash("the target of metric: cpu", scaled(metric="cpu", target=100), scaled(metric="cpu", target=101)),
    clash(
        "metric: cpu needs reserved CPU",
        scaled_by_cpu({"limits": {"cpu": "1"}}),
        scaled_by_cpu(None),
        scaled_by_cpu({"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}}),
    ),
)
_POOLS = (
    clash(
        "a deployment serves a model, a pool or a container",
        pool(),
        blue(model=None),
        blue(pool=SMALL),
        blue(model=None, pool=SMALL, container=SERVER),
    ),
    clash("a pool has many models", pool(), blue(model=None, pool=SMALL, warmup={"request": "{}"})),
    rule(
        "each key must be a label key, such as tier",
        pool(selector={"matchLabels": {"example.com/tier": "a", "a" * 317: "a"}}),
        *(pool(selector={"matchLabels": {key: "a"}}) for key in ("-tier", "a" * 318)),
    ),
    clash(
        "rollout.candidate must be a deployment of one",
        rolled_out(),
        {**rolled_out(), "deployments": [A, {"name": "b", "pool": SMALL}]},
    ),
    clash(
        "rollout.gates.agreement compares",
        rolled_out(gates={**NO_GATE, "agreement": 0.9}),
        {**rolled_out(gates={"agreement": 0.9}), "deployments": [{"name": "a", "pool": SMALL}, B]},
    ),
    clash(
        "dataCollector does not collect requests of a pool",
        pool(),
        {**pool(), "dataCollector": {"samplingRate": 0.1, "uri": KEPT}},
    ),
)
_ROLLOUT = (
    clash(
        "steps must rise and end with 100",
        rollout(steps=[10, 50, 100]),
        *(rolled_out(steps=steps) for steps in ([50, 10, 100], [10, 10, 100], [10, 50])),
    ),
    *(
        rule(
            "give at least one of errorRateIncrease",
            rollout(gates={**NO_GATE, gate: value}),
            rollout(gates={**NO_GATE, "clientErrorRateIncrease": other}),
        )
        for gate, value, other in (
            ("errorRateIncrease", 1, None),
            ("clientErrorRateIncrease", 0.5, 1),
            ("p99Ratio", 1, None),
            ("agreement", 1, None),
        )
    ),
    clash("gates compare the candidate", rolled_out(steps=[100]), rolled_out(steps=[100], gates={"p99Ratio": 1.2})),
    clash("rollout.candidate names a deployment that", rolled_out(), rolled_out(candidate="c")),
    clash("rollout.candidate answers requests", rolled_out(), rolled_out(candidate="a")),
    rule(
        "rollout.candidate answers requests",
        {"rollout": None, "traffic": None, "mirrorTraffic": None, "deployments": [{"name": "purple", "model": "m@1"}]},
        {"traffic": None, "mirrorTraffic": None, "deployments": [{"name": "purple", "model": "m@1"}]},
    ),
    clash(
        "mirrorTraffic names rollout.candidate",
        {"mirrorTraffic": {"purple": 0}},
        {**rolled_out(), "mirrorTraffic": {"b": 10}},
    ),
)
_COLLECTOR = (
    clash(
        "samplingRate must be larger than 0",
        collector(samplingRate=0.001),
        collector(samplingRate=0, uri=KEPT),
    ),
    clash("uri must name a folder", collector(uri="s3://lake/"), collector(samplingRate=1, uri="s3://lake/kept")),
    rule(
        "uri has more than 800 characters",
        collector(uri="s3://lake/" + "a" * 789 + "/"),
        collector(uri="s3://lake/" + "a" * 790 + "/"),
    ),
)
CHAT: Manifest = {"name": "a", "container": SERVER}
_CONTAINERS = (
    clash(
        "scoring, environment, warmup and batching",
        container(),
        blue(container=SERVER, warmup={"request": "{}"}),
        blue(container=SERVER, batching={"maxBatchSize": 2}),
        blue(container=SERVER, environment={"name": "torch"}),
        blue(container=SERVER, scoring={"source": {"inline": {"score.py": "pass"}}}),
    ),
    clash("give http, grpc or both", container(ports={"http": None, "grpc": 9000}), container(ports={"http": None})),
    clash("http and grpc must differ", container(ports={"grpc": 8001}), container(ports={"grpc": 8000})),
    clash(
        "a probe with a path needs ports.http",
        container(readiness={"path": "/health"}, liveness={"path": "/health"}),
        container(ports={"http": None, "grpc": 9000}, readiness={"path": "/health"}),
        container(ports={"http": None, "grpc": 9000}, liveness={"path": "/health"}),
    ),
    clash(
        "api needs ports.http",
        container(api="openai"),
        container(ports={"http": None, "grpc": 9000}, api="openai"),
    ),
    clash(
        "tokenLimits needs a deployment",
        {**container(api="openai"), "tokenLimits": {"tokensPerMinute": 500}},
        {**container(), "tokenLimits": {"tokensPerMinute": 500}},
        {**container(api="v2"), "tokenLimits": {"tokensPerMinute": 500}},
        {**blue(), "tokenLimits": {"tokensPerMinute": 500}},
    ),
    clash(
        "a writable folder must be a whole path",
        container(writable=["/var/run", "/home/a.b"]),
        *(container(writable=[path]) for path in ("/var//run", "/var/../dev", "/var/run/")),
    ),
    clash("must be an absolute path of letters", container(writable=["/a-b"]), container(writable=["var/run"])),
    clash("/tmp is writable already", container(writable=["/tmpfiles"]), container(writable=["/tmp/a"])),
    clash(
        "/proc, /sys, /dev and /mnt/model cannot be writable",
        container(writable=["/mnt/models"]),
        *(container(writable=[path]) for path in ("/mnt/model/a", "/proc/1", "/dev")),
    ),
    clash("no container runs as root", container(user=1), container(user=0)),
    clash("ports below 1024 need root", container(ports={"http": 1024}), container(ports={"http": 80})),
    clash(
        "a folder of container.writable is the mountPath of a volume",
        blue(model=None, container={**SERVER, "writable": ["/cache"]}, podTemplate=DATA),
        blue(model=None, container={**SERVER, "writable": ["/cache", "/data"]}, podTemplate=DATA),
    ),
    clash(
        "a container limits its requests by itself",
        blue(container=SERVER, requestSettings={"timeoutSeconds": 600, "maxConcurrentRequests": 0}),
        blue(container=SERVER, requestSettings={"maxConcurrentRequests": 8}),
        blue(container=SERVER, requestSettings={"maxQueueMilliseconds": 500}),
    ),
    clash(
        "dataCollector collects no gRPC of a container",
        {**container(), "dataCollector": {"samplingRate": 0.1, "uri": KEPT}},
        {**container(ports={"http": None, "grpc": 9001}), "dataCollector": {"samplingRate": 0.1, "uri": KEPT}},
    ),
    clash(
        "rollout.gates.agreement does not compare answers of a container",
        {**rolled_out(gates={**NO_GATE, "p99Ratio": 1.5}), "deployments": [CHAT, B]},
        {**rolled_out(gates={"agreement": 0.9}), "deployments": [CHAT, B]},
    ),
)
RULES: tuple[Rule, ...] = (*_NAMES, *_TRAFFIC, *_ACCESS, *_SCALING, *_POOLS, *_CONTAINERS, *_ROLLOUT, *_COLLECTOR)
