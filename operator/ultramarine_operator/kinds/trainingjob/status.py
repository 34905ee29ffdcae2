"""What a TrainingJob says of itself: the words that people read, judged from what was seen."""

from __future__ import annotations

from datetime import datetime

from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest
from ultramarine_contract.score import score
from ultramarine_contract.training_records import Progress, TerminationRecord

from ...shared import pods, waiting
from ...shared.conditions import Condition, health, in_words, parse_timestamp, timestamp
from ...shared.plan import Platform, Seen
from ...shared.states import State
from ..training import mlflow, source_digest
from . import history
from .manifests import Job, output_prefix

MAX_INPUTS = 32


def running(job: Job, running: list[Manifest]) -> State:
    """Its pods run the command."""
    newest = next((pod for pod in reversed(running) if pods.node_index(pod) == 0), running[-1])
    message = f"pod {newest['metadata']['name']} runs on node {(newest.get('spec') or {}).get('nodeName', '?')}"
    if job.spec.nodes > 1:
        count = len({pods.node_index(pod) for pod in running})
        message = f"{count} of {job.spec.nodes} pods run; {message}"
    return "Running", (Condition("Running", True, "PodRunning", message), *health(done=False, progress=message))


# Anew in each pass.
JUDGED = {"conditions", "state", "observedGeneration", "completionTime", "duration", "failure", "imageErrorSince"}


def kept(job: Job, platform: Platform) -> Manifest:
    """The facts that earlier passes knew, and those that stand from the beginning."""
    facts: Manifest = {name: value for name, value in job.status.items() if name not in JUDGED}
    known = {"sourceDigest": source_digest(job), "requestedBy": platform.requester(job.manifest)}
    known = {name: value for name, value in known.items() if value}
    return {**facts, "provenance": {**facts.get("provenance", {}), **known}} if known else facts


def gathered(job: Job, child: Manifest | None, own_pods: list[Manifest], seen: Seen, now: datetime) -> Manifest:
    """The facts that can be read off the Job, its pods and what these have posted; what was known stays known."""
    facts = kept(job, seen.platform)
    facts.pop("activeSince", None)
    facts |= history.activity(job, child, now)
    facts["attemptHistory"] = history.history(job, own_pods, now)
    # Without any it is left out: a job that was held before its first pod would differ from one that never was.
    facts["attempts"] = history.attempts(job, child, own_pods, facts["attemptHistory"]) or None
    records = history.last_records(own_pods)
    if own_pods:
        of_node_0 = [pod for pod in own_pods if pods.node_index(pod) == 0] or own_pods
        newest = max(of_node_0, key=history.place)
        facts["pod"] = newest["metadata"]["name"]
        starts = [start for pod in own_pods if (start := pods.started(pod))]
        if starts and "startTime" not in facts:
            facts["startTime"] = min(starts)
        if image := pods.image_digest(newest, pods.TRAINER):
            facts["provenance"] = {**facts.get("provenance", {}), "imageDigest": image}
    facts["imageErrorSince"] = waiting.image_error_since(job.status, own_pods, now)
    prefix = output_prefix(job, seen.platform)
    for record in records:
        facts = with_record(facts, record, prefix)
    if facts["attemptHistory"]:
        facts["logs"] = {"uri": f"{prefix}{contract.LOGS_NAME}/"}
    facts["lastCheckpoint"], worked = history.checkpoint(job, prefix, records, seen.report)
    if worked:
        facts["goodput"] = {**facts.get("goodput", {}), "productiveSeconds": int(worked)}
    told = [*(record.mlflow_run for record in records), seen.report.mlflow_run if seen.report else ""]
    facts["mlflow"] = mlflow(facts.get("mlflow"), seen.platform, told)
    return with_progress(facts, seen.report)


def with_record(facts: Manifest, record: TerminationRecord, prefix: str) -> Manifest:
    """The facts with what a trainer said at the end of the code and the data that it fetched, and of metrics.

    `prefix` is where what it says it has stored must be.
    """
    source = {"sourceDigest": record.source.digest[:100], "gitCommit": record.source.commit[:64]}
    source = {name: value for name, value in source.items() if value}
    inputs = {
        name: {**({"digest": one.digest[:100]} if one.digest else {}), "bytes": one.bytes, "files": one.files}
        for name, one in sorted(record.inputs.items())[:MAX_INPUTS]
    }
    found = with_metrics(facts, dict(record.metrics))
    folder = f"{prefix}{contract.METRICS_NAME}/"
    if record.series.startswith(folder):
        found["metrics"] = {**found.get("metrics", {}), "uri": folder}
    if source:
        found["provenance"] = {**facts.get("provenance", {}), **source}
    if record.step >= 0:
        told = history.progress(Progress(record.step, record.total_steps))
        found["progress"] = {**facts.get("progress", {}), **told}
    return {**found, "inputs": inputs} if inputs else found


def with_metrics(facts: Manifest, metrics: dict[str, float]) -> Manifest:
    """The facts with the newest numbers."""
    fitting = [entry for entry in metrics.items() if len(entry[0]) <= contract.METRIC_NAME_LIMIT]
    metrics = dict(fitting[: contract.METRIC_LIMIT])
    if not metrics:
        return dict(facts)
    return {**facts, "metrics": {**facts.get("metrics", {}), "latest": metrics}, "score": score(metrics)}


def with_progress(facts: Manifest, progress: Progress | None) -> Manifest:
    """The facts with what a pod has posted since it started."""
    if progress is None:
        return facts
    told = history.progress(progress)
    percent = f"{told['percent']}%" if "percent" in told else facts.get("percent")
    return {**with_metrics(facts, dict(progress.metrics)), "progress": told, "percent": percent}


def ended(facts: Manifest, child: Manifest, now: datetime) -> Manifest:
    """The facts with the time of the end, by the Job's own clock where it tells, and what the time was worth."""
    counts = child.get("status") or {}
    times = [
        c.get("lastTransitionTime") for c in counts.get("conditions") or [] if c.get("type") in ("Complete", "Failed")
    ]
    end = str(counts.get("completionTime") or next((t for t in times if t), None) or timestamp(now))
    # A pod that nobody saw began not long after its Job, which began when it was made.
    start = facts.get("startTime") or counts.get("startTime") or (child.get("metadata") or {}).get("creationTimestamp")
    active = int(facts.get("activeSeconds") or 0) + _seconds(facts.get("activeSince"), end)
    found = {**facts, "startTime": start, "completionTime": end, "duration": in_words(_seconds(start, end))}
    productive = min(int((facts.get("goodput") or {}).get("productiveSeconds", 0)), active)
    goodput = {"productiveSeconds": productive, "lostSeconds": active - productive}
    return {**found, "activeSince": None, "activeSeconds": active, "goodput": goodput}


def _seconds(start: str | None, end: str) -> int:
    return max(int((parse_timestamp(end) - parse_timestamp(start)).total_seconds()), 0) if start else 0
