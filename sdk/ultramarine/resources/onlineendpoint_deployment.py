"""Deployments of an OnlineEndpoint: what their pods serve, and how many of them run; spec and status."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator

from .base import (
    DnsName,
    EnvVar,
    Resources,
    Schema,
    rule,
    rules,
    says,
)
from .environment import EnvironmentReference
from .model import LATEST
from .onlineendpoint_container import Container, Scoring
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
    next_environment: str = Field(
        default="", max_length=253, description="Environment of the pods that will follow, if it is another one."
    )
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
