"""Endpoints: state, traffic and keys of an OnlineEndpoint, and predictions by it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ultramarine_contract.errors import UltramarineError, listed
from ultramarine_contract.meta import ONLINE_ENDPOINT, Manifest

from .absence import explained
from .kube.errors import Exists, Forbidden, NotFound
from .serving import asking
from .serving import keys as key_store
from .serving.route import PIN_HEADER, Answer, EndpointError, Note, Route, failure
from .serving.signature import DataInvalid, Signature, signature_of
from .suggestions import suggest

if TYPE_CHECKING:
    from .client import Client
    from .runs import Update

_FRESH_SECONDS = 30.0  # for which predictions trust what they read of the endpoint
_FAILING_SECONDS = 30.0  # for which a deployment may fail before wait() gives up
_SIGNATURE_SECONDS = 15.0  # for which one attempt to read a signature may last
_CONFLICTS = 10  # attempts to change an object that others change too


class NotReady(UltramarineError):
    """The endpoint cannot become ready; the message has the cause that its object names."""

    reason = "NotReady"


def _silent(text: str) -> None:
    return None


class Endpoint:
    """An OnlineEndpoint. `key` is a key, or a token with authMode: token; its default is ULTRAMARINE_KEY or the Secret.

    `note` gets sentences about waits, such as for a pod of an endpoint that sleeps. `ca` is a file with the authority
    of the endpoint's certificate, for clients inside the cluster. Its default is ULTRAMARINE_CA, or the one in the
    platform's ConfigMap and in the certificate's Secret.
    """

    def __init__(self, client: Client, name: str, key: str = "", note: Note = _silent, ca: str = "") -> None:
        self.client, self.name = client, name
        self._given = key or os.environ.get(key_store.ENV_KEY, "")
        self._key = ""  # of the Secret
        self._route = Route(client, name, note, ca)
        self._seen: Manifest = {}
        self._seen_at = 0.0
        self._signatures: dict[tuple[str, str], Signature] = {}

    def __repr__(self) -> str:
        return f"Endpoint({self.client.namespace}/{self.name})"

    def close(self) -> None:
        """Close all connections."""
        self._route.close()

    # ---- State

    @property
    def object(self) -> Manifest:
        """The object as it is now. Raises NotFound with the nearest name."""
        try:
            self._seen = self.client.cluster.get(ONLINE_ENDPOINT, self.name)
        except NotFound as error:
            raise explained(self.client, error) from None
        self._seen_at = time.monotonic()
        return self._seen

    def _recent(self) -> Manifest:
        return self._seen if self._seen and time.monotonic() - self._seen_at < _FRESH_SECONDS else self.object

    @property
    def status(self) -> dict[str, Any]:
        """Status of the object as it is now; empty if the operator has not seen it."""
        return dict(self.object.get("status") or {})

    @property
    def ready(self) -> bool:
        """True if the endpoint answers requests, perhaps after a wait if it sleeps."""
        return _condition(self.object, "Ready").get("status") == "True"

    @property
    def url(self) -> str:
        """Address inside the cluster, or at a Gateway of the Gateway API."""
        return str(self.status.get("url", ""))

    @property
    def traffic(self) -> dict[str, int]:
        """Percentage of requests by deployment, as the gateway has confirmed it."""
        return dict(self.status.get("traffic") or {})

    def set_traffic(self, shares: Mapping[str, int]) -> None:
        """Choose the percentage of requests by deployment. Raises DataInvalid unless the sum is 100."""
        if sum(shares.values()) != 100 or any(share < 0 for share in shares.values()):
            raise DataInvalid(f"traffic must sum to 100; {'+'.join(map(str, shares.values()))} does not. Correct it.")

        def change(manifest: Manifest) -> Manifest:
            names = [deployment["name"] for deployment in manifest["spec"]["deployments"]]
            for name in shares:
                if name not in names:
                    hint = suggest(name, names, f"Deployments: {listed(names)}.")
                    raise DataInvalid(f"endpoint {self.name} has no deployment {name}. {hint}")
            dropped = dict.fromkeys(manifest["spec"].get("traffic") or {})
            return {"traffic": dropped | dict(shares)}

        self.change(change)

    def change(self, spec_of: Callable[[Manifest], Manifest]) -> Manifest:
        """Merge the answer of `spec_of` into the spec; repeat that if another writer was faster."""
        for attempt in range(_CONFLICTS):
            manifest = self.object
            version = {"resourceVersion": manifest["metadata"]["resourceVersion"]}
            try:
                merged = {"metadata": version, "spec": spec_of(manifest)}
                return self.client.cluster.patch(ONLINE_ENDPOINT, self.name, merged)
            except Exists:
                if attempt == _CONFLICTS - 1:
                    raise
        raise AssertionError

    def wait(self, timeout: float | None = None, progress: Note = _silent) -> Endpoint:
        """Return once all deployments of the newest spec are ready and the gateway routes to them.

        Raises NotReady with the cause if that fails, or TimeoutError after `timeout` seconds. `progress` gets each
        state.
        """
        watch = self.client.cluster.watch(ONLINE_ENDPOINT, self.name, seconds=timeout)
        failing_since: float | None = None
        last = ""
        for event in watch:
            if event.type == "DELETED":
                raise NotReady(f"OnlineEndpoint {self.name} was deleted before it was ready.")
            text, is_ready, fails = progress_of(event.object)
            if is_ready:
                self._seen_at = 0.0
                return self
            if text != last:
                progress(text)
                last = text
            failing_since = (failing_since or time.monotonic()) if fails else None
            refused = _condition(event.object, "Accepted").get("status") == "False"
            if refused or (failing_since and time.monotonic() - failing_since > _FAILING_SECONDS):
                raise NotReady(f"endpoint {self.name} does not become ready: {text}")
        raise TimeoutError(f"endpoint {self.name} is not ready after {timeout} seconds: {last}")

    # ---- Keys

    @property
    def keys(self) -> dict[str, str]:
        """Keys of the endpoint, primary and secondary. Raises EndpointError if the user may not read them."""
        secret = self._secret()
        try:
            return key_store.read(self.client.cluster, secret)
        except NotFound:
            raise EndpointError(f"Secret {secret} of endpoint {self.name} does not exist yet. Wait a moment.") from None
        except Forbidden:
            if keys := key_store.kept(self.client.cluster, secret):
                return keys
            raise EndpointError(
                f"you may not read Secret {secret}, which has the keys of endpoint {self.name}. Ask your administrator"
                f" for a key or for the right to this Secret, and set {key_store.ENV_KEY} to the key."
            ) from None

    def rotate_keys(self) -> dict[str, str]:
        """Make a new primary key. The former one stays valid as the secondary key until the next rotation."""
        return key_store.rotate(self.client.cluster, self._secret(), self.keys)

    def _secret(self) -> str:
        spec = self._recent()["spec"]
        if spec.get("authMode", "key") != "key":
            raise EndpointError(f"endpoint {self.name} has no keys: its authMode is {spec['authMode']}.")
        return str((spec.get("keysSecretRef") or {}).get("name") or f"{self.name}-keys")

    def _credential(self) -> dict[str, str]:
        spec = self._recent()["spec"]
        mode = spec.get("authMode", "key")
        if mode == "none":
            return {}
        if mode == "token" and not self._given:
            raise EndpointError(
                f"endpoint {self.name} takes tokens of {spec['token']['issuer']}. Get one there, and set"
                f" {key_store.ENV_KEY} to it."
            )
        if not self._given and not self._key:
            keys = self.keys
            self._key = keys.get("primary") or keys.get("secondary") or ""
        return _bearer(self._given or self._key)

    # ---- Requests

    def predict(self, data: Any, deployment: str = "", model: str = "") -> Any:
        """Return the model's first output, with a value for each row of `data`; infer() has a classifier's others.

        Rows are a data frame, an array, a list of lists or objects, columns by name, or one row as an object. Answers
        are arrays for data frames and arrays, and lists otherwise. `deployment` is asked whatever its traffic is;
        `model` is that of a pool. Raises DataInvalid for rows that do not fit, and EndpointError.

        A scoring script gets `{"data": rows}`, with `columns` beside them for a data frame, or what its decorators of
        inference-schema ask for. Its answer is returned as it is.
        """
        answers = self.infer(data, deployment, model)
        return next(iter(answers.values())) if isinstance(answers, asking.Answers) else answers

    def infer(self, data: Any, deployment: str = "", model: str = "") -> Any:
        """Return all outputs by name, such as `predict` and `predict_proba`; otherwise as predict()."""
        signature = self.signature(deployment, model)
        with self._signatures_checked():
            if signature is None:
                return asking.scored(self._schema(deployment), data, self._post(deployment))
            return asking.infer(signature, data, self._post(deployment))

    def answer(self, data: Any, deployment: str = "", model: str = "") -> Any:
        """Return the answer to rows as infer() does, or to a complete request of the protocol."""
        signature = self.signature(deployment, model)
        schema = {} if signature else self._schema(deployment)
        with self._signatures_checked():
            return asking.answer(signature, schema, data, self._post(deployment))

    def _post(self, deployment: str) -> asking.Post:
        def post(path: str, body: bytes, headers: Mapping[str, str]) -> asking.Reply:
            answer = self.request("POST", path, body, headers, deployment, repeat=True)
            return answer.headers, answer.body

        return post

    @contextmanager
    def _signatures_checked(self) -> Iterator[None]:
        """Forget what is served if a request in the block does not fit it, so that the next call reads it again."""
        try:
            yield
        except EndpointError as error:
            if error.status in (400, 404):
                self._signatures.clear()
            raise

    def _schema(self, deployment: str) -> dict[str, Any]:
        """Return the schema that a script shows of its input; empty without one."""
        if "scoring" not in self._deployment(deployment):
            return {}
        try:
            answer = self.request("GET", "/swagger.json", None, {}, deployment, repeat=True)
            return dict(json.loads(answer.body)["definitions"]["ServiceInput"])
        except (EndpointError, ValueError, LookupError, TypeError):
            return {}

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        deployment: str = "",
        *,
        repeat: bool = False,
        seconds: float = 0.0,
    ) -> Answer:
        """Return the answer to any request, such as one to a container. Raises EndpointError for an error status.

        With `repeat` a request whose connection was lost is sent again. Without an answer it is lost after `seconds`,
        by default after the deployment's own timeout.
        """
        pin = {PIN_HEADER: deployment} if deployment else {}
        whole = {"Content-Type": "application/json", **(headers or {}), **pin}

        def send(credential: Mapping[str, str]) -> Answer:
            all_headers = {**whole, **credential}
            return self._route.send(method, path, body, all_headers, self._recent(), repeat=repeat, seconds=seconds)

        credential = self._credential()
        if self._key:
            self._key, answer = key_store.answered(self._key, lambda: self.keys, lambda key: send(_bearer(key)))
        else:
            answer = send(credential)
        if answer.status >= 400:
            self._seen_at = 0.0
            raise failure(self.name, answer)
        return answer

    def signature(self, deployment: str = "", model: str = "") -> Signature | None:
        """Return inputs and outputs of a deployment's model; None for a script or a container without them."""
        chosen = self._deployment(deployment)
        if "pool" in chosen and not model:
            raise DataInvalid(f"endpoint {self.name} serves a pool of models. Name the model.")
        model = model or str(chosen.get("model") or "").partition("@")[0]
        if "container" in chosen or not model:
            return None
        if (deployment, model) not in self._signatures:
            try:
                path = f"/v2/models/{quote(model)}"
                answer = self.request("GET", path, None, {}, deployment, repeat=True, seconds=_SIGNATURE_SECONDS)
            except EndpointError as error:
                if error.status == 501:  # a script without a signature
                    return None
                raise
            self._signatures[deployment, model] = signature_of(json.loads(answer.body))
        signature = self._signatures[deployment, model]
        return signature if signature.inputs else None

    def _deployment(self, name: str) -> Manifest:
        """Return a deployment of the spec: by its name, or the one with the largest share."""
        manifest = self._recent()
        deployments = {str(entry["name"]): entry for entry in manifest["spec"]["deployments"]}
        if not name:
            shares = (manifest.get("status") or {}).get("traffic") or {}
            name = max(deployments, key=lambda entry: shares.get(entry, 0))
        if name not in deployments:
            hint = suggest(name, deployments, f"Deployments: {listed(deployments)}.")
            raise DataInvalid(f"endpoint {self.name} has no deployment {name}. {hint}")
        return dict(deployments[name])

    def logs(self, deployment: str = "", follow: bool = False) -> Iterator[Update]:
        """Yield the log lines of the endpoint's pods; with `follow` also those to come, until the caller stops."""
        from .serving.logs import log_lines

        return log_lines(self.client.cluster, self.name, deployment, follow=follow)


