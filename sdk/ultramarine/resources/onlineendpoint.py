"""OnlineEndpoint: models that answer requests at one address."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator

from .base import (
    DEFAULTS_UNWRITTEN,
    SAYS_NAME,
    SUBDOMAIN,
    DnsName,
    EnvVar,
    Resources,
    Schema,
    Status,
    Uri,
    UsageStatus,
    rule,
    rules,
    says,
)
from .environment import EnvironmentReference
from .model import LATEST
from .onlineendpoint_access import Tls, Token
from .onlineendpoint_container import Container, Scoring, TokenLimits
from .onlineendpoint_rollout import Rollout, RolloutStatus
from .onlineendpoint_signature import SignaturesStatus
from .pods import EnvFromSource, PodTemplate

MODEL_REFERENCE = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?@([a-z]([-a-z0-9]*[a-z0-9])?|[1-9][0-9]*)$"

ModelReference = Annotated[
    str,
    Field(
        pattern=MODEL_REFERENCE,
        max_length=100,
        json_schema_extra=says("must be MODEL@VERSION, MODEL@ALIAS or MODEL@latest, such as churn@3"),
    ),
]


class SecretRef(Schema):
    """A Secret in the same namespace."""

    name: str = Field(
        min_length=1,
        pattern=f"^{SUBDOMAIN}$",
        max_length=253,
        description="Name of the Secret.",
        json_schema_extra=SAYS_NAME,
    )


Percent = Annotated[int, Field(ge=0, le=100)]


class RequestSettings(Schema):
    """Limits and timeouts of a pod's requests. A pod answers 503 with Retry-After to a request beyond its limits."""

    timeout_seconds: float = Field(
        default=60,
        ge=1,
        le=3600,
        description="Maximum time to answer a request, in seconds; then the client gets 504. For a container: maximum "
        "time without data, while an answer may take any time.",
    )
    max_concurrent_requests: int = Field(
        default=0, ge=0, le=10_000, description="Maximum number of requests that a pod answers at once; 0: no limit."
    )
    max_queue_milliseconds: int = Field(
        default=500,
        ge=0,
        le=600_000,
        description="Maximum time that a request waits in the queue, in milliseconds; then it is refused.",
    )


class Batching(Schema):
    """Computation of several requests in one batch."""

    max_batch_size: int = Field(default=1, ge=1, le=4096, description="Rows at most; 1: each request by itself.")
    max_latency_milliseconds: int = Field(
        default=0, ge=0, le=10_000, description="Maximum time that a request waits for others, in milliseconds."
    )


class Warmup(Schema):
    """Request that a pod answers to itself before it becomes ready."""

    request: str = Field(
        min_length=2,
        max_length=8192,
        description="Body of an inference request of the Open Inference Protocol V2, as JSON.",
    )

    @field_validator("request")
    @classmethod
    def _is_json(cls, text: str) -> str:
        try:
            is_object = isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise ValueError('must be a JSON object, such as {"inputs": [...]}')
        return text


