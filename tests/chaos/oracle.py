"""Properties that must hold: the end state of an undisturbed run, and invariants of every moment."""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from materials import MATERIALS
from proxy import Call
from ultramarine_contract.catalogue import CatalogueEntry, unpack
from ultramarine_contract.common import CATALOGUE_NAME
from ultramarine_contract.meta import Manifest, controller_uid
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.onlineendpoint.routing.manifests import routes_in
from ultramarine_operator.kinds.sweep.registration import LABEL_SWEEP_UID
from ultramarine_operator.kinds.trainingjob.registration import LABEL_JOB_UID
from ultramarine_operator.runs.registration import LABEL_OUTPUT
from world import GARBAGE_COLLECTORS, Id, Sight, without_hash

OURS = {kind.name for kind in KINDS}
# Of the server, of the moment, or a hash over one of both.
UNSTABLE_META = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "namespace")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
PORT = re.compile(r"http://127\.0\.0\.1:\d+")  # of the proxy before the object storage
UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SOURCE = re.compile(r'"source": "[0-9a-f]{16}"')  # a hash of a Dataset's source, whose URI has the namespace
HASHED = ("ultramarine.dev/applied", "ultramarine.dev/revision", "pod-template-hash")
MASKED = {"duration", "activeSeconds", "lostSeconds", "clusterIP", "clusterIPs", *HASHED}
OF_A_POD = re.compile(r"-[0-9a-f]{8}-(\d+)")  # the end of its name
OF_AN_EVENT = re.compile(r"(?<=-e)\d{10}\b")  # the second of the event for which a Schedule made the run

End = dict[str, str]


def end_state(objects: Iterable[Manifest], namespace: str) -> End:
    """Return the objects, without the differences between equal runs: KIND/NAME to canonical text."""
    there = list(objects)
    names = {controller_uid(found): "" for found in there}
    names |= {found["metadata"]["uid"]: f"uid-of-{found['kind']}-{found['metadata']['name']}" for found in there}
    ports = {
        routes.port for found in there if found["kind"] == "ConfigMap" and (routes := routes_in(found)) is not None
    }
    seconds = sorted({second for found in there for second in OF_AN_EVENT.findall(found["metadata"]["name"])})

    def numbered(text: str) -> str:
        for number, second in enumerate(seconds, 1):
            text = text.replace(f"-e{second}", f"-e{number}")
        return text

    end = {}
    for found in there:
        text = numbered(json.dumps(_stable(found), sort_keys=True))
        for uid, name in names.items():
            if uid:
                text = text.replace(uid, numbered(name))
        text = UID.sub("uid-of-what-is-gone", PORT.sub("STORAGE", TIME.sub("TIME", text)))
        text = OF_A_POD.sub(r"-hash-\1", SOURCE.sub('"source": "HASH"', text)).replace(namespace, "NAMESPACE")
        for port in ports:  # at the gateway, by the names of namespace and endpoint
            text = re.sub(rf"\b{port}\b", '"PORT"' if found["kind"] != "ConfigMap" else "PORT", text)
        name = numbered(found["metadata"]["name"])
        name = OF_A_POD.sub(r"-hash-\1", name) if found["kind"] == "Pod" else name
        end[f"{found['kind']}/{name}"] = text
    return end


def _stable(manifest: Manifest) -> Manifest:
    meta = {k: v for k, v in manifest["metadata"].items() if k not in UNSTABLE_META}
    kept = {k: _masked(v, manifest["metadata"].get("generation")) for k, v in manifest.items() if k != "metadata"}
    if manifest["kind"] == "Secret":
        kept = {"keys": sorted(manifest.get("data") or {})}
    if (packed := (manifest.get("binaryData") or {}).get(CATALOGUE_NAME)) is not None:
        kept["binaryData"] = [entry.document() for entry in unpack(b64decode(packed)).values()]
    if attempts := (kept.get("status") or {}).get("attemptHistory"):  # those of a gang begin at the same moment
        attempts.sort(key=lambda attempt: attempt.get("node", 0))
    return {**kept, "metadata": _masked(meta, None)}


def _masked(value: object, generation: object) -> object:
    if isinstance(value, dict):
        return {
            k: "..."
            if k in MASKED
            else ("current" if v == generation else "old")
            if k == "observedGeneration"
            else _masked(v, generation)
            for k, v in value.items()
            if k != "usage"  # how long what ran, and how much of it was seen, is another time in each run
        }
    if isinstance(value, list):
        return [_masked(item, generation) for item in value]
    return value


def difference(got: End, wanted: End) -> list[str]:
    """Return the difference, line by line."""
    lines = []
    for name in sorted(got.keys() | wanted.keys()):
        if name not in got:
            lines.append(f"missing: {name}")
        elif name not in wanted:
            lines.append(f"too much: {name}: {got[name]}")
        elif got[name] != wanted[name]:
            lines += [
                f"differs: {name} at {place}" for place in _paths(json.loads(got[name]), json.loads(wanted[name]))
            ]
    return lines


