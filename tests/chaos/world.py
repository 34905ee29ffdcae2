"""The hands of one namespace: kubelet, controllers of Jobs and Deployments, Kueue, gateway, garbage collector, people.

They look at the API directly, never through the proxy, act on what is there and not on what happened, and are
deterministic; so a life ends in the same state however often the operator was disturbed on the way.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
import hands
from gateway_hands import Gateway
from sweep_hands import Tokens
from trial_hands import ACCOUNT, Coordinators
from ultramarine_contract import common as contract
from ultramarine_contract.dataset_records import FACTS, PROFILE
from ultramarine_contract.environment_records import BuildRecord, BuildTask
from ultramarine_contract.meta import (
    CHILD_SELECTOR,
    CONFIG_MAP,
    ENVIRONMENT,
    LEASE,
    Manifest,
    Resource,
    content_hash,
    controller_uid,
)
from ultramarine_contract.storage import Storage
from ultramarine_contract.sweep_records import STOPPED_EARLY
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.model.manifests import STORE
from ultramarine_operator.kinds.sweep.manifests import COORDINATOR
from ultramarine_operator.kinds.trainingjob import memory
from ultramarine_operator.runs.queues import LABEL_QUEUE
from ultramarine_operator.shared.conditions import is_true
from ultramarine_operator.shared.pods import INDEX, OUT_OF_MEMORY, is_running, node_index
from ultramarine_operator.shared.testing import WEIGHTS, Fate

ENOUGH = 2 * 2**30
GARBAGE_COLLECTORS = "foregroundDeletion"  # the finalizer of what goes after its children
CHILDREN = {child for kind in KINDS for child in (*kind.children, *kind.creates)}
OTHERS = (*(CHILDREN - {kind.resource for kind in KINDS}), LEASE)
BUCKET = "lake"
DELETE = "delete"  # the container of a Job that deletes an artifact
VERSIONS = ("ModelVersion", "DatasetVersion")
OF_A_DELETION = re.compile(r"(?<=-delete)-[0-9a-f]{4}$")
Id = tuple[str, str]  # kind and name


@dataclass
class Api:
    """The API server, asked as its administrator."""

    url: str
    session: aiohttp.ClientSession
    tls: object

    async def ask(self, method: str, path: str, body: Manifest | None = None, type: str = "") -> Manifest:
        """One request. Raises RuntimeError with the server's words for an error.

        Raises LookupError for a 404 or 409, or if the name belongs to an object with another uid than the body's.
        """
        headers = {"Content-Type": type or "application/json"}
        data = json.dumps(body) if body is not None else None
        async with self.session.request(method, self.url + path, data=data, headers=headers, ssl=self.tls) as answer:  # type: ignore[arg-type]
            document: Manifest = await answer.json(content_type=None)
        if answer.status in (404, 409) or "metadata.uid: Invalid value" in str(document.get("message")):
            raise LookupError(f"{method} {path}: {document.get('message')}")
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {document.get('message')}\n{data}")
        return document


@dataclass(frozen=True)
class Sight:
    """One event that a direct watch saw."""

    at: float
    type: str
    manifest: Manifest

    @property
    def id(self) -> Id:
        return self.manifest["kind"], self.manifest["metadata"]["name"]


@dataclass
class World:
    """One namespace."""

    api: Api
    namespace: str
    storage: Storage
    resources: dict[str, Resource]
    patience: float
    fates: dict[str, tuple[Fate, ...]] = field(default_factory=dict)  # by Job or Deployment; the last one repeats
    objects: dict[Id, Manifest] = field(default_factory=dict)
    sights: list[Sight] = field(default_factory=list)
    renewals: list[Sight] = field(default_factory=list)  # of the operator's Lease
    trouble: list[str] = field(default_factory=list)  # what went wrong with the hands themselves
    has_room: bool = False  # whether Kueue lets the Jobs of its queues run
    gateway: Gateway = field(init=False)
    tokens: Tokens = field(init=False)
    coordinators: Coordinators = field(init=False)
    cut_off: list[Id] = field(default_factory=list)  # Deployments that went while requests were sent to their pods
    needed: dict[str, int] = field(default_factory=dict)  # by Deployment: how many pods its requests need
    faults: list[str] = field(default_factory=list)  # what the operator did though somebody needed what it took
    deleted: list[str] = field(default_factory=list)  # URIs of the artifacts that its Jobs deleted
    recorded: dict[str, str] = field(default_factory=dict)  # by cache key: uid of the Job that did the work
    _taken: set[str] = field(default_factory=set)  # uids of what was deleted here, and not by the operator
    _news: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: set[str] = field(default_factory=set)  # uids of what a watch has told the end of
    _records: dict[str, contract.OutputRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gateway = Gateway(self.objects)
        self.tokens = Tokens(self.objects)
        self.coordinators = Coordinators(self)

    def see(self, type: str, manifest: Manifest) -> None:
        """Take in an event of the direct watch."""
        sight = Sight(time.monotonic(), type, manifest)
        if manifest["kind"] == "Lease":
            self.renewals.append(sight)
            return
        self.sights.append(sight)
        if type == "DELETED":
            self._ended.add(manifest["metadata"]["uid"])
            if manifest["kind"] == "Deployment" and self.gateway.sends_to(manifest["metadata"]["name"]):
                self.cut_off.append(sight.id)
            if manifest["kind"] == "ModelVersion" and manifest["metadata"]["uid"] not in self._taken:
                self.faults += self._named(manifest)
            known = self.objects.get(sight.id)
            if known is not None and known["metadata"]["uid"] == manifest["metadata"]["uid"]:
                del self.objects[sight.id]
        else:
            if manifest["kind"] == "Deployment":
                self.faults += self._starved(manifest)
            self._keep(manifest)
        self._news += 1
        self._changed.set()

    def _named(self, version: Manifest) -> Iterator[str]:
        """Yield the objects that name a version which the operator has deleted."""
        model, number = version["spec"]["model"], version["spec"]["version"]
        aliases = (self.get("Model", model) or {"spec": {}})["spec"].get("aliases", {})
        for alias, named in aliases.items():
            if named == number:
                yield f"version {number} of {model} was deleted though its alias {alias} leads there"
        for endpoint in self.all("OnlineEndpoint"):
            for deployment in endpoint["spec"]["deployments"]:
                if deployment.get("model") == f"{model}@{number}":
                    yield f"version {number} of {model} was deleted though {endpoint['metadata']['name']} names it"

    def _starved(self, deployment: Manifest) -> Iterator[str]:
        """Which Deployment loses pods that its requests need."""
        name, count = deployment["metadata"]["name"], deployment["spec"]["replicas"]
        before = (self.get("Deployment", name) or deployment)["spec"]["replicas"]
        if count < min(before, self.needed.get(name, 0)):
            yield f"Deployment {name} went from {before} to {count} pods, and its requests need {self.needed[name]}"

    def _keep(self, manifest: Manifest) -> None:
        if manifest["metadata"]["uid"] in self._ended:  # the answer to a write came after the end
            return
        id = (manifest["kind"], manifest["metadata"]["name"])
        known = self.objects.get(id)
        if known is None or _version(known) <= _version(manifest):
            self.objects[id] = manifest

    # What people do.

    async def apply(self, *manifests: Manifest) -> None:
        """Server-side apply, as a person."""
        for manifest in manifests:
            path = self._path(manifest["kind"], manifest["metadata"]["name"])
            path += "?fieldManager=kubectl&force=true"
            mine = json.loads(json.dumps(manifest).replace("NAMESPACE", self.namespace))
            self._keep(await self.api.ask("PATCH", path, mine, "application/apply-patch+yaml"))

    async def replace(self, manifest: Manifest) -> None:
        """Write a whole object over what is there."""
        meta = manifest["metadata"]
        whole = {field: meta[field] for field in ("name", "labels", "annotations", "ownerReferences") if field in meta}
        kept = {**manifest, "metadata": whole}
        path = self._path(manifest["kind"], manifest["metadata"]["name"])
        while True:
            now = await self.api.ask("GET", path)
            kept["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"]
            try:
                return self._keep(await self.api.ask("PUT", path, kept))
            except LookupError:  # the operator wrote in between
                continue

    async def store(self, name: str) -> None:
        """Put an artifact into the storage: one object or, where the name ends in a slash, a folder below it."""
        uri = f"s3://{BUCKET}/{self.namespace}/{name}"
        if name.endswith("/"):
            await asyncio.to_thread(hands.put, self.storage, uri, name)
        else:
            await asyncio.to_thread(self.storage.write, uri, WEIGHTS)

    def load(self, deployment: str, load: float, pods: int) -> None:
        """Say how much is asked of a Deployment from now on, and how many pods that takes."""
        self.gateway.loads[deployment], self.needed[deployment] = load, pods

    async def edit(self, kind: str, name: str, patch: Manifest, subresource: str = "") -> None:
        """Merge a patch into an object."""
        path = self._path(kind, name) + (f"/{subresource}" if subresource else "")
        self._keep(await self.api.ask("PATCH", path, patch, "application/merge-patch+json"))

    async def delete(self, kind: str, name: str, uid: str = "") -> None:
        """Delete an object at once; one that is gone already is fine."""
        body: Manifest = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        if known := self.get(kind, name):
            self._taken.add(known["metadata"]["uid"])
        if uid:
            body["preconditions"] = {"uid": uid}
        with suppress(LookupError):
            await self.api.ask("DELETE", self._path(kind, name), body)

    def _path(self, kind: str, name: str) -> str:
        return self.resources[kind].path(self.namespace, name)

    def decide(self, name: str, *fates: Fate) -> None:
        """Say what becomes of the pods of a Job, one attempt after another, or of a Deployment."""
        self.fates[name] = fates
        self._news += 1
        self._changed.set()

    def make_room(self, enough: bool) -> None:
        """Say whether the queues have room; where they have no more, Kueue takes it away from those who run."""
        self.has_room = enough
        self._news += 1
        self._changed.set()

    @staticmethod
    def id(manifest: Manifest) -> Id:
        """Return the identifier of an object."""
        return manifest["kind"], manifest["metadata"]["name"]

    def get(self, kind: str, name: str) -> Manifest | None:
        """An object as it was seen last."""
        return self.objects.get((kind, name))

    def all(self, kind: str) -> list[Manifest]:
        """All objects of a kind, by name."""
        return [found for (its, _), found in sorted(self.objects.items()) if its == kind]

    def status(self, kind: str, name: str) -> Manifest:
        """An object's status, or an empty one."""
        return (self.get(kind, name) or {}).get("status") or {}

    async def until(self, what: str, look: Callable[[], object]) -> None:
        """Wait until `look` holds."""
        end = time.monotonic() + self.patience
        while not look():
            self._changed.clear()
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f"waited {self.patience:.0f} s in vain: {what}")
            try:
                async with asyncio.timeout(min(left, 0.5)):
                    await self._changed.wait()
            except TimeoutError:
                pass

    # What controllers and kubelets do.

    async def play(self) -> None:
        """Do what is to be done, whenever something changed, for ever."""
        while True:
            news = self._news
            try:
                await self._collect_garbage()
                self.gateway.look()
                for job in self.all("Job"):
                    await self._run_job(job)
                for deployment in self.all("Deployment"):
                    await self._run_deployment(deployment)
            except LookupError:  # changed under our hands: look again
                await asyncio.sleep(0.01)
                continue
            except Exception as error:
                self.trouble.append(repr(error))
                raise
            if self._news == news:
                self._changed.clear()
                await self._changed.wait()

    async def _collect_garbage(self) -> None:
        uids = {found["metadata"]["uid"] for found in self.objects.values()}
        for (kind, name), found in list(self.objects.items()):
            owner = controller_uid(found)
            if GARBAGE_COLLECTORS in found["metadata"].get("finalizers", ()):
                await self._delete_after_its_children(found)
            elif found["metadata"].get("deletionTimestamp"):
                await self.delete(kind, name, found["metadata"]["uid"])  # the kubelet has nothing to tidy up
            elif owner and owner not in uids and await self._is_gone(found):
                await self.delete(kind, name, found["metadata"]["uid"])

    async def _delete_after_its_children(self, owner: Manifest) -> None:
        kind, name, uid = owner["kind"], owner["metadata"]["name"], owner["metadata"]["uid"]
        children = [child for child in self.objects.values() if controller_uid(child) == uid]
        for child in children:
            await self.delete(child["kind"], child["metadata"]["name"], child["metadata"]["uid"])
        if not children:
            await self.edit(kind, name, {"metadata": {"uid": uid, "finalizers": None}})

    async def _is_gone(self, child: Manifest) -> bool:
        """Ask for the owner, as the garbage collector does: our watches of two types are not in step."""
        for reference in child["metadata"]["ownerReferences"]:
            if reference.get("controller"):
                try:
                    owner = await self.api.ask("GET", self._path(reference["kind"], reference["name"]))
                except LookupError:
                    return True
                return bool(owner["metadata"]["uid"] != reference["uid"])
        return False

    async def _run_job(self, job: Manifest) -> None:
        name, spec, status = job["metadata"]["name"], job["spec"], job.get("status") or {}
        if job["metadata"].get("deletionTimestamp") or is_true(status, "Complete") or is_true(status, "Failed"):
            return
        if LABEL_QUEUE in job["metadata"]["labels"] and bool(spec.get("suspend")) == self.has_room:
            version = job["metadata"]["resourceVersion"]
            await self.edit(
                "Job", name, {"metadata": {"resourceVersion": version}, "spec": {"suspend": not self.has_room}}
            )
            return
        own = [pod for pod in self.all("Pod") if controller_uid(pod) == job["metadata"]["uid"]]
        active = [pod for pod in own if _phase(pod) not in ("Succeeded", "Failed")]
        failed = sum(_phase(pod) == "Failed" for pod in own)
        if spec.get("suspend"):
            await self._end_pods(active)
            suspended = {"type": "Suspended", "status": "True", "lastTransitionTime": hands.now()}
            if not is_true(status, "Suspended"):
                await self._say(job, {"active": 0, "ready": 0, "conditions": [suspended], "startTime": None})
            return
        if spec.get("completionMode") == "Indexed":  # it may have become smaller
            too_many = [pod for pod in active if node_index(pod) >= spec["completions"]]
            await self._end_pods(too_many)
            active = [pod for pod in active if pod not in too_many]
        needed = {0} if spec.get("successPolicy") else set(range(spec["completions"]))
        if needed <= {node_index(pod) for pod in own if _phase(pod) == "Succeeded"}:
            await self._end_pods(active)
            await self._say(job, hands.complete_job(spec.get("completionMode") == "Indexed"))
            return
        if failed > spec["backoffLimit"]:
            await self._end_pods(active)
            await self._say(job, hands.failed_job(failed))
            return
        for index in sorted(
            set(range(spec["completions"])) - {node_index(pod) for pod in own if _phase(pod) != "Failed"}
        ):
            former = [pod["metadata"]["creationTimestamp"] for pod in own if node_index(pod) == index]
            while former and hands.now() <= max(former):  # the Job controller waits for seconds
                await asyncio.sleep(0.05)
            attempt = len(former) + 1
            made = hands.pod_of(job, f"{name}-{index}-{secrets.token_hex(4)}-{attempt}", {INDEX: str(index)})
            if any("projected" in volume for volume in made["spec"].get("volumes") or ()):
                made["spec"]["serviceAccountName"] = ACCOUNT  # whose token it is; by an admission plugin, elsewhere
            self._keep(pod := await self.api.ask("POST", self.resources["Pod"].path(self.namespace), made))
            active.append(pod)
        running: Manifest = {"active": len(active), "ready": 0, "failed": failed, "conditions": []}
        await self._say(job, running | ({} if status.get("startTime") else {"startTime": hands.now()}))
        fates = self.fates.get(without_hash(name), ("runs",))
        fate = fates[min(failed, len(fates) - 1)]
        together = len(active) == 1 or all(map(is_running, active))
        for pod in sorted(active, key=node_index):
            # A gang begins together; then it is the last node that fails, and node 0 that succeeds.
            acts = together and node_index(pod) in ({0} if fate == "succeeds" else {spec["completions"] - 1})
            await self._train(job, pod, fate if acts or fate not in ("succeeds", "fails") else "runs")

    async def _end_pods(self, pods: list[Manifest]) -> None:
        for pod in pods:
            await self.delete("Pod", pod["metadata"]["name"], pod["metadata"]["uid"])

    async def _train(self, job: Manifest, pod: Manifest, fate: Fate) -> None:
        """Simulate the kubelet, and the trainer in the pod."""
        name = pod["spec"]["containers"][0]["name"]
        if fate.startswith("no-"):
            await self._say(pod, {"phase": "Pending", **_stuck(fate, name)})
            return
        if secret := await self._missing(pod):
            await self._say(pod, {"phase": "Pending", **_stuck("no-secret", name, secret)})
            return
        if job["metadata"]["ownerReferences"][0]["kind"] == ENVIRONMENT.kind and fate != "runs":  # labels may be spoilt
            await self._say(pod, {"startTime": hands.now(), **await self._build(job, name, fate)})
            return
        if name == STORE and fate != "runs":
            await self._say(pod, {"startTime": hands.now(), **await self._compile(job, fate)})
            return
        if name == COORDINATOR and fate in ("succeeds", "gives-up"):
            said = await asyncio.to_thread(self.coordinators.end, job, fate == "succeeds")
            told = {"startTime": (pod.get("status") or {}).get("startTime") or hands.now()}
            await self._say(pod, {**told, **hands.ended_pod(0, said.to_json().decode(), name=COORDINATOR)})
            return
        if name == DELETE and fate != "runs":
            await self._say(pod, {"startTime": hands.now(), **await self._delete_artifact(job, fate)})
            return
        start = (pod.get("status") or {}).get("startTime") or hands.now()
        ready = {"name": "trainer", "image": "ultramarine/trainer:1", "imageID": "sha256:feed", "ready": True}
        ready |= {"restartCount": 0, "state": {"running": {"startedAt": start}}}
        running = {"phase": "Running", "startTime": start, "conditions": [], "containerStatuses": [ready]}
        limits = pod["spec"]["containers"][0]["resources"].get("limits", {})
        if fate == "runs":
            await self._say(pod, running)
        elif fate == "fails":
            said = TerminationRecord(reason="CommandFailed", message="exit 1", tail="no such column: age")
            await self._say(pod, {**running, **hands.ended_pod(1, said.to_json())})
        elif fate == "is-stopped":
            said = TerminationRecord(reason=STOPPED_EARLY, message="it is among the worst")
            self.coordinators.trained(job, pod, "Stopped", said)
            await self._say(pod, {**running, **hands.ended_pod(contract.EXIT_DO_NOT_RETRY, said.to_json())})
        elif fate == "is-hungry" and memory.in_bytes(limits["memory"]) < ENOUGH:
            await self._say(pod, {**running, **hands.ended_pod(137, "", OUT_OF_MEMORY)})
        else:
            said = TerminationRecord(await self._upload(job), {"accuracy": 0.97})
            await self._record_step(job, said)
            uri = hands.task_of(job).output_prefix + contract.RESULT_NAME
            await asyncio.to_thread(self.storage.write, uri, said.to_json().encode())
            self.coordinators.trained(job, pod, "Succeeded", said)
            await self._say(pod, {**running, **hands.ended_pod(0, said.to_json())})

    async def _missing(self, pod: Manifest) -> str:
        """The Secret that a sweep's pod cannot start without, or nothing where it has its token."""
        if name := self.tokens.wanted(pod):
            try:
                self.tokens.give(pod, await self.api.ask("GET", self._path("Secret", name)))
            except LookupError:
                # A kubelet takes longer than that, and who is younger than whom is told by whole seconds.
                while hands.now() <= pod["metadata"]["creationTimestamp"]:
                    await asyncio.sleep(0.05)
                return name
        self.faults += self.tokens.strangers(pod)
        return ""

    async def _build(self, job: Manifest, name: str, fate: Fate) -> Manifest:
        """Simulate a pod that builds an environment, or that deletes its archive."""
        if fate == "fails":
            failed = BuildRecord(reason="BuildFailed", message="lightgbm needs a compiler")
            return hands.ended_pod(contract.EXIT_DO_NOT_RETRY, failed.to_json().decode(), name="build")
        if name == DELETE:
            variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
            uri = BuildTask.from_json(variables[0]["value"]).prefix
            await asyncio.to_thread(self.storage.delete_artifact, uri)
            self.deleted.append(uri)
            return hands.ended_pod(0, "", name=DELETE)
        record = await asyncio.to_thread(hands.build_and_store, self.storage, job)
        return hands.ended_pod(0, record.to_json().decode(), name=name)

    async def _compile(self, job: Manifest, fate: Fate) -> Manifest:
        """Simulate a compiling pod's files and record; one that `differs` has a verdict too."""
        if fate == "fails":
            said = TerminationRecord(reason="Unreachable", message="no storage")
            return hands.ended_pod(1, said.to_json(), name=STORE)
        verdict = await asyncio.to_thread(hands.compile_and_store, self.storage, job, fate == "succeeds")
        return hands.ended_pod(0, verdict.to_json().decode(), name=STORE)

    async def _delete_artifact(self, job: Manifest, fate: Fate) -> Manifest:
        """Simulate a deleting pod's actions and record."""
        if fate == "fails":
            said = TerminationRecord(reason="Unreachable", message="no storage")
            return hands.ended_pod(1, said.to_json(), name=DELETE)
        uri = hands.uri_to_delete(job)
        users = [v for kind in VERSIONS for v in self.all(kind) if v["spec"]["uri"] == uri]
        users += [p for p in self.all("Pod") if uri in json.dumps(p["spec"]) and controller_uid(p) not in self._jobs()]
        self.faults += [f"{uri} was deleted, and {' '.join(self.id(user))} needs it" for user in users]
        await asyncio.to_thread(self.storage.delete_artifact, uri)
        self.deleted.append(uri)
        return hands.ended_pod(0, "", name=DELETE)

    def _jobs(self) -> set[str]:
        return {job["metadata"]["uid"] for job in self.all("Job")}

    async def _upload(self, job: Manifest) -> dict[str, contract.OutputRecord]:
        outputs, uid = hands.task_of(job).outputs, job["metadata"]["uid"]
        if not outputs:
            return {}
        if PROFILE in outputs:
            return {PROFILE: await asyncio.to_thread(hands.profile_and_store, self.storage, job)}
        if FACTS in outputs:
            return await asyncio.to_thread(hands.import_and_store, self.storage, job)
        if uid not in self._records:
            content = f"the weights of {job['metadata']['name']}"
            self._records[uid] = await asyncio.to_thread(hands.upload, self.storage, job, content)
        return {"model": self._records[uid]}

    async def _record_step(self, job: Manifest, record: TerminationRecord) -> None:
        cache = await asyncio.to_thread(hands.record_step, self.storage, job, record)
        if cache is not None and self.recorded.setdefault(cache.key, job["metadata"]["uid"]) != job["metadata"]["uid"]:
            self.faults.append(f"the work of step {cache.step} was done twice")

    async def _run_deployment(self, deployment: Manifest) -> None:
        """A rolling update without anybody being unavailable: new pods, ready, then the old ones go."""
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        if deployment["metadata"].get("deletionTimestamp"):
            return
        revision = content_hash(spec["template"])[:8]
        own = [pod for pod in self.all("Pod") if controller_uid(pod) == deployment["metadata"]["uid"]]
        wanted = [f"{name}-{revision}-{number}" for number in range(spec["replicas"])]
        fate = self.fates.get(name, ("runs",))[0]
        new = []
        for pod_name in wanted:
            pod = next((pod for pod in own if pod["metadata"]["name"] == pod_name), None)
            if pod is None:
                made = hands.pod_of(deployment, pod_name, {"pod-template-hash": revision})
                self._keep(pod := await self.api.ask("POST", self.resources["Pod"].path(self.namespace), made))
            await self._serve(pod, fate)
            new.append(pod_name)
        old = [pod for pod in own if pod["metadata"]["name"] not in wanted]
        if fate == "runs":
            for pod in old:
                await self.delete("Pod", pod["metadata"]["name"], pod["metadata"]["uid"])
            old = []
        ready = len(new) if fate == "runs" else 0
        counts = {"replicas": len(new) + len(old), "updatedReplicas": len(new), "readyReplicas": ready + len(old)}
        counts |= {"availableReplicas": ready + len(old)}
        await self._say(deployment, {"observedGeneration": deployment["metadata"]["generation"], **counts})

    async def _serve(self, pod: Manifest, fate: Fate) -> None:
        if fate != "runs":
            await self._say(pod, {"phase": "Pending", **_stuck(fate, "server")})
            return
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": hands.now()}
        told = (pod.get("status") or {}).get("startTime") or hands.now()
        if not is_true(pod.get("status") or {}, "Ready"):
            await self._say(
                pod, {"phase": "Running", "startTime": told, "conditions": [ready], "containerStatuses": None}
            )

    async def _say(self, about: Manifest, status: Manifest) -> None:
        """Write a status, if it says something new."""
        old = about.get("status") or {}
        if all(
            (old.get(field) or None) == (_timeless(value, old.get(field)) or None) for field, value in status.items()
        ):
            return
        kind, name = about["kind"], about["metadata"]["name"]
        body = {"metadata": {"uid": about["metadata"]["uid"]}, "status": status}
        await self.edit(kind, name, body, "status")


