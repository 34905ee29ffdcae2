"""What a pod that serves is told: the model, its bounds, and what is kept of requests."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from .common import read_known


@dataclass(frozen=True)
class CollectTask:
    """Which requests are kept, and where: a share of `sampling_rate` of them, below the s3:// URI of a folder.

    `endpoint` and `deployment` say whose they are. The values of inputs, outputs and features named in `redact` are
    left out.
    """

    endpoint: str
    deployment: str
    uri: str
    sampling_rate: float
    redact: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServingTask:
    """What a serving pod has to do: the operator writes it into ENV_TASK of its fetching and its serving container.

    `digest` is the manifest's when `uri` ends in a slash, else the SHA-256 of the one object.
    `signature` is ModelVersion.spec.signature, or nothing when the server shall infer it from the model.
    At most `max_concurrent_requests` are answered at once (0: any number); others wait `max_queue_milliseconds`.
    `timeout_seconds` is the time for one answer (0: any time). Requests are computed together up to `max_batch_size`
    rows, and wait at most `max_latency_milliseconds` for each other. `warmup` is a V2 request as JSON, or nothing.
    `access_log_sampling` is the share of good answers that the access log shows; it shows all others.
    `collect` is there where requests are kept.
    With `pool_bytes` the pod answers with the models of the catalogue, which may take so much memory together; then
    what the first five fields and `signature` say of one model is empty.
    """

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

    def to_json(self) -> str:
        """Return the task as JSON, without bounds that are as usual: they change no endpoint's revision."""
        always = ("model", "version", "uri", "digest", "format", "allow_code_execution", "auth", "signature")
        usual = asdict(ServingTask("", "", "", "", ""))
        task = {name: value for name, value in asdict(self).items() if name in always or value != usual[name]}
        return json.dumps(task, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ServingTask:
        task, collect = read_known(cls, document := json.loads(text)), document.get("collect")
        if collect is None:
            return task
        return replace(task, collect=read_known(CollectTask, {**collect, "redact": tuple(collect.get("redact", ()))}))
