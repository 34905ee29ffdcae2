"""Records of steps that succeeded, by the cache key of their work: pods write them, and runs look them up."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import field

from .common import Document, OutputRecord
from .meta import GROUP, content_hash

ANNOTATION_CACHE = f"{GROUP}/cache"  # of a step's TrainingJob or Sweep: its CacheTask
CACHE_NAME = "cache"  # below a namespace's prefix: KEY/record.json, and steps/PIPELINE/STEP/record.json
RECORD_NAME = "record.json"
MAX_SHOWN = 80  # characters of a part's value
_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)


class CacheTask(Document, frozen=True):
    """Identity of a step's work: its key, the parts of the key by name, and the run that asks for the work."""

    NOUN = "a cache task"

    key: str
    parts: dict[str, str] = field(default_factory=dict)
    pipeline: str = ""
    step: str = ""
    run: str = ""

    @property
    def is_safe(self) -> bool:
        """True if its names can be paths; any user may write the annotation."""
        return bool(_KEY.fullmatch(self.key) and _NAME.fullmatch(self.pipeline) and _NAME.fullmatch(self.step))

    def to_json(self) -> str:
        return json.dumps(self.document(), sort_keys=True)

    def outcome(self, outputs: Mapping[str, OutputRecord], metrics: Mapping[str, float], job: str) -> CacheRecord:
        """Return the record of the work, which has ended now: `job` is the TrainingJob or the Sweep that did it."""
        return CacheRecord(
            key=self.key,
            parts=self.parts,
            outputs=dict(outputs),
            metrics=dict(metrics),
            pipeline=self.pipeline,
            step=self.step,
            run=self.run,
            job=job,
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )


class CacheRecord(Document, frozen=True):
    """Outcome of a step's work: outputs and metrics, the parts of its key, and the objects that made it.

    `time` is the time of the end (RFC 3339, UTC).
    """

    NOUN = "a cache record"

    key: str
    parts: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, OutputRecord] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    pipeline: str = ""
    step: str = ""
    run: str = ""
    job: str = ""
    time: str = ""

    def to_json(self) -> bytes:
        return json.dumps(self.document(), sort_keys=True).encode()


def key_of(parts: Mapping[str, str]) -> str:
    """Return the cache key of these parts: SHA-256 of their canonical JSON, in hex."""
    return content_hash(dict(parts))


def record_uri(bucket: str, namespace: str, key: str) -> str:
    """Return the address of the record of a key."""
    return f"s3://{bucket}/{namespace}/{CACHE_NAME}/{key}/{RECORD_NAME}"


def latest_uri(bucket: str, namespace: str, pipeline: str, step: str) -> str:
    """Return the address of the latest record of a step, with which a miss is compared."""
    return f"s3://{bucket}/{namespace}/{CACHE_NAME}/steps/{pipeline}/{step}/{RECORD_NAME}"


def record_uris(output_prefix: str, cache: CacheTask | None) -> list[str]:
    """Return the addresses that a job with these outputs writes: by its key, and the latest of its step; or none."""
    bucket, _, key = output_prefix.removeprefix("s3://").partition("/")
    if cache is None or not cache.is_safe or not key:
        return []
    namespace = key.partition("/")[0]
    return [record_uri(bucket, namespace, cache.key), latest_uri(bucket, namespace, cache.pipeline, cache.step)]


def shown(value: str) -> str:
    """Return a part's value: a long one is its beginning and its digest, so that equal values stay equal."""
    if len(value) <= MAX_SHOWN:
        return value
    return f"{value[:40]}... ({len(value)} characters, {content_hash(value)[:16]})"


def difference(parts: Mapping[str, str], former: Mapping[str, str]) -> str:
    """Return the first part that differs from those of a former record, with its two values; empty if none does."""
    names = [name for name in (*parts, *former) if parts.get(name) != former.get(name)]
    if not names:
        return ""
    name, others = names[0], len(set(names)) - 1
    now, before = (values.get(name, "nothing") for values in (parts, former))
    return f"{name} is {now}, and was {before}" + (f"; {others} more parts differ" if others else "")