def without_hash(name: str) -> str:
    """The name of a Job that deletes an artifact without the hash of where that lies: the namespace is part of it."""
    return OF_A_DELETION.sub("", name)


def _timeless(new: object, old: object) -> object:
    """`new` with the times of `old` where they are all that differs."""
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        return [_timeless(n, o) for n, o in zip(new, old, strict=True)]
    if isinstance(new, dict) and isinstance(old, dict):
        kept = {k: old.get(k) if k == "lastTransitionTime" else _timeless(v, old.get(k)) for k, v in new.items()}
        return {**old, **kept}  # what the server fills in is no news
    return new


def _stuck(fate: Fate, container: str, secret: str = "hub") -> Manifest:
    """The status of a pod that does not start."""
    if fate == "no-node":
        said = "0/1 nodes are available: 1 Insufficient memory."
        unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}
        return {"conditions": [unscheduled | {"lastTransitionTime": hands.now()}], "containerStatuses": None}
    reason, said = {
        "no-image": ("ImagePullBackOff", "no such host"),
        "no-secret": ("CreateContainerConfigError", f'secret "{secret}" not found'),
    }[fate]
    waiting = {"name": container, "image": "mine:1", "imageID": "", "ready": False, "restartCount": 0}
    return {
        "conditions": [],
        "containerStatuses": [waiting | {"state": {"waiting": {"reason": reason, "message": said}}}],
    }


def _phase(pod: Manifest) -> str:
    return str((pod.get("status") or {}).get("phase") or "")


def _version(manifest: Manifest) -> int:
    return int(manifest["metadata"]["resourceVersion"])


def selectors(ours: tuple[Resource, ...]) -> dict[Resource, str]:
    """Every type to watch, with its label selector."""
    everything = {CONFIG_MAP: CHILD_SELECTOR}  # the cluster has some of its own
    return {resource: everything.get(resource, "") for resource in (*ours, *OTHERS)}
