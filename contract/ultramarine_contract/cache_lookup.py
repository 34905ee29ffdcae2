"""Look-up of a step's work among the records of earlier successes, and the reason of a miss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from .cache_records import CacheRecord, difference, key_of, latest_uri, record_uri
from .errors import StorageError


class Storage(Protocol):
    """Reading side of the object storage."""

    def read(self, uri: str) -> bytes: ...

    def content_digest(self, uri: str) -> str: ...

    def artifact_digest(self, uri: str) -> tuple[str, int, str]: ...


@dataclass(frozen=True)
class CacheAnswer:
    """Cache key of a step's work with its parts, and the record under it; `miss` says why there is none to reuse."""

    key: str
    parts: tuple[tuple[str, str], ...]
    record: CacheRecord | None = None
    miss: str = ""


@dataclass(frozen=True)
class Place:
    """Place of a step's records in the storage."""

    bucket: str
    namespace: str
    pipeline: str
    step: str


def look_up(
    storage: Storage, place: Place, parts: Mapping[str, str], contents: Mapping[str, str], *, reuses: bool = True
) -> CacheAnswer:
    """Return the record of a step's work whose outputs still exist, or why none can be reused.

    `contents` are parts of the key that follow from what is stored at a URI. Without `reuses` only the key is of
    interest.
    """
    digests = {name: storage.content_digest(uri) for name, uri in contents.items()}
    parts = {name: digests.get(name, value) for name, value in parts.items()}
    key = key_of(parts)
    record, miss = _record(storage, place, key) if reuses else (None, "")
    if record is None and not miss and reuses:
        miss = _difference(storage, place, parts)
    return CacheAnswer(key, tuple(parts.items()), record, miss)


def _record(storage: Storage, place: Place, key: str) -> tuple[CacheRecord | None, str]:
    """Return the record of a key if all of its outputs exist; otherwise why it cannot be reused."""
    record = _read(storage, record_uri(place.bucket, place.namespace, key))
    if record is None or record.key != key:
        return None, ""
    for name, output in record.outputs.items():
        own = f"s3://{place.bucket}/{place.namespace}"
        if not output.uri.startswith((f"{own}/trainingjobs/", f"{own}/sweeps/")):
            return None, f"output {name} of the record is not in a folder of the namespace's jobs and sweeps"
        try:
            digest, _, _ = storage.artifact_digest(output.uri)
        except StorageError as error:
            if error.transient:
                raise
            return None, f"output {name} of run {record.run} is gone from the storage"
        if digest != output.digest:
            return None, f"output {name} of run {record.run} was changed in the storage"
    return record, ""


def _difference(storage: Storage, place: Place, parts: Mapping[str, str]) -> str:
    latest = _read(storage, latest_uri(place.bucket, place.namespace, place.pipeline, place.step))
    if latest is None:
        return "no earlier run did this work"
    words = difference(parts, latest.parts)
    return f"{words} in run {latest.run}" if words else "the record of this key is gone from the storage"


def _read(storage: Storage, uri: str) -> CacheRecord | None:
    """Return the record at a URI; None if there is none, or none that can be read."""
    try:
        return CacheRecord.from_json(storage.read(uri))
    except StorageError as error:
        if error.transient or error.reason in ("AccessDenied", "BucketNotFound", "CredentialsMissing"):
            raise
        return None
    except ValueError:
        return None
