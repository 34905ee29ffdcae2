"""What a Sweep and the TrainingJobs that are its trials know of each other."""

from __future__ import annotations

from msgspec import structs
from ultramarine_contract import common as contract
from ultramarine_contract.meta import GROUP, SWEEP, Manifest
from ultramarine_contract.sweep_records import TrialTask, coordinator_name

from ..shared.plan import Platform
from .training import plain

ANNOTATION_TRIAL = f"{GROUP}/trial"  # of a trial's TrainingJob: its TrialTask, but for the coordinator
TOKEN_KEY = "token"


def trial_name(sweep: str, number: int) -> str:
    """The TrainingJob of a trial."""
    return f"{sweep}-trial-{number}"


def coordinator_url(sweep: str, namespace: str, *, tls: bool) -> str:
    """Where a sweep's trials find their coordinator."""
    return f"http{'s' if tls else ''}://{coordinator_name(sweep)}.{namespace}.svc:{contract.SWEEP_PORT}"


def token_secret_name(sweep: str) -> str:
    """The Secret by which a sweep's coordinator and its trials know each other."""
    return f"{sweep}-sweep-token"


def token_env(sweep: str) -> Manifest:
    """The variable with that token."""
    reference = {"name": token_secret_name(sweep), "key": TOKEN_KEY}
    return {"name": contract.ENV_SWEEP_TOKEN, "valueFrom": {"secretKeyRef": reference}}


def task_of(job: Manifest, *, tls: bool = False) -> TrialTask | None:
    """What a TrainingJob has to tell a sweep; nothing where it is no trial.

    Anybody may write what makes a job look like one. Where it speaks, and with which key, follows from the owner's
    name, and opens nothing that its author could not mount by envFrom.
    """
    meta, sweep = job["metadata"], _sweep(job)
    try:
        task = TrialTask.from_json(str((meta.get("annotations") or {}).get(ANNOTATION_TRIAL)))
    except ValueError:
        return None
    return structs.replace(task, coordinator=coordinator_url(sweep, meta["namespace"], tls=tls)) if sweep else None


def _sweep(job: Manifest) -> str:
    """The name of the sweep that controls a TrainingJob, if one does."""
    for owner in job["metadata"].get("ownerReferences") or []:
        if owner.get("controller") and owner.get("kind") == SWEEP.kind:
            return str(owner.get("name", "")) if str(owner.get("apiVersion", "")).startswith(f"{GROUP}/") else ""
    return ""


def trial_env(job: Manifest, platform: Platform) -> tuple[Manifest, ...]:
    """What the pods of a trial have beside those of another TrainingJob."""
    if (task := task_of(job, tls=platform.tls)) is None:
        return ()
    return ({"name": contract.ENV_TRIAL, "value": plain(task.to_json())}, token_env(_sweep(job)))
