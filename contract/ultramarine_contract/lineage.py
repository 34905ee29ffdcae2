"""Lineage: what an object of the platform used and made, read off its manifest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from .meta import ANNOTATION_APPROVED_BY, GROUP, Manifest, approver_of_alias

ENDS = ("Succeeded", "Failed", "Stopped", "Cancelled")
MAX_TEXT = 1024  # characters
STARTED_BY = "started by"  # name of the part that is the object which made a run
FILES = "files"  # name of the part with the files of a version
LASTING = ("alias", "deployment")  # properties whose value lasts until their next fact; the last one has no value


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that was used or made: an object of the namespace as KIND/NAME, or files by their URI."""

    uri: str
    name: str = ""
    digest: str = ""  # sha256:..., if it is known


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value that a property of an object has taken, such as the end of a run or the version of an alias.

    `slot` names the property within the object with that `uid`. `time` is that of the change, if the object tells it.
    """

    kind: str
    name: str
    uid: str
    slot: str
    value: str
    time: str = ""
    by: str = ""  # user who asked for it
    used: tuple[Part, ...] = ()
    made: tuple[Part, ...] = ()
    details: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """Key of the property; its value changes from one fact to the next."""
        return f"{self.uid}/{self.slot}"

    @property
    def lasts(self) -> bool:
        """True if the value holds from its time until the next fact of the property."""
        return self.slot.partition("/")[0] in LASTING


def reference(kind: str, name: str) -> str:
    """Return the URI of an object of the namespace."""
    return f"{kind}/{name}"


def facts(manifest: Manifest, *, approvers: bool = False) -> list[Fact]:
    """Return what is worth a record about an object as it is now; nothing about a kind without lineage.

    With `approvers` annotations name the user who moved an alias, or changed what an endpoint serves. Only an API
    server from Kubernetes 1.36 keeps users from forging them.
    """
    reader = _READERS.get(str(manifest.get("kind")))
    if reader is None or not isinstance(manifest.get("status"), dict):
        return []
    if not approvers:
        manifest = {**manifest, "metadata": {**manifest["metadata"], "annotations": {}}}
    return list(reader(manifest, manifest["spec"], manifest["status"]))


def _fact(manifest: Manifest, slot: str, value: str, **fields: Any) -> Fact:
    meta = manifest["metadata"]
    by = fields.pop("by", None)
    by = str((manifest.get("status") or {}).get("requestedBy") or "") if by is None else by
    shown = {name: detail for name, detail in fields.pop("details", {}).items() if detail not in (None, "", {}, [])}
    return Fact(manifest["kind"], meta["name"], meta["uid"], slot, value, by=by, details=shown, **fields)


def _parts(*parts: Part | None) -> tuple[Part, ...]:
    return tuple(part for part in parts if part is not None and part.uri)


def _run(manifest: Manifest, spec: Manifest, status: Manifest) -> Iterator[Fact]:
    """Yield the end of a TrainingJob, a Sweep or another run."""
    state = status.get("state")
    if state not in ENDS:
        return
    record = status.get("provenance") or {}
    template = ((spec.get("trialTemplate") or {}).get("spec")) or spec
    outputs = status.get("outputs") or {}
    fetched, pins = status.get("inputs") or {}, status.get("datasets") or {}
    inputs = {
        name: (given, (fetched.get(name) or {}) | (pins.get(name) or {}))
        for name, given in (template.get("inputs") or {}).items()
    }
    details = {
        "command": template.get("command"),
        "parameters": template.get("parameters"),
        "metrics": (status.get("metrics") or {}).get("latest"),
        "failure": str((status.get("failure") or {}).get("message", ""))[:MAX_TEXT],
        "startTime": status.get("startTime"),
        "runId": (status.get("mlflow") or {}).get("runId"),
    }
    best = (status.get("best") or [{}])[0].get("outputs") or {}
    yield _fact(
        manifest,
        "end",
        str(state),
        time=str(status.get("completionTime") or ""),
        used=_parts(
            _image(template, record),
            _source(template.get("source") or {}, record),
            Part(str(record.get("environmentUri", "")), "environment", str(record.get("environmentDigest", ""))),
            _owner(manifest),
            *(_input(name, given, fetched) for name, (given, fetched) in inputs.items()),
        ),
        made=_parts(
            Part(reference(manifest["kind"], manifest["metadata"]["name"])),
            *(Part(str(out.get("uri", "")), name, str(out.get("digest", ""))) for name, out in outputs.items()),
            *(Part(str(uri), name) for name, uri in best.items()),
        ),
        details=details,
    )


def _pipeline_run(manifest: Manifest, spec: Manifest, status: Manifest) -> Iterator[Fact]:
    """Yield the end of a PipelineRun with its steps. Its outputs are those of its steps' objects, which made them."""
    if (state := status.get("state")) not in ENDS:
        return
    pipeline = status.get("pipeline") or {}
    steps = status.get("steps") or []
    outputs = {name: output.get("uri") for name, output in (status.get("outputs") or {}).items()}
    details = {
        "parameters": spec.get("parameters"),
        "failure": str((status.get("failure") or {}).get("message", ""))[:MAX_TEXT],
        "startTime": status.get("startTime"),
        "rerun": spec.get("rerun"),
        "outputs": outputs,
        "steps": [{name: step[name] for name in _OF_STEP if step.get(name)} for step in steps],
    }
    name = str(pipeline.get("name") or "")
    yield _fact(
        manifest,
        "end",
        str(state),
        time=str(status.get("completionTime") or ""),
        used=_parts(
            Part(reference("Pipeline", name), "pipeline", str(pipeline.get("digest", ""))) if name else None,
            _owner(manifest),
            *(_step(step) for step in steps),
            *(_partitions(step) for step in steps),
        ),
        made=(Part(reference(manifest["kind"], manifest["metadata"]["name"])),),
        details=details,
    )


