"""The bare cluster in a few words: kubectl for what people do, plain requests for looking; the CRDs as documents."""

from __future__ import annotations

import base64
import functools
import json
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import pytest
import yaml
from materials import MATERIALS
from ultramarine_cluster import build, programs
from ultramarine_cluster.cluster import Cluster
from ultramarine_contract.meta import (
    ANNOTATION_REQUESTED_BY,
    API_VERSION,
    CONFIG_MAP,
    EVENT,
    GRPC_ROUTE,
    HTTP_ROUTE,
    LEASE,
    LEASE_NAME,
    Manifest,
)
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared.testing import DIGEST as DIGEST
from ultramarine_operator.shared.testing import merged as merged

ROOT = Path(__file__).resolve().parents[2]
CRDS = sorted((ROOT / "crds").glob("*.yaml"))
POLICIES = ("requester", "admission", "deletion")
DRY = ("-f", "-", "--dry-run=server", "-o", "yaml")
T = TypeVar("T")


@functools.cache
def documents() -> dict[str, Manifest]:
    """The CRDs by kind."""
    read = [yaml.load(path.read_text(), Loader=yaml.CSafeLoader) for path in CRDS]
    return {crd["spec"]["names"]["kind"]: crd for crd in read}


def schema_of(crd: Manifest) -> Manifest:
    """The schema of a CRD's one version."""
    whole: Manifest = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return whole


def free_lease(namespace: str) -> Manifest:
    """The operator's Lease as the chart makes it: nobody has held it, so the first replica need not wait."""
    name = {"name": LEASE_NAME, "namespace": namespace}
    return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": name}


# A namespace that an installation watches has it, made by the chart.
PLATFORM = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ultramarine-platform"}, "data": {}}


def whole(kind: str, patch: Manifest | None = None) -> Manifest:
    """An object of a kind with every field of its spec, and with a patch laid over it."""
    manifest: Manifest = merged({"apiVersion": API_VERSION, "kind": kind, **MATERIALS[kind].whole}, patch or {})
    return manifest


# By the names that kubectl takes.
RESOURCES = {kind.short: kind.resource for kind in KINDS}
RESOURCES |= {
    word: resource
    for kind in KINDS
    for resource in (kind.resource, *kind.children, *kind.creates, CONFIG_MAP, EVENT)
    for word in (resource.plural, resource.kind, resource.kind.lower())
}
RESOURCES |= {"cm": CONFIG_MAP}
RESOURCES |= {resource.plural: resource for resource in (HTTP_ROUTE, GRPC_ROUTE)}  # where their CRDs are installed


class Refused(Exception):
    """The API server said no; its words are the message."""


@dataclass(frozen=True)
class Api:
    """One namespace."""

    cluster: Cluster
    http: httpx.Client
    namespace: str

    def run(self, *argv: str, input: str | None = None) -> str:
        """Run kubectl, and give what it printed."""
        # The cache of one's home may have the types of a former server at the same port.
        cache = f"--cache-dir={self.cluster.kubeconfig.parent / 'kubectl'}"
        try:
            return self.cluster.run(cache, "--namespace", self.namespace, *argv, input=input)
        except subprocess.CalledProcessError as error:
            raise Refused(error.stderr) from None

    def apply(self, *manifests: Manifest, dry: bool = False) -> None:
        """`kubectl apply`, as people do it; with `dry` the server judges and keeps nothing."""
        texts = [json.dumps(manifest) for manifest in manifests]
        # Client-side apply keeps a copy in an annotation, which has no room for more.
        how = ["--server-side"] if max(map(len, texts)) > 250_000 else []
        self.run("apply", "-f", "-", *how, *(["--dry-run=server"] if dry else []), input="\n---\n".join(texts))

    def refusal(self, *manifests: Manifest) -> str:
        """Return kubectl's message for manifests that must be refused."""
        with pytest.raises(Refused) as caught:
            self.apply(*manifests, dry=True)
        return str(caught.value)

    def verdict(self, manifest: Manifest) -> str:
        """Return the API server's message for a manifest without storing it; empty if it is valid.

        `kubectl apply` shows the same words, at fifty times the cost. What exists already is exchanged.
        """
        resource, name = RESOURCES[manifest["kind"]], manifest["metadata"]["name"]
        how = {"dryRun": "All", "fieldValidation": "Strict"}
        answer = self.http.get(resource.path(self.namespace, quote(name, safe="")))
        if answer.is_success:
            meta = manifest["metadata"] | {"resourceVersion": answer.json()["metadata"]["resourceVersion"]}
            path = resource.path(self.namespace, name)
            answer = self.http.put(path, params=how, json={**manifest, "metadata": meta})
        else:
            answer = self.http.post(resource.path(self.namespace), params=how, json=manifest)
        return "" if answer.is_success else str(answer.json()["message"])

    def get(self, kind: str, name: str) -> Manifest:
        """One object; Refused where it is not there."""
        return self._ask("GET", RESOURCES[kind].path(self.namespace, name))

    def all(self, *kinds: str) -> list[Manifest]:
        """All objects of these kinds."""
        found = []
        for resource in (RESOURCES[kind] for kind in kinds):
            for item in self._ask("GET", resource.path(self.namespace))["items"]:
                # The items of a list come without the two.
                found.append({**item, "apiVersion": resource.api_version, "kind": resource.kind})
        return found

    def status(self, kind: str, name: str, status: Manifest) -> None:
        """Write into a status, as a controller or a kubelet does."""
        path = RESOURCES[kind].path(self.namespace, name, "status")
        self._ask("PATCH", path, json={"status": status}, headers={"Content-Type": "application/merge-patch+json"})

    def _ask(self, method: str, path: str, **more: Any) -> Manifest:
        answer = self.http.request(method, path, **more)
        document: Manifest = answer.json()
        if answer.is_error:
            raise Refused(document.get("message"))
        return document


