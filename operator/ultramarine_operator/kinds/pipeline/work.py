"""Work of a step: the object that does it, its name, and what decides about its result. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ultramarine.resources import pipeline_keys
from ultramarine.resources.pipeline import PipelineRunSpec, Step
from ultramarine.resources.pipeline_keys import Parts
from ultramarine.resources.pipeline_steps import Runnable
from ultramarine_contract.cache_records import ANNOTATION_CACHE, CacheTask
from ultramarine_contract.meta import MAX_NAME, SWEEP, Manifest, content_hash

from ...shared.plan import Obj, Platform, Seen
from ...training import composing

Run = Obj[PipelineRunSpec]

MAX_SWEEP_NAME = 30  # characters, which leave room for the names of trials
DIGITS = 10  # of the cache key in a name


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


def pipeline_of(run: Run) -> str:
    """Return the pipeline's name in cache records; a run with a pipeline of its own stands for itself."""
    return run.spec.pipeline or run.name


def revision_name(run: str) -> str:
    """Return the name of the ControllerRevision that keeps the pipeline of a run."""
    return f"{run}-pipeline"


def digest_of(spec: Manifest) -> str:
    """Return the digest of a pipeline's spec."""
    return f"sha256:{content_hash(spec)}"


def parts_of(work: Work, seen: Seen) -> Parts:
    """Return the parts of the cache key of a step's work."""

    def environment(name: str) -> str:
        status = (seen.look("Environment", name) or {}).get("status") or {}
        return str(status.get("digest") or "")

    return pipeline_keys.parts_of(
        work.runnable, work.identity, work.step.cache_salt, seen.platform.trainer_image, environment
    )


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
    annotations = {}
    if key:
        task = CacheTask(key, dict(parts), pipeline_of(run), work.name, run.name)
        annotations[ANNOTATION_CACHE] = task.to_json()
    return composing.child_of(run, work.runnable.made, name, work.spec, platform, annotations)
