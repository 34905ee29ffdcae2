"""A Sweep whose trials are TrainingJobs: its coordinator says which run; here is what they are, and how they end."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ultramarine_contract.meta import (
    ANNOTATION_REQUESTED_BY,
    API_VERSION,
    JOB,
    TRAINING_JOB,
    Manifest,
    asked_by,
    child_metadata,
    controller_uid,
)
from ultramarine_contract.sweep_records import (
    STOPPED_EARLY,
    SweepSummary,
    TrialTask,
    WantedTrial,
    applicable,
    as_text,
    in_template,
)

from ...runs import queues
from ...shared.conditions import ENDED, find, is_true, parse_timestamp
from ...shared.plan import Platform
from ...shared.pods import Trouble
from ...shared.reporting import Child
from ...shared.states import State, is_stopped, pending
from ..trials import ANNOTATION_TRIAL, trial_name
from . import status
from .manifests import Sweep, best_format, best_output, can_pause, has_pod_per_trial, objectives, source_name

NO_CODE = 1  # of a trial whose command left none
COMING = ("PodStarting", "Finished", "Suspended")  # reasons of a job that does not run, and has no trouble
NOTHING_TO_RUN = "all of the command refers to parameters that this trial does not have"


def is_over(job: Manifest) -> bool:
    """Whether a trial's job has ended for good; of one that has, no more may be known than that."""
    return (job.get("status") or {}).get("state") in ENDED


def trial_jobs(
    sweep: Sweep, summary: SweepSummary | None, there: Iterable[Manifest], platform: Platform
) -> list[Manifest]:
    """The jobs that are still to be made, and those that have to be held or to go on."""
    known = {job["metadata"]["name"] for job in there}
    wanted = summary.wanted if summary else ()
    new = [trial for trial in wanted if trial_name(sweep.name, trial.trial) not in known and _command(sweep, trial)]
    return [
        *(trial_job(sweep, trial, platform) for trial in new),
        *(_with_suspend(sweep, job, held) for job, held in _to_change(sweep, summary, there)),
    ]


def _to_change(
    sweep: Sweep, summary: SweepSummary | None, there: Iterable[Manifest]
) -> Iterator[tuple[Manifest, bool]]:
    """The jobs that are held and should run, or the other way round, and whether they should be held."""
    paused = {trial_name(sweep.name, number) for number in summary.paused} if summary else set()
    # Nobody knows who is paused before the coordinator speaks, and nobody goes on at the sweep's end.
    keeps_all = can_pause(sweep) and (summary is None or bool(summary.outcome))
    for job in there:
        if is_over(job) or job["metadata"].get("deletionTimestamp"):
            continue
        name, is_held = job["metadata"]["name"], bool(job["spec"].get("suspend"))
        held = sweep.spec.suspend or name in paused or (keeps_all and is_held)
        if held != is_held:
            yield job, held


def _with_suspend(sweep: Sweep, job: Manifest, held: bool) -> Manifest:
    """A job that is there, held or not; the rest of it may have been made by an older operator."""
    meta = job["metadata"]
    told = meta.get("annotations") or {}
    kept = {name: told[name] for name in (ANNOTATION_TRIAL, ANNOTATION_REQUESTED_BY) if name in told}
    return _manifest(sweep, meta["name"], kept, {**job["spec"], "suspend": held})


def trial_job(sweep: Sweep, trial: WantedTrial, platform: Platform) -> Manifest:
    """The TrainingJob of a trial: the template with its parameters, and without arguments that it has none for."""
    spec = copy.deepcopy(sweep.manifest["spec"]["trialTemplate"]["spec"])
    texts = {name: as_text(value) for name, value in trial.params.items()}
    spec |= {"command": _command(sweep, trial), "parameters": {**_fixed(sweep), **texts}}
    spec |= {"suspend": sweep.spec.suspend}
    if spec.get("args"):
        spec["args"] = applicable(spec["args"], spec["parameters"])
    if (spec.get("source") or {}).get("inline"):
        spec["source"] = {"configMap": {"name": source_name(sweep)}}  # one for all trials
    names = tuple(objective["metric"] for objective in objectives(sweep))
    timeout = sweep.spec.limits.trial_timeout_seconds or 0
    if outputs := spec.get("outputs"):  # what is for a model is for the sweep's; of a job, an output without is none
        spec["outputs"] = {name: {} for name in outputs}
    task = TrialTask(trial.trial, names, timeout, best_output(sweep), format=best_format(sweep))
    annotations = {ANNOTATION_TRIAL: task.to_json(), **asked_by(platform.requester(sweep.manifest))}
    return _manifest(sweep, trial_name(sweep.name, trial.trial), annotations, spec)


def _manifest(sweep: Sweep, name: str, annotations: Manifest, spec: Manifest) -> Manifest:
    metadata = queues.labelled(child_metadata(sweep.manifest, name), sweep.manifest)
    metadata["annotations"] = annotations
    return {"apiVersion": API_VERSION, "kind": TRAINING_JOB.kind, "metadata": metadata, "spec": spec}


def _fixed(sweep: Sweep) -> dict[str, str]:
    return sweep.spec.trial_template.spec.parameters


