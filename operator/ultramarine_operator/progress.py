"""HTTP routes to which running pods post reports; a pod authenticates by a token that no other pod has."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from ultramarine_contract.common import PROGRESS_AUDIENCE
from ultramarine_contract.meta import Key, Manifest

from .engine.reports import Reports
from .kube.client import ApiError

BODY_LIMIT = 256 * 1024
TOKEN_LIMIT = 16 * 1024
CACHE_SECONDS = 60.0  # a token that is taken back is good for so long
CACHE_SIZE = 10_000
REVIEWS = 8  # at once: a crowd of strangers must not keep the API server busy
NEXT_REPLICA_SECONDS = 1  # a new connection may reach the leader
API_SERVER_SECONDS = 10

_USER = "system:serviceaccount:"
_EXTRA = "authentication.kubernetes.io"
_TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)

Review = Callable[[str, str], Awaitable[Manifest]]


class Caller(NamedTuple):
    """The pod that a token was given to."""

    namespace: str
    name: str
    uid: str


class Refusal(Exception):
    """Answer in place of 200 and 204."""

    def __init__(self, code: int, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.code, self.message, self.retry_after = code, message, retry_after


class Reception:
    """Reception of POST /PATH/NAMESPACE/NAME from the pod that reports on that object, while this replica leads.

    PATH is that of a kind's Reporting, and `reply` makes the answer. If the Reporting has `image_of`, GET of the same
    address returns to any pod of the object the digest of its image. A pod cannot read that by itself.
    `review(token, audience)` returns a TokenReview. A refusal is JSON, with the remedy in `error`.
    """

    def __init__(
        self,
        review: Review,
        reports: Reports,
        leads: Callable[[], bool],
        reply: Callable[[Key, Any], Manifest | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._review, self._reports, self._leads, self._clock = review, reports, leads, clock
        self._reply = reply
        self._callers: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()  # by the token's SHA-256, until when
        self._reviewing = asyncio.Semaphore(REVIEWS)

    @property
    def routes(self) -> list[web.RouteDef]:
        """For an application whose client_max_size is BODY_LIMIT."""
        routes = []
        for kind, channel in self._reports.channels.items():
            path = f"/{channel.path}/{{namespace}}/{{name}}"
            routes.append(web.post(path, self._answering(kind, self._take)))
            if channel.image_of:
                routes.append(web.get(path, self._answering(kind, self._tell), allow_head=False))
        return routes

    def _answering(self, kind: str, do: Callable[[Key, web.Request], Awaitable[web.Response]]) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            key = Key(kind, request.match_info["namespace"], request.match_info["name"])
            try:
                return await do(key, request)
            except Refusal as refusal:
                headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else {}
                return web.json_response({"error": refusal.message}, status=refusal.code, headers=headers)

        return answer

    async def _tell(self, key: Key, request: web.Request) -> web.Response:
        self._check_lead()
        caller = await self._caller(key, request.headers.get("Authorization", ""))
        self._check_owner(key, caller)
        return web.json_response({"image": self._reports.image_of_pod(key, caller.name, caller.uid)})

    async def _take(self, key: Key, request: web.Request) -> web.Response:
        self._check_lead()
        caller = await self._caller(key, request.headers.get("Authorization", ""))
        self._check_owner(key, caller)
        channel = self._reports.channels[key.kind]
        if not self._reports.speaks(key, caller.uid):
            message = f"pod {caller.namespace}/{caller.name} does not speak for {key}; only {channel.sender} reports"
            raise Refusal(403, message)
        try:
            report = channel.read(await request.read())
        except (HttpProcessingError, web.RequestPayloadError) as error:
            encoding = request.headers.get("Content-Encoding")
            raise Refusal(400, f"the report on {key} is not what its Content-Encoding {encoding!r} says") from error
        except web.HTTPRequestEntityTooLarge as error:
            message = f"the report on {key} has more than {BODY_LIMIT} bytes; report fewer metrics"
            raise Refusal(413, message) from error
        except ValueError as error:
            raise Refusal(400, f"the report on {key} is {error}; post what {channel.record} writes") from error
        self._check_lead()  # the Lease may have gone over all that
        if not self._reports.put(key, caller.uid, report):
            raise Refusal(429, f"{key} has reported within the last second; report every ten seconds", retry_after=1)
        reply = self._reply(key, report)
        return web.Response(status=204) if reply is None else web.json_response(reply)

    def _check_lead(self) -> None:
        if not self._leads():
            message = "this replica of the operator does not lead; post again, by a new connection"
            raise Refusal(503, message, NEXT_REPLICA_SECONDS)

    def _check_owner(self, key: Key, caller: Caller) -> None:
        pod = f"pod {caller.namespace}/{caller.name}"
        owner = self._reports.owner_of_pod(*caller)
        if owner is None:
            kinds = " or ".join(self._reports.channels)
            raise Refusal(403, f"{pod} belongs to no {kinds} that the operator knows; only their pods report")
        if owner != key:
            raise Refusal(403, f"{pod} belongs to {owner}, not to {key}; post to its own")

    async def _caller(self, key: Key, authorization: str) -> Caller:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or len(token) > TOKEN_LIMIT or not _TOKEN.fullmatch(token):
            raise Refusal(401, f"no token for {key}: send `Authorization: Bearer TOKEN` with the pod's own token")
        name = hashlib.sha256(token.encode()).digest()
        until, caller = self._callers.get(name, (0.0, None))
        if caller is None or until <= self._clock():
            self._callers.pop(name, None)
            caller = _pod_of(await self._reviewed(token), key)
            self._callers[name] = (self._clock() + CACHE_SECONDS, caller)
            if len(self._callers) > CACHE_SIZE:
                self._callers.popitem(last=False)
        self._callers.move_to_end(name)
        return caller

    async def _reviewed(self, token: str) -> Manifest:
        try:
            async with self._reviewing:
                return await self._review(token, PROGRESS_AUDIENCE)
        except ApiError as error:
            message = f"the API server did not review the token: {error}; post again later"
            if error.code == 403:
                message = f"the operator may not create tokenreviews: {error}; the chart's progress.enabled grants it"
            raise Refusal(503, message, API_SERVER_SECONDS) from error


def _pod_of(review: Manifest, key: Key) -> Caller:
    """The pod that a token was given to, as the API server says it."""
    status = review.get("status") or {}
    # A server that knows no audiences would let any token pass.
    if not status.get("authenticated") or PROGRESS_AUDIENCE not in (status.get("audiences") or []):
        reason = status.get("error") or "not valid"
        message = f"the token for {key} is refused: {reason}; read its file again for each report"
        raise Refusal(401, message)
    user = status.get("user") or {}
    namespace, _, account = str(user.get("username", "")).removeprefix(_USER).partition(":")
    extra = user.get("extra") or {}
    name, uid = (next(iter(extra.get(f"{_EXTRA}/{word}") or []), "") for word in ("pod-name", "pod-uid"))
    if not str(user.get("username", "")).startswith(_USER) or not (namespace and account and name and uid):
        raise Refusal(403, f"the token for {key} is not a pod's; use the one that is mounted into the training pod")
    return Caller(namespace, name, uid)
