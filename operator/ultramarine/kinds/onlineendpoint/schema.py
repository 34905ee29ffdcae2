"""OnlineEndpoint: models behind one address."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from ...shared.schema import DnsName, Resources, Schema, Status, rule, rules, says

MODEL_REFERENCE = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?@([a-z]([-a-z0-9]*[a-z0-9])?|[1-9][0-9]*)$"


class SecretRef(Schema):
    """A Secret in the same namespace."""

    name: str = Field(min_length=1, max_length=253, description="Its name.")


class EndpointDeployment(Schema):
    """One model version with the pods that serve it."""

    name: DnsName = Field(description="Its name within the endpoint, such as blue.")
    model: Annotated[str, Field(pattern=MODEL_REFERENCE, max_length=100)] = Field(
        description="MODEL@VERSION, MODEL@ALIAS, or MODEL@latest for the newest ready version. "
        "When an alias moves, the pods are replaced without a failed request.",
        json_schema_extra=says("must be MODEL@VERSION, MODEL@ALIAS or MODEL@latest, such as churn@3"),
    )
    replicas: int = Field(default=1, ge=0, le=1000, description="How many pods serve it.")
    resources: Resources = Field(default=Resources(), description="What each pod reserves and may use.")


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
                "self.authMode == 'key' || !has(self.keysSecretRef)",
                "keysSecretRef is used with authMode: key only; remove one of the two",
            ),
        )
    )

    auth_mode: Literal["key", "none"] = Field(
        default="key", description="key: requests carry one of the endpoint's two keys; none: everybody may ask."
    )
    keys_secret_ref: SecretRef | None = Field(
        default=None,
        description="A Secret with the keys `primary` and `secondary`; without it ENDPOINT-keys is generated.",
    )
    traffic: dict[str, Annotated[int, Field(ge=0, le=100)]] | None = Field(
        default=None,
        max_length=8,
        description="Percent of the requests for each deployment: one has 100, the others 0 or no entry.",
        json_schema_extra=rules(
            rule("self.all(key, self[key] == 0 || self[key] == 100)", "one deployment must have 100 and all others 0"),
            rule("self.exists_one(key, self[key] == 100)", "traffic must sum to 100: give it to one deployment"),
        ),
    )
    deployments: list[EndpointDeployment] = Field(
        min_length=1,
        max_length=8,
        description="What can answer.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    @property
    def live(self) -> str:
        """The deployment that shall answer."""
        chosen = [name for name, percent in (self.traffic or {}).items() if percent == 100]
        return chosen[0] if chosen else self.deployments[0].name


class DeploymentStatus(Schema):
    """How one deployment is."""

    name: str = Field(max_length=63, description="Its name.")
    model_version: str = Field(default="", max_length=253, description="The ModelVersion that its pods shall serve.")
    ready_replicas: int = Field(default=0, ge=0, description="How many pods take requests.")
    state: str = Field(default="", max_length=32, description="Ready, Updating, Waiting, Failing or Stopped.")
    message: str = Field(default="", max_length=4096, description="What it waits for, or what is wrong.")


class OnlineEndpointStatus(Status):
    """Whether the endpoint answers, where and with what."""

    url: str = Field(default="", max_length=512, description="Where it answers inside the cluster.")
    keys_secret: str = Field(default="", max_length=253, description="The Secret with its keys.")
    traffic: dict[str, int] = Field(default={}, max_length=8, description="Who answers now, in percent.")
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