class DataCollector(Schema):
    """Collection of a sample of requests and answers in the object storage."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            # Not a minimum of the schema: the API server rounds a minimum to a whole number.
            rule(
                "self.samplingRate > 0.0",
                "samplingRate must be larger than 0; leave dataCollector out to collect nothing",
            ),
            rule("self.uri.endsWith('/')", "uri must name a folder; end it with a slash"),
            rule(
                "size(self.uri) <= 800",
                "uri has more than 800 characters; choose a shorter folder, since names of files are appended to it",
            ),
        )
    )

    sampling_rate: float = Field(ge=0, le=1, description="Share of requests to collect, sampled independently; 1: all.")
    format: Literal["parquet"] = Field(default="parquet", description="Format of the collected files.")
    uri: Uri = Field(
        description="Folder of the collected files, named ENDPOINT/DEPLOYMENT/YYYY/MM/DD/HH/POD-NUMBER.parquet. The "
        "namespace's storage keys must grant access; in the embedded storage choose a folder of "
        "s3://BUCKET/NAMESPACE/."
    )
    redact: list[Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        default=[],
        max_length=64,
        description="Names of inputs, outputs and features whose values are left out; these values never leave the "
        "server.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class Autoscale(Schema):
    """Autoscaling of a deployment by its load."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
                "minReplicas must not be larger than maxReplicas",
            ),
            rule(
                "self.metric != 'cpu' || !has(self.minReplicas) || self.minReplicas >= 1",
                "metric: cpu needs minReplicas of at least 1",
            ),
            rule(
                "self.metric != 'cpu' || self.target <= 100",
                "the target of metric: cpu is a percentage; set it to 100 at most",
            ),
        )
    )

    min_replicas: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Minimum number of pods. With 0 the deployment scales to zero without traffic, and the next "
        "request waits for a pod.",
    )
    max_replicas: int = Field(ge=1, le=1000, description="Maximum number of pods.")
    metric: Literal["cpu", "concurrency", "requestRate"] = Field(
        description="Measure of load. cpu: CPU use in percent of the reserved CPU, by a HorizontalPodAutoscaler. "
        "concurrency: requests in flight. requestRate: requests per second. concurrency and requestRate "
        "need the gateway."
    )
    target: int = Field(
        ge=1,
        le=100_000,
        description="Target load of one pod: percent (cpu), requests in flight (concurrency), or requests per second"
        " (requestRate).",
    )
    scale_down_after_seconds: int = Field(
        default=300,
        ge=0,
        le=3600,
        description="Time for which fewer pods must have been enough before pods are removed, in seconds.",
    )


LabelValue = Annotated[str, Field(max_length=63)]


class PoolSelector(Schema):
    """Selection of Models of the namespace."""

    match_labels: dict[str, LabelValue] = Field(
        min_length=1,
        max_length=8,
        description="Labels that a Model must have, all of them.",
        json_schema_extra=rules(
            rule(
                "self.all(key, key.matches('^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$') && size(key) <= 317)",
                "each key must be a label key, such as tier or example.com/tier",
            )
        ),
    )


class Pool(Schema):
    """Pool of many small models in the same pods. A pod loads a model at the first request for it, by its path."""

    selector: PoolSelector = Field(
        description="Selection of Models of the namespace. New Models are added without a restart."
    )
    alias: str = Field(
        default=LATEST,
        pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
        max_length=40,
        description="Alias whose version of each Model is served; latest: the newest ready version.",
        json_schema_extra=says("must be a lower-case name, such as champion"),
    )
    max_loaded_mebibytes: int = Field(
        default=256,
        ge=16,
        le=1_048_576,
        description="Memory limit of a pod's loaded models together, in MiB; their files on disk have the same "
        "limit. The least recently used models are unloaded. The pod's memory limit must leave another "
        "300 MiB.",
    )


