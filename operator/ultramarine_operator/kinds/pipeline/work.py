"""Work of a step: the object that does it, its name, and what decides about its result. No I/O here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ultramarine.resources.environment import EnvironmentReference
from ultramarine.resources.pipeline import PipelineRunSpec, Step
from ultramarine.resources.pipeline_steps import Runnable
from ultramarine_contract.cache_records import ANNOTATION_CACHE, CacheTask, shown
from ultramarine_contract.meta import (
    ANNOTATION_REQUESTED_BY,
    API_VERSION,
    MAX_NAME,
    SWEEP,
    TRAINING_JOB,
    Manifest,
    asked_by,
    child_metadata,
    content_hash,
)

from ...runs import queues
from ...shared.plan import Obj, Platform, Seen
from ...training.environment import ANNOTATION as ANNOTATION_ENVIRONMENT

Run = Obj[PipelineRunSpec]

MAX_SWEEP_NAME = 30  # characters, which leave room for the names of trials
DIGITS = 10  # of the cache key in a name
COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
FIELDS = ("framework", "nodes", "processesPerNode", "elastic")  # beside code, data and parameters


@dataclass(frozen=True)
class Work:
    """Work of a step or of one of its repetitions.

    `spec` is that of its object. `identity` is the same with digests in place of the outputs that it refers to.
    """

    name: str
    step: Step
    runnable: Runnable
    spec: Manifest
    identity: Manifest


@dataclass(frozen=True)
class Parts:
    """Parts of the cache key of a step's work by name; `contents` are those that follow from what is stored at a URI.

    `problem` says why the work cannot be reused, if it cannot.
    """

    values: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def pipeline_of(run: Run) -> str:
    """Return the pipeline's name in cache records; a run with a pipeline of its own stands for itself."""
    return run.spec.pipeline or run.name


def parts_of(work: Work, seen: Seen) -> Parts:
    """Return the parts of the cache key of a step's work."""
    if work.runnable.resource != TRAINING_JOB:
        return Parts(problem=f"a {work.runnable.made.kind} is not reused as a whole")
    spec, contents = work.identity, dict[str, str]()
    values = {"code": "", "image": str(spec.get("image") or seen.platform.trainer_image)}
    source = spec.get("source") or {}
    if "inline" in source:
        values["code"] = f"sha256:{content_hash(source['inline'])}"
    elif "uri" in source and source.get("digest"):
        values["code"] = str(source["digest"])
    elif "uri" in source:
        contents["code"] = str(source["uri"])
    elif "git" in source:
        git = source["git"]
        if not COMMIT.fullmatch(str(git.get("ref", ""))):
            return Parts(problem="source.git.ref is not a commit; name one to reuse the step")
        values["code"] = " ".join(str(git.get(name, "")) for name in ("url", "ref", "path"))
    elif "configMap" in source:
        return Parts(
            problem="the content of source.configMap is not seen; use uri, inline or a commit to reuse the step"
        )
    if "environment" in spec:
        values["environment"] = _environment(spec["environment"], seen)
    values["command"] = json.dumps([*spec.get("command", []), *spec.get("args", [])])
    values |= {f"parameters.{name}": _text(value) for name, value in sorted((spec.get("parameters") or {}).items())}
    for name, source in sorted((spec.get("inputs") or {}).items()):
        uri = str(source.get("uri", ""))
        if uri.startswith("s3://"):
            contents[f"inputs.{name}"] = uri
        values[f"inputs.{name}"] = uri or _text(source)
    for variable in spec.get("env") or []:
        values[f"env.{variable.get('name')}"] = f"sha256:{content_hash(variable)}"
    if spec.get("envFrom"):
        values["envFrom"] = _text(spec["envFrom"])
    values |= {f"outputs.{name}": _text(output) for name, output in sorted((spec.get("outputs") or {}).items())}
    values |= {name: _text(spec[name]) for name in FIELDS if name in spec}
    if work.step.cache_salt:
        values["cacheSalt"] = work.step.cache_salt
    return Parts({name: shown(value) for name, value in values.items()}, contents)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _environment(reference: Manifest, seen: Seen) -> str:
    """Return the digest of a named environment, once it is built, or the requirements."""
    name = EnvironmentReference.model_validate(reference).name
    environment = seen.look("Environment", name) if name else None
    digest = ((environment or {}).get("status") or {}).get("digest")
    return f"{name} {digest or ''}".strip() if name else _text(reference)


def child_name(run: Run, work: Work, key: str, number: int) -> str:
    """Return the name of a step's object.

    Work with a cache key is named by it, so that of runs that ask for the same work only one can create its object.
    `number` counts the objects of one name.
    """
    stem = f"{work.name}-{key[:DIGITS]}" if key else f"{run.name}-{work.name}"
    suffix = f"-{number + 1}" if number else ""
    room = (MAX_SWEEP_NAME if work.runnable.resource == SWEEP else MAX_NAME) - len(suffix)
    if len(stem) > room:
        stem = f"{stem[: room - 9].rstrip('-')}-{content_hash(stem)[:8]}"
    return f"{stem}{suffix}"


def child_of(run: Run, work: Work, name: str, key: str, parts: Mapping[str, str], platform: Platform) -> Manifest:
    """Return the object that does a step's work; a job with a cache key records its outcome under the key."""
    metadata = queues.labelled(child_metadata(run.manifest, name), run.manifest)
    annotations = asked_by(platform.requester(run.manifest))
    if key:
        task = CacheTask(key, dict(parts), pipeline_of(run), work.name, run.name)
        annotations = {**annotations, ANNOTATION_CACHE: task.to_json()}
    if annotations:
        metadata["annotations"] = annotations
    kind = work.runnable.made.kind
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": work.spec}


def with_suspend(run: Run, child: Manifest, held: bool) -> Manifest:
    """Return an existing object, held or not; the rest of it may have been made by an older operator."""
    meta = child["metadata"]
    metadata = queues.labelled(child_metadata(run.manifest, meta["name"]), run.manifest)
    annotations = meta.get("annotations") or {}
    names = (ANNOTATION_CACHE, ANNOTATION_ENVIRONMENT, ANNOTATION_REQUESTED_BY)
    if kept := {name: annotations[name] for name in names if name in annotations}:
        metadata["annotations"] = kept
    spec = {**child["spec"], "suspend": held}
    return {"apiVersion": API_VERSION, "kind": child["kind"], "metadata": metadata, "spec": spec}
