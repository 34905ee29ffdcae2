"""The Kubernetes API as far as the command and the SDK need it, over one HTTP client."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import Manifest, Resource

from .config import Access, NoAccess, load
from .errors import Gone, error_of

Manifests = list[Manifest]  # by another name, since a Cluster has a method `list`
FIELD_MANAGER = "ultramarine-client"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
_TIMEOUT = httpx.Timeout(30, connect=10)
_WATCH_SECONDS = 60  # after which the server ends a watch, and the client begins the next one
_PATIENCE = 60.0  # seconds for which a read is tried again
_TRANSIENT = (429, 500, 502, 503, 504)


class Event(NamedTuple):
    """One change of an object: ADDED, MODIFIED or DELETED."""

    type: str
    object: Manifest


class Cluster:
    """A cluster, and the namespace to work in. Reads are retried; a write is sent once."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.namespace = access.namespace
        self._extensions = {"sni_hostname": access.server_name} if access.server_name else {}
        try:
            self.ssl = access.ssl()
            self.http = httpx.Client(
                base_url=access.server,
                verify=self.ssl,
                timeout=_TIMEOUT,
                proxy=access.proxy or None,
                auth=access.basic(),
            )
        except (OSError, ValueError) as error:
            raise NoAccess(f"context {access.context} cannot be used: {error}. Correct {access.source}.") from None

    @classmethod
    def connect(cls, context: str = "", namespace: str = "", kubeconfig: str = "") -> Cluster:
        """Return the cluster that kubectl would use. Raises NoAccess if none is configured."""
        return cls(load(context, namespace, kubeconfig))

    def close(self) -> None:
        """Close all connections."""
        self.http.close()

    # ---- Objects

    def get(self, resource: Resource, name: str, subresource: str = "") -> Manifest:
        """Return one object. Raises NotFound or Forbidden."""
        return self._json("GET", resource.path(self.namespace, name, subresource), self._named(resource, name))

    def list(self, resource: Resource, selector: str = "", fields: str = "") -> Manifests:
        """Return the objects of the namespace, perhaps only those with the labels of `selector`."""
        return self._list(resource, selector, fields)[0]

    def table(self, resource: Resource, name: str = "", selector: str = "") -> Manifest:
        """Return the server's table of one object or of all, with the kind's own columns."""
        what = self._named(resource, name)
        query = {"labelSelector": selector} if selector else {}
        return self._json("GET", resource.path(self.namespace, name), what, params=query, headers={"Accept": TABLE})

    def create(self, resource: Resource, manifest: Manifest, dry_run: bool = False) -> Manifest:
        """Create an object. Raises Exists or Rejected."""
        what = self._named(resource, manifest["metadata"].get("name") or manifest["metadata"].get("generateName", ""))
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self._json("POST", resource.path(self.namespace), what, params=query, body=manifest)

    def apply(self, resource: Resource, manifest: Manifest, dry_run: bool = False, force: bool = False) -> Manifest:
        """Create or change an object by server-side apply. Raises Exists if another writer owns a field."""
        name = manifest["metadata"]["name"]
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "force": str(force).lower()}
        return self._json(
            "PATCH",
            resource.path(self.namespace, name),
            self._named(resource, name),
            params=query | ({"dryRun": "All"} if dry_run else {}),
            body=manifest,
            headers={"Content-Type": "application/apply-patch+yaml"},
        )

    def patch(self, resource: Resource, name: str, change: Manifest, dry_run: bool = False) -> Manifest:
        """Merge a change into an object."""
        return self._json(
            "PATCH",
            resource.path(self.namespace, name),
            self._named(resource, name),
            params={"fieldManager": FIELD_MANAGER} | ({"dryRun": "All"} if dry_run else {}),
            body=change,
            headers={"Content-Type": "application/merge-patch+json"},
        )

    def delete(self, resource: Resource, name: str) -> None:
        """Delete an object and, in the background, what belongs to it."""
        path = resource.path(self.namespace, name)
        self._json("DELETE", path, self._named(resource, name), params={"propagationPolicy": "Background"})

    def discover(self, version: str) -> Manifests:
        """Return the API's list of the kinds of a group and version, such as batch/v1. Raises NotFound."""
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        return list(self._json("GET", path, f"API {version}")["resources"])

    def may(self, verb: str, resource: Resource, subresource: str = "") -> bool:
        """Return True if the user has this right in the namespace."""
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {
                "resourceAttributes": {
                    "namespace": self.namespace,
                    "verb": verb,
                    "group": resource.group,
                    "resource": resource.plural,
                    "subresource": subresource,
                }
            },
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self._json("POST", path, "your rights", body=review)["status"].get("allowed"))

    # ---- Streams

    def watch(
        self,
        resource: Resource,
        name: str = "",
        selector: str = "",
        seconds: float | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Event]:
        """Yield the objects that exist, then their changes. Lost connections are made again.

        It ends after `seconds` or within a minute after `stop`; without them never.
        """
        fields = f"metadata.name={name}" if name else ""
        deadline = None if seconds is None else time.monotonic() + seconds
        present: dict[str, Manifest] = {}
        while not (stop and stop.is_set()) and (deadline is None or time.monotonic() < deadline):
            before, (items, version) = present, self._list(resource, selector, fields)
            present = {item["metadata"]["uid"]: item for item in items}
            for uid, item in present.items():
                if uid not in before:
                    yield Event("ADDED", item)
                elif before[uid]["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                    yield Event("MODIFIED", item)
            for uid in before.keys() - present.keys():
                yield Event("DELETED", before[uid])
            left = _WATCH_SECONDS if deadline is None else min(_WATCH_SECONDS, max(1, deadline - time.monotonic()))
            try:
                for event in self._changes(resource, selector, fields, version, math.ceil(left)):
                    uid = event.object["metadata"]["uid"]
                    present[uid] = event.object
                    if event.type == "DELETED":
                        del present[uid]
                    yield event
                    if stop and stop.is_set():
                        return
            except (Gone, httpx.HTTPError):
                continue

    def logs(
        self,
        pod: str,
        container: str = "",
        follow: bool = False,
        since: str = "",
        previous: bool = False,
        tail: int = 0,
    ) -> Iterator[str]:
        """Yield the lines of a container with their times (RFC 3339) in front; with `follow` until it ends."""
        query: dict[str, Any] = {"timestamps": "true"}
        query |= {"container": container} if container else {}
        query |= {"follow": "true"} if follow else {}
        query |= {"sinceTime": since} if since else {}
        query |= {"previous": "true"} if previous else {}
        query |= {"tailLines": tail} if tail else {}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        timeout = httpx.Timeout(30, read=None if follow else 60)
        with self._stream(path, query, timeout, f"log of pod {pod}") as answer:
            yield from answer.iter_lines()

    def _list(self, resource: Resource, selector: str, fields: str) -> tuple[Manifests, str]:
        items: list[Manifest] = []
        query: dict[str, Any] = {"limit": 500}
        query |= {"labelSelector": selector} if selector else {}
        query |= {"fieldSelector": fields} if fields else {}
        while True:
            answer = self._json("GET", resource.path(self.namespace), self._named(resource), params=query)
            kinds = {"apiVersion": resource.api_version, "kind": resource.kind}
            items += [kinds | item for item in answer.get("items") or []]
            query["continue"] = answer["metadata"].get("continue") or ""
            if not query["continue"]:
                return items, str(answer["metadata"].get("resourceVersion", ""))

    def _changes(self, resource: Resource, selector: str, fields: str, version: str, seconds: int) -> Iterator[Event]:
        """Yield the changes after a version until the server ends the watch. Raises Gone."""
        query: dict[str, Any] = {"watch": "true", "resourceVersion": version, "timeoutSeconds": seconds}
        query |= {"labelSelector": selector, "fieldSelector": fields}
        timeout = httpx.Timeout(30, read=seconds + 30)
        with self._stream(resource.path(self.namespace), query, timeout, self._named(resource)) as answer:
            for line in answer.iter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Gone(str(event["object"].get("message", "")))
                yield Event(event["type"], event["object"])

    # ---- Requests

    def _stream(self, path: str, query: dict[str, Any], timeout: httpx.Timeout, what: str) -> _Stream:
        return _Stream(self, path, query, timeout, what)

    def _json(
        self,
        method: str,
        path: str,
        what: str,
        params: dict[str, Any] | None = None,
        body: Manifest | None = None,
        headers: dict[str, str] | None = None,
    ) -> Manifest:
        content = None if body is None else json.dumps(body).encode()
        headers = ({"Content-Type": "application/json"} if body is not None else {}) | (headers or {})
        deadline, delay, renew = time.monotonic() + _PATIENCE, 0.5, False
        while True:
            problem, again = self._attempt(method, path, what, params, content, headers, renew)
            if isinstance(problem, dict):
                return problem
            if isinstance(problem, NoAccess) and self.access.user.get("exec") and not renew:
                renew = True
                continue
            if not again or time.monotonic() + delay > deadline:
                raise problem
            time.sleep(delay * random.uniform(0.7, 1.3))
            delay = min(delay * 2, 8)

    def _attempt(
        self,
        method: str,
        path: str,
        what: str,
        params: dict[str, Any] | None,
        content: bytes | None,
        headers: dict[str, str],
        renew: bool,
    ) -> tuple[Manifest | UltramarineError, bool]:
        """Send one request; return its answer or error, and True if it may be sent again."""
        headers = headers | self._authorization(renew)
        try:
            answer = self.http.request(
                method, path, params=params, content=content, headers=headers, extensions=self._extensions
            )
        except httpx.ConnectError as error:  # an address without a server stays without one
            return unreachable(self.access, error), False
        except httpx.HTTPError as error:
            return unreachable(self.access, error), method == "GET"
        if answer.is_success:
            return dict(answer.json()), False
        code = answer.status_code
        again = code == 429 or (method == "GET" and code in _TRANSIENT)
        return error_of(code, answer.content, what, self.access), again

    def _authorization(self, renew: bool = False) -> dict[str, str]:
        token = self.access.token(renew)
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _named(self, resource: Resource, name: str = "") -> str:
        return (
            f"{resource.kind} {self.namespace}/{name}" if name else f"{resource.plural} in namespace {self.namespace}"
        )


class _Stream:
    """An answer that is read line by line."""

    def __init__(self, cluster: Cluster, path: str, query: dict[str, Any], timeout: httpx.Timeout, what: str) -> None:
        self.cluster, self.what = cluster, what
        self.context = cluster.http.stream(
            "GET",
            path,
            params=query,
            timeout=timeout,
            headers=cluster._authorization(),
            extensions=cluster._extensions,
        )

    def __enter__(self) -> httpx.Response:
        answer = self.context.__enter__()
        if not answer.is_success:
            body = answer.read()
            self.context.__exit__(None, None, None)
            raise error_of(answer.status_code, body, self.what, self.cluster.access)
        return answer

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)


def unreachable(access: Access, error: Exception) -> NoAccess:
    """Return the error of a cluster that does not answer, with its address and the context's name."""
    cause = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        return NoAccess(
            f"{access.server} shows a certificate that the authority of context {access.context} did not sign: {cause}."
            " Get a new kubeconfig from your administrator."
        )
    return NoAccess(
        f"the cluster at {access.server} (context {access.context}) does not answer: {cause}. Check that it is up and"
        " that you have a network path to it, or choose another --context."
    )