_OF_STEP = (
    *("name", "state", "kind", "child", "cached", "published", "attempt"),
    *("startTime", "completionTime", "key", "missReason"),
)


def _step(step: Manifest) -> Part | None:
    """Return the object that did a step's work, in this run or in the run whose results were reused."""
    if job := (step.get("cached") or {}).get("job"):
        return Part(reference(str(step.get("kind") or "TrainingJob"), str(job)), f"step {step['name']}, reused")
    if step.get("child") and step.get("kind"):
        return Part(reference(str(step["kind"]), str(step["child"])), f"step {step['name']}")
    return None


def _partitions(step: Manifest) -> Part | None:
    """Return the version of a Dataset for whose partitions a step ran."""
    pin = step.get("partitions") or {}
    if not pin.get("version"):
        return None
    uri = reference("DatasetVersion", str(pin["version"]))
    return Part(uri, f"partitions of step {step['name']}", str(pin.get("digest", "")))


def _owner(manifest: Manifest) -> Part | None:
    """Return the object that started a run, such as a Schedule."""
    for owner in manifest["metadata"].get("ownerReferences") or []:
        if owner.get("controller") and str(owner.get("apiVersion", "")).startswith(f"{GROUP}/"):
            return Part(reference(str(owner.get("kind")), str(owner.get("name"))), STARTED_BY)
    return None


_PLATFORM_IMAGE = "ultramarine-trainer"  # if neither the spec nor the node names one
_OPERATOR = re.compile("system:serviceaccount:[^:]+:ultramarine-operator")


def _image(spec: Manifest, record: Manifest) -> Part | None:
    ran = str(record.get("imageDigest", ""))
    name, at, digest = ran.rpartition("@")
    image = name or str(spec.get("image") or "") or (_PLATFORM_IMAGE if ran else "")
    return Part(image, "image", digest if at or digest.startswith("sha256:") else "") if image else None


def _source(source: Manifest, record: Manifest) -> Part | None:
    digest = str(record.get("sourceDigest") or source.get("digest") or "")
    if git := source.get("git"):
        commit = str(record.get("gitCommit", ""))
        return Part(f"git+{git.get('url', '')}" + (f"@{commit}" if commit else ""), "code", digest)
    if uri := source.get("uri"):
        return Part(str(uri), "code", digest)
    return Part(digest, "code", digest) if digest else None


def _input(name: str, given: Manifest, fetched: Manifest) -> Part | None:
    digest = str(fetched.get("digest") or given.get("digest") or "")
    if version := fetched.get("version"):  # of a Dataset, to which the run was pinned
        return Part(reference("DatasetVersion", str(version)), name, digest)
    return Part(str(given.get("uri") or ""), name, digest)


