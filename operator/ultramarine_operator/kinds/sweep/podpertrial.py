"""TrainingJobs of a Sweep with a pod per trial: made as its coordinator asks, and their ends reported to it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ultramarine.resources.sweep_status import SweepStatus, Trials
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
from ultramarine_contract.parameters import applicable, as_text
from ultramarine_contract.sweep_records import (
    STOPPED_EARLY,
    SweepSummary,
    TrialTask,
    WantedTrial,
    in_template,
)
from ultramarine_contract.training_records import SourceRecord

from ...runs import PodView, queues
from ...shared.conditions import ENDED, find, is_true, parse_timestamp
from ...shared.plan import Platform
from ...shared.pods import Trouble
from ...shared.reporting import Child
from ...shared.states import State, is_stopped, pending
from ...training.datasets import pins_of
from ...training.environment import ANNOTATION as ANNOTATION_ENVIRONMENT
from ...training.environment import document_of, pin_of
from ...training.trials import ANNOTATION_TRIAL, trial_name
from . import status
from .manifests import Sweep, best_format, best_output, can_pause, has_pod_per_trial, objectives, source_name, trial_of

NO_CODE = 1  # of a trial whose command left none
COMING = ("PodStarting", "Finished", "Suspended")  # reasons of a job that does not run and has no trouble
NOTHING_TO_RUN = "all of the command refers to parameters that this trial does not have"


def is_over(job: Manifest) -> bool:
    """True if a trial's job has ended for good; no more may be known of it."""
    return (job.get("status") or {}).get("state") in ENDED


def trial_jobs(
    sweep: Sweep, summary: SweepSummary | None, jobs: Iterable[Manifest], platform: Platform
) -> list[Manifest]:
    """Return the jobs to make, and those to hold or to let go on."""
    names = {job["metadata"]["name"] for job in jobs}
    trials = summary.wanted if summary else ()
    new = [trial for trial in trials if trial_name(sweep.name, trial.trial) not in names and _command(sweep, trial)]
    return [
        *(trial_job(sweep, trial, platform) for trial in new),
        *(_with_suspend(sweep, job, held) for job, held in _to_change(sweep, summary, jobs)),
    ]


def _to_change(sweep: Sweep, summary: SweepSummary | None, jobs: Iterable[Manifest]) -> Iterator[tuple[Manifest, bool]]:
    """Return the jobs that are held and should run, or the other way round, with True for those to hold."""
    paused = {trial_name(sweep.name, number) for number in summary.paused} if summary else set()
    # Which trials are paused is unknown before the coordinator reports, and none goes on at the sweep's end.
    keeps_all = can_pause(sweep) and (summary is None or bool(summary.outcome))
    for job in jobs:
        if is_over(job) or job["metadata"].get("deletionTimestamp"):
            continue
        name, is_held = job["metadata"]["name"], bool(job["spec"].get("suspend"))
        held = sweep.spec.suspend or name in paused or (keeps_all and is_held)
        if held != is_held:
            yield job, held


def _with_suspend(sweep: Sweep, job: Manifest, held: bool) -> Manifest:
    """Return an existing job, held or not; the rest of it may have been made by an older operator."""
    meta = job["metadata"]
    annotations = meta.get("annotations") or {}
    names = (ANNOTATION_TRIAL, ANNOTATION_ENVIRONMENT, ANNOTATION_REQUESTED_BY)
    kept = {name: annotations[name] for name in names if name in annotations}
    return _manifest(sweep, meta["name"], kept, {**job["spec"], "suspend": held})


