"""Task of a serving pod: the model, the limits, and the requests to keep."""

from __future__ import annotations

import json
from typing import Any

from .common import Document
from .environment_records import EnvironmentArchive
from .source_records import SourceTask


class CollectTask(Document, frozen=True):
    """Collection of requests: a share of `sampling_rate` of them is stored below the s3:// URI of a folder.

    `endpoint` and `deployment` name their owner. The values of inputs, outputs and features named in `redact` are left
    out.
    """

    endpoint: str
    deployment: str
    uri: str
    sampling_rate: float
    redact: tuple[str, ...] = ()


class ScoringTask(Document, frozen=True):
    """Scoring script that answers instead of the model's format: `entry` is its path below SCORING_DIR.

    `source` is what the fetching container stores there; None if a ConfigMap is mounted there.
    """

    entry: str
    source: SourceTask | None = None


class ServingTask(Document, frozen=True):
    """Task of a serving pod: the operator writes it into ENV_TASK of its fetching and its serving container.

    `digest` is the manifest's if `uri` ends in a slash, otherwise the SHA-256 of the one object.
    `signature` is ModelVersion.spec.signature; without it the server infers the signature from the model.
    At most `max_concurrent_requests` are answered at once (0: any number); others wait `max_queue_milliseconds`.
    `timeout_seconds` is the time for one answer (0: any time). Requests are computed together up to `max_batch_size`
    rows, and wait at most `max_latency_milliseconds` for each other. `warmup` is a V2 request as JSON, or empty.
    `access_log_sampling` is the share of good answers in the access log, which has all others. The operator leaves it
    at its default; a server that is started by hand may have another.
    With `pool_bytes` the pod answers with the models of the catalogue, which may take that much memory together. The
    first five fields and `signature` are empty then.
    With `environment`, code of the model or of `scoring` runs in a process of that environment.
    """

    NOUN = "the task of a serving pod"

    model: str
    version: str
    uri: str
    digest: str
    format: str
    allow_code_execution: bool = False
    auth: str = "key"  # key | gateway | none
    signature: dict[str, Any] | None = None
    max_concurrent_requests: int = 0
    max_queue_milliseconds: float = 500
    timeout_seconds: float = 60
    max_batch_size: int = 1
    max_latency_milliseconds: float = 0
    warmup: str = ""
    access_log_sampling: float = 0.01
    collect: CollectTask | None = None
    pool_bytes: int = 0
    environment: EnvironmentArchive | None = None
    scoring: ScoringTask | None = None

    def to_json(self) -> str:
        """Return the task as JSON, without limits at their defaults: those change no endpoint's revision."""
        always = ("model", "version", "uri", "digest", "format", "allow_code_execution", "auth", "signature")
        usual = ServingTask("", "", "", "", "").document()
        task = {name: value for name, value in self.document().items() if name in always or value != usual[name]}
        return json.dumps(task, sort_keys=True)
