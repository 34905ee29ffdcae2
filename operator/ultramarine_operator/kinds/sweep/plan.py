"""Plan of a Sweep: what should exist, given the sweep and what was seen of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from ultramarine.resources.sweep_status import SweepStatus
from ultramarine_contract.common import SUMMARY_NAME
from ultramarine_contract.meta import SWEEP, TRAINING_JOB, Manifest, Ref
from ultramarine_contract.sweep_records import FRONT, SweepSummary, in_template

from ... import runs
from ...runs import Closing, Done, Failed, JobView, Lost, PodView, ResultReader, Unanswered, queues, waiting
from ...shared import pods, states
from ...shared.conditions import ENDED, parse_timestamp
from ...shared.plan import Effect, Plan, Platform, Seen
from ...shared.questions import Question
from ...training.datasets import NOT_READY as DATASET_NOT_READY
from ...training.datasets import find_datasets, lacks_datasets
from ...training.environment import NOT_READY, Wait, find_environment, lacks_environment
from ...training.pods import check_spelling
from ...training.provenance import use
from . import podpertrial, status
from .manifests import (
    Sweep,
    best_output,
    command,
    coordinator_job,
    coordinator_service,
    objectives,
    prefix,
    source_config_map,
    stored,
    sweep_task,
    token_secret,
    token_secret_name,
    trial_of,
    unlearned,
    unused,
    workers,
    workers_job,
)
from .own import Own, ended, own_of, without_token
from .registration import registered, to_register
from .search import Search, search_of, warm_start_of

ENDING = timedelta(seconds=5)  # for workers that learn, or will, that the sweep is over
STORING = timedelta(seconds=20)  # for trials whose result is in, while their log is being stored
LOOK_AGAIN = timedelta(seconds=30)
CHANGING = {"suspend", "backoffLimit", "completions", "parallelism"}  # of a Job that exists
STARTING = states.pending("PodsStarting", "its pods are starting")


def plan(sweep: Sweep, seen: Seen, now: datetime) -> Plan:
    """Return what should exist for `sweep`, given only what was seen."""
    own = own_of(sweep, seen, _reader(sweep, seen.platform))
    if states.is_over(sweep.status):
        return runs.after_end(sweep, SWEEP, now, _leftovers(sweep, own, now))
    search = search_of(sweep, seen.platform)
    facts = status.gathered(sweep, (*own.speaking, *own.working), seen, search.most, now)
    status.add_image(facts, own.working)
    if own.is_over:
        return _over(sweep, seen, search, own, facts, now)
    if sweep.spec.cancel:
        status.stop_running(facts)
        status.end(facts, own.coordinator, now)
        return _ended(sweep, states.cancelled(), facts, now)
    for job in own.jobs:
        match runs.failed(job, now, waits_at_deadline=True):
            case Closing() as closing:
                state = states.finishing("Finishing", "it has failed; the last message of its pod is awaited")
                return _planned(sweep, state, facts, now, after=closing.after)
            case Failed() as failed:
                return _failed(sweep, job, failed, facts, now)
    gives_way = own.is_pool and _gives_way(sweep)
    if any(job.is_leaving for job in own.jobs):
        ending = states.pending("JobEnding", "a Job of it is being deleted, and its pods end first")
        return _planned(sweep, states.suspended() if gives_way else ending, facts, now)
    if stuck := without_token(sweep, own):
        # Both Jobs need the same new token. The Job whose pod shows that it is missing goes last, and the new token
        # comes when no Job is left: a delete may be refused, and a pass may end halfway.
        message = f"Secret {token_secret_name(sweep)} was deleted; all pods are made again"
        gone = [job for job in own.jobs if job not in stuck] or stuck
        delete = tuple(job.ref for job in gone)
        return _planned(sweep, states.pending("TokenMissing", message), facts, now, delete=delete)
    if not own.jobs and not sweep.status.get("startTime"):
        check_spelling(sweep.spec.trial_template.spec, "spec.trialTemplate.spec")
    warm_start, waits = warm_start_of(sweep, seen)
    if waits:
        return _planned(sweep, waits, facts, now, after=LOOK_AGAIN)
    facts.warm_start = list(warm_start)
    if lacks_datasets(trial_of(sweep)):
        return _without_datasets(sweep, seen, search, facts, now)
    if lacks_environment(trial_of(sweep)):
        return _without_environment(sweep, seen, search, facts, now)
    apply = _children(sweep, seen, search, own, warm_start)
    has_token = own.is_whole or (gives_way and own.coordinator)
    effects: tuple[Effect, ...] = () if has_token else (token_secret(sweep),)
    # The `suspend` of the workers' Job is the queue's; without the Job the queue gives its place to another.
    leaving = (own.workers.ref,) if gives_way and own.workers else ()
    going_on = _going_on(sweep, seen, search, own, facts, now)
    return replace(going_on, apply=apply, effects=effects, delete=(*going_on.delete, *leaving))


def _without_datasets(sweep: Sweep, seen: Seen, search: Search, facts: SweepStatus, now: datetime) -> Plan:
    """Plan a sweep whose datasets are not resolved yet; the status has their versions before the pods are made."""
    command(sweep, search.space.names)  # refused now, and not after the wait
    if sweep.spec.suspend:
        return _planned(sweep, states.suspended(), facts, now)
    match find_datasets(trial_of(sweep), seen, now):
        case Wait(state, _, after):
            return _planned(sweep, state, facts, now, after=after)
        case pods.Verdict() as verdict:
            return _ended_badly(sweep, None, verdict, facts, now)
        case pins:
            facts.datasets = pins
            names = ", ".join(pin.version for pin in pins.values())
            state = states.pending(DATASET_NOT_READY, f"it reads {names}; its pods follow")
            return _planned(sweep, state, facts, now, after=runs.SOON)


def _without_environment(sweep: Sweep, seen: Seen, search: Search, facts: SweepStatus, now: datetime) -> Plan:
    """Plan a sweep whose environment is not known yet; the status has it before the pods are made."""
    command(sweep, search.space.names)  # refused now, and not after the build
    if sweep.spec.suspend:
        return _planned(sweep, states.suspended(), facts, now)
    match find_environment(trial_of(sweep), seen, now):
        case Wait(state, create, after):
            return _planned(sweep, state, facts, now, create=create, after=after)
        case pods.Verdict() as verdict:
            return _ended_badly(sweep, None, verdict, facts, now)
        case pin:
            use(facts, pin)
            state = states.pending(NOT_READY, f"Environment {pin.environment} is ready; its pods follow")
            return _planned(sweep, state, facts, now, after=runs.SOON)


def _going_on(sweep: Sweep, seen: Seen, search: Search, own: Own, facts: SweepStatus, now: datetime) -> Plan:
    """Return the state of a sweep that is not over, and when to look again."""
    warning = status.warning(seen.report)
    if sweep.spec.suspend:
        status.stop_running(facts)
        return _planned(sweep, states.suspended(), facts, now)
    if any(pod.has_succeeded for pod in (*own.speaking, *own.working)):
        # A worker ends well only when the coordinator has said that there is nothing more to do.
        state = states.finishing("Finishing", "the search is over; its Jobs are being closed")
        return _planned(sweep, state, facts, now)
    speaking = [pod for pod in own.speaking if pod.is_running]
    working = [pod for pod in own.working if pod.is_running]
    if speaking and not own.is_pool:
        return _planned(sweep, podpertrial.state(sweep, own.trials, facts, speaking[-1], warning), facts, now)
    awaited = [] if speaking and working else [*own.speaking, *([] if working else own.working)]
    limit = sweep.spec.trial_template.spec.pending_deadline_seconds
    hint = "correct the image, and run it again as a new Sweep"
    patience = waiting.Patience(awaited, limit, facts.image_error_since, now, hint)
    if (hopeless := patience.hopeless()) is not None:
        return _ended_badly(sweep, own.coordinator, hopeless, facts, now)
    if own.workers is not None and own.workers.is_suspended and queues.is_queued(sweep.manifest):
        return _planned(sweep, queues.held(sweep.manifest, "its workers"), facts, now)
    if speaking and working:
        trouble = runs.first_trouble(own.working)
        warnings = "; ".join(filter(None, (in_template(trouble.message) if trouble else "", warning)))
        state = status.running(len(working), workers(sweep, search.most), speaking[-1], warnings)
        return _planned(sweep, state, facts, now)
    for job in own.jobs:
        if not job.pods and (waited := waiting.without_pods(job, now)) is not None:
            refused = in_template(waiting.refusal(job, seen))
            if waited < waiting.MAX_NO_POD and not refused:
                return _planned(sweep, STARTING, facts, now, after=waiting.MAX_NO_POD - waited)
            missing, after = waiting.no_pod(job, refused), waiting.sooner(None, refused)
            return _planned(sweep, states.pending(missing.reason, missing.message), facts, now, after=after)
    missing_pods = [*([] if speaking else own.speaking), *([] if working else own.working)]
    return _planned(sweep, _without_trials(own, missing_pods), facts, now, after=patience.next_look())


def _without_trials(own: Own, missing: list[PodView]) -> states.State:
    """Return why no trial runs, by the pods that are missing."""
    if (trouble := runs.first_trouble(reversed(missing))) is not None:
        return states.pending(trouble.reason, in_template(trouble.message))
    for job in own.jobs:
        if job.failures and job.makes_no_more_pods:
            message = f"{in_template(job.failures[-1].verdict.sentence)}; no other pod takes its place"
            return states.finishing("Finishing", f"{message}, and the sweep ends")
    failures = [pod for pod in missing if pod.has_failed]
    if failures and not any(pod.phase in ("Pending", "Running") for pod in missing):
        message = in_template(failures[-1].verdict.sentence)
        return states.pending("Retrying", f"{message}; another pod takes its place")
    return STARTING


def _children(sweep: Sweep, seen: Seen, search: Search, own: Own, warm_start: tuple[str, ...]) -> tuple[Manifest, ...]:
    names, platform = search.space.names, seen.platform
    task = sweep_task(sweep, platform, search.most, warm_start)
    made: list[Manifest | None] = [source_config_map(sweep), coordinator_service(sweep)]
    jobs = [(own.coordinator, coordinator_job(sweep, task, platform))]
    if own.is_pool:
        job = workers_job(sweep, platform, names, search.most)  # refused here, also while it is held
        jobs += [] if _gives_way(sweep) else [(own.workers, job)]
    for view, job in jobs:
        if view is None:
            made.append(job)
            continue
        # Fewer pods do not make those failures too many that have been.
        job["spec"]["backoffLimit"] = max(job["spec"]["backoffLimit"], view.manifest["spec"].get("backoffLimit", 0))
        # The coordinator's Job has no number of pods, except the one that the API server puts there.
        made.append(queues.with_changes(view.manifest, job, CHANGING & job["spec"].keys()))
    if not own.is_pool:
        command(sweep, names)  # refused once, and not trial by trial
        made += podpertrial.trial_jobs(sweep, seen.report, own.trials, platform)
    return tuple(manifest for manifest in made if manifest is not None)


def _gives_way(sweep: Sweep) -> bool:
    """True if its author holds it, and a queue its workers: then it has no place there."""
    return sweep.spec.suspend and queues.is_queued(sweep.manifest)


def questions(sweep: Sweep, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the summary if the coordinator has ended, otherwise why a Job has no pod."""
    if states.is_over(sweep.status):
        return ()
    reader = _reader(sweep, seen.platform)
    own = own_of(sweep, seen, reader)
    if own.is_over:
        return (reader.question,)
    return tuple(waiting.question(job) for job in own.jobs if not job.pods and waiting.lacks_pods(job))


