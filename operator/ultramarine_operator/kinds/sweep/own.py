"""What there is of a Sweep: its Jobs, their pods, and the TrainingJobs of its trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ultramarine_contract.meta import JOB, TRAINING_JOB, Manifest, controller_uid
from ultramarine_contract.sweep_records import SweepSummary

from ...shared import pods
from ...shared.conditions import find
from ...shared.plan import Seen
from .manifests import Sweep, coordinator_name, has_pod_per_trial, token_secret_name, workers_name


@dataclass(frozen=True)
class Own:
    """Its Jobs, if they are there, and their pods, the oldest first; the jobs of its trials, where these have any.

    `told` is what the coordinator said at its end.
    """

    coordinator: Manifest | None
    workers: Manifest | None
    speaking: list[Manifest]
    working: list[Manifest]
    trials: list[Manifest]
    is_pool: bool
    told: SweepSummary | None

    @property
    def jobs(self) -> list[Manifest]:
        return [job for job in (self.coordinator, self.workers) if job is not None]

    @property
    def is_over(self) -> bool:
        """Whether the coordinator has ended well: it says so a second before its pod does, and that before its Job."""
        return self.coordinator is not None and bool(self.told or job_condition(self.coordinator, "Complete"))

    @property
    def is_whole(self) -> bool:
        """Whether all Jobs are there."""
        return self.coordinator is not None and (self.workers is not None or not self.is_pool)

    @property
    def pairs(self) -> tuple[tuple[Manifest, list[Manifest]], ...]:
        """The Jobs that are there, each with its pods."""
        both = ((self.coordinator, self.speaking), (self.workers, self.working))
        return tuple((job, its_pods) for job, its_pods in both if job is not None)


def own_of(sweep: Sweep, seen: Seen) -> Own:
    """Find it among what was seen."""
    coordinator, working = (_own_job(name, sweep, seen) for name in (coordinator_name(sweep), workers_name(sweep)))
    speaking, of_trials = _own_pods(coordinator, seen), seen.of(TRAINING_JOB.kind)
    trials = [job for job in of_trials if controller_uid(job) == sweep.uid]
    posted = seen.report if seen.report and seen.report.over and _says_how(seen.report) else None
    told = _last_words(speaking) or posted
    return Own(coordinator, working, speaking, _own_pods(working, seen), trials, not has_pod_per_trial(sweep), told)


def _own_job(name: str, sweep: Sweep, seen: Seen) -> Manifest | None:
    job = seen.one(JOB.kind, name)
    return job if job is not None and controller_uid(job) == sweep.uid else None


def _own_pods(job: Manifest | None, seen: Seen) -> list[Manifest]:
    if job is None:
        return []
    own = [pod for pod in seen.of("Pod") if controller_uid(pod) == job["metadata"]["uid"]]
    return sorted(own, key=pods.created)


def job_condition(job: Manifest, type: str) -> Mapping[str, str] | None:
    """A condition of a Job that is True, or nothing."""
    condition = find(job.get("status") or {}, type)
    return condition if condition is not None and condition.get("status") == "True" else None


def without_token(sweep: Sweep, own: Own) -> list[Manifest]:
    """The Jobs that have a pod, or a trial, which cannot start because the Secret was deleted."""
    missing = f"Secret {token_secret_name(sweep)} not found"

    def misses_it(reason: str, message: str) -> bool:
        return reason == "CreateContainerConfigError" and missing in message

    stuck = [
        job
        for job, its_pods in own.pairs
        if any(misses_it(trouble.reason, trouble.message) for pod in its_pods if (trouble := pods.trouble(pod)))
    ]
    told = [condition for job in _younger(own) if (condition := find(job.get("status") or {}, "Running"))]
    if any(misses_it(str(each.get("reason")), str(each.get("message"))) for each in told) and not stuck:
        return [own.coordinator] if own.coordinator else []
    return stuck


def _younger(own: Own) -> list[Manifest]:
    """The trials' jobs that are younger than the coordinator's: to others a new Secret may only not have come yet."""
    began = own.coordinator["metadata"].get("creationTimestamp", "") if own.coordinator else ""
    return [job for job in own.trials if str(job["metadata"].get("creationTimestamp", "")) >= began] if began else []


def _last_words(speaking: list[Manifest]) -> SweepSummary | None:
    """What the pod that ended well has left, if it is one of ours with an outcome."""
    for pod in reversed(speaking):
        for each in pods.statuses(pod):
            ended = (each.get("state") or {}).get("terminated") or {}
            if ended.get("exitCode") == 0:
                try:
                    summary = SweepSummary.from_json(str(ended.get("message") or ""))
                except ValueError:
                    continue
                if _says_how(summary):
                    return summary
    return None


def _says_how(summary: SweepSummary) -> bool:
    return summary.outcome in ("Succeeded", "Failed")
