"""Counters and histograms of the operator; its gauges are in engine/vitals.py."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter, Histogram

API_REQUESTS = Counter(
    "ultramarine_api_requests_total",
    "Requests to the Kubernetes API, by the HTTP status of the answer; code none without an answer.",
    ["verb", "kind", "code"],
)
API_REQUEST_SECONDS = Histogram(
    "ultramarine_api_request_seconds", "Time to an answer of the Kubernetes API; lists page by page.", ["verb"]
)
RECONCILES = Counter("ultramarine_reconciles_total", "Passes, by outcome.", ["kind", "outcome"])
RECONCILE_SECONDS = Histogram("ultramarine_reconcile_seconds", "Duration of a pass.", ["kind"])
WATCH_EVENTS = Counter("ultramarine_watch_events_total", "Events from watches.", ["kind"])
STORAGE_QUESTIONS = Counter(
    "ultramarine_storage_questions_total",
    "Questions to the object storage, by outcome: ok, or the reason that conditions show.",
    ["outcome"],
)
STORAGE_QUESTION_SECONDS = Histogram("ultramarine_storage_question_seconds", "Time to an answer of the object storage.")
GATEWAY_QUESTIONS = Counter(
    "ultramarine_gateway_questions_total",
    "Questions to the gateways of namespaces, by outcome: ok, or the reason that conditions show.",
    ["outcome"],
)
RECORDS = Counter(
    "ultramarine_records_total",
    "Records of lineage and audit, by outcome: ok, or the reason why the object storage did not take one.",
    ["outcome"],
)
FINISHED = Counter(
    "ultramarine_finished_total",
    "Ended jobs and sweeps, by outcome.",
    ["kind", "object_namespace", "outcome"],
)
_WHOSE = ["kind", "object_namespace", "requester"]  # a target has a namespace of its own
USED_CPU = Counter("ultramarine_usage_cpu_seconds_total", "CPU seconds, as status.usage counts.", _WHOSE)
USED_GPU = Counter("ultramarine_usage_gpu_seconds_total", "GPU seconds, as status.usage counts.", _WHOSE)
USED_MEMORY = Counter(
    "ultramarine_usage_memory_gib_seconds_total", "GiB seconds of memory, as status.usage counts.", _WHOSE
)
USED = {"cpuSeconds": USED_CPU, "gpuSeconds": USED_GPU, "memoryGibSeconds": USED_MEMORY}
LEASE_TRANSITIONS = Counter(
    "ultramarine_lease_transitions_total", "Changes of this replica to leader or standby.", ["to"]
)

PASSES = ("ok", "held", "refused", "fenced", "bug")
STORAGE_TROUBLE = (
    "Unreachable",
    "Unavailable",
    "AccessDenied",
    "CredentialsMissing",
    "BucketNotFound",
    "WrongRegion",
)
GATEWAY_TROUBLE = ("NoGateway", "Unreachable", "BadAnswer")


def begin(kinds: Iterable[str]) -> None:
    """Create the series that alerts look at: the increase of a series that is born at 1 is 0."""
    for kind in kinds:
        for outcome in PASSES:
            RECONCILES.labels(kind=kind, outcome=outcome)
    for outcome in ("ok", *STORAGE_TROUBLE):
        STORAGE_QUESTIONS.labels(outcome=outcome)
    for outcome in ("ok", *GATEWAY_TROUBLE):
        GATEWAY_QUESTIONS.labels(outcome=outcome)