def _reader(sweep: Sweep, platform: Platform) -> ResultReader[SweepSummary]:
    return ResultReader(ended, prefix(sweep, platform) + SUMMARY_NAME)


def _planned(
    sweep: Sweep,
    state: states.State,
    facts: SweepStatus,
    now: datetime,
    *,
    create: tuple[Manifest, ...] = (),
    delete: tuple[Ref, ...] = (),
    after: timedelta | None = None,
) -> Plan:
    return runs.planned(sweep, state, facts, now, create=create, delete=delete, after=after, warning=_warning(sweep))


def _warning(sweep: Sweep) -> str:
    return "; ".join(filter(None, (unused(sweep), unlearned(sweep))))


def _over(sweep: Sweep, seen: Seen, search: Search, own: Own, facts: SweepStatus, now: datetime) -> Plan:
    """Plan for a sweep whose coordinator has ended well.

    Its last summary decides; the stored summary names the best trials.
    """
    last, answer = own.last, _reader(sweep, seen.platform).stored(seen)
    if isinstance(answer, Unanswered) and not (last and answer.was_asked and not answer.is_transient):
        state = states.finishing("ReadingSummary", f"the summary is being read from the storage: {answer.message}")
        return _planned(sweep, state, facts, now, after=answer.after)
    summary = answer.record if isinstance(answer, Done) else last
    if summary is None:
        why = answer.message if isinstance(answer, Lost | Unanswered) else ""
        message = f"its coordinator has ended, but its summary cannot be read: {why}"
        lost = pods.Verdict("SummaryLost", "", None, message, "", "the journal at status.journal.uri has its trials")
        return _ended_badly(sweep, own.coordinator, lost, facts, now)
    status.add_summary(sweep, facts, summary, seen.platform, search.most)
    if summary.best:
        status.add_origin(sweep, facts, summary.best[0], seen)
    if last is None or last.outcome == summary.outcome:
        last = summary  # the same at greater length
    if last.outcome != "Succeeded":
        message, _, tail = (last.message or "its coordinator has ended it").partition("\n")
        if last.reason == "DeadlineExceeded" and (cause := _cause_of_no_trial(own, summary)):
            message = f"no trial ran within spec.activeDeadlineSeconds={sweep.spec.active_deadline_seconds}: {cause}"
        hint = pods.command_failed(sweep.namespace, last.pod, message) if last.pod else ""
        verdict = pods.Verdict(last.reason or "SweepFailed", last.pod, last.exit_code or None, message, tail, hint)
        return _ended_badly(sweep, own.coordinator, verdict, facts, now)
    if sweep.spec.register_best is not None:
        return _registering(sweep, seen, summary, last, own, facts, now)
    return _ended_well(sweep, own, last, facts, now, _front(sweep, summary, isinstance(answer, Done)))


