"""The way to an endpoint: through the namespace's gateway pod, to one of its own pods, or directly inside a cluster."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import urllib3
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import GROUP, LABEL_KIND, LABEL_NAME, POD, Manifest

from ..kube.errors import Forbidden
from ..kube.tunnel import Tunnel
from . import trust

if TYPE_CHECKING:
    from ..client import Client

Note = Callable[[str], None]
PIN_HEADER = "x-ultramarine-deployment"
LABEL_DEPLOYMENT = f"{GROUP}/deployment"
_BUSY_SECONDS, _WAKE_SECONDS = 30.0, 300.0  # of patience with 503: in general, and while a deployment sleeps
_MARGIN_SECONDS = 10.0


class EndpointError(UltramarineError):
    """The endpoint did not answer, or with an error; `status` is that of HTTP, or 0."""

    reason = "EndpointError"

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Answer(NamedTuple):
    """Answer of an endpoint."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Route:
    """Connections to one endpoint, made at the first request and again after a failure."""

    def __init__(self, client: Client, name: str, note: Note, ca: str = "") -> None:
        self.client, self.name, self.note, self._ca = client, name, note, ca
        self._bases: dict[str, str] = {}
        self._tunnels: dict[str, Tunnel] = {}
        self._noted = False
        self._http = urllib3.PoolManager(maxsize=8)
        self._verified: urllib3.PoolManager | None = None  # made at the first request by https inside a cluster
        self._unverified = urllib3.PoolManager(maxsize=8, cert_reqs="CERT_NONE", assert_hostname=False)

    def close(self) -> None:
        """Close all connections."""
        for tunnel in self._tunnels.values():
            tunnel.close()
        self._bases.clear()
        self._tunnels.clear()
        self._http.clear()
        self._verified = None
        self._unverified.clear()

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        manifest: Manifest,
        *,
        repeat: bool,
        seconds: float = 0.0,
    ) -> Answer:
        """Return the answer to a request, after patience with 503 and, if `repeat`, with lost connections.

        `manifest` is the endpoint, whose deployment the headers may pin. A connection without an answer is lost after
        `seconds`, by default after the deployment's own timeout.
        """
        pin = headers.get(PIN_HEADER, "")
        sleeps = asleep(manifest, pin)
        if sleeps and not self._noted:
            self._noted = True
            self.note(f"Endpoint {self.name} sleeps; its first pod starts now, which may take a minute.")
        patience = max(_BUSY_SECONDS, _timeout(manifest)) if seconds else _BUSY_SECONDS
        deadline = time.monotonic() + (_WAKE_SECONDS if sleeps else patience)
        timeout = urllib3.Timeout(connect=20, read=seconds or _timeout(manifest) + _MARGIN_SECONDS)
        options: dict[str, Any] = {"body": body, "headers": headers, "timeout": timeout, "retries": False}
        while True:
            try:
                base = self._base(manifest, pin)
                pool = self._pool(base, manifest)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
                    answer = pool.request(method, base + path, redirect=False, **options)
            except urllib3.exceptions.HTTPError as error:
                problem = self._problem(pin, error, body)
                self.close()
                if (
                    not repeat
                    or isinstance(problem, Forbidden | trust.CertificateRefused)
                    or time.monotonic() > deadline
                ):
                    raise problem from None
                time.sleep(1)
                continue
            pause = _seconds(answer.headers.get("Retry-After"))
            if answer.status != 503 or time.monotonic() + pause > deadline:
                return Answer(answer.status, answer.headers, answer.data)
            time.sleep(pause)

    def _pool(self, base: str, manifest: Manifest) -> urllib3.PoolManager:
        """Return the connections for a URL; a pod that the API server leads to has a certificate for other names."""
        if base.startswith("http:"):
            return self._http
        if base.startswith("https://127.0.0.1:"):
            return self._unverified
        if self._verified is None:
            context = trust.context_for(self.client, manifest, self._ca)
            self._verified = urllib3.PoolManager(maxsize=8, ssl_context=context)
        return self._verified

    def _base(self, manifest: Manifest, pin: str) -> str:
        """Return the URL that leads to the endpoint, or to the pods of one deployment if no gateway can choose it."""
        status = manifest.get("status") or {}
        port = int(status.get("gatewayPort") or 0)
        inside = self.client.cluster.access.context == "in-cluster"
        place = "" if port or inside else pin
        if place in self._bases:
            return self._bases[place]
        if inside:
            self._bases[place] = str(status.get("url", ""))
            return self._bases[place]
        platform, secure = self.client.platform, str(status.get("url", "")).startswith("https:")
        if port:
            tunnel = platform.tunnel(port)
        else:
            pod, port, secure = self._pod(pin or _first(manifest))
            tunnel = platform.tunnel(port, pod)
        self._tunnels[place] = tunnel
        self._bases[place] = f"{'https' if secure else 'http'}://{tunnel.address}"
        return self._bases[place]

    def _pod(self, deployment: str) -> tuple[str, int, bool]:
        """Return name and port of a ready pod of a deployment, and True if it speaks TLS."""
        labels = {LABEL_KIND: "OnlineEndpoint", LABEL_NAME: self.name, LABEL_DEPLOYMENT: deployment}
        for pod in self.client.cluster.list(POD, ",".join(f"{key}={value}" for key, value in labels.items())):
            conditions = (pod.get("status") or {}).get("conditions") or []
            if pod["metadata"].get("deletionTimestamp") or not any(
                entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions
            ):
                continue
            for container in pod["spec"]["containers"]:
                for port in container.get("ports") or []:
                    if port.get("name") == "http":
                        secure = "--tls-dir" in (container.get("command") or [])
                        return str(pod["metadata"]["name"]), int(port["containerPort"]), secure
        raise EndpointError(
            f"endpoint {self.name}: deployment {deployment} has no ready pod. `ultramarine describe oe {self.name}`"
            " has the cause."
        )

    def _problem(self, pin: str, error: Exception, rows: bytes | None) -> UltramarineError:
        """Return the cause of a failed connection: that of the tunnel if it has one."""
        tunnel = self._tunnels.get("") or self._tunnels.get(pin)
        if tunnel is not None and tunnel.problem is not None:
            return tunnel.problem
        if isinstance(error, urllib3.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            return trust.refused(self.name, self._bases.get("", ""), error)
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            remedy = "Send fewer rows at once." if rows else f"`ultramarine endpoints logs {self.name}` may say why."
            return EndpointError(f"endpoint {self.name} does not answer within its timeout. {remedy}")
        return EndpointError(
            f"endpoint {self.name}: the connection failed: {error}. Try again; `ultramarine doctor` looks for causes."
        )


def asleep(manifest: Manifest, pin: str = "") -> bool:
    """Return True if the deployments that answer have scaled to zero for lack of traffic."""
    status = manifest.get("status") or {}
    chosen = [pin] if pin else list(status.get("traffic") or {})
    entries = [entry for entry in status.get("deployments") or [] if entry["name"] in chosen]
    return bool(entries) and all(
        not entry.get("readyReplicas") and "autoscale" in entry and entry.get("state") == "Ready" for entry in entries
    )


def failure(name: str, answer: Answer) -> EndpointError:
    """Return the error that an answer means, with the words of the server and a remedy."""
    words = _words(answer.body)
    match answer.status:
        case 401:
            remedy = f"Take the key of `ultramarine endpoints keys {name}`; a new key takes up to 90 seconds."
            text = f"endpoint {name} does not accept the key or token. {remedy}"
        case 403:
            text = f"endpoint {name} refuses the token: {words}. Get one for its audience."
        case 404:
            text = f"endpoint {name}: {words}. Correct the deployment, the model or the path."
        case 413:
            text = f"endpoint {name}: the request is too large: {words}. Send fewer rows at once."
        case 503:
            text = (
                f"endpoint {name} has no free or ready pod: {words}. `ultramarine describe oe {name}` has the cause;"
                " raise replicas if it is overloaded."
            )
        case 504:
            text = f"endpoint {name}: {words}. Send fewer rows, or raise requestSettings.timeoutSeconds."
        case status if status >= 500:
            text = f"endpoint {name} failed: {words}. `ultramarine endpoints logs {name}` has the trace."
        case _:
            text = f"endpoint {name} refuses the request: {words}. Correct the data."
    return EndpointError(text, answer.status)


def _words(body: bytes) -> str:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    text = str(document.get("error") or document) if isinstance(document, dict) else body.decode(errors="replace")
    if text.lstrip().startswith("<"):  # the page of another server
        text = re.sub(r"(?s)<(head|style|script)\b.*?</\1>|<[^>]*>", " ", text)
    return " ".join(text.split())[:1000].rstrip(".") or "no explanation"


def _first(manifest: Manifest) -> str:
    """Return the deployment with the largest share."""
    shares = (manifest.get("status") or {}).get("traffic") or manifest["spec"].get("traffic") or {}
    return str(max(shares, key=lambda name: shares[name], default=manifest["spec"]["deployments"][0]["name"]))


def _timeout(manifest: Manifest) -> float:
    """Return the time that the slowest deployment may take, with the wait in its queue, in seconds."""
    settings = [deployment.get("requestSettings") or {} for deployment in manifest["spec"]["deployments"]]
    return max(float(s.get("timeoutSeconds", 60)) + float(s.get("maxQueueMilliseconds", 500)) / 1000 for s in settings)


def _seconds(header: str | None) -> float:
    try:
        return min(max(float(header or 2), 0.5), 10)
    except ValueError:
        return 2
