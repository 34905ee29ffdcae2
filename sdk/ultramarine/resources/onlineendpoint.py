"""OnlineEndpoint: models that answer requests at one address."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from .base import (
    DEFAULTS_UNWRITTEN,
    SAYS_NAME,
    SUBDOMAIN,
    Schema,
    Status,
    Uri,
    UsageStatus,
    rule,
    rules,
)
from .onlineendpoint_access import Tls, Token
from .onlineendpoint_container import TokenLimits
from .onlineendpoint_deployment import DeploymentStatus, EndpointDeployment
from .onlineendpoint_rollout import Rollout, RolloutStatus
from .onlineendpoint_signature import SignaturesStatus


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
