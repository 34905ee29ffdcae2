"""The platform in one namespace: where its gateway, storage and MLflow are, and the ways to them from this machine."""

from __future__ import annotations

import base64
import re
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import CONFIG_MAP, PLATFORM_MAP, POD, SECRET, SERVICE, Manifest

from .client import Cluster
from .errors import Forbidden, NotFound
from .tunnel import Tunnel

if TYPE_CHECKING:
    from ultramarine_contract.storage import Storage

GATEWAY_SELECTOR = "app.kubernetes.io/name=ultramarine,app.kubernetes.io/component=gateway"
_IN_CLUSTER = re.compile(r"\.svc(\.[a-z0-9.-]+)?$")  # hosts that only pods resolve
_GATEWAY_PATIENCE = 20.0  # seconds for a gateway that only starts


class NoPlatform(UltramarineError):
    """The namespace does not belong to an installation of Ultramarine."""

    reason = "NoPlatform"


class NoWay(NoPlatform):
    """The storage is inside the cluster, and no pod leads there."""

    reason = "NoWay"


@dataclass(frozen=True)
class Facts:
    """Content of a namespace's ConfigMap: addresses and names, no secrets."""

    release: str
    version: str
    storage_endpoint: str
    storage_region: str
    storage_secret: str
    bucket: str
    storage_ca: str
    storage_port: int
    mlflow_port: int