def _front(sweep: Sweep, summary: SweepSummary, is_whole: bool) -> str:
    """Describe the Pareto front; empty with one objective, or without trials."""
    count = len(summary.best)
    if len(objectives(sweep)) == 1 or not count:
        return ""
    more = " or more" if count >= FRONT or not is_whole else ""
    return f"the Pareto front has {count}{more} trial{'s' if count > 1 or more else ''}"


def _cause_of_no_trial(own: Own, summary: SweepSummary) -> str:
    """Return why no trial has ever run, if that can be seen; a trial that only waited for its pod counts as stopped."""
    if summary.succeeded or summary.failed or (summary.stopped and own.is_pool):
        return ""
    if not own.is_pool:
        trouble = podpertrial.trouble_of(job for job in own.trials if not podpertrial.is_over(job))
        return trouble.message if trouble else ""
    trouble = runs.first_trouble(own.working)
    return in_template(trouble.message) if trouble else ""


def _registering(
    sweep: Sweep, seen: Seen, summary: SweepSummary, last: SweepSummary, own: Own, facts: SweepStatus, now: datetime
) -> Plan:
    best = summary.best[0] if summary.best else None
    record = stored(sweep, best, seen.platform).get(best_output(sweep)) if best else None
    if best is None or record is None:
        what = f"trial {best.trial} has no output {best_output(sweep)!r}" if best else "no trial has succeeded"
        message = f"there is nothing to register as Model {sweep.spec.register_best}: {what}"
        verdict = pods.Verdict("NothingToRegister", "", None, message, "", "see the trials in status.journal.uri")
        return _ended_badly(sweep, own.coordinator, verdict, facts, now)
    if create := to_register(sweep, best, record, facts.mlflow, seen):
        name = create[-1]["metadata"]["name"]
        state = states.finishing("Registering", f"registering {name}, of trial {best.trial}")
        return _planned(sweep, state, facts, now, create=create, after=runs.SOON)
    first, *others = facts.best
    facts.model_version = registered(sweep, seen)
    facts.best = [first.model_copy(update={"model_version": facts.model_version}), *others]
    return _ended_well(sweep, own, last, facts, now)


