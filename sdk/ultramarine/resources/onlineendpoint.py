"""OnlineEndpoint: models behind one address."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator

from .base import (
    DEFAULTS_UNWRITTEN,
    SAYS_NAME,
    SUBDOMAIN,
    DnsName,
    Resources,
    Schema,
    Status,
    Uri,
    UsageStatus,
    rule,
    rules,
    says,
)
from .model import LATEST
from .onlineendpoint_access import Tls, Token
from .onlineendpoint_rollout import Rollout, RolloutStatus
from .onlineendpoint_signature import SignaturesStatus

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
        description="Its name.",
        json_schema_extra=SAYS_NAME,
    )


Percent = Annotated[int, Field(ge=0, le=100)]


class RequestSettings(Schema):
    """What a pod takes at once, and how long a request may take. A request too many gets 503 with Retry-After."""

    timeout_seconds: float = Field(
        default=60, ge=1, le=3600, description="The time for one answer; a request that takes longer gets 504."
    )
    max_concurrent_requests: int = Field(
        default=0, ge=0, le=10_000, description="How many requests a pod answers at once; 0: any number."
    )
    max_queue_milliseconds: int = Field(
        default=500, ge=0, le=600_000, description="How long a request waits for its turn before it is refused."
    )


class Batching(Schema):
    """Requests that come together are computed together."""

    max_batch_size: int = Field(default=1, ge=1, le=4096, description="Rows at most; 1: each request by itself.")
    max_latency_milliseconds: int = Field(
        default=0, ge=0, le=10_000, description="How long a request waits for others at most."
    )


class Warmup(Schema):
    """A request that a pod answers to itself before it takes others."""

    request: str = Field(
        min_length=2,
        max_length=8192,
        description="The body of an inference request of the Open Inference Protocol V2, as JSON.",
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
    """A sample of requests and answers is kept in the object storage."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            # No minimum of the schema: the API server rounds that to whole numbers before it compares one with it.
            rule(
                "self.samplingRate > 0.0", "samplingRate must be larger than 0; without dataCollector nothing is kept"
            ),
            rule("self.uri.endsWith('/')", "uri must name a folder: end it with a slash"),
            rule("size(self.uri) <= 800", "uri may have 800 characters: the names of what is kept are put behind it"),
        )
    )

    sampling_rate: float = Field(
        ge=0, le=1, description="The share of the requests that is kept, drawn for each by itself; 1: all."
    )
    format: Literal["parquet"] = Field(default="parquet", description="How they are written.")
    uri: Uri = Field(
        description="The folder below which they are written, as ENDPOINT/DEPLOYMENT/YYYY/MM/DD/HH/POD-NUMBER.parquet. "
        "The namespace's storage keys must open it: in the embedded storage s3://BUCKET/NAMESPACE/."
    )
    redact: list[Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        default=[],
        max_length=64,
        description="Names of inputs, outputs and features whose values are left out; they never leave the server.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class Autoscale(Schema):
    """How many pods serve a deployment, by what is asked of it: more at once, fewer after a while."""

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
            rule("self.metric != 'cpu' || self.target <= 100", "with metric: cpu the target is percent, 100 at most"),
        )
    )

    min_replicas: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Minimum number of pods. With 0 none runs without traffic, and the next request waits for one.",
    )
    max_replicas: int = Field(ge=1, le=1000, description="How many pods at most.")
    metric: Literal["cpu", "concurrency", "requestRate"] = Field(
        description="What is measured. cpu: what the pods use of the CPU that they reserve, by a "
        "HorizontalPodAutoscaler; concurrency: requests in flight; requestRate: requests a second. "
        "The last two need the gateway."
    )
    target: int = Field(
        ge=1,
        le=100_000,
        description="How much of it is right for one pod: percent (cpu), requests in flight, or requests a second.",
    )
    scale_down_after_seconds: int = Field(
        default=300, ge=0, le=3600, description="For how long fewer must have been enough before there are fewer."
    )


LabelValue = Annotated[str, Field(max_length=63)]


class PoolSelector(Schema):
    """Which Models of the namespace."""

    match_labels: dict[str, LabelValue] = Field(
        min_length=1,
        max_length=8,
        description="The labels that a Model must have, all of them.",
        json_schema_extra=rules(
            rule(
                "self.all(key, key.matches('^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$') && size(key) <= 317)",
                "each key must be a label's, such as tier or example.com/tier",
            )
        ),
    )