def trial_job(sweep: Sweep, trial: WantedTrial, platform: Platform) -> Manifest:
    """Return a trial's TrainingJob: the template with its parameters, without arguments whose parameters it lacks."""
    spec = copy.deepcopy(sweep.manifest["spec"]["trialTemplate"]["spec"])
    texts = {name: as_text(value) for name, value in trial.params.items()}
    spec |= {"command": _command(sweep, trial), "parameters": {**_fixed(sweep), **texts}}
    spec |= {"suspend": sweep.spec.suspend}
    if spec.get("args"):
        spec["args"] = applicable(spec["args"], spec["parameters"])
    if (spec.get("source") or {}).get("inline"):
        spec["source"] = {"configMap": {"name": source_name(sweep)}}  # one for all trials
    for name, version in pins_of(trial_of(sweep)).items():  # all trials read the same one
        spec["inputs"][name] = {"uri": version.uri, "digest": version.digest}
    names = tuple(objective["metric"] for objective in objectives(sweep))
    timeout = sweep.spec.limits.trial_timeout_seconds or 0
    if outputs := spec.get("outputs"):  # fields about models are the sweep's own
        kept = "fromMlflow"
        spec["outputs"] = {name: {kept: True} if output.get(kept) else {} for name, output in outputs.items()}
    task = TrialTask(trial.trial, names, timeout, best_output(sweep), format=best_format(sweep))
    annotations = {ANNOTATION_TRIAL: task.to_json(), **asked_by(platform.requester(sweep.manifest))}
    if (pin := pin_of(trial_of(sweep))) is not None:
        annotations[ANNOTATION_ENVIRONMENT] = json.dumps(document_of(pin), sort_keys=True)
        spec["environment"] = {"name": pin.environment}
    return _manifest(sweep, trial_name(sweep.name, trial.trial), annotations, spec)


def _manifest(sweep: Sweep, name: str, annotations: Manifest, spec: Manifest) -> Manifest:
    metadata = queues.labelled(child_metadata(sweep.manifest, name), sweep.manifest)
    metadata["annotations"] = annotations
    return {"apiVersion": API_VERSION, "kind": TRAINING_JOB.kind, "metadata": metadata, "spec": spec}


def _fixed(sweep: Sweep) -> dict[str, str]:
    return sweep.spec.trial_template.spec.parameters


def _command(sweep: Sweep, trial: WantedTrial) -> list[str]:
    return applicable(sweep.spec.trial_template.spec.command, {*_fixed(sweep), *trial.params})


def state(sweep: Sweep, jobs: list[Manifest], facts: SweepStatus, coordinator: PodView, warning: str) -> State:
    """Return the state of a sweep with a coordinator: it runs while a trial does, and between two of them."""
    live = [job for job in jobs if not is_over(job)]
    counts = facts.trials or Trials()
    has_begun = sweep.status.get("state") == "Running" or counts.succeeded or counts.stopped or counts.failed
    if not any((job.get("status") or {}).get("state") == "Running" for job in live):
        if (trouble := trouble_of(live)) is not None:
            return pending(trouble.reason, trouble.message)
        if not has_begun:
            unheard = f"pod {coordinator.name} has not said yet which trials run; its log tells what it waits for"
            return pending("TrialsStarting", "its first trials are starting" if jobs else unheard)
    # No numbers: between one trial and the next they would change, and the status with them.
    return status.trials_run(f"trials run as TrainingJobs; pod {coordinator.name} says which", warning)


def trouble_of(jobs: Iterable[Manifest]) -> Trouble | None:
    """Return why the first of these trials' jobs that has trouble does not run."""
    for job in jobs:
        if not job["spec"].get("suspend") and (condition := _trouble(job.get("status") or {})) is not None:
            message = in_template(str(condition.get("message", "")))
            return Trouble(str(condition.get("reason")), f"TrainingJob {job['metadata']['name']}: {message}")
    return None


def _trouble(status: Manifest) -> Mapping[str, str] | None:
    """Return why a trial's job does not run, unless it is just beginning or ending: the first obstacle says most."""
    conditions = [find(status, type) for type in ("Accepted", "Reconciled", "Running")]
    troubles = (c for c in conditions if c and c["status"] == "False" and c.get("reason") not in COMING)
    return next(troubles, None)