def _command(sweep: Sweep, trial: WantedTrial) -> list[str]:
    return applicable(sweep.spec.trial_template.spec.command, {*_fixed(sweep), *trial.params})


def state(sweep: Sweep, there: list[Manifest], facts: Manifest, coordinator: Manifest, doubt: str) -> State:
    """What a sweep with a coordinator does: it runs while a trial does, and between two of them."""
    name, live = coordinator["metadata"]["name"], [job for job in there if not is_over(job)]
    counts = facts.get("trials") or {}
    begun = sweep.status.get("state") == "Running" or any(counts.get(w) for w in ("succeeded", "stopped", "failed"))
    if not any((job.get("status") or {}).get("state") == "Running" for job in live):
        if (trouble := kept_back(live)) is not None:
            return pending(trouble.reason, trouble.message)
        if not begun:
            unheard = f"pod {name} has not said yet which trials run; its log tells what it waits for"
            return pending("TrialsStarting", "its first trials are starting" if there else unheard)
    # No numbers: between one trial and the next they would change, and the status with them.
    return status.trials_run(f"trials run as TrainingJobs; pod {name} says which", doubt)


def kept_back(jobs: Iterable[Manifest]) -> Trouble | None:
    """Why the first of these trials' jobs that has trouble does not run."""
    for job in jobs:
        if not job["spec"].get("suspend") and (told := _trouble(job.get("status") or {})) is not None:
            said = in_template(str(told.get("message", "")))
            return Trouble(str(told.get("reason")), f"TrainingJob {job['metadata']['name']}: {said}")
    return None


def _trouble(status: Manifest) -> Mapping[str, str] | None:
    """Why a trial's job does not run, if that is not just beginning or ending: what keeps it back says more."""
    told = [condition for word in ("Accepted", "Reconciled", "Running") if (condition := find(status, word))]
    return next((each for each in told if each["status"] == "False" and each.get("reason") not in COMING), None)


def answer(sweep: Sweep, summary: SweepSummary, child: Child) -> Manifest | None:
    """What a coordinator hears: how many trials may run, how those have ended that it still waits for, and which of
    the paused ones are held, so that their pods go.
    """
    if not has_pod_per_trial(sweep):
        return None
    ended = []
    for trial in summary.wanted:
        job = child(TRAINING_JOB.kind, trial_name(sweep.name, trial.trial))
        if not _command(sweep, trial):
            ended.append(_end(trial, "Failed", message=NOTHING_TO_RUN, exitCode=NO_CODE))
        elif job is not None and controller_uid(job) == sweep.uid and _has_verdict(job.get("status") or {}):
            ended.append(_told(trial, job["status"]))
    held = [n for n in summary.paused if _is_held(sweep, trial_name(sweep.name, n), child)]
    return {"parallel": 0 if sweep.spec.suspend else sweep.spec.limits.parallel_trials, "ended": ended, "held": held}


def _is_held(sweep: Sweep, name: str, child: Child) -> bool:
    """Whether a paused trial's job is held, and Kubernetes has told its pods to go."""
    job, its = child(TRAINING_JOB.kind, name), child(JOB.kind, name)
    if job is None or controller_uid(job) != sweep.uid or _has_verdict(job.get("status") or {}):
        return True
    goes_on = its is not None and not is_true(its.get("status") or {}, "Suspended")
    return bool(job["spec"].get("suspend")) and not goes_on


def _has_verdict(status: Manifest) -> bool:
    """True if a job's own plan takes it for ended, which does not go by the word in `state`."""
    return is_true(status, "Succeeded") or is_true(status, "Failed") or is_stopped(status)


def _told(trial: WantedTrial, status: Manifest) -> Manifest:
    """How a trial has ended, as the status of its job has it."""
    # Of its pods and not of the job, which may have waited for a node, or been held.
    runs = [each for each in status.get("attemptHistory") or [] if not each.get("node")]
    seconds = sum(_seconds(run.get("startTime"), run.get("endTime")) for run in runs)
    metrics, outputs = (status.get("metrics") or {}).get("latest") or {}, status.get("outputs") or {}
    known = {"seconds": seconds, "metrics": metrics, "outputs": outputs}
    if is_true(status, "Succeeded"):
        return _end(trial, "Succeeded", exitCode=0, **known)
    if is_stopped(status):
        told = str((find(status, "Succeeded") or {}).get("message", ""))
        return _end(trial, "Stopped", exitCode=NO_CODE, message=in_template(told), tail="", **known)
    failure = status.get("failure") or {}
    words = {"message": in_template(str(failure.get("message", ""))), "tail": failure.get("tail", "")}
    outcome = "Stopped" if failure.get("reason") == STOPPED_EARLY else "Failed"
    return _end(trial, outcome, exitCode=failure.get("exitCode") or NO_CODE, **known, **words)


def _seconds(start: str | None, end: str | None) -> float:
    return max((parse_timestamp(end) - parse_timestamp(start)).total_seconds(), 0.0) if start and end else 0.0


def _end(trial: WantedTrial, outcome: str, **known: Any) -> Manifest:
    """An end as a trainer tells it; a trial that is a TrainingJob has one attempt, whose retries are its own."""
    return {"trial": trial.trial, "attempt": 1, "outcome": outcome, "outputs": {}, **known}
