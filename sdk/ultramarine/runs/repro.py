"""An old TrainingJob as a new manifest: its code, packages, data and parameters, as far as they are recorded."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ultramarine_contract.environment_records import LOCK_NAME
from ultramarine_contract.errors import InvalidSpec, StorageError, counted
from ultramarine_contract.meta import (
    API_VERSION,
    CONFIG_MAP,
    ENVIRONMENT,
    MAX_NAME,
    TRAINING_JOB,
    Manifest,
    content_hash,
)

from ..kube.errors import Forbidden, NotFound

if TYPE_CHECKING:
    from ..client import Client

_NOT_REPEATED = ("suspend", "cancel", "ttlSecondsAfterFinished")
_MAX_REQUIREMENTS = 500  # of a spec
Notes = Iterator[str]


class Reproduction(NamedTuple):
    """Manifest of a new job, and a line for each part that may differ from the old job."""

    manifest: Manifest
    differences: list[str]


def reproduce(client: Client, name: str, new_name: str = "") -> Reproduction:
    """Return the manifest that repeats a TrainingJob. Raises NotFound, and InvalidSpec for a job that never ran."""
    job = client.cluster.get(TRAINING_JOB, name)
    status = job.get("status") or {}
    record = status.get("provenance") or {}
    if not record or not status.get("attempts"):
        raise InvalidSpec(f"TrainingJob {name} never started, so nothing is recorded. Submit its manifest again.")
    spec = {key: value for key, value in copy.deepcopy(job["spec"]).items() if key not in _NOT_REPEATED}
    notes = [
        *_source(client, spec, record),
        *_environment(client, spec, record),
        *_image(spec, record),
        *_inputs(client, spec, status),
        *_secrets(spec),
    ]
    metadata: Manifest = {"name": new_name or f"{name[: MAX_NAME - 6].rstrip('-')}-again"}
    labels = job["metadata"].get("labels") or {}
    if queue := {key: value for key, value in labels.items() if key.startswith("kueue.x-k8s.io/")}:
        metadata["labels"] = queue
    return Reproduction(
        {"apiVersion": API_VERSION, "kind": TRAINING_JOB.kind, "metadata": metadata, "spec": spec}, notes
    )


def _source(client: Client, spec: Manifest, record: Manifest) -> Notes:
    source, digest = spec.get("source") or {}, record.get("sourceDigest", "")
    if "git" in source:
        if commit := record.get("gitCommit"):
            source["git"]["ref"] = commit
        else:
            yield "source: the commit is not recorded; the branch may have moved"
    elif "uri" in source:
        if digest:
            source["digest"] = digest
        if not client.storage.exists(source["uri"]):
            yield f"source: {source['uri']} no longer exists"
    elif "configMap" in source:
        name = source["configMap"]["name"]
        try:
            files = client.cluster.get(CONFIG_MAP, name).get("data") or {}
        except (NotFound, Forbidden) as error:
            yield f"source: ConfigMap {name} cannot be read: {error.message}"
            return
        if digest == f"sha256:{content_hash(files)}":
            spec["source"] = {"inline": files}
        else:
            yield f"source: ConfigMap {name} has changed since; the job ran {digest or 'unrecorded files'}"
    elif not source:
        yield "source: the code is that of the image"


def _environment(client: Client, spec: Manifest, record: Manifest) -> Notes:
    if not spec.get("environment"):
        return
    name, digest, uri = (record.get(key, "") for key in ("environment", "environmentDigest", "environmentUri"))
    try:
        if (client.cluster.get(ENVIRONMENT, name).get("status") or {}).get("digest") == digest:
            spec["environment"] = {"name": name}
            return
    except NotFound:
        pass
    try:
        lock = client.storage.read(f"{uri.rpartition('/')[0]}/{LOCK_NAME}").decode()
    except StorageError:
        yield f"environment: Environment {name} and its lock file no longer exist; packages may have other versions"
        return
    lines = locked(lock)
    if len(lines) > _MAX_REQUIREMENTS:
        yield f"environment: {len(lines)} packages are more than a spec holds; packages may have other versions"
        return
    spec["environment"] = {"requirements": lines}
    packages = counted(len(lines), "package")
    yield f"environment: Environment {name} no longer exists; {packages} of its lock file will be built again"


def locked(text: str) -> list[str]:
    """Return the packages of a lock file with their exact versions, without hashes and comments."""
    lines = (line.removesuffix("\\").strip() for line in text.splitlines() if not line.startswith((" ", "#", "-")))
    return [line for line in lines if line]


def _image(spec: Manifest, record: Manifest) -> Notes:
    image, ran = spec.get("image", ""), record.get("imageDigest", "")
    repository, at, _ = ran.partition("@")
    if not image:
        yield f"image: the platform's own of today; the job ran {ran or 'an unrecorded one'}"
    elif "@" in image:
        return
    elif spec.get("environment"):  # which is built for an image by its name
        yield f"image: {image} by its name, as the environment needs it; the job ran {ran or 'an unrecorded one'}"
    elif at and f"/{repository}".endswith(f"/{_repository(image)}"):
        spec["image"] = ran
    else:
        yield f"image: {image} by its name; the job ran {ran or 'an unrecorded one'}"


def _repository(image: str) -> str:
    path, slash, name = image.rpartition("/")
    return f"{path}{slash}{name.partition(':')[0]}"


def _inputs(client: Client, spec: Manifest, status: Manifest) -> Notes:
    immutable = f"{client.platform.prefix}uploads/"  # folders that are named by their content
    for name, value in list((spec.get("inputs") or {}).items()):
        if pin := (status.get("datasets") or {}).get(name):  # the version itself may be gone
            value = spec["inputs"][name] = {"uri": pin["uri"], "digest": pin["digest"]}
        uri, before = value["uri"], (status.get("inputs") or {}).get(name)
        try:
            size = client.storage.size(uri)
        except StorageError as error:
            if error.reason not in ("InputNotFound", "BucketNotFound"):
                raise
            yield f"input {name}: {uri} no longer exists"
            continue
        if uri.startswith(immutable) or value.get("digest"):
            continue
        if before is None:
            yield f"input {name}: its content is not recorded"
        elif (size.files, size.bytes) != (before.get("files", 0), before["bytes"]):
            yield (
                f"input {name}: {uri} has {counted(size.files, 'file')} with {counted(size.bytes, 'byte')}; the job"
                f" read {before.get('files', 0)} with {before['bytes']}"
            )
        else:
            yield f"input {name}: {uri} has the same size; its content is not compared"


def _secrets(spec: Manifest) -> Notes:
    names: dict[str, None] = {}
    for entry in [*(spec.get("env") or []), *(spec.get("envFrom") or [])]:
        places: dict[str, Any] = entry.get("valueFrom") or entry
        for key, kind in (
            ("secretKeyRef", "Secret"),
            ("configMapKeyRef", "ConfigMap"),
            ("secretRef", "Secret"),
            ("configMapRef", "ConfigMap"),
        ):
            if key in places:
                names[f"{kind} {places[key]['name']}"] = None
    for name in names:
        yield f"env: values of {name} are not recorded"