class EndpointDeployment(Schema):
    """One model version, or a pool of models, with the pods that serve it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.container) ? !has(self.pool) : has(self.model) != has(self.pool)",
                "a deployment serves a model, a pool or a container; give one of them (a container may have a model)",
            ),
            rule(
                "!has(self.container) || !(has(self.scoring) || has(self.environment) || has(self.warmup)"
                " || has(self.batching))",
                "scoring, environment, warmup and batching are of the platform's server, which a container replaces;"
                " leave them out",
            ),
            rule(
                "!has(self.container) || !has(self.requestSettings)"
                " || !((has(self.requestSettings.maxConcurrentRequests)"
                " && self.requestSettings.maxConcurrentRequests > 0)"
                " || has(self.requestSettings.maxQueueMilliseconds))",
                "a container limits its requests by itself; leave requestSettings.maxConcurrentRequests and"
                " maxQueueMilliseconds out",
            ),
            rule(
                "!has(self.pool) || !(has(self.scoring) || has(self.environment))",
                "a pool's models share one server without code of their own; leave scoring and environment out",
            ),
            rule(
                "!has(self.environment) || !has(self.environment.requirementsFile) || has(self.scoring)",
                "environment.requirementsFile is a file of scoring.source; set scoring, or give requirements",
            ),
            rule(
                "!has(self.scoring) || !has(self.env) || !self.env.exists(variable, variable.name in"
                " ['AZUREML_MODEL_DIR', 'AML_APP_ROOT', 'AZUREML_ENTRY_SCRIPT'])",
                "env: AZUREML_MODEL_DIR, AML_APP_ROOT and AZUREML_ENTRY_SCRIPT are set by the server for a scoring"
                " script; leave them out",
            ),
            rule(
                "!has(self.container) || !has(self.container.writable) || !has(self.podTemplate)"
                " || !has(self.podTemplate.volumes)"
                " || !self.podTemplate.volumes.exists(volume, volume.mountPath in self.container.writable)",
                "a folder of container.writable is the mountPath of a volume; leave it out of writable",
            ),
            rule(
                "!(has(self.pool) && has(self.warmup))",
                "a pool has many models, which no single warmup request fits; leave warmup out",
            ),
            rule(
                "!has(self.autoscale) || self.autoscale.metric != 'cpu' || (has(self.resources)"
                " && ((has(self.resources.requests) && 'cpu' in self.resources.requests)"
                " || (has(self.resources.limits) && 'cpu' in self.resources.limits)))",
                "metric: cpu needs reserved CPU; set resources.requests.cpu",
            ),
        )
    )

    name: DnsName = Field(description="Name of the deployment within the endpoint, such as blue.")
    pool: Pool | None = Field(
        default=None, description="Pool of Models that the deployment serves, instead of one model."
    )
    model: ModelReference | None = Field(
        default=None,
        description="Model to serve: MODEL@VERSION, MODEL@ALIAS, or MODEL@latest for the newest ready version. When "
        "an alias moves, pods are replaced without a failed request.",
    )
    replicas: int = Field(default=1, ge=0, le=1000, description="Number of pods; ignored with autoscale.")
    autoscale: Autoscale | None = Field(default=None, description="Autoscaling. Default: the fixed number of replicas.")
    resources: Resources = Field(default=Resources(), description="Resources of each pod.")
    request_settings: RequestSettings | None = Field(default=None, description="Limits and timeouts of requests.")
    batching: Batching | None = Field(
        default=None, description="Batching of requests. Default: each request by itself."
    )
    warmup: Warmup | None = Field(
        default=None, description="Request that warms the model up before the pod becomes ready."
    )
    environment: EnvironmentReference | None = Field(
        default=None, description="Python packages for scoring, and for models of the formats that run code."
    )
    scoring: Scoring | None = Field(
        default=None, description="Scoring script that answers requests with the model, instead of the platform's code."
    )
    container: Container | None = Field(
        default=None, description="Container that answers all requests, instead of the platform's server."
    )
    env: list[EnvVar] = Field(
        default=[],
        max_length=128,
        description="Environment variables of the server.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    env_from: list[EnvFromSource] = Field(
        default=[], max_length=32, description="Additional environment variables; env takes precedence."
    )
    pod_template: PodTemplate = Field(
        default=PodTemplate(), description="Scheduling, identity and volumes of the pods."
    )


class OnlineEndpointSpec(Schema):
    """Authentication, traffic and deployments of an endpoint."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.traffic) || size(self.deployments) == 1",
                "several deployments need traffic; set it, such as {blue: 100}",
            ),
            rule(
                "!has(self.traffic) || self.traffic.all(key, self.deployments.exists(d, d.name == key))",
                "traffic names a deployment that spec.deployments does not have; correct the name or add the "
                "deployment",
            ),
            rule(
                "!has(self.mirrorTraffic) || self.mirrorTraffic.all(key, self.deployments.exists(d, d.name == key))",
                "mirrorTraffic names a deployment that spec.deployments does not have; correct the name or add "
                "the deployment",
            ),
            rule(
                "!has(self.mirrorTraffic) || self.mirrorTraffic.all(key, self.mirrorTraffic[key] == 0"
                " || (has(self.traffic) && !(key in self.traffic && self.traffic[key] > 0)))",
                "mirrorTraffic names a deployment that answers requests itself; mirror to a deployment whose "
                "traffic is 0",
            ),
            rule(
                "!has(self.rollout) || self.deployments.exists(d, d.name == self.rollout.candidate)",
                "rollout.candidate names a deployment that spec.deployments does not have; correct the name or "
                "add the deployment",
            ),
            rule(
                "!has(self.rollout) || (has(self.traffic)"
                " && !(self.rollout.candidate in self.traffic && self.traffic[self.rollout.candidate] > 0))",
                "rollout.candidate answers requests already; remove rollout, or give its traffic to another deployment",
            ),
            rule(
                "!has(self.rollout) || !has(self.mirrorTraffic) || !(self.rollout.candidate in self.mirrorTraffic"
                " && self.mirrorTraffic[self.rollout.candidate] > 0)",
                "mirrorTraffic names rollout.candidate, and the copies would distort the gates; mirror to "
                "another deployment",
            ),
            rule(
                "!has(self.rollout) || self.deployments.all(d, d.name != self.rollout.candidate || !has(d.pool))",
                "rollout.candidate must be a deployment of one model, not of a pool; choose another candidate",
            ),
            rule(
                "!has(self.rollout) || !has(self.rollout.gates) || !has(self.rollout.gates.agreement)"
                " || self.deployments.all(d, !has(d.pool))",
                "rollout.gates.agreement compares answers of one model, not of a pool; remove it, or put the "
                "pool into its own endpoint",
            ),
            rule(
                "!has(self.dataCollector) || self.deployments.all(d, !has(d.pool))",
                "dataCollector does not collect requests of a pool; remove it, or put the pool into its own endpoint",
            ),
            rule(
                "!has(self.dataCollector) || self.deployments.all(d, !has(d.container) || has(d.container.ports.http))",
                "dataCollector collects no gRPC of a container; set container.ports.http, or remove dataCollector",
            ),
            rule(
                "!has(self.rollout) || !has(self.rollout.gates) || !has(self.rollout.gates.agreement)"
                " || self.deployments.all(d, !has(d.container))",
                "rollout.gates.agreement does not compare answers of a container; remove it, or put the container into "
                "its own endpoint",
            ),
            rule(
                "!has(self.tokenLimits) || self.deployments.exists(d, has(d.container) && has(d.container.api)"
                " && d.container.api == 'openai')",
                "tokenLimits needs a deployment whose tokens are counted; set container.api: openai",
            ),
            rule(
                "self.authMode == 'key' || !has(self.keysSecretRef)",
                "keysSecretRef needs authMode: key; remove one of the two",
            ),
            rule(
                "self.authMode != 'token' || has(self.token)",
                "authMode: token needs token; set token with the issuer, audiences and keys",
            ),
            rule(
                "self.authMode == 'token' || !has(self.token)",
                "token needs authMode: token; remove one of the two",
            ),
        )
    )

    auth_mode: Literal["key", "token", "none"] = Field(
        default="key",
        description="Authentication of requests. key: one of the endpoint's two keys. token: a JWT of the issuer in "
        "token, which needs the gateway. none: no authentication.",
    )
    keys_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the keys `primary` and `secondary`. Default: the operator generates ENDPOINT-keys.",
    )
    token: Token | None = Field(
        default=None, description="Issuer, audiences and keys of accepted JWTs; only with authMode: token."
    )
    tls: Tls | None = Field(
        default=None,
        description="TLS: the endpoint answers by https with the certificate of a Secret. Needs the gateway.",
    )
    token_limits: TokenLimits | None = Field(
        default=None, description="Limits of tokens of language models, for each key. Default: none."
    )
    traffic: dict[str, Percent] | None = Field(
        default=None,
        max_length=8,
        description="Percentage of requests by deployment; the sum is 100. A deployment without an entry has 0 and "
        "answers requests with the header x-ultramarine-deployment: NAME. A split needs the gateway.",
        json_schema_extra=rules(
            rule(
                "self.map(key, self[key]).sum() == 100", "traffic must sum to 100; it is the percentage of all requests"
            )
        ),
    )
    mirror_traffic: dict[str, Percent] | None = Field(
        default=None,
        max_length=8,
        description="Shadow traffic: percentage of requests whose copies go to a deployment, by deployment. Clients "
        "never get its answers. It needs the gateway, and deployments whose traffic is 0.",
    )
    rollout: Rollout | None = Field(
        default=None,
        description="Canary rollout: a candidate takes over the traffic step by step, and rolls back if it is worse."
        " It needs the gateway.",
    )
    data_collector: DataCollector | None = Field(
        default=None, description="Collection of requests and answers. Default: none."
    )
    deployments: list[EndpointDeployment] = Field(
        min_length=1,
        max_length=8,
        description="Deployments of the endpoint.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            **DEFAULTS_UNWRITTEN,
        },
    )

    @property
    def shares(self) -> dict[str, int]:
        """Percentage of requests that each deployment must answer; deployments with 0 are left out."""
        chosen = {name: percent for name, percent in sorted((self.traffic or {}).items()) if percent}
        return chosen or {self.deployments[0].name: 100}

    @property
    def mirrors(self) -> dict[str, int]:
        """Percentage of requests that each deployment must get copies of; deployments with 0 are left out."""
        return {name: percent for name, percent in sorted((self.mirror_traffic or {}).items()) if percent}


