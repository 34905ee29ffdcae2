"""A namespace with the real operator in it, used by one generated example after another, and the hands around it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import hands
import httpx
from bare import RESOURCES, Api
from operator_process import Operator
from poison import Poison
from strategies import KIND, NAMES
from ultramarine_contract.meta import ANNOTATION_TRUSTED_BY, Manifest, Resource, content_hash, controller_uid
from ultramarine_operator.kube.client import as_yaml
from ultramarine_operator.shared.conditions import is_true

OURS = tuple(KIND[name].resource for name in NAMES)
CHILDREN = tuple({child for kind in KIND.values() for child in (*kind.children, *kind.creates)} - set(OURS))
PATIENCE = 60.0  # seconds
# Of the server or of the moment, or a hash over one of both.
UNSTABLE = {"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "lastTransitionTime"}
UNSTABLE |= {
    "clusterIP",
    "clusterIPs",
    "startTime",
    "time",
    "nextRefreshTime",
    "activeSeconds",
    "ultramarine.dev/applied",
    "ultramarine.dev/revision",
}
Where = tuple[Resource, str]


def where(manifest: Manifest) -> Where:
    """The type and the name of an object."""
    return RESOURCES[manifest["kind"]], manifest["metadata"]["name"]


@dataclass
class Ground:
    """Ground of a property's examples; each example uses its own names and leaves nothing behind."""

    api: Api
    operator: Operator
    artifact: Manifest = field(default_factory=dict)
    number: int = 0
    patience: float = PATIENCE
    _bugs: float = 0.0
    _read: int = 0

    # Requests, in the order of what people do.

    def ask(self, method: str, resource: Resource, name: str = "", sub: str = "", **more: Any) -> httpx.Response:
        """One request about objects of this namespace."""
        body, type = more.pop("body", None), more.pop("type", "application/json")
        content = None if body is None else as_yaml(body).encode()
        path = resource.path(self.api.namespace, name, sub)
        return self.api.http.request(method, path, content=content, headers={"Content-Type": type}, **more)

    def create(self, manifest: Manifest) -> Manifest:
        """Make an object, which has to be admitted."""
        answer = self.ask("POST", where(manifest)[0], body=manifest)
        assert answer.status_code == 201, f"not admitted: {answer.json()['message']}"
        made: Manifest = answer.json()
        return made

    def apply(self, manifest: Manifest) -> httpx.Response:
        """Server-side apply, as a person: what the manifest no longer has is taken away."""
        query = {"fieldManager": "person", "force": "true"}
        return self.ask("PATCH", *where(manifest), params=query, body=manifest, type="application/apply-patch+yaml")

    def patch(self, about: Where, patch: Manifest, sub: str = "") -> httpx.Response:
        """Merge something into an object, or into its status."""
        return self.ask("PATCH", *about, sub, body=patch, type="application/merge-patch+json")

    def delete(self, about: Where) -> None:
        """Delete an object; one that is gone already is fine."""
        body = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        self.ask("DELETE", *about, body=body)

    def get(self, about: Where) -> Manifest:
        """An object, or an empty one."""
        answer = self.ask("GET", *about)
        return answer.json() if answer.is_success else {}

    def all(self, resources: Iterable[Resource] = (*OURS, *CHILDREN)) -> list[Manifest]:
        """All objects of these types."""
        return [
            item | {"apiVersion": resource.api_version, "kind": resource.kind}
            for resource in resources
            for item in self.ask("GET", resource).json()["items"]
        ]

    # Examples.

    def name(self) -> str:
        """A name that no example had before, and that is no part of another one."""
        self.number += 1
        return f"m{self.number:05}"

    def clear(self, but: Iterable[str] = ()) -> None:
        """Take away what an example has left; nobody else collects garbage here."""
        for resources in (OURS, CHILDREN):
            for found in self.all(resources):
                name, labels = found["metadata"]["name"], found["metadata"].get("labels") or {}
                if labels.get("keep") != "yes" and not name.startswith(tuple(but)):
                    self.delete(where(found))

    def quarrel(self) -> str:
        """Return new bugs in the operator's log; empty as long as all is well."""
        with self.operator.log.open() as log:
            log.seek(self._read)
            news = log.read()
            self._read = log.tell()
        lines = [line for line in news.splitlines() if "Traceback" in line or "a bug of the operator" in line]
        ended = (
            value
            for name, value in self.operator.metrics().items()
            if name.startswith("ultramarine_reconciles_total{") and 'outcome="bug"' in name
        )
        bugs = sum(ended)
        grown, self._bugs = bugs - self._bugs, bugs
        return "\n".join(lines) or (f"{grown:.0f} passes ended by a bug" if grown else "")

    def wait(self, what: str, look: Callable[[], Any]) -> Any:
        """Wait until `look` gives something true; a bug of the operator ends the wait."""
        end, next_look = time.monotonic() + self.patience, time.monotonic() + 1
        while not (found := look()):
            if time.monotonic() > next_look:
                assert not (bug := self.quarrel()), bug
                assert time.monotonic() < end, f"waited {self.patience:.0f} s in vain: {what}"
                next_look += 1
            time.sleep(0.03)
        return found

    def wait_for_all(self, about: list[Where], holds: Callable[[Manifest], bool]) -> list[Manifest]:
        """Wait until something holds for all these objects of one type, and return them."""
        names, resource = [name for _, name in about], about[0][0]

        def look() -> list[Manifest]:
            there = {found["metadata"]["name"]: found for found in self.all([resource])}
            found = [there.get(name, {}) for name in names]
            missing[:] = [
                (name, each.get("status")) for name, each in zip(names, found, strict=True) if not holds(each)
            ]
            return [] if missing else found

        missing: list[Any] = []
        try:
            found: list[Manifest] = self.wait("", look)
        except AssertionError as error:
            raise AssertionError(f"{error}{missing}") from None
        return found

    def lay(self, drop: Poison) -> bool:
        """Put one drop of poison where it belongs; says whether the server admitted it."""
        if drop.name:
            return self.patch((RESOURCES[drop.kind], drop.name), drop.patch, drop.sub).is_success
        return self.ask("POST", RESOURCES[drop.kind], body=drop.patch).is_success

    # What controllers do.

    def play(self) -> None:
        """One round of the garbage collector, the controllers of Jobs and Deployments, and the kubelet."""
        there = self.all()
        uids = {found["metadata"]["uid"] for found in there}
        for found in there:
            if (owner := controller_uid(found)) and owner not in uids:
                self.delete(where(found))
        for job in (found for found in there if found["kind"] == "Job"):
            self._take_up(job)
        pods = [found for found in there if found["kind"] == "Pod"]
        for deployment in (found for found in there if found["kind"] == "Deployment"):
            if controller_uid(deployment) in uids:
                self._roll(deployment, [pod for pod in pods if controller_uid(pod) == deployment["metadata"]["uid"]])

    def _take_up(self, job: Manifest) -> None:
        held = {"type": "Suspended", "status": "True", "lastTransitionTime": hands.now()}
        suspend, status = job["spec"]["suspend"], job.get("status") or {}
        if suspend and not is_true(status, "Suspended"):
            self.patch(where(job), {"status": {"startTime": None, "conditions": [held]}}, "status")
        elif not suspend and "startTime" not in status:
            self.patch(where(job), {"status": {"startTime": hands.now(), "conditions": []}}, "status")

    def _roll(self, deployment: Manifest, own: list[Manifest]) -> None:
        revision, count = content_hash(deployment["spec"]["template"])[:8], deployment["spec"]["replicas"]
        wanted = {f"{deployment['metadata']['name']}-{revision}-{number}" for number in range(count)}
        known = {pod["metadata"]["name"] for pod in own}
        for name in sorted(wanted - known):
            self.run_pod(hands.pod_of(deployment, name))
        for name in known - wanted:
            self.delete((RESOURCES["Pod"], name))
        status = {name: count for name in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")}
        status["observedGeneration"] = deployment["metadata"]["generation"]
        if {name: deployment["status"].get(name, 0) for name in status} != status:
            self.patch(where(deployment), {"status": status}, "status")

    def run_pod(self, pod: Manifest) -> Manifest:
        """Make a pod that runs and is ready."""
        made = self.create(pod)
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": hands.now()}
        self.patch(
            where(pod), {"status": {"phase": "Running", "startTime": hands.now(), "conditions": [ready]}}, "status"
        )
        return made

    def end(self, name: str) -> dict[str, Any]:
        """Return one object and its children, without the differences between two equal end states."""
        found = [item for item in self.all() if item["metadata"]["name"].startswith(name)]
        uids = [item["metadata"]["uid"] for item in found]
        end = {}
        for item in found:
            if item["kind"] == "Secret":
                continue  # one that was generated stays: nobody here may look for it, and its keys may be in use
            _give_back_what_was_worked(item, found)
            marks = item["metadata"].get("annotations") or {}
            if not marks.get(ANNOTATION_TRUSTED_BY):  # the policy empties it, which says the same as its absence
                marks.pop(ANNOTATION_TRUSTED_BY, None)
            text = json.dumps(_stable(item, item["metadata"].get("generation")))
            text = re.sub("|".join(uids), "UID", text).replace(name, "NAME")
            text = re.sub(r"-[0-9a-f]{8}-(\d+)\b", r"-HASH-\1", text)
            stable = json.loads(text)
            end[f"{item['kind']}/{stable['metadata']['name']}"] = stable
        return end


def _give_back_what_was_worked(item: Manifest, found: list[Manifest]) -> None:
    """Add to a Job's deadline what its TrainingJob has worked before: one of two lives may have begun earlier."""
    for owner in found:
        limit = owner["spec"].get("activeDeadlineSeconds") if owner["kind"] == "TrainingJob" else None
        if item["kind"] == "Job" and limit and item["metadata"]["name"] == owner["metadata"]["name"]:
            worked = (owner.get("status") or {}).get("activeSeconds", 0)
            item["spec"]["activeDeadlineSeconds"] = min(item["spec"]["activeDeadlineSeconds"] + worked, limit)


def _stable(value: Any, generation: int | None) -> Any:
    if isinstance(value, dict):
        return {
            name: each == generation if name == "observedGeneration" else _stable(each, generation)
            for name, each in value.items()
            if name not in UNSTABLE
        }
    if isinstance(value, list):
        return [_stable(each, generation) for each in value]
    if isinstance(value, str) and "is not admitted: " in value:
        return sorted(re.findall(r"\w+", value))  # the server's order is another each time
    return value


def difference(got: Any, wanted: Any, place: str = "") -> list[str]:
    """Return the difference between two end states."""
    if isinstance(got, dict) and isinstance(wanted, dict):
        keys = sorted(got.keys() | wanted.keys())
        return [line for key in keys for line in difference(got.get(key), wanted.get(key), f"{place}.{key}")]
    if isinstance(got, list) and isinstance(wanted, list) and len(got) == len(wanted):
        pairs = enumerate(zip(got, wanted, strict=True))
        return [line for n, (one, other) in pairs for line in difference(one, other, f"{place}[{n}]")]
    return [] if got == wanted else [f"{place}: {got!r}, not {wanted!r}"]
