"""What a TrainingJob says of itself: the words that people read, judged from what was seen."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from ...shared import contract, pods
from ...shared.conditions import Condition, find, health, merge, parse_timestamp, timestamp
from ...shared.meta import Manifest
from ...shared.plan import Event
from .manifests import CONTAINER, Job, source_digest

MAX_SCORE = 64
MAX_FAILURE = {"reason": 256, "message": 4096, "tail": 8192, "hint": 1024}  # characters, as in the schema

State = tuple[str, tuple[Condition, ...]]


def pending(reason: str, message: str) -> State:
    """Accepted, and nothing runs yet."""
    return "Pending", (
        Condition("Running", False, reason, message),
        *health(done=False, progress=message),
    )


def suspended() -> State:
    """Held by its author."""
    message = "spec.suspend is true; set it to false to go on"
    return "Suspended", (
        Condition("Suspended", True, "Suspended", message),
        Condition("Running", False, "Suspended", message),
    )


def running(pod: Manifest) -> State:
    """A pod runs the command."""
    message = f"pod {pod['metadata']['name']} runs on node {(pod.get('spec') or {}).get('nodeName', '?')}"
    return "Running", (Condition("Running", True, "PodRunning", message), *health(done=False, progress=message))


def finishing(reason: str, message: str) -> State:
    """The command has succeeded; its result is being taken in."""
    return "Running", (Condition("Running", False, reason, message), *health(done=False, progress=message))


def succeeded(message: str) -> State:
    """Done, and everything registered."""
    return "Succeeded", (
        Condition("Running", False, "Finished", ""),
        Condition("Succeeded", True, "Finished", message),
    )


def failed(reason: str, message: str) -> State:
    """Over, without result."""
    return "Failed", (
        Condition("Running", False, "Finished", ""),
        Condition("Succeeded", False, reason, message),
        Condition("Failed", True, reason, message),
        *health(done=True, failed=message),
    )


def build(job: Job, state: State, facts: Manifest, now: datetime) -> Manifest:
    """The whole status: the state's conditions over `facts`, which are the other fields."""
    word, conditions = state
    accepted = Condition("Accepted", True, "Valid", "")
    if not any(c.type == "Suspended" for c in conditions):
        conditions = (Condition("Suspended", False, "NotSuspended", ""), *conditions)
    old = job.status.get("conditions") or []
    return {
        **{name: value for name, value in facts.items() if value not in (None, "", {}, [])},
        "observedGeneration": job.generation,
        "state": word,
        "conditions": merge(old, (accepted, *conditions), job.generation, now),
    }


def gathered(job: Job, child: Manifest | None, own_pods: list[Manifest]) -> Manifest:
    """The facts that can be read off the Job and its pods; what an earlier pass knew stays known."""
    old = job.status
    facts: Manifest = {
        name: old[name]
        for name in ("startTime", "attempts", "pod", "provenance", "outputs", "modelVersion", "metrics", "score")
        if name in old
    }
    digest = source_digest(job)
    if digest:
        facts["provenance"] = {**facts.get("provenance", {}), "sourceDigest": digest}
    if child is not None:
        counts = child.get("status") or {}
        attempts = sum(int(counts.get(field) or 0) for field in ("active", "succeeded", "failed"))
        attempts = max(attempts, len(own_pods), int(facts.get("attempts", 0)))
        if attempts:  # else a job that was held before its first pod would differ from one that never was
            facts["attempts"] = attempts
    if own_pods:
        newest = max(own_pods, key=lambda pod: (pods.created(pod), pod["metadata"]["name"]))
        facts["pod"] = newest["metadata"]["name"]
        starts = [start for pod in own_pods if (start := pods.started(pod))]
        if starts and "startTime" not in facts:
            facts["startTime"] = min(starts)
        if image := pods.image_digest(newest, CONTAINER):
            facts["provenance"] = {**facts.get("provenance", {}), "imageDigest": image}
    return facts


def with_source(facts: Manifest, source: contract.SourceRecord) -> Manifest:
    """The facts with what the trainer says of the code that it fetched."""
    told = {"sourceDigest": source.digest[:100], "gitCommit": source.commit[:64]}
    known = {name: value for name, value in told.items() if value}
    return {**facts, "provenance": {**facts.get("provenance", {}), **known}} if known else facts


def ended(facts: Manifest, child: Manifest, now: datetime) -> Manifest:
    """The facts with the time of the end, by the Job's own clock where it tells."""
    counts = child.get("status") or {}
    times = [
        c.get("lastTransitionTime") for c in counts.get("conditions") or [] if c.get("type") in ("Complete", "Failed")
    ]
    end = str(counts.get("completionTime") or next((t for t in times if t), None) or timestamp(now))
    start = facts.get("startTime") or counts.get("startTime")  # a pod that nobody saw began not long after its Job
    seconds = (parse_timestamp(end) - parse_timestamp(start)).total_seconds() if start else 0.0
    return {**facts, "startTime": start, "completionTime": end, "duration": in_words(seconds)}


def in_words(seconds: float) -> str:
    """A span as kubectl writes ages: 42s, 3m10s, 2h5m."""
    whole = max(int(seconds), 0)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def score(metrics: dict[str, float]) -> str:
    """The first metrics as `name=value`, as many as the column has room for; never half a number."""
    shown = ""
    for name, value in metrics.items():
        longer = f"{shown} {name}={value:.4g}".strip()
        if len(longer) > MAX_SCORE:
            break
        shown = longer
    return shown


def failure(verdict: pods.Verdict) -> Manifest:
    """A verdict as status.failure, cut to what the schema admits: a status that is too long would not be written."""
    names = {"exit_code": "exitCode"}
    found = {names.get(name, name): value for name, value in asdict(verdict).items() if value not in (None, "")}
    return found | {name: found[name][:limit] for name, limit in MAX_FAILURE.items() if name in found}


def diary(job: Job, new: Manifest) -> tuple[Event, ...]:
    """The events that the step from the old status to the new one deserves."""
    lines: list[Event] = []
    for type, word, level in (
        ("Running", "Started", "Normal"),
        ("Suspended", "Suspended", "Normal"),
        ("Succeeded", "Succeeded", "Normal"),
        ("Failed", "", "Warning"),
    ):
        before, after = find(job.status, type), find(new, type)
        if after and after["status"] == "True" and (before or {}).get("status") != "True":
            lines.append(Event(word or after["reason"], after["message"], level))
    before, after = find(job.status, "Running"), find(new, "Running")
    troubled = after and after["status"] == "False" and after["reason"] in pods.TROUBLED_WAITING | {"Unschedulable"}
    if after and troubled and (before or {}).get("reason") != after["reason"]:
        lines.append(Event(after["reason"], after["message"], "Warning"))
    return tuple(lines)