class Platform:
    """The installation that serves one namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._open = ExitStack()
        self._storage_tunnel: Tunnel | None = None
        self._is_checked = False

    def close(self) -> None:
        """Close the ways that were opened."""
        self._open.close()

    @cached_property
    def facts(self) -> Facts:
        """The namespace's ConfigMap. Raises NoPlatform if the namespace has none."""
        namespace = self.cluster.namespace
        try:
            data = self.cluster.get(CONFIG_MAP, PLATFORM_MAP).get("data") or {}
        except NotFound:
            raise NoPlatform(
                f"namespace {namespace} is not one of Ultramarine's: it has no ConfigMap {PLATFORM_MAP}. Choose another"
                " with -n or ULTRAMARINE_NAMESPACE, or ask your administrator to add it to the chart's `namespaces`."
            ) from None
        return Facts(
            release=data.get("release", ""),
            version=data.get("version", ""),
            storage_endpoint=data.get("storageEndpoint", ""),
            storage_region=data.get("storageRegion", ""),
            storage_secret=data.get("storageSecret", "ultramarine-storage"),
            bucket=data.get("bucket", ""),
            storage_ca=data.get("storageCA", ""),
            storage_port=int(data.get("storagePort") or 0),
            mlflow_port=int(data.get("mlflowPort") or 0),
        )

    def check(self) -> None:
        """Raise NoPlatform if no installation watches the namespace, as far as the user may see that.

        Only a refusal is asked again, since an administrator may add the namespace meanwhile.
        """
        if not self._is_checked:
            with suppress(Forbidden):
                self.facts  # noqa: B018
            self._is_checked = True

    def gateway_pod(self) -> str:
        """Return the name of a ready gateway pod, after up to 20 s if it only starts. Raises NoPlatform without one."""
        end = time.monotonic() + _GATEWAY_PATIENCE
        while pods := self.cluster.list(POD, GATEWAY_SELECTOR):
            if pod := next(filter(_is_ready, pods), None):
                return str(pod["metadata"]["name"])
            if time.monotonic() > end:
                break
            time.sleep(0.5)
        raise NoPlatform(f"no gateway pod is ready in namespace {self.cluster.namespace}. Run `ultramarine doctor`.")

    def tunnel(self, port: int, pod: str = "", as_proxy: bool = False) -> Tunnel:
        """Open a way to a port of the gateway's pod, or of another one; it stays until the platform is closed.

        If the gateway's pod ends, new connections go to its successor.
        """
        find = None if pod else self.gateway_pod
        return self._open.enter_context(Tunnel(self.cluster, pod or self.gateway_pod(), port, as_proxy, find=find))

    @property
    def problem(self) -> UltramarineError | None:
        """Cause for which the storage was not reached, if it lies on the way through the cluster."""
        return self._storage_tunnel.problem if self._storage_tunnel else None

    @property
    def prefix(self) -> str:
        """URI of the namespace's own part of the bucket, with a slash at its end."""
        return f"s3://{self.facts.bucket}/{self.cluster.namespace}/"

    @cached_property
    def storage(self) -> Storage:
        """The object storage, by the namespace's own keys and through the gateway's pod."""
        from ultramarine_contract.storage import Keys, Storage

        facts = self.facts
        try:
            secret = self.cluster.get(SECRET, facts.storage_secret).get("data") or {}
        except (NotFound, Forbidden) as error:
            raise NoPlatform(f"the storage's keys cannot be read: {error.message}") from None
        keys = Keys(*(base64.b64decode(secret.get(name, "")).decode() for name in Keys._fields))
        if not all(keys):
            raise NoPlatform(
                f"Secret {facts.storage_secret} in namespace {self.cluster.namespace} lacks a key of the storage."
                f" Ask your administrator to add {' and '.join(Keys._fields)}."
            )
        self._storage_tunnel = self._storage_way()
        return Storage(
            facts.storage_endpoint,
            facts.storage_region,
            keys=keys,
            authority=self._authority(),
            way=self._storage_tunnel.address if self._storage_tunnel else "",
        )

    def _storage_way(self) -> Tunnel | None:
        """Open the way through a gateway's pod, or through one of the storage; None if it is reached directly."""
        address = urlsplit(self.facts.storage_endpoint)
        is_tls, host = address.scheme == "https", address.hostname or ""
        if self.facts.storage_port:
            return self.tunnel(self.facts.storage_port, as_proxy=is_tls)
        if self.cluster.access.context == "in-cluster" or not _IN_CLUSTER.search(host):
            return None
        service, namespace = host.split(".")[:2]
        port = address.port or (443 if is_tls else 80)
        try:
            return self._open.enter_context(self._service_tunnel(service, namespace, port, as_proxy=is_tls))
        except (NotFound, Forbidden) as error:
            raise NoWay(
                f"namespace {self.cluster.namespace} has no gateway that leads to the storage, and its own pods in"
                f" namespace {namespace} are closed to you: {error.message.rstrip('.')}. Ask your administrator to set"
                " gateway.enabled in the chart's values."
            ) from None

    def _service_tunnel(self, service: str, namespace: str, port: int, *, as_proxy: bool) -> Tunnel:
        """Return the way to a ready pod of a Service. Raises NotFound or Forbidden."""
        cluster = self._open.enter_context(closing(Cluster(replace(self.cluster.access, namespace=namespace))))
        spec = cluster.get(SERVICE, service)["spec"]
        target: int | str = next(
            (p.get("targetPort", p["port"]) for p in spec.get("ports") or [] if p["port"] == port), port
        )
        selector = ",".join(f"{name}={value}" for name, value in (spec.get("selector") or {}).items())

        def find() -> str:
            pods = cluster.list(POD, selector) if selector else []
            if pod := next(filter(_is_ready, pods), None):
                return str(pod["metadata"]["name"])
            raise NotFound(f"Service {namespace}/{service} has no ready pod")

        pod = find()
        for container in cluster.get(POD, pod)["spec"]["containers"]:
            for opened in container.get("ports") or []:
                if opened.get("name") == target:
                    target = opened["containerPort"]
        return Tunnel(cluster, pod, int(target), as_proxy, find=find)

    def _authority(self) -> str:
        """Return the path of a file with the storage's authority; empty for those of the system."""
        if not self.facts.storage_ca:
            return ""
        file = Path(self._open.enter_context(tempfile.TemporaryDirectory()), "ca.crt")
        file.write_text(self.facts.storage_ca)
        return str(file)


def _is_ready(pod: Manifest) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")