def _version(manifest: Manifest, spec: Manifest, status: Manifest) -> Iterator[Fact]:
    """Yield the registration of a ModelVersion or a DatasetVersion, once its files were checked."""
    ready: Manifest = next((c for c in status.get("conditions") or [] if c.get("type") == "Ready"), {})
    if ready.get("status") != "True":
        return
    lineage, by = spec.get("lineage") or {}, str(status.get("requestedBy") or "")
    origins = [
        Part(reference(kind, str(lineage[field])))
        for field, kind in (("trainingJob", "TrainingJob"), ("sweep", "Sweep"), ("pipelineRun", "PipelineRun"))
        if lineage.get(field)
    ]
    digest = str(spec.get("digest", ""))
    source = without_secrets(str(lineage.get("source", "")))
    yield _fact(
        manifest,
        "registration",
        "Ready",
        time=str(ready.get("lastTransitionTime", "")),
        used=_parts(
            *origins,
            Part(str(spec.get("uri", "")), FILES, digest),
            Part(source, "source") if _ADDRESS.fullmatch(source) else None,
        ),
        made=_parts(Part(reference(manifest["kind"], manifest["metadata"]["name"]), digest=digest)),
        by=str(lineage.get("requestedBy") or by) if _OPERATOR.fullmatch(by) else by,
        details={
            "model": spec.get("model"),
            "dataset": spec.get("dataset"),
            "version": spec.get("version"),
            "metrics": lineage.get("metrics"),
            "commit": lineage.get("gitCommit"),
            "source": source,
            "query": query_without_secrets(str(lineage.get("query", ""))),
            "watermark": lineage.get("watermark"),
        },
    )


_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+")


def without_secrets(text: str) -> str:
    """Return a text without user, password and query in its addresses; the query may be a signature."""
    anonymous = re.sub(r"(?<=://)[^/\s]*@", "", text)
    return re.sub(r"(https?://[^?#\s]*)[?#]\S*", r"\1", anonymous)


_LITERAL = r"''[^']*''|'(?:[^']|'')*'"  # the first one within another literal
_PASSWORD = re.compile(
    rf"""(\b(?:password|passwd|pwd)['"]?(?:\s*(?:=>?|:)\s*|\s+(?=')))({_LITERAL}|[^\s'";,)]+)""", re.IGNORECASE
)


def query_without_secrets(query: str) -> str:
    """Return a query without user and password in its addresses, and without values that follow the word password."""
    anonymous = re.sub(r"(?<=://)[^/\s'\"]*@", "", query)
    return _PASSWORD.sub(r"\1***", anonymous)


def _aliases(manifest: Manifest, spec: Manifest, _status: Manifest) -> Iterator[Fact]:
    """Yield where each alias of a Model or a Dataset leads."""
    name, kind = manifest["metadata"]["name"], f"{manifest['kind']}Version"
    annotations = manifest["metadata"].get("annotations") or {}
    for alias, version in sorted((spec.get("aliases") or {}).items()):
        yield _fact(
            manifest,
            f"alias/{alias}",
            str(version),
            used=(Part(reference(kind, f"{name}-{version}")),),
            made=(Part(reference(manifest["kind"], f"{name}@{alias}")),),
            by=str(annotations.get(approver_of_alias(alias), "")),
        )


def _endpoint(manifest: Manifest, spec: Manifest, status: Manifest) -> Iterator[Fact]:
    """Yield the version that each deployment with a share of the traffic serves, and how the rollout ended."""
    endpoint = Part(reference(manifest["kind"], manifest["metadata"]["name"]))
    by = str((manifest["metadata"].get("annotations") or {}).get(ANNOTATION_APPROVED_BY, ""))
    served, shares = {}, status.get("traffic") or {}
    for deployment in status.get("deployments") or []:
        if (version := deployment.get("modelVersion")) and deployment.get("readyReplicas"):
            name = str(deployment.get("name", ""))
            served[name] = Part(reference("ModelVersion", str(version)), name)
            if shares and not shares.get(name):
                continue
            yield _fact(manifest, f"deployment/{name}", str(version), used=(served[name],), made=(endpoint,), by=by)
    rollout = status.get("rollout") or {}
    if (phase := rollout.get("phase")) in ROLLOUT_ENDS:
        yield _fact(
            manifest,
            "rollout",
            f"{phase} {rollout.get('identity', '')}".strip(),
            used=_parts(served.get(str((spec.get("rollout") or {}).get("candidate", "")))),
            made=(endpoint,),
            by=by,
            details={"message": str(rollout.get("message", ""))[:MAX_TEXT]},
        )


ROLLOUT_ENDS = ("Promoted", "RolledBack")
_READERS: dict[str, Callable[[Manifest, Manifest, Manifest], Iterator[Fact]]] = {
    "TrainingJob": _run,
    "Sweep": _run,
    "PipelineRun": _pipeline_run,
    "ModelVersion": _version,
    "DatasetVersion": _version,
    "Model": _aliases,
    "Dataset": _aliases,
    "OnlineEndpoint": _endpoint,
}
KINDS = frozenset(_READERS)  # with lineage
