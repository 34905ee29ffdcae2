"""Environments of pods: the Environment that a spec refers to, and whether its archive can be used."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from ultramarine.resources.base import KeySelector
from ultramarine.resources.environment import (
    EnvironmentReference,
    EnvironmentSpec,
    Python,
    RequirementsFile,
    RequirementsFrom,
    checked_requirement,
)
from ultramarine.resources.pods import Source
from ultramarine_contract.environment_records import EnvironmentArchive
from ultramarine_contract.errors import InvalidSpec, listed
from ultramarine_contract.meta import API_VERSION, GROUP, Manifest, asked_by, content_hash

from .conditions import find, is_true
from .plan import Obj, Seen

LABEL_SHARED = f"{GROUP}/shared"  # on an Environment that was made of requirements in other objects
PREFIX = "env-"
PYTHON = ".".join(map(str, sys.version_info[:2]))  # of all images of a release, the operator's among them


@dataclass(frozen=True)
class Usable:
    """An environment that is built, with its name and its archive."""

    name: str
    archive: EnvironmentArchive
    image: str = ""


@dataclass(frozen=True)
class Awaited:
    """An environment that is not built yet. `create` is the shared Environment to make, if it does not exist.

    `absent` means that the Environment that the reference names does not exist.
    """

    name: str
    message: str
    create: Manifest | None = None
    absent: bool = False


@dataclass(frozen=True)
class Failed:
    """An environment whose build failed for good, or that cannot be used here, with the remedy."""

    name: str
    problem: str
    remedy: str

    @property
    def message(self) -> str:
        """Return the problem with its remedy."""
        return f"{self.problem}; {self.remedy}"


def find_environment(
    owner: Obj[Any], reference: EnvironmentReference, seen: Seen, *, image: str = "", source: Source | None = None
) -> Usable | Awaited | Failed:
    """Find the Environment of a reference; `image` is that of the pods, and `source` has its requirements file.

    Raises InvalidSpec if `source` lacks the file, or has a line that no build takes.
    """
    name = name_of(reference, image, source)
    manifest = next((e for e in seen.others("Environment") if e["metadata"]["name"] == name), None)
    if manifest is None:
        if reference.name:
            message = f"Environment {name} does not exist yet; apply it, or correct environment.name"
            return Awaited(name, message, absent=True)
        shared = _shared(owner, name, spec_of(reference, image, source), seen)
        return Awaited(name, f"Environment {name} is being made", shared)
    if not reference.name and _content_in(manifest) != _content(spec_of(reference, image, source)):
        return Failed(name, f"Environment {name} does not have the content of its name", "delete it")
    base = str((manifest.get("spec") or {}).get("image") or "")
    if image and base != image:
        remedy = "name an Environment with that image, or leave the image out here"
        return Failed(name, f"Environment {name} was built on {base or 'the image of the platform'}", remedy)
    status = manifest.get("status") or {}
    python = ".".join(str(status.get("pythonVersion") or PYTHON).split(".")[:2])
    if not base and python != PYTHON:
        remedy = "delete it and apply it again"
        return Failed(name, f"Environment {name} was built for Python {python}, the platform has {PYTHON}", remedy)
    if is_true(status, "Ready") and status.get("uri") and status.get("digest"):
        size = status.get("bytes")
        archive = EnvironmentArchive(str(status["uri"]), str(status["digest"]), size if type(size) is int else 0)
        return Usable(name, archive, base)
    failed = find(status, "Failed")
    if failed is not None and failed.get("status") == "True":
        remedy = remedy_of_failure(manifest)
        problem = str(failed.get("message") or failed.get("reason")).removesuffix(f"; {remedy}")
        return Failed(name, f"Environment {name} has failed: {problem}", remedy)
    why = (find(status, "Ready") or {}).get("message") or "its build begins"
    return Awaited(name, f"Environment {name} is not ready: {why}")


def remedy_of_failure(environment: Manifest) -> str:
    """Return the remedy for a build that failed for good; the spec of an Environment cannot be changed."""
    name = environment["metadata"]["name"]
    is_shared = LABEL_SHARED in (environment["metadata"].get("labels") or {})
    other = "change the requirements of its jobs and endpoints" if is_shared else "apply it under another name"
    return f"{other}, or delete Environment {name} to have it built again"


def name_of(reference: EnvironmentReference, image: str = "", source: Source | None = None) -> str:
    """Return the name of the Environment; equal requirements have one name. Raises InvalidSpec as `spec_of` does."""
    if reference.name:
        return reference.name
    content = _content(spec_of(reference, image, source))
    return f"{PREFIX}{content_hash(content if image else {**content, 'platform': PYTHON})[:16]}"


def _content(spec: EnvironmentSpec) -> Manifest:
    """Return what is built of a spec."""
    content: Manifest = spec.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, exclude={"ttl_seconds_after_unused"}
    )
    return content


def _content_in(manifest: Manifest) -> Manifest | None:
    """Return what is built of a live Environment; None if its spec is not valid."""
    try:
        return _content(EnvironmentSpec.model_validate(manifest.get("spec") or {}))
    except ValidationError:
        return None


def topics_of(user: Manifest) -> frozenset[str]:
    """Return the topics of the Environments that a TrainingJob, Sweep or OnlineEndpoint refers to.

    The status of an endpoint names those that its pods still have, whatever the spec says, and those that models ask
    for.
    """
    spec = user.get("spec") or {}
    topics: set[str] = set()
    for pods in spec.get("deployments") or [(spec.get("trialTemplate") or {}).get("spec") or spec]:
        source = (pods.get("scoring") or pods).get("source")
        topics |= topic(pods.get("environment"), str(pods.get("image") or ""), source)
    for served in (user.get("status") or {}).get("deployments") or []:
        names = (served.get("environment"), served.get("nextEnvironment"))
        topics |= {topic_of(name) for name in names if name}
    topics |= {topic_of(name) for name in (user.get("status") or {}).get("leavingEnvironments") or []}
    return frozenset(topics)


def topic(reference: Manifest | None, image: str = "", source: Manifest | None = None) -> frozenset[str]:
    """Return the topic that a reference in a plain manifest shares with its Environment; none if it is not valid."""
    if not reference:
        return frozenset()
    try:
        name = name_of(
            EnvironmentReference.model_validate(reference), image, Source.model_validate(source) if source else None
        )
    except (ValidationError, InvalidSpec):
        return frozenset()
    return frozenset({topic_of(name)})


def topic_of(name: str) -> str:
    """Return the topic of an Environment; no Model has a name with a slash."""
    return f"environments/{name}"


def spec_of(reference: EnvironmentReference, image: str = "", source: Source | None = None) -> EnvironmentSpec:
    """Return the spec of the shared Environment of a reference. Raises InvalidSpec as `find_environment` does."""
    path = reference.requirements_file
    if path is None:
        python = Python(requirements=reference.requirements, requirements_from=reference.requirements_from)
    elif source is None:
        raise InvalidSpec(f"environment.requirementsFile is {path}, but there is no source; set one, or requirements")
    elif source.inline is not None:
        lines = lines_of(source.inline, path)
        try:
            python = Python(requirements=lines)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]["msg"]
            raise InvalidSpec(f"the requirements in {path} of source.inline are not valid: {fault}") from error
    elif source.config_map is not None:
        python = Python(
            requirements_from=RequirementsFrom(config_map=KeySelector(name=source.config_map.name, key=path))
        )
    else:
        python = Python(requirements_file=RequirementsFile(source=source, path=path))
    return EnvironmentSpec(image=image, python=python)


def lines_of(files: Mapping[str, str], path: str) -> list[str]:
    """Return the lines of a requirements.txt without comments, continued ones as one line.

    Raises InvalidSpec if the inline files lack it, and for a line that no build takes.
    """
    if path not in files:
        there = listed(sorted(files))
        raise InvalidSpec(f"the file of requirements is {path}, but source.inline has only: {there}; correct the path")
    lines: list[str] = []
    for number, line in _joined(files[path]):
        if not line or line.lstrip().startswith("#"):
            continue
        try:
            lines.append(checked_requirement(line))
        except ValueError as error:
            raise InvalidSpec(f"line {number} of {path} in source.inline {error}") from error
    if not lines:
        raise InvalidSpec(f"{path} in source.inline names no package; name at least one")
    return lines


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line with its number; one that ends with a backslash goes on in the next."""
    first, begun = 1, ""
    for number, line in enumerate(text.splitlines(), 1):
        first = first if begun else number
        whole = begun + line.rstrip()
        begun = f"{whole[:-1].rstrip()} " if whole.endswith("\\") and not whole.lstrip().startswith("#") else ""
        if not begun:
            yield first, whole
    if begun:
        yield first, begun.rstrip()


def _shared(owner: Obj[Any], name: str, spec: EnvironmentSpec, seen: Seen) -> Manifest:
    annotations = asked_by(seen.platform.requester(owner.manifest))
    return {
        "apiVersion": API_VERSION,
        "kind": "Environment",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {LABEL_SHARED: "true"},
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True),
    }
