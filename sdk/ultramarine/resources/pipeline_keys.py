"""Cache key of a step's work: the parts that decide about its result. No I/O here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ultramarine_contract.cache_records import shown
from ultramarine_contract.meta import SWEEP, TRAINING_JOB, content_hash

from .environment import EnvironmentReference
from .pipeline_steps import Document, Runnable
from .sweep import Algorithm

if TYPE_CHECKING:
    from ultramarine_contract.cache_lookup import CacheAnswer
    from ultramarine_contract.meta import Manifest

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_FOLDER = re.compile(r"/([0-9a-f]{16})/$")  # an artifact's, named by its digest
_FIELDS = ("framework", "nodes", "processesPerNode", "elastic")  # beside code, data and parameters
_SWEEP_FIELDS = ("objective", "objectives", "earlyTermination", "budget", "registerBest")
_SWEEP_LIMITS = ("maxTrials", "trialTimeoutSeconds")
_ALGORITHM = Algorithm().model_dump(by_alias=True, include={"type", "seed"})  # defaults: a seed of 0 is one, too


@dataclass(frozen=True)
class Parts:
    """Parts of the cache key of a step's work by name; `contents` are those that follow from what is stored at a URI.

    `problem` says why the work cannot be reused, if it cannot.
    """

    values: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def identity_of(uri: str, digest: str = "") -> str:
    """Return what identifies the content of an output: its digest, or the first digits of it in the folder's name."""
    folder = _FOLDER.search(uri)
    return digest or (f"digest:{folder[1]}" if folder else uri)


def parts_of(runnable: Runnable, spec: Document, salt: str, image: str, environment: Callable[[str], str]) -> Parts:
    """Return the parts of the cache key of a step's work.

    `spec` is that of its object, with digests in place of outputs. `image` is the platform's, and `environment` returns
    the digest of a named Environment.
    """
    if runnable.resource == SWEEP:
        parts = _of_sweep(spec, image, environment)
    elif runnable.resource == TRAINING_JOB:
        parts = _of_job(spec, image, environment)
    else:
        parts = Parts(problem=f"a {runnable.made.kind} is not reused as a whole")
    if parts.problem:
        return parts
    values = parts.values | ({"cacheSalt": salt} if salt else {})
    return Parts({name: shown(value) for name, value in values.items()}, parts.contents)


def reusable(
    answer: CacheAnswer, runnable: Runnable, spec: Document, find: Callable[[str, str], Manifest | None]
) -> CacheAnswer:
    """Return an answer of the cache, without its record if a Model or Dataset that the work registers in was deleted.

    A record that is reused registers nothing. `find` returns the object of a kind and a name.
    """
    if answer.record is None:
        return answer
    for output in runnable.outputs(spec) or ():
        kind, name = runnable.registered(spec, output) or ("", "")
        if name and find(kind, name) is None:
            return replace(answer, record=None, miss=f"{kind} {name} was deleted since run {answer.record.run}")
    return answer


def _of_sweep(spec: Document, image: str, environment: Callable[[str], str]) -> Parts:
    """Return the parts of a Sweep: those of its trials, and all that decides about which trials it runs.

    The number of parallel trials is left out, since it may change while the sweep runs.
    """
    algorithm = {**_ALGORITHM, **(spec.get("algorithm") or {})}
    if algorithm.get("warmStartFrom"):
        return Parts(problem="the trials of algorithm.warmStartFrom may grow; leave it out to reuse the step")
    trial = _of_job((spec.get("trialTemplate") or {}).get("spec") or {}, image, environment)
    values = {f"algorithm.{name}": _text(value) for name, value in sorted(algorithm.items())}
    values |= {name: _text(spec[name]) for name in _SWEEP_FIELDS if name in spec}
    values |= {f"searchSpace.{name}": _text(value) for name, value in sorted((spec.get("searchSpace") or {}).items())}
    limits = spec.get("limits") or {}
    values |= {f"limits.{name}": _text(limits[name]) for name in _SWEEP_LIMITS if name in limits}
    return Parts(trial.values | values, trial.contents, trial.problem)


def _of_job(spec: Document, image: str, environment: Callable[[str], str]) -> Parts:
    contents = dict[str, str]()
    values = {"code": "", "image": str(spec.get("image") or image)}
    source = spec.get("source") or {}
    if "inline" in source:
        values["code"] = f"sha256:{content_hash(source['inline'])}"
    elif "uri" in source and source.get("digest"):
        values["code"] = str(source["digest"])
    elif "uri" in source:
        contents["code"] = str(source["uri"])
    elif "git" in source:
        git = source["git"]
        if not _COMMIT.fullmatch(str(git.get("ref", ""))):
            return Parts(problem="source.git.ref is not a commit; name one to reuse the step")
        values["code"] = " ".join(str(git.get(name, "")) for name in ("url", "ref", "path"))
    elif "configMap" in source:
        return Parts(
            problem="the content of source.configMap is not seen; use uri, inline or a commit to reuse the step"
        )
    if "environment" in spec:
        values["environment"] = _environment(spec["environment"], environment)
    values["command"] = json.dumps([*spec.get("command", []), *spec.get("args", [])])
    values |= {f"parameters.{name}": _text(value) for name, value in sorted((spec.get("parameters") or {}).items())}
    for name, source in sorted((spec.get("inputs") or {}).items()):
        if "dataset" in source:
            return Parts(problem=f"inputs.{name}: {source['dataset']} is not resolved to a version")
        uri, digest = str(source.get("uri", "")), str(source.get("digest") or "")
        if uri.startswith("s3://") and not digest:
            contents[f"inputs.{name}"] = uri
        values[f"inputs.{name}"] = digest or uri or _text(source)
    if name := _unseen_config_map(spec):
        return Parts(
            problem=f"the content of ConfigMap {name} is not seen; write its values into env to reuse the step"
        )
    for variable in spec.get("env") or []:
        values[f"env.{variable.get('name')}"] = f"sha256:{content_hash(variable)}"
    if spec.get("envFrom"):
        values["envFrom"] = _text(spec["envFrom"])
    values |= {f"outputs.{name}": _text(output) for name, output in sorted((spec.get("outputs") or {}).items())}
    values |= {name: _text(spec[name]) for name in _FIELDS if name in spec}
    return Parts(values, contents)


def _unseen_config_map(spec: Document) -> str:
    """Return the name of a ConfigMap that gives environment variables; empty if none does.

    Secrets give credentials, which do not decide about results.
    """
    selectors = [(variable.get("valueFrom") or {}).get("configMapKeyRef") for variable in spec.get("env") or []]
    selectors += [entry.get("configMapRef") for entry in spec.get("envFrom") or []]
    return next((str(selector.get("name", "")) for selector in selectors if selector), "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _environment(reference: Document, digest_of: Callable[[str], str]) -> str:
    """Return the digest of a named environment, once it is built, or the requirements."""
    name = EnvironmentReference.model_validate(reference).name
    return f"{name} {digest_of(name)}".strip() if name else _text(reference)
