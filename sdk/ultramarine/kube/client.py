"""The Kubernetes API as far as the command and the SDK need it, over one HTTP client."""

from __future__ import annotations

import json
import math
import random
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

import urllib3
from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import Manifest, Resource
from ultramarine_contract.transport import cause, outside

from .config import Access, NoAccess, load
from .errors import ApiError, Exists, Gone, LoginRefused, NotFound, Owned, error_of

Manifests = list[Manifest]  # by another name, since a Cluster has a method `list`
FIELD_MANAGER = "ultramarine-client"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
_CONNECT_SECONDS, _READ_SECONDS = 10, 30
_TIMEOUT = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
_WATCH_SECONDS = 60  # after which the server ends a watch, and the client begins the next one
_PATIENCE = 60.0  # seconds for which a read is tried again
_AWAY_SECONDS = 300.0  # for which a watch waits for a server that is away
_PAUSE = 1.0  # seconds before a lost watch begins again
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
        self._reached = False  # if the server has ever answered
        try:
            self.ssl = access.ssl()
            self.http = _pool(access, self.ssl)
        except (OSError, ValueError) as error:
            raise NoAccess(f"context {access.context} cannot be used: {error}. Correct {access.source}.") from None

    @classmethod
    def connect(cls, context: str = "", namespace: str = "", kubeconfig: str = "") -> Cluster:
        """Return the cluster that kubectl would use. Raises NoAccess if none is configured."""
        return cls(load(context, namespace, kubeconfig))

    def close(self) -> None:
        """Close all connections."""
        self.http.clear()

    # ---- Objects

    def get(self, resource: Resource, name: str, subresource: str = "") -> Manifest:
        """Return one object. Raises NotFound or Forbidden."""
        return self._object("GET", resource, name, subresource)

    def has_namespace(self) -> bool:
        """Return True if the namespace exists. Raises Forbidden."""
        try:
            self._json("GET", f"/api/v1/namespaces/{self.namespace}", f"namespace {self.namespace}")
        except NotFound:
            return False
        return True

    def namespaces(self) -> list[str]:
        """Return the names of all namespaces. Raises Forbidden."""
        answer = self._json("GET", "/api/v1/namespaces", "namespaces")
        return [item["metadata"]["name"] for item in answer["items"]]

    def check_free(self, resource: Resource, manifest: Manifest) -> None:
        """Raise Exists if an object has the name of a manifest, before anything is uploaded for it."""
        if not (name := (manifest.get("metadata") or {}).get("name")):
            return
        try:
            self.get(resource, name)
        except NotFound:
            return
        raise Exists(f"{self._named(resource, name)} already exists. Choose another name, or delete it first.")

    def list(self, resource: Resource, selector: str = "", fields: str = "") -> Manifests:
        """Return the objects of the namespace, perhaps only those with the labels of `selector`."""
        return self._list(resource, selector, fields)[0]

    def table(self, resource: Resource, name: str = "", selector: str = "") -> Manifest:
        """Return the server's table of one object or of all, with the kind's own columns."""
        query = {"labelSelector": selector} if selector else {}
        return self._object("GET", resource, name, params=query, headers={"Accept": TABLE})

    def create(self, resource: Resource, manifest: Manifest, dry_run: bool = False) -> Manifest:
        """Create an object. Raises Exists or Rejected."""
        what = self._named(resource, manifest["metadata"].get("name") or manifest["metadata"].get("generateName", ""))
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self._json("POST", resource.path(self.namespace), what, params=query, body=manifest)

    def apply(self, resource: Resource, manifest: Manifest, dry_run: bool = False, force: bool = False) -> Manifest:
        """Create or change an object by server-side apply. Raises Owned if another writer owns a field.

        The client's own patches, as of `endpoints deploy`, own their fields too; an apply takes these fields over.
        """
        try:
            return self._applied(resource, manifest, dry_run, force)
        except Owned as error:
            if error.owners != {FIELD_MANAGER}:
                raise
        return self._applied(resource, manifest, dry_run, force=True)

    def _applied(self, resource: Resource, manifest: Manifest, dry_run: bool, force: bool) -> Manifest:
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
        return self._object(
            "PATCH",
            resource,
            name,
            params={"fieldManager": FIELD_MANAGER} | ({"dryRun": "All"} if dry_run else {}),
            body=change,
            headers={"Content-Type": "application/merge-patch+json"},
        )

    def delete(self, resource: Resource, name: str) -> None:
        """Delete an object and, in the background, what belongs to it."""
        self._object("DELETE", resource, name, params={"propagationPolicy": "Background"})

    def discover(self, version: str) -> Manifests:
        """Return the API's list of the kinds of a group and version, such as batch/v1. Raises NotFound."""
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        return list(self._json("GET", path, f"API {version}")["resources"])

    def version(self) -> str:
        """Return the version of Kubernetes, such as v1.36.2."""
        return str(self._json("GET", "/version", "version of the cluster")["gitVersion"])

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
        """Yield the objects that exist, then their changes. Lost connections are made again, for five minutes.

        It ends after `seconds` or within a minute after `stop`; without them never. Raises NotFound if `name` does not
        exist at the start.
        """
        fields = f"metadata.name={name}" if name else ""
        deadline = None if seconds is None else time.monotonic() + seconds
        present: dict[str, Manifest] = {}
        stop = stop or threading.Event()
        began, answered = False, time.monotonic()
        while not stop.is_set() and (deadline is None or time.monotonic() < deadline):
            try:
                before, (items, version) = present, self._list(resource, selector, fields)
            except (NoAccess, ApiError) as error:
                away = time.monotonic() - answered
                if not self._reached or isinstance(error, LoginRefused) or away > _AWAY_SECONDS:
                    raise
                stop.wait(_PAUSE)
                continue
            if name and not items and not began:
                message = f"{self._named(resource, name)} does not exist. `ultramarine get` lists what is there."
                raise NotFound(message, resource, name)
            began, present = True, {item["metadata"]["uid"]: item for item in items}
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
                    if stop.is_set():
                        return
            except Gone:
                pass
            except (ApiError, urllib3.exceptions.HTTPError):
                stop.wait(_PAUSE)
            answered = time.monotonic()

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
        lines = self._lines(path, query, None if follow else _READ_SECONDS, f"log of pod {pod}")
        try:
            yield from lines
        except urllib3.exceptions.HTTPError as error:
            raise unreachable(self.access, error) from None

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
        path = resource.path(self.namespace)
        for line in self._lines(path, query, seconds + _READ_SECONDS, self._named(resource)):
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise Gone(str(event["object"].get("message", "")))
            yield Event(event["type"], event["object"])

    # ---- Requests

    def _lines(self, path: str, query: dict[str, Any], seconds: float | None, what: str) -> Iterator[str]:
        """Yield the lines of an answer as they come; `seconds` is the longest silence."""
        url = f"{self.access.server}{path}?{urlencode(query)}"
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=seconds)
        for renew in (False, True):
            headers = self.authorization(renew)
            answer = self.http.request(
                "GET", url, headers=headers, timeout=timeout, retries=False, preload_content=False, decode_content=True
            )
            if renew or answer.status != 401 or not self.access.user.get("exec"):
                break
            answer.close()
        try:
            if answer.status != 200:
                raise error_of(answer.status, answer.read(), what, self.access)
            rest = b""
            for chunk in answer.stream(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
            if rest:
                yield rest.decode(errors="replace")
        finally:
            answer.close()

    def _object(self, method: str, resource: Resource, name: str, subresource: str = "", **options: Any) -> Manifest:
        """Send a request about one object, and name the object in a NotFound."""
        path = resource.path(self.namespace, name, subresource)
        try:
            return self._json(method, path, self._named(resource, name), **options)
        except NotFound as error:
            error.resource, error.name = resource, name
            raise

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
            if isinstance(problem, LoginRefused) and self.access.user.get("exec") and not renew:
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
        url = f"{self.access.server}{path}" + (f"?{urlencode(params)}" if params else "")
        headers = headers | self.authorization(renew)
        try:
            answer = self.http.request(method, url, body=content, headers=headers, timeout=_TIMEOUT, retries=False)
        except urllib3.exceptions.HTTPError as error:
            # An address without a server stays without one.
            silent = isinstance(error, (urllib3.exceptions.ReadTimeoutError, urllib3.exceptions.ProtocolError))
            return unreachable(self.access, error), method == "GET" and silent
        self._reached = True
        if 200 <= answer.status < 300:
            return self._document(answer.data), False
        again = answer.status == 429 or (method == "GET" and answer.status in _TRANSIENT)
        return error_of(answer.status, answer.data, what, self.access), again

    def _document(self, data: bytes) -> Manifest | UltramarineError:
        """Return the object of an answer, or the error of a server that is not one of Kubernetes."""
        try:
            return dict(json.loads(data))
        except (ValueError, TypeError):
            return NoAccess(
                f"the server at {self.access.server} (context {self.access.context}) does not answer as a Kubernetes"
                f" API does. Correct the address in {self.access.source}, or log in to the proxy before it."
            )

    def authorization(self, renew: bool = False) -> dict[str, str]:
        """Return the header of the user's credentials, if they are not a certificate."""
        if pair := self.access.basic():
            return dict(urllib3.make_headers(basic_auth=":".join(pair)))
        token = self.access.token(renew)
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _named(self, resource: Resource, name: str = "") -> str:
        return (
            f"{resource.kind} {self.namespace}/{name}" if name else f"{resource.plural} in namespace {self.namespace}"
        )


def _pool(access: Access, context: ssl.SSLContext) -> urllib3.PoolManager:
    named: dict[str, Any] = {"server_hostname": access.server_name, "assert_hostname": access.server_name}
    options = {"ssl_context": context, "maxsize": 16, **(named if access.server_name else {})}
    return outside(access.server, access.proxy, **options)


def unreachable(access: Access, error: Exception) -> NoAccess:
    """Return the error of a cluster that does not answer, with its address and the context's name."""
    root = cause(error)
    if "CERTIFICATE_VERIFY_FAILED" in root:
        return NoAccess(
            f"{access.server} shows a certificate that the authority of context {access.context} did not sign: {root}."
            " Get a new kubeconfig from your administrator."
        )
    return NoAccess(
        f"the cluster at {access.server} (context {access.context}) does not answer: {root}. Check that it is up and"
        " that you have a network path to it, or choose another --context."
    )