class Pool(Schema):
    """Many small models in the same pods, each loaded when it is first asked, by its name in the path."""

    selector: PoolSelector = Field(
        description="Which Models of the namespace; new ones are taken up without a restart."
    )
    alias: str = Field(
        default=LATEST,
        pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
        max_length=40,
        description="The alias whose version of each Model is served; latest: the newest ready version.",
        json_schema_extra=says("must be a lower-case name, such as champion"),
    )
    max_loaded_mebibytes: int = Field(
        default=256,
        ge=16,
        le=1_048_576,
        description="The memory that the loaded models of a pod may take together, and their files on its disk as much "
        "again; the least recently asked ones make room. The limit of the pod's memory must leave 300 MiB beside it.",
    )


class EndpointDeployment(Schema):
    """One model version, or a pool of models, with the pods that serve it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.model) != has(self.pool)", "a deployment serves either a model or a pool; give one of them"),
            rule("!(has(self.pool) && has(self.warmup))", "a pool has many models, which no one warmup request fits"),
            rule(
                "!has(self.autoscale) || self.autoscale.metric != 'cpu' || (has(self.resources)"
                " && ((has(self.resources.requests) && 'cpu' in self.resources.requests)"
                " || (has(self.resources.limits) && 'cpu' in self.resources.limits)))",
                "metric: cpu is a part of the CPU that a pod reserves; set resources.requests.cpu",
            ),
        )
    )

    name: DnsName = Field(description="Its name within the endpoint, such as blue.")
    pool: Pool | None = Field(default=None, description="The Models that it serves, where these are many.")
    model: ModelReference | None = Field(
        default=None,
        description="MODEL@VERSION, MODEL@ALIAS, or MODEL@latest for the newest ready version. "
        "When an alias moves, the pods are replaced without a failed request.",
    )
    replicas: int = Field(
        default=1, ge=0, le=1000, description="How many pods serve it; with autoscale this is not looked at."
    )
    autoscale: Autoscale | None = Field(default=None, description="Have its load decide how many pods serve it.")
    resources: Resources = Field(default=Resources(), description="What each pod reserves and may use.")
    request_settings: RequestSettings | None = Field(
        default=None, description="Bounds on the requests; without it those that stand as defaults below."
    )
    batching: Batching | None = Field(
        default=None, description="Whether requests are computed together; without it they are not."
    )
    warmup: Warmup | None = Field(default=None, description="A request that makes the model ready for others.")


class OnlineEndpointSpec(Schema):
    """Who may ask, and which deployments answer."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.traffic) || size(self.deployments) == 1",
                "with several deployments, traffic must say which of them answers, such as {blue: 100}",
            ),
            rule(
                "!has(self.traffic) || self.traffic.all(key, self.deployments.exists(d, d.name == key))",
                "traffic names a deployment that spec.deployments does not have",
            ),
            rule(
                "!has(self.mirrorTraffic) || self.mirrorTraffic.all(key, self.deployments.exists(d, d.name == key))",
                "mirrorTraffic names a deployment that spec.deployments does not have",
            ),
            rule(
                "!has(self.mirrorTraffic) || self.mirrorTraffic.all(key, self.mirrorTraffic[key] == 0"
                " || (has(self.traffic) && !(key in self.traffic && self.traffic[key] > 0)))",
                "mirrorTraffic names a deployment that answers requests itself; mirror to one whose traffic is 0",
            ),
            rule(
                "!has(self.rollout) || self.deployments.exists(d, d.name == self.rollout.candidate)",
                "rollout.candidate names a deployment that spec.deployments does not have",
            ),
            rule(
                "!has(self.rollout) || (has(self.traffic)"
                " && !(self.rollout.candidate in self.traffic && self.traffic[self.rollout.candidate] > 0))",
                "rollout.candidate answers requests already: remove rollout, or give traffic to another deployment",
            ),
            rule(
                "!has(self.rollout) || !has(self.mirrorTraffic) || !(self.rollout.candidate in self.mirrorTraffic"
                " && self.mirrorTraffic[self.rollout.candidate] > 0)",
                "mirrorTraffic names rollout.candidate, which would be judged by copies too; mirror to another one",
            ),
            rule(
                "!has(self.rollout) || self.deployments.all(d, d.name != self.rollout.candidate || !has(d.pool))",
                "rollout.candidate must be a deployment of one model; a pool cannot be rolled out step by step",
            ),
            rule(
                "!has(self.rollout) || !has(self.rollout.gates) || !has(self.rollout.gates.agreement)"
                " || self.deployments.all(d, !has(d.pool))",
                "rollout.gates.agreement compares answers of one model, not of a pool; remove it, "
                "or put the pool into its own endpoint",
            ),
            rule(
                "!has(self.dataCollector) || self.deployments.all(d, !has(d.pool))",
                "dataCollector does not keep requests of a pool yet; remove it, or put the pool into its own endpoint",
            ),
            rule(
                "self.authMode == 'key' || !has(self.keysSecretRef)",
                "keysSecretRef is used with authMode: key only; remove one of the two",
            ),
            rule(
                "self.authMode != 'token' || has(self.token)",
                "authMode: token needs token, which says whose tokens open the endpoint",
            ),
            rule(
                "self.authMode == 'token' || !has(self.token)",
                "token is used with authMode: token only; remove one of the two",
            ),
        )
    )

    auth_mode: Literal["key", "token", "none"] = Field(
        default="key",
        description="key: requests carry one of the endpoint's two keys; token: a JWT of the issuer in token, which "
        "needs the gateway; none: everybody may ask.",
    )
    keys_secret_ref: SecretRef | None = Field(
        default=None,
        description="A Secret with the keys `primary` and `secondary`; without it ENDPOINT-keys is generated.",
    )
    token: Token | None = Field(default=None, description="Whose tokens open the endpoint, with authMode: token.")
    tls: Tls | None = Field(
        default=None, description="The endpoint answers by https, with the certificate of a Secret; needs the gateway."
    )
    traffic: dict[str, Percent] | None = Field(
        default=None,
        max_length=8,
        description="Percent of the requests for each deployment; they sum to 100. One without an entry has 0, and can "
        "be asked with the header x-ultramarine-deployment: NAME. A split needs the gateway.",
        json_schema_extra=rules(
            rule("self.map(key, self[key]).sum() == 100", "traffic must sum to 100: it is percent of all requests")
        ),
    )
    mirror_traffic: dict[str, Percent] | None = Field(
        default=None,
        max_length=8,
        description="Percent of the requests of which a deployment gets a copy; its answers go to nobody. It needs the "
        "gateway, and a deployment whose traffic is 0.",
    )
    rollout: Rollout | None = Field(
        default=None,
        description="A deployment that takes over from those of traffic step by step, and goes back where it is worse. "
        "It needs the gateway.",
    )
    data_collector: DataCollector | None = Field(
        default=None, description="Keep a sample of requests and answers; without it none is kept."
    )
    deployments: list[EndpointDeployment] = Field(
        min_length=1,
        max_length=8,
        description="What can answer.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            **DEFAULTS_UNWRITTEN,
        },
    )

    @property
    def shares(self) -> dict[str, int]:
        """Who shall answer, in percent; nobody has 0."""
        chosen = {name: percent for name, percent in sorted((self.traffic or {}).items()) if percent}
        return chosen or {self.deployments[0].name: 100}

    @property
    def mirrors(self) -> dict[str, int]:
        """Who shall get copies of requests, in percent; nobody has 0."""
        return {name: percent for name, percent in sorted((self.mirror_traffic or {}).items()) if percent}


