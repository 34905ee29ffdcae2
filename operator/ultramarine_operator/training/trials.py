"""Names, tokens and tasks that a Sweep shares with the TrainingJobs that are its trials."""

from __future__ import annotations

from msgspec import structs
from ultramarine_contract import common as contract
from ultramarine_contract.meta import GROUP, SWEEP, Manifest
from ultramarine_contract.sweep_records import TrialTask, coordinator_name

from ..shared.plan import Platform
from .pods import plain

ANNOTATION_TRIAL = f"{GROUP}/trial"  # of a trial's TrainingJob: its TrialTask, except the coordinator
TOKEN_KEY = "token"


def trial_name(sweep: str, number: int) -> str:
    """Return the name of a trial's TrainingJob."""
    return f"{sweep}-trial-{number}"


def coordinator_url(sweep: str, namespace: str, *, tls: bool) -> str:
    """Return the URL at which a sweep's trials reach their coordinator."""
    return f"http{'s' if tls else ''}://{coordinator_name(sweep)}.{namespace}.svc:{contract.SWEEP_PORT}"


def token_secret_name(sweep: str) -> str:
    """Return the name of the Secret by which a sweep's coordinator and its trials authenticate."""
    return f"{sweep}-sweep-token"


def token_env(sweep: str) -> Manifest:
    """Return the variable with that token."""
    reference = {"name": token_secret_name(sweep), "key": TOKEN_KEY}
    return {"name": contract.ENV_SWEEP_TOKEN, "valueFrom": {"secretKeyRef": reference}}


def task_of(job: Manifest, *, tls: bool = False) -> TrialTask | None:
    """Return what a TrainingJob reports to a sweep; None if it is not a trial.

    Any author may make a job look like a trial. Its address and its key follow from the owner's name, and open nothing
    that the author could not mount by envFrom.
    """
    meta, sweep = job["metadata"], _sweep(job)
    try:
        task = TrialTask.from_json(str((meta.get("annotations") or {}).get(ANNOTATION_TRIAL)))
    except ValueError:
        return None
    return structs.replace(task, coordinator=coordinator_url(sweep, meta["namespace"], tls=tls)) if sweep else None


def _sweep(job: Manifest) -> str:
    """Return the name of the sweep that controls a TrainingJob, if any."""
    for owner in job["metadata"].get("ownerReferences") or []:
        if owner.get("controller") and owner.get("kind") == SWEEP.kind:
            return str(owner.get("name", "")) if str(owner.get("apiVersion", "")).startswith(f"{GROUP}/") else ""
    return ""


def trial_env(job: Manifest, platform: Platform) -> tuple[Manifest, ...]:
    """Return the variables that only the pods of a trial have."""
    if (task := task_of(job, tls=platform.tls)) is None:
        return ()
    return ({"name": contract.ENV_TRIAL, "value": plain(task.to_json())}, token_env(_sweep(job)))
