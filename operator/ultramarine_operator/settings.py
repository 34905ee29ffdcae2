"""Settings of the operator: one YAML file, which the chart makes of its values; one section a feature."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from ultramarine_contract.common import ENV_STORAGE_CA
from ultramarine_contract.quantities import amount

from .shared import plan

DEFAULT_FILE = Path("/etc/ultramarine/settings/settings.yaml")


class _Section(BaseModel):
    """Base of sections: camelCase as in the chart's values; a field without a meaning is an error."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, strict=True)


def _host_and_port(text: str) -> str:
    if text and not text.rpartition(":")[2].isdigit():
        raise ValueError(f"must be HOST:PORT, not {text!r}")
    return text


def _url_of_endpoints(text: str) -> str:
    if not all(part in text for part in ("://", "{endpoint}", "{namespace}")):
        raise ValueError(f"must be a URL such as https://{{endpoint}}.{{namespace}}.ml.example.com, not {text!r}")
    return text


class Images(_Section):
    """Images of pods that the operator makes."""

    trainer: str = Field(min_length=1)
    server: str = Field(min_length=1)
    pull_policy: str = "IfNotPresent"
    pull_secrets: list[str] = []


class Storage(_Section):
    """Object storage; an empty endpoint is that of AWS."""

    bucket: str = Field(min_length=1)
    secret_name: str = Field(min_length=1)
    endpoint: str = ""
    region: str = ""
    confined: bool = False  # a namespace's keys open BUCKET/NAMESPACE/ and BUCKET/shared/ alone


class Records(_Section):
    """Records of lineage and audit in the object storage."""

    enabled: bool = False


class Pods(_Section):
    """Placement of pods, and the default limit of their ephemeral storage."""

    ephemeral_storage: str = ""
    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []

    @property
    def placement(self) -> dict[str, Any]:
        """Fields of a pod."""
        return self.model_dump(by_alias=True, include={"node_selector", "tolerations"}, exclude_defaults=True)


class Outside(_Section):
    """Variables for programs that connect to addresses outside the cluster, and the volume source of authorities."""

    env: list[dict[str, Any]] = []
    ca: dict[str, Any] = {}


def _size(text: str) -> str:
    amount(text or "0")
    return text


class Environments(_Section):
    """Builds of environments."""

    index_url: str = ""  # empty: PyPI
    extra_index_urls: list[str] = []
    secret_name: str = ""
    ca: dict[str, Any] = {}
    authorities: str = ""  # path of a file; empty: those of `ca`
    unused_days: int = Field(default=14, ge=0)
    max_size: Annotated[str, AfterValidator(_size)] = ""
    resources: dict[str, Any] = {}

    @property
    def value(self) -> plan.Builds:
        """The same as plans take it."""
        return plan.Builds(
            self.index_url,
            tuple(self.extra_index_urls),
            self.secret_name,
            self.ca,
            self.unused_days,
            int(amount(self.max_size or "0")),
            self.resources,
            _text(self.authorities),
        )


def _text(path: str) -> str:
    """Return the content of a file; empty if its ConfigMap does not exist, which the builds then report."""
    try:
        return Path(path).read_text() if path else ""
    except FileNotFoundError:
        return ""


class Progress(_Section):
    """Reports of running pods."""

    url: str = ""  # empty: pods do not report


class Mlflow(_Section):
    """Tracking server of MLflow."""

    uri: str = ""
    secret_name: str = ""


class Gateway(_Section):
    """Gateways of namespaces, at HOST:PORT with {namespace} in the host."""

    address: Annotated[str, AfterValidator(_host_and_port)] = ""
    namespaces: list[str] = []


class ParentRef(_Section):
    """A Gateway of Gateway API."""

    name: str
    namespace: str = ""
    section_name: str = ""
    port: int = 0


class GatewayApi(_Section):
    """Gateways of Gateway API, to which routes to endpoints are attached."""

    parent_refs: list[ParentRef] = Field(min_length=1)
    url: Annotated[str, AfterValidator(_url_of_endpoints)]
    grpc: bool = True

    @property
    def value(self) -> plan.GatewayApi:
        """The same as plans take it."""
        refs = tuple(plan.ParentRef(**ref.model_dump()) for ref in self.parent_refs)
        return plan.GatewayApi(refs, self.url, self.grpc)


class Settings(_Section):
    """All settings of one replica."""

    namespaces: list[str] = []  # ["*"]: the whole cluster; empty: the operator's own
    port: int = 8080  # of probes, metrics and reports
    tls: bool = False  # between the parts of the platform
    requester: bool = False  # the API server records the user who creates an object
    images: Images
    storage: Storage
    training: Pods = Pods()
    serving: Pods = Pods()
    outside: Outside = Outside()
    environments: Environments = Environments()
    records: Records = Records()
    progress: Progress = Progress()
    mlflow: Mlflow = Mlflow()
    gateway: Gateway = Gateway()
    gateway_api: GatewayApi | None = None

    @property
    def clusterwide(self) -> bool:
        return self.namespaces == ["*"]

    def platform(self, own_namespace: str) -> plan.Platform:
        """Return what plans need of the settings."""
        gateways = self.gateway_api
        return plan.Platform(
            trainer_image=self.images.trainer,
            server_image=self.images.server,
            storage_endpoint=self.storage.endpoint,
            storage_region=self.storage.region,
            storage_bucket=self.storage.bucket,
            storage_secret=self.storage.secret_name,
            image_pull_policy=self.images.pull_policy,
            image_pull_secrets=tuple(self.images.pull_secrets),
            training_disk=self.training.ephemeral_storage,
            serving_disk=self.serving.ephemeral_storage,
            storage_confined=self.storage.confined,
            knows_requester=self.requester,
            username=f"system:serviceaccount:{own_namespace}:ultramarine-operator",
            progress_url=self.progress.url.rstrip("/"),
            mlflow_uri=self.mlflow.uri.rstrip("/"),
            mlflow_secret=self.mlflow.secret_name,
            gateway=self.gateway.address,
            gateway_namespaces=frozenset(self.gateway.namespaces),
            tls=self.tls,
            pods=plan.MadePods(
                self.training.placement, self.serving.placement, tuple(self.outside.env), self.outside.ca
            ),
            environments=self.environments.value,
            gateway_api=gateways.value if gateways else None,
        )


def identity() -> str:
    """Return the name of this replica, which the Lease shows: that of its pod."""
    return os.environ.get("HOSTNAME") or socket.gethostname()


def ignored(environment: Mapping[str, str]) -> list[str]:
    """Return the variables by which older releases configured the operator, and which have no effect any more."""
    return sorted(name for name in environment if name.startswith("ULTRAMARINE_") and name != ENV_STORAGE_CA)


def read(path: Path = DEFAULT_FILE) -> Settings:
    """Read the settings. Raises ValueError that names the file, the field and the fault."""
    try:
        return parse(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the settings in {path}: {error}. The Helm chart writes this file.") from error


def parse(text: str) -> Settings:
    """Read the settings from YAML. Raises ValueError that names the field and the fault."""
    try:
        settings = Settings.model_validate(yaml.safe_load(text) or {})
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    if "*" in settings.namespaces and not settings.clusterwide:
        raise ValueError(f'namespaces: must be ["*"] or names, not {settings.namespaces}')
    return settings