def answer(sweep: Sweep, summary: SweepSummary, child: Child) -> Manifest | None:
    """Return the reply to a coordinator's report.

    It has the number of trials that may run, the ends of trials that the coordinator awaits, and the paused trials
    whose jobs are held.
    """
    if not has_pod_per_trial(sweep):
        return None
    ended = []
    for trial in summary.wanted:
        job = child(TRAINING_JOB.kind, trial_name(sweep.name, trial.trial))
        if not _command(sweep, trial):
            ended.append(_end(trial, "Failed", message=NOTHING_TO_RUN, exitCode=NO_CODE))
        elif job is not None and controller_uid(job) == sweep.uid and _has_verdict(job.get("status") or {}):
            ended.append(_end_of(trial, job["status"]))
    held = [n for n in summary.paused if _is_held(sweep, trial_name(sweep.name, n), child)]
    return {"parallel": 0 if sweep.spec.suspend else sweep.spec.limits.parallel_trials, "ended": ended, "held": held}


def _is_held(sweep: Sweep, name: str, child: Child) -> bool:
    """True if a paused trial's job is held, and Kubernetes has asked its pods to stop."""
    job, its_job = child(TRAINING_JOB.kind, name), child(JOB.kind, name)
    if job is None or controller_uid(job) != sweep.uid or _has_verdict(job.get("status") or {}):
        return True
    goes_on = its_job is not None and not is_true(its_job.get("status") or {}, "Suspended")
    return bool(job["spec"].get("suspend")) and not goes_on


def _has_verdict(status: Manifest) -> bool:
    """True if a job's own plan takes it for ended, which does not depend on the word in `state`."""
    return is_true(status, "Succeeded") or is_true(status, "Failed") or is_stopped(status)


def _end_of(trial: WantedTrial, status: Manifest) -> Manifest:
    """Return the end of a trial, as the status of its job has it."""
    # Of its pods and not of the job, which may have waited for a node, or been held.
    attempts = [attempt for attempt in status.get("attemptHistory") or [] if not attempt.get("node")]
    seconds = sum(_seconds(attempt.get("startTime"), attempt.get("endTime")) for attempt in attempts)
    metrics, outputs = (status.get("metrics") or {}).get("latest") or {}, status.get("outputs") or {}
    results = {"seconds": seconds, "metrics": metrics, "outputs": outputs}
    if is_true(status, "Succeeded"):
        return _end(trial, "Succeeded", exitCode=0, **results, **_fetched(status))
    if is_stopped(status):
        message = str((find(status, "Succeeded") or {}).get("message", ""))
        return _end(trial, "Stopped", exitCode=NO_CODE, message=in_template(message), tail="", **results)
    failure = status.get("failure") or {}
    texts = {"message": in_template(str(failure.get("message", ""))), "tail": failure.get("tail", "")}
    outcome = "Stopped" if failure.get("reason") == STOPPED_EARLY else "Failed"
    return _end(trial, outcome, exitCode=failure.get("exitCode") or NO_CODE, **results, **texts)


def _fetched(status: Manifest) -> Manifest:
    """Return the code and the inputs that the pods of a trial's job fetched; nothing without any."""
    record = status.get("provenance") or {}
    source = SourceRecord(str(record.get("sourceDigest") or ""), str(record.get("gitCommit") or ""))
    inputs = {name: {"digest": "", **given} for name, given in (status.get("inputs") or {}).items()}
    if not inputs and source == SourceRecord():
        return {}
    return {"fetched": {"source": source.document(), "inputs": inputs}}


def _seconds(start: str | None, end: str | None) -> float:
    return max((parse_timestamp(end) - parse_timestamp(start)).total_seconds(), 0.0) if start and end else 0.0


def _end(trial: WantedTrial, outcome: str, **fields: Any) -> Manifest:
    """Return an end as a trainer reports it; a trial with a TrainingJob has one attempt, whose retries are its own."""
    return {"trial": trial.trial, "attempt": 1, "outcome": outcome, "outputs": {}, **fields}