def progress_of(manifest: Manifest) -> tuple[str, bool, bool]:
    """Return a sentence about an endpoint, True if all of the newest spec is ready, and True if a deployment fails."""
    status = manifest.get("status") or {}
    if int(status.get("observedGeneration") or 0) < manifest["metadata"].get("generation", 1):
        return "waiting for the operator", False, False
    ready = _condition(manifest, "Ready")
    entries = {entry["name"]: entry for entry in status.get("deployments") or []}
    names = [deployment["name"] for deployment in manifest["spec"]["deployments"]]
    unready = [entries[name] for name in names if name in entries and entries[name].get("state") != "Ready"]
    stopped = [entry for entry in unready if entry.get("state") == "Stopped"]
    for entry in unready:
        if entry not in stopped:
            state, message = str(entry.get("state", "")).lower(), entry.get("message") or "no explanation"
            return f"deployment {entry['name']} is {state}: {message}", False, state == "failing"
    waits = any(_condition(manifest, type).get("status") == "True" for type in ("Reconciling", "Stalled"))
    is_ready = ready.get("status") == "True" and not waits
    return str(ready.get("message") or "waiting for the operator"), is_ready, bool(_condition(manifest, "Stalled"))


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _condition(manifest: Manifest, type: str) -> dict[str, Any]:
    conditions = (manifest.get("status") or {}).get("conditions") or []
    return next((dict(entry) for entry in conditions if entry["type"] == type), {})