def _ended_well(sweep: Sweep, own: Own, last: SweepSummary, facts: SweepStatus, now: datetime, front: str = "") -> Plan:
    status.end(facts, own.coordinator, now)
    message = last.message or f"{facts.progress} trials are over"
    if best := front or (f"the best value is {facts.best_value}" if facts.best_value else ""):
        message = f"{message}; {best}"
    return _ended(sweep, states.succeeded(message, last.reason[:256] or "Finished"), facts, now)


def _ended_badly(sweep: Sweep, job: JobView | None, verdict: pods.Verdict, facts: SweepStatus, now: datetime) -> Plan:
    verdict = replace(verdict, message=in_template(verdict.message), hint=in_template(verdict.hint))
    status.end(facts, job, now)
    facts.failure = runs.failure(verdict)
    return _ended(sweep, states.failed(verdict.reason[:256], verdict.sentence), facts, now)


def _ended(sweep: Sweep, state: states.State, facts: SweepStatus, now: datetime) -> Plan:
    return runs.finish(sweep, state, facts, now, goes_on=True, warning=_warning(sweep))


def _failed(sweep: Sweep, job: JobView, failed: Failed, facts: SweepStatus, now: datetime) -> Plan:
    """Plan for a sweep of which a Job has failed for good: no pod is left to give trials, or to run them."""
    cause = failed.causes[-1].verdict if failed.causes else None
    if failed.missed_deadline:
        why = f": {cause.sentence}" if cause else ""
        message = f"it has not ended within spec.activeDeadlineSeconds={sweep.spec.active_deadline_seconds}{why}"
        remedy = f"see the events of Job {job.name} and of its pods, or raise it"
        cause = pods.Verdict(failed.reason, "", None, message, "", remedy)
    remedy = f"see the events of Job {job.name}"
    verdict = cause or pods.Verdict(failed.reason, "", None, failed.message, "", remedy)
    return _ended_badly(sweep, job, verdict, facts, now)


