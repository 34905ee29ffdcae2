"""Requests to the Kubernetes API as plain manifests; the only place that knows the client library."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes import config as sync_config
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration
from ultramarine_contract.errors import NotLeading
from ultramarine_contract.meta import EVENT, FIELD_MANAGER, JOB, TOKEN_REVIEW, Manifest, Ref, Resource

from ..shared.metrics import API_REQUEST_SECONDS, API_REQUESTS

SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PAGE = 500
# With a charset, since the library would serialise the body itself without; the API server takes it off.
APPLY = "application/apply-patch+yaml; charset=utf-8"
JSON_PATCH = "application/json-patch+json"
TIMEOUT = 30  # seconds for one request; a watch is kopf's business


class ApiError(Exception):
    """The API server refused: `code` is its HTTP status, `reason` its word, `message` its sentence."""

    def __init__(self, code: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


def as_yaml(manifest: Manifest) -> str:
    """JSON text that is YAML too: what lies beyond U+FFFF stands as itself, since YAML knows no surrogate pairs."""
    text = json.dumps(manifest, ensure_ascii=False)
    text = re.sub("[\ud800-\udfff]", "\ufffd", text)  # halves of pairs, which no encoding can carry
    return re.sub("[\x7f-\uffff]", lambda match: f"\\u{ord(match[0]):04x}", text)


_fence: ContextVar[Callable[[], float]] = ContextVar("fence")


async def _last_look(_session: Any, _context: Any, params: aiohttp.TraceRequestChunkSentParams) -> None:
    """Stop a body just before the kernel gets it: aiohttp sends it from a task of its own, which may come late."""
    if _fence.get()() <= 0:
        raise NotLeading(f"{params.method} not sent: this replica does not hold the Lease")


class Client:
    """The requests that the engine makes, counted by verb, kind and answer."""

    def __init__(self, api: ApiClient, time_left: Callable[[], float] = lambda: math.inf) -> None:
        self._api = api
        self._time_left = time_left

    @classmethod
    async def connect(cls) -> Client:
        """Connect as the pod's service account, or by KUBECONFIG outside a cluster."""
        configuration = Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=configuration)
        return cls.to(configuration)

    @classmethod
    def to(cls, configuration: Configuration) -> Client:
        """Speak to the API server that a configuration of the library names."""
        trace = aiohttp.TraceConfig()
        trace.on_request_chunk_sent.append(_last_look)
        configuration.client_session_kwargs = {"trust_env": False, "trace_configs": [trace]}
        return cls(ApiClient(configuration))

    def fenced(self, time_left: Callable[[], float]) -> Client:
        """The same connections, by which nothing is written once `time_left`, in seconds, has run out: NotLeading."""
        return Client(self._api, time_left)

    async def close(self) -> None:
        """Give the connections back."""
        await self._api.close()

    async def _request(
        self,
        verb: str,
        method: str,
        resource: Resource,
        path: str,
        query: dict[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Manifest:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        request = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        left = math.inf if method == "GET" else self._time_left()
        if left <= 0:
            raise NotLeading(f"{resource.kind} not written: this replica does not hold the Lease")
        _fence.set(self._time_left)
        started, code = time.monotonic(), "none"
        try:
            response = await self._api.call_api(*request, _request_timeout=min(TIMEOUT, left))
            code = str(response.status)
            data = await response.read()
        except ApiException as error:
            raise ApiError(error.status or 0, "RequestFailed", str(error.reason or error)) from error
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            if left < math.inf and self._time_left() <= 0:
                raise NotLeading(f"{resource.kind} perhaps not written: the Lease ran out over it") from error
            raise ApiError(0, "Unreachable", f"the Kubernetes API did not answer: {error}") from error
        finally:
            API_REQUESTS.labels(verb=verb, kind=resource.kind, code=code).inc()
            API_REQUEST_SECONDS.labels(verb=verb).observe(time.monotonic() - started)
        try:
            document: Manifest = json.loads(data) if data else {}
        except ValueError:
            document = {"message": data[:200].decode("utf-8", "replace")}
        if response.status >= 400:
            retry_after = str(response.getheader("Retry-After") or "")
            raise ApiError(
                response.status,
                str(document.get("reason") or response.reason or ""),
                str(document.get("message") or ""),
                float(retry_after) if retry_after.isdigit() else None,
            )
        return document

    async def review_token(self, token: str, audience: str) -> Manifest:
        """Ask whose token this is; the answer is the TokenReview."""
        body = {
            "apiVersion": TOKEN_REVIEW.api_version,
            "kind": TOKEN_REVIEW.kind,
            "spec": {"token": token, "audiences": [audience]},
        }
        return await self._request("review", "POST", TOKEN_REVIEW, TOKEN_REVIEW.path(None), body=body)

    async def list(self, resource: Resource, namespace: str | None, selector: str = "") -> AsyncIterator[Manifest]:
        """Yield every object of a type by pages, each with the resourceVersion that the whole listing is of."""
        query = {"limit": str(PAGE)}
        if selector:
            query["labelSelector"] = selector
        while True:
            page = await self._request("list", "GET", resource, resource.path(namespace), query)
            yield page
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            query["continue"] = token

    async def events(self, namespace: str, uid: str, reason: str) -> tuple[Manifest, ...]:
        """List the Events about one object that have this reason."""
        query = {"fieldSelector": f"involvedObject.uid={uid},reason={reason}", "limit": str(PAGE)}
        page = await self._request("list", "GET", EVENT, EVENT.path(namespace), query)
        return tuple(page.get("items") or ())

    async def get(self, resource: Resource, namespace: str, name: str) -> Manifest:
        """Read one object."""
        return await self._request("get", "GET", resource, resource.path(namespace, name))

    async def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Create an object; one of that name already there is ApiError 409.

        A Job has parts of the user that the CRDs do not check: a field that the server does not know is ApiError 400.
        """
        path = resource.path(manifest["metadata"]["namespace"])
        query = {"fieldManager": FIELD_MANAGER} | ({"fieldValidation": "Strict"} if resource == JOB else {})
        return await self._request("create", "POST", resource, path, query, manifest)

    async def try_create(self, resource: Resource, manifest: Manifest) -> None:
        """Have the server check a create that it does not carry out; a field that it does not know is ApiError 400."""
        path = resource.path(manifest["metadata"]["namespace"])
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "dryRun": "All"}
        await self._request("create/dry-run", "POST", resource, path, query, manifest)

    async def update(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Replace an object; a resourceVersion in it that is not the current one is ApiError 409."""
        path = resource.path(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        return await self._request("update", "PUT", resource, path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def apply(self, resource: Resource, manifest: Manifest, *, force: bool, subresource: str = "") -> Manifest:
        """Server-side apply. Without `force`, a field of another manager with another value is ApiError 409."""
        meta = manifest["metadata"]
        path = resource.path(meta["namespace"], meta["name"], subresource)
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        verb = f"patch/{subresource}" if subresource else "patch"
        return await self._request(verb, "PATCH", resource, path, query, as_yaml(manifest), APPLY)

    async def patch(self, ref: Ref, operations: Sequence[Manifest]) -> Manifest:
        """JSON Patch of the very object that was seen; one that changed since is ApiError 409."""
        version = {"op": "replace", "path": "/metadata/resourceVersion", "value": ref.resource_version}
        path = ref.resource.path(ref.namespace, ref.name)
        return await self._request("patch", "PATCH", ref.resource, path, None, [*operations, version], JSON_PATCH)

    async def delete(self, ref: Ref) -> None:
        """Delete the very object that was seen: a newer one, or one that changed since, is ApiError 409.

        A Job goes after its pods: a new one of its name must not meet them.
        """
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground" if ref.resource == JOB else "Background",
            "preconditions": {"uid": ref.uid, "resourceVersion": ref.resource_version},
        }
        await self._request("delete", "DELETE", ref.resource, ref.resource.path(ref.namespace, ref.name), body=body)


def namespace_of_pod() -> str:
    """The namespace that this process runs in, or the kubeconfig's one outside a cluster."""
    try:
        return SERVICE_ACCOUNT_NAMESPACE.read_text().strip()
    except OSError:
        _, context = sync_config.list_kube_config_contexts()
        return str(context["context"].get("namespace", "default"))
