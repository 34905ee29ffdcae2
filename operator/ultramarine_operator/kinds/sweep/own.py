"""Children of a Sweep as they are: its Jobs, their pods, and the TrainingJobs of its trials."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ultramarine_contract.meta import TRAINING_JOB, Manifest, controller_uid
from ultramarine_contract.sweep_records import SweepSummary

from ...runs import JobView, PodView, ResultReader
from ...shared.conditions import find
from ...shared.plan import Seen
from .manifests import Sweep, coordinator_name, has_pod_per_trial, token_secret_name, workers_name


@dataclass(frozen=True)
class Own:
    """Jobs of a sweep, if they exist, and the TrainingJobs of its trials, if these have any.

    `last` is the summary by which the coordinator has ended.
    """

    coordinator: JobView | None
    workers: JobView | None
    trials: list[Manifest]
    is_pool: bool
    last: SweepSummary | None

    @property
    def speaking(self) -> tuple[PodView, ...]:
        """Pods of the coordinator, oldest first."""
        return self.coordinator.pods if self.coordinator else ()

    @property
    def working(self) -> tuple[PodView, ...]:
        """Pods of the workers, oldest first."""
        return self.workers.pods if self.workers else ()

    @cached_property
    def jobs(self) -> list[JobView]:
        return [job for job in (self.coordinator, self.workers) if job is not None]

    @property
    def is_over(self) -> bool:
        """True if the coordinator has ended well; it says so a second before its pod does, and that before its Job."""
        return self.coordinator is not None and bool(self.last or self.coordinator.complete)

    @property
    def is_whole(self) -> bool:
        """True if all Jobs exist."""
        return self.coordinator is not None and (self.workers is not None or not self.is_pool)


def own_of(sweep: Sweep, seen: Seen, reader: ResultReader[SweepSummary]) -> Own:
    """Find the sweep's children among what was seen."""
    coordinator, workers = (JobView.find(sweep, name(sweep), seen) for name in (coordinator_name, workers_name))
    trials = [job for job in seen.of(TRAINING_JOB.kind) if controller_uid(job) == sweep.uid]
    posted = seen.report if seen.report and seen.report.over and has_outcome(seen.report) else None
    last = (reader.message(coordinator.pods) if coordinator else None) or posted
    return Own(coordinator, workers, trials, not has_pod_per_trial(sweep), last)


def ended(text: str) -> SweepSummary:
    """Read the summary of a coordinator that has ended. Raises ValueError for any other text."""
    summary = SweepSummary.from_json(text)
    if not has_outcome(summary):
        raise ValueError(f"not the summary of a sweep that has ended: its outcome is {summary.outcome!r}")
    return summary


def has_outcome(summary: SweepSummary) -> bool:
    """True if a summary says how the sweep has ended."""
    return summary.outcome in ("Succeeded", "Failed")


def without_token(sweep: Sweep, own: Own) -> list[JobView]:
    """Return the Jobs with a pod, or a trial, that cannot start because the Secret was deleted."""
    missing = f"Secret {token_secret_name(sweep)} not found"

    def misses_it(reason: str, message: str) -> bool:
        return reason == "CreateContainerConfigError" and missing in message

    stuck = [
        job
        for job in own.jobs
        if any(misses_it(trouble.reason, trouble.message) for pod in job.pods if (trouble := pod.trouble))
    ]
    conditions = [condition for job in _younger(own) if (condition := find(job.get("status") or {}, "Running"))]
    if any(misses_it(str(c.get("reason")), str(c.get("message"))) for c in conditions) and not stuck:
        return [own.coordinator] if own.coordinator else []
    return stuck


def _younger(own: Own) -> list[Manifest]:
    """Return the trials' jobs that are younger than the coordinator's: older ones may only lack a new Secret yet."""
    began = own.coordinator.manifest["metadata"].get("creationTimestamp", "") if own.coordinator else ""
    return [job for job in own.trials if str(job["metadata"].get("creationTimestamp", "")) >= began] if began else []
