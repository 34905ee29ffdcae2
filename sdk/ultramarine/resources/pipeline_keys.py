"""Cache key of a step's work: the parts that decide about its result. No I/O here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ultramarine_contract.cache_records import shown
from ultramarine_contract.meta import TRAINING_JOB, content_hash

from .environment import EnvironmentReference
from .pipeline_steps import Document, Runnable

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_FIELDS = ("framework", "nodes", "processesPerNode", "elastic")  # beside code, data and parameters


@dataclass(frozen=True)
class Parts:
    """Parts of the cache key of a step's work by name; `contents` are those that follow from what is stored at a URI.

    `problem` says why the work cannot be reused, if it cannot.
    """

    values: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def parts_of(runnable: Runnable, spec: Document, salt: str, image: str, environment: Callable[[str], str]) -> Parts:
    """Return the parts of the cache key of a step's work.

    `spec` is that of its object, with digests in place of outputs. `image` is the platform's, and `environment` returns
    the digest of a named Environment.
    """
    if runnable.resource != TRAINING_JOB:
        return Parts(problem=f"a {runnable.made.kind} is not reused as a whole")
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
    for variable in spec.get("env") or []:
        values[f"env.{variable.get('name')}"] = f"sha256:{content_hash(variable)}"
    if spec.get("envFrom"):
        values["envFrom"] = _text(spec["envFrom"])
    values |= {f"outputs.{name}": _text(output) for name, output in sorted((spec.get("outputs") or {}).items())}
    values |= {name: _text(spec[name]) for name in _FIELDS if name in spec}
    if salt:
        values["cacheSalt"] = salt
    return Parts({name: shown(value) for name, value in values.items()}, contents)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _environment(reference: Document, digest_of: Callable[[str], str]) -> str:
    """Return the digest of a named environment, once it is built, or the requirements."""
    name = EnvironmentReference.model_validate(reference).name
    return f"{name} {digest_of(name)}".strip() if name else _text(reference)