def _paths(got: object, wanted: object, place: str = "") -> list[str]:
    if isinstance(got, dict) and isinstance(wanted, dict):
        keys = sorted(got.keys() | wanted.keys())
        return [line for k in keys for line in _paths(got.get(k), wanted.get(k), f"{place}.{k}")]
    if isinstance(got, list) and isinstance(wanted, list) and len(got) == len(wanted):
        pairs = enumerate(zip(got, wanted, strict=True))
        return [line for i, (g, w) in pairs for line in _paths(g, w, f"{place}[{i}]")]
    return [] if got == wanted else [f"{place}: {got!r}, not {wanted!r}"]


def made(sights: list[Sight]) -> Counter[Id]:
    """Return how often each Job, Deployment and TrainingJob of one object was created during its life.

    Resource versions are in the order of what happened, and watches are not.
    """
    gone = {s.manifest["metadata"]["uid"]: _version(s) for s in sights if s.type == "DELETED"}
    children: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    added = (sight for sight in sights if sight.type == "ADDED" and sight.id[0] in ("Job", "Deployment", "TrainingJob"))
    for sight in added:
        owner = controller_uid(sight.manifest)
        if owner and _version(sight) < gone.get(owner, math.inf):
            children[owner, *sight.id].add(sight.manifest["metadata"]["uid"])
    most: Counter[Id] = Counter()
    for (_, kind, name), uids in children.items():
        most[kind, name] = max(most[kind, name], len(uids))
    return most


def _version(sight: Sight) -> int:
    return int(sight.manifest["metadata"]["resourceVersion"])


def violations(
    sights: list[Sight], deletes: Iterable[Call], meant: frozenset[Id], allowed: Mapping[Id, int], disturbed: set[Id]
) -> list[str]:
    """Return the violations of a run, from everything that a direct watch saw and the operator deleted.

    The operator may delete what is `meant`, and make a child again as often as `allowed`, or if the test deleted it.
    """
    found = []
    versions: dict[tuple[str, str], set[str]] = defaultdict(set)
    for sight in sights:
        meta = sight.manifest["metadata"]
        if set(meta.get("finalizers") or ()) - {GARBAGE_COLLECTORS}:
            found.append(f"{sight.id} has finalizers: {meta['finalizers']}")
        if sight.id[0] in OURS and "kopf" in json.dumps(sight.manifest):
            found.append(f"{sight.id} has something of kopf's")
        labels = meta.get("labels") or {}
        if sight.id[0] == "ModelVersion" and (maker := labels.get(LABEL_JOB_UID) or labels.get(LABEL_SWEEP_UID)):
            versions[maker, labels[LABEL_OUTPUT]].add(sight.id[1])
    found += [
        f"output {output} of one job or sweep was registered as {sorted(names)}"
        for (_, output), names in versions.items()
        if len(names) > 1
    ]
    plural = {(kind.lower() + "s", without_hash(name)) for kind, name in meant}
    for call in deletes:
        if (call.resource, without_hash(call.name)) not in plural:
            found.append(f"the operator deleted {call.resource} {call.name}")
    for id, times in made(sights).items():
        if times > allowed.get(id, 1) and id not in disturbed:
            found.append(f"{' '.join(id)} of one object was made {times} times, not {allowed.get(id, 1)}")
    return found


def regressions(sights: list[Sight]) -> list[str]:
    """Which finished job or sweep was said to be unfinished again, and which version that was ready not to be."""
    last: dict[str, str] = {}
    found = []
    for sight in sights:
        uid, state = sight.manifest["metadata"]["uid"], (sight.manifest.get("status") or {}).get("state", "")
        before = last.get(uid, "")
        if sight.id[0] in MATERIALS and before in MATERIALS[sight.id[0]].final and state != before:
            found.append(f"{sight.id} was {before}, and is {state or 'nothing'} again")
        last[uid] = state
    return found


def gaps(sights: Iterable[Sight]) -> list[str]:
    """Which Model that a pool has was missing in its list, or was there with an older version than before.

    In no life is an alias led back. Resource versions are in the order of what happened, and watches are not.
    """
    found = []
    models: set[str] = set()
    listed: dict[str, CatalogueEntry] = {}
    for sight in sorted(sights, key=_version):
        kind, name = sight.id
        if kind == "Model":
            has = sight.type != "DELETED" and (sight.manifest["metadata"].get("labels") or {}).get("tier") == "small"
            models = models | {name} if has else models - {name}
            listed = listed if sight.type != "DELETED" else {}
        packed = (sight.manifest.get("binaryData") or {}).get(CATALOGUE_NAME)
        if packed is not None:
            new = unpack(b64decode(packed)) if sight.type != "DELETED" else {}
            for model, entry in listed.items():
                if sight.type != "DELETED" and model in models and model not in new:
                    found.append(f"the list of a pool lost Model {model}")
                elif model in new and int(new[model].version) < int(entry.version):
                    found.append(f"the list of a pool went back to version {new[model].version} of {model}")
            listed = new
    return found


def storm(writes: Iterable[Call], calm: Counter[str], lives: int) -> list[str]:
    """Which object was written far more often than in an undisturbed run; `lives` is how often the operator began."""
    counted = Counter(f"{call.verb} {call.resource} {call.name}" for call in writes if call.resource != "events")
    limits = {what: 4 * calm.get(what, 1) * lives + 8 for what in counted}
    return [
        f"{what}: {number} times, {limits[what]} allowed" for what, number in counted.items() if number > limits[what]
    ]