def policies(namespace: str = "default", *settings: str) -> str:
    """The chart's admission policies, as a release in that namespace installs them for the whole cluster.

    `settings` are Helm's own: KEY=VALUE for --set-json.
    """
    build.ensure(("helm",))
    chart = ROOT / "charts" / "ultramarine"
    words = [str(programs.path("helm")), "template", "ultramarine", str(chart), "--namespace", namespace]
    words += [word for setting in settings for word in ("--set-json", setting)]
    words += ["--values", str(chart / "ci" / "images-values.yaml")]
    words += ["--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"]
    words += [word for name in POLICIES for word in ("--show-only", f"templates/{name}.yaml")]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def install(cluster: Cluster) -> None:
    """Our types with their admission policies, and the operator's Lease in the namespace default."""
    # kubectl looks at the API server's own description of itself, which may come after it says that it is ready.
    eventually("it describes itself", lambda: "apiextensions.k8s.io/v1" in cluster.run("get", "--raw", "/openapi/v3"))
    # Client-side apply on purpose: a CRD that outgrows its annotation could not be installed by hand.
    cluster.run("apply", *(word for path in CRDS for word in ("-f", str(path))))
    cluster.run("wait", "--for=condition=Established", "crd", "--all", "--timeout=180s")
    # A fresh API server makes its own namespaces a moment after it answers.
    eventually("the namespace default is there", lambda: "default" in cluster.run("get", "namespaces", "-o", "name"))
    cluster.run("create", "-f", "-", input=json.dumps(free_lease("default")))
    cluster.run("apply", "-f", "-", input=policies())
    eventually("the policies are in force", lambda: _are_in_force(cluster))


def _are_in_force(cluster: Cluster) -> bool:
    """True if both have come from the API server's watch to its admission, which takes them up one by one."""
    lost = whole("TrainingJob", {"spec": {"args": ["$(inputs.nosuch)"]}})
    named = False
    try:
        named = ANNOTATION_REQUESTED_BY in cluster.run("create", *DRY, input=json.dumps(whole("Sweep")))
        cluster.run("create", *DRY, input=json.dumps(lost))
    except subprocess.CalledProcessError as error:
        return "names no input" in error.stderr and named
    return False


def access(cluster: Cluster) -> tuple[str, ssl.SSLContext]:
    """The API server's address, and what makes us the administrator of the kubeconfig before it."""
    return access_by(cluster.kubeconfig)


def access_by(kubeconfig: Path) -> tuple[str, ssl.SSLContext]:
    """The address and the credentials of a kubeconfig."""
    config = yaml.safe_load(kubeconfig.read_text())
    whole, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    with tempfile.TemporaryDirectory() as folder:
        files = {"ca": whole["certificate-authority-data"]}
        files |= {"cert": user["client-certificate-data"], "key": user["client-key-data"]}
        for name, data in files.items():
            (Path(folder) / name).write_bytes(base64.b64decode(data))
        context = ssl.create_default_context(cafile=f"{folder}/ca")
        context.load_cert_chain(f"{folder}/cert", f"{folder}/key")
    return whole["server"], context


@contextmanager
def requests_to(cluster: Cluster) -> Iterator[httpx.Client]:
    """A client for plain requests, as the administrator of the kubeconfig."""
    url, context = access(cluster)
    with httpx.Client(base_url=url, verify=context, timeout=60) as client:
        yield client


def audit_events(log: Path, user: str) -> Iterator[Manifest]:
    """The requests of a user in an audit log and in what was rotated away from it.

    The last line is left out while the API server is writing it.
    """
    for path in sorted(log.parent.glob(f"{log.stem}*{log.suffix}")):
        for line in path.read_bytes().rpartition(b"\n")[0].splitlines():
            if user.encode() in line and (event := json.loads(line))["user"]["username"] == user:
                yield event


def eventually(what: str, look: Callable[[], T], seconds: float = 60.0) -> T:
    """Look until `look` gives something true, and return that; fail with `what` was waited for."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:.0f} s in vain: {what}; last seen: {found!r}")
        time.sleep(0.1)