class AutoscaleStatus(Schema):
    """Latest autoscaling decision, based on the gateway's metrics, and the state that the next decision needs."""

    replicas: int = Field(default=0, ge=0, description="Desired number of pods.")
    since: str = Field(
        json_schema_extra={"format": "date-time"}, description="Start of the observation that `most` describes."
    )
    most: int = Field(default=0, ge=0, description="Maximum number of pods needed since then.")


class DeploymentStatus(Schema):
    """Status of one deployment."""

    name: str = Field(max_length=63, description="Name of the deployment.")
    model_version: str = Field(
        default="", max_length=253, description="ModelVersion that the pods must serve; empty for a pool."
    )
    environment: str = Field(default="", max_length=253, description="Environment of the pods; empty without one.")
    ready_replicas: int = Field(default=0, ge=0, description="Number of pods that accept requests.")
    state: str = Field(
        default="", max_length=32, description="Summary, for display: Ready, Updating, Waiting, Failing or Stopped."
    )
    message: str = Field(
        default="", max_length=4096, description="Cause of the state: what the deployment waits for, or what is wrong."
    )
    autoscale: AutoscaleStatus | None = Field(
        default=None,
        description="Autoscaling decision; absent with metric: cpu, which the HorizontalPodAutoscaler decides.",
    )


