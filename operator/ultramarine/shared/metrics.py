"""The operator's Prometheus metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

API_REQUESTS = Counter("ultramarine_api_requests_total", "Requests to the Kubernetes API.", ["verb", "kind"])
RECONCILES = Counter("ultramarine_reconciles_total", "Passes, by how they ended.", ["kind", "outcome"])
RECONCILE_SECONDS = Histogram("ultramarine_reconcile_seconds", "How long a pass took.", ["kind"])
QUEUE_DEPTH = Gauge("ultramarine_queue_depth", "Keys that are due now.")
QUEUE_AGE = Gauge("ultramarine_queue_age_seconds", "How long the most overdue key has been waiting.")
LEADER = Gauge("ultramarine_leader", "1 in the replica that holds the Lease.")