def _leftovers(sweep: Sweep, own: Own, now: datetime) -> list[tuple[Ref, timedelta]]:
    """Return the children of a sweep that is over that go on, each with the time that it has left to end by itself."""
    going_on = [job for job in own.jobs if job.goes_on and not (job is own.coordinator and own.is_over)]
    trials = [job for job in own.trials if not (podpertrial.is_over(job) or job["metadata"].get("deletionTimestamp"))]
    # From when the status said so: an operator that was away may not have seen yet which trials ended meanwhile.
    conditions = sweep.status.get("conditions") or []
    ends = [c["lastTransitionTime"] for c in conditions if _is_end(c) and "lastTransitionTime" in c]
    time = next(iter(ends), sweep.status.get("completionTime"))
    end = parse_timestamp(time) if time else now - STORING

    def left(child: Manifest) -> timedelta:
        if sweep.spec.cancel:  # what its children would still do is not awaited
            return timedelta()
        # A child that ends by itself now keeps its pods, and these their logs. One that was made since the end comes
        # from a restore, and its status will say how it ended.
        is_running = (child.get("status") or {}).get("state") == "Running"
        created = parse_timestamp(child["metadata"]["creationTimestamp"])
        return (STORING if is_running else ENDING) - (now - max(end, created))

    return [
        *((job.ref, left(job.manifest)) for job in going_on),
        *((Ref.to(TRAINING_JOB, job), left(job)) for job in trials),
    ]


def _is_end(condition: Manifest) -> bool:
    return condition.get("type") in ENDED and condition.get("status") == "True"