class OnlineEndpointStatus(Status):
    """Address, traffic and deployments of an endpoint."""

    url: str = Field(
        default="",
        max_length=512,
        description="Address of the endpoint: inside the cluster, or at a Gateway of the Gateway API.",
    )
    keys_secret: str = Field(default="", max_length=253, description="Secret with the endpoint's keys.")
    traffic: dict[str, int] = Field(
        default={},
        max_length=16,
        description="Percentage of requests by deployment that all gateway pods have confirmed.",
    )
    rollout: RolloutStatus | None = Field(default=None, description="Progress of the rollout.")
    signatures: SignaturesStatus | None = Field(
        default=None, description="Inputs of the versions that the endpoint serves."
    )
    gateway_port: int = Field(default=0, ge=0, le=65535, description="Port of the endpoint at the gateway.")
    model_version: str = Field(default="", max_length=253, description="ModelVersion that answers now.")
    replicas: str = Field(
        default="", max_length=32, description="Ready and desired pods of all deployments, for display."
    )
    deployments: list[DeploymentStatus] = Field(
        default=[],
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        description="Status of each deployment.",
    )
    leaving_environments: list[Annotated[str, Field(max_length=253)]] = Field(
        default=[],
        max_length=64,
        description="Environments of deployments that left the spec and still have pods.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    usage: UsageStatus | None = Field(default=None, description="Resources used, in total and on the latest days.")
