"""Children of an AutoMLJob: a job that prepares the table, a Sweep over candidates, and a job that finishes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ultramarine.resources.automl import AutoMLJobSpec, AutoMLJobStatus
from ultramarine_contract import automl
from ultramarine_contract.automl import TASK_NAME, AutoMLTask
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import SWEEP, TRAINING_JOB, Manifest, Resource

from ...shared.conditions import parse_timestamp
from ...shared.plan import Obj, Platform
from ...training.composing import child_of

Job = Obj[AutoMLJobSpec]

PROGRAM = "ultramarine-automl"
MAX_KEPT = 40  # candidates whose predictions the last job gets
GRACE, GRACE_SHARE = 20, 0.1  # seconds after the deadline, or share of the time, that the end may take
RESERVE, RESERVE_SHARE, MAX_RESERVE = 35, 0.25, 900  # seconds that the last job gets
LEAST_SEARCH = 5  # seconds
TRIAL_SHARE, LEAST_TRIAL = 0.5, 15  # share of the search's time that one trial may take, and seconds
_PODS = ("resources", "environment", "podTemplate")  # fields that the children have too


def task_of(job: Job, deadline: float = 0.0) -> AutoMLTask:
    """Return the task of the programs. Raises InvalidSpec for a metric or an algorithm that the task does not have."""
    spec = job.spec
    task = AutoMLTask(
        task=spec.task,
        target=spec.data.target,
        metric=spec.metric,
        folds=spec.validation.folds,
        drop=tuple(spec.features.drop),
        types=dict(spec.features.types),
        weight=spec.data.weight or "",
        group=spec.data.group or "",
        block=tuple(spec.algorithms.block),
        ensemble=spec.ensemble.enabled,
        deadline=deadline,
    )
    try:
        automl.metric_of(task)
        automl.algorithms(task)
    except ValueError as error:
        raise InvalidSpec(str(error)) from None
    return task


def grace(job: Job) -> float:
    """Return the seconds after the deadline in which the job may still end well."""
    return max(GRACE, GRACE_SHARE * job.spec.limits.timeout_seconds)


def seconds_left(status: AutoMLJobStatus, now: datetime) -> float:
    """Return the seconds until the deadline of a job that has begun."""
    return (parse_timestamp(status.deadline or "") - now).total_seconds()


def prepare_job(job: Job, status: AutoMLJobStatus, platform: Platform, now: datetime) -> Manifest:
    """Return the job that prepares the table."""
    data = job.spec.data
    if status.dataset is not None:
        name = (data.dataset or "").partition("@")[0]
        source = {"dataset": f"{name}@{status.dataset.version.removeprefix(f'{name}-')}"}
    else:
        source = data.model_dump(by_alias=True, exclude_none=True, include={"dataset", "uri", "digest"})
    spec = {
        **_program(task_of(job), "prepare", "data", prepared="outputs"),
        "inputs": {"data": source},
        "outputs": {"prepared": {}},
        "activeDeadlineSeconds": job.spec.limits.timeout_seconds,
    }
    return _child(job, TRAINING_JOB, "prepare", spec, platform)


def search_sweep(job: Job, status: AutoMLJobStatus, platform: Platform, now: datetime) -> Manifest:
    """Return the Sweep over candidates, which ends so early that the last job has its time."""
    task, limits = task_of(job), job.spec.limits
    space = automl.search_space(task)
    budget = _search_seconds(limits.timeout_seconds, seconds_left(status, now))
    template = {
        **_program(task, "trial", "prepared", candidate="outputs"),
        "args": [f"{name}=$(params.{name})" for name in space],
        "inputs": {"prepared": _prepared(status)},
        "outputs": {"candidate": {}},
    }
    trials = limits.max_trials
    spec = {
        "objective": {"metric": automl.OBJECTIVE, "goal": automl.goal_of(task)},
        "algorithm": {"type": "tpe", "initialTrials": automl.portfolio(task)[: min(trials, 100)]},
        "searchSpace": space,
        "earlyTermination": {"type": "median"},
        "limits": {
            "maxTrials": trials,
            "parallelTrials": min(limits.parallel_trials, trials),
            "trialTimeoutSeconds": max(LEAST_TRIAL, int(TRIAL_SHARE * budget)),
        },
        "budget": {"seconds": budget},
        "keepOutputs": min(trials, MAX_KEPT),
        "trialTemplate": {"spec": {**template, **_pods(job)}},
    }
    return child_of(job, SWEEP, f"{job.name}-search", spec, platform)


def finish_job(job: Job, status: AutoMLJobStatus, platform: Platform, now: datetime) -> Manifest:
    """Return the job that makes the model, and tests and explains it."""
    left = max(seconds_left(status, now), GRACE)
    task = task_of(job, deadline=now.timestamp() + left)
    model = job.spec.outputs.model.model_dump(by_alias=True, exclude_none=True)
    assert status.candidates is not None, "the search has ended"
    spec = {
        **_program(task, "finish", "prepared", "candidates", model="outputs", report="outputs"),
        "inputs": {"prepared": _prepared(status), "candidates": {"uri": status.candidates.uri}},
        "outputs": {"model": model, "report": {}},
        "activeDeadlineSeconds": int(left + grace(job)),
    }
    return _child(job, TRAINING_JOB, "finish", spec, platform)


def candidates_uri(sweep: Manifest, platform: Platform) -> str:
    """Return the folder with the outputs of a Sweep's trials."""
    meta = sweep["metadata"]
    return f"s3://{platform.storage_bucket}/{meta['namespace']}/sweeps/{meta['name']}/{meta['uid']}/trials/"


def _search_seconds(timeout: int, left: float) -> int:
    """Return the time of the search: all that is left except the reserve, and at least half of it."""
    reserve = min(max(RESERVE, RESERVE_SHARE * timeout), MAX_RESERVE)
    return int(max(left - reserve, left / 2, LEAST_SEARCH))


def _prepared(status: AutoMLJobStatus) -> Manifest:
    assert status.prepared is not None, "the table has been prepared"
    return status.prepared.model_dump(by_alias=True, exclude_none=True)


def _program(task: AutoMLTask, program: str, *inputs: str, **outputs: str) -> Manifest:
    """Return command and source of a program, which reads its task from a file."""
    folders = {**dict.fromkeys(inputs, "inputs"), **outputs}
    options = [word for name, kind in folders.items() for word in (f"--{name}", f"$({kind}.{name})")]
    return {"command": [PROGRAM, program, *options], "source": {"inline": {TASK_NAME: task.to_json()}}}


def _pods(job: Job) -> dict[str, Any]:
    spec = job.manifest["spec"]
    return {name: spec[name] for name in _PODS if spec.get(name)}


def _child(job: Job, resource: Resource, suffix: str, spec: Manifest, platform: Platform) -> Manifest:
    return child_of(job, resource, f"{job.name}-{suffix}", {**spec, **_pods(job)}, platform)