class AutoscaleStatus(Schema):
    """What the operator has decided by the gateway's figures, and remembers for the next decision."""

    replicas: int = Field(default=0, ge=0, description="How many pods there shall be.")
    since: str = Field(
        json_schema_extra={"format": "date-time"}, description="When it began to note how many pods are needed."
    )
    most: int = Field(default=0, ge=0, description="How many pods were needed at most since then.")


class DeploymentStatus(Schema):
    """How one deployment is."""

    name: str = Field(max_length=63, description="Its name.")
    model_version: str = Field(
        default="", max_length=253, description="The ModelVersion that its pods shall serve; nothing for a pool."
    )
    ready_replicas: int = Field(default=0, ge=0, description="How many pods take requests.")
    state: str = Field(default="", max_length=32, description="Ready, Updating, Waiting, Failing or Stopped.")
    message: str = Field(default="", max_length=4096, description="What it waits for, or what is wrong.")
    autoscale: AutoscaleStatus | None = Field(
        default=None, description="What its requests call for; not with metric: cpu, where the autoscaler says it."
    )


class OnlineEndpointStatus(Status):
    """Whether the endpoint answers, where and with what."""

    url: str = Field(
        default="", max_length=512, description="Where it answers: inside the cluster, or by a Gateway of yours."
    )
    keys_secret: str = Field(default="", max_length=253, description="The Secret with its keys.")
    traffic: dict[str, int] = Field(
        default={}, max_length=16, description="Who answers now, in percent, as every gateway pod has confirmed it."
    )
    rollout: RolloutStatus | None = Field(default=None, description="Where the rollout stands.")
    signatures: SignaturesStatus | None = Field(default=None, description="What the versions take that it serves.")
    gateway_port: int = Field(default=0, ge=0, le=65535, description="The port of its own that it has at the gateway.")
    model_version: str = Field(default="", max_length=253, description="The ModelVersion that answers now.")
    replicas: str = Field(
        default="", max_length=32, description="Ready and wanted pods of all deployments, for people."
    )
    deployments: list[DeploymentStatus] = Field(
        default=[],
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        description="Each deployment.",
    )
    usage: UsageStatus | None = Field(default=None, description="Resources used, for the latest days too.")
