"""What should be, given a Sweep and what was seen of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ultramarine.resources.sweep import MAX_TRIALS
from ultramarine.resources.trainingjob import MAX_PARAMETERS
from ultramarine_contract.common import SUMMARY_NAME
from ultramarine_contract.errors import InvalidSpec, StorageError, listed
from ultramarine_contract.meta import JOB, SWEEP, TRAINING_JOB, Manifest, Ref
from ultramarine_contract.searchgrid import Grid, check_algorithm
from ultramarine_contract.searchspace import Space, read_space
from ultramarine_contract.sweep_records import FRONT, MOST_PODS, SweepSummary, in_template

from ...runs import queues
from ...shared import pods, states, waiting
from ...shared.conditions import ENDED, parse_timestamp
from ...shared.plan import Effect, Plan, Platform, Seen
from ...shared.questions import Question, ReadText
from ..training import check_spelling
from . import podpertrial, status
from .manifests import (
    Sweep,
    best_output,
    command,
    coordinator_job,
    coordinator_service,
    has_pod_per_trial,
    max_trials,
    objectives,
    prefix,
    prefix_of,
    source_config_map,
    stored,
    sweep_task,
    token_secret,
    token_secret_name,
    unlearned,
    unused,
    workers,
    workers_job,
)
from .own import Own, job_condition, own_of, without_token
from .registration import registered, to_register

LOST = ("ObjectNotFound", "TooLarge")  # what no other look will find
STORAGE_RETRY = timedelta(seconds=15)
SOON = timedelta(milliseconds=200)
ENDING = timedelta(seconds=5)  # for workers that were told, or will be, that the sweep is over
STORING = timedelta(seconds=20)  # for trials whose result is known, while their log is on its way
LAST_WORDS = timedelta(seconds=1)
LONGEST_LAG = timedelta(seconds=20)
LOOK_AGAIN = timedelta(seconds=30)
CHANGING = {"suspend", "backoffLimit", "completions", "parallelism"}  # of a Job that is there
STARTING = states.pending("PodsStarting", "its pods are starting")


@dataclass(frozen=True)
class Search:
    """What the spec comes to: where it searches, and how many trials there can be (0: no bound)."""

    space: Space
    most: int


def plan(sweep: Sweep, seen: Seen, now: datetime) -> Plan:
    """Say what should exist for `sweep`, given only what was seen."""
    own = own_of(sweep, seen)
    if states.is_over(sweep.status):
        return _after_the_end(sweep, own, now)
    search = _search(sweep, seen.platform)
    facts = status.gathered(sweep, [*own.speaking, *own.working], seen, search.most, now)
    if own.is_over:
        return _over(sweep, seen, search, own, facts, now)
    for job, its_pods in own.pairs:
        if failure := job_condition(job, "Failed"):
            return _failed(sweep, job, failure, its_pods, facts, now)
    gives_way = own.is_pool and _gives_way(sweep)
    if any(job["metadata"].get("deletionTimestamp") for job in own.jobs):
        ending = states.pending("JobEnding", "a Job of it is being deleted, and its pods end first")
        return _plan(sweep, states.suspended() if gives_way else ending, facts, now)
    if stuck := without_token(sweep, own):
        # A new one for both: who has the old one would not know the other any more. The Job whose pod shows that it is
        # missing goes last, and the new one comes when no Job is left: a delete may be refused, and a pass end halfway.
        state = states.pending("TokenMissing", f"Secret {token_secret_name(sweep)} was deleted; all pods are made anew")
        gone = [job for job in own.jobs if job not in stuck] or stuck
        return _plan(sweep, state, facts, now, delete=tuple(Ref.to(JOB, job) for job in gone))
    if not own.jobs and not sweep.status.get("startTime"):
        check_spelling(sweep.spec.trial_template.spec, "spec.trialTemplate.spec")
    warm_start, waits = _warm_start(sweep, seen)
    if waits:
        return _plan(sweep, waits, facts, now, after=LOOK_AGAIN)
    facts = {**facts, "warmStart": list(warm_start)}
    apply = _children(sweep, seen, search, own, warm_start)
    made = own.is_whole or (gives_way and own.coordinator)
    effects: tuple[Effect, ...] = () if made else (token_secret(sweep),)
    # The `suspend` of the workers' Job is the queue's; without the Job the queue gives its place to another.
    delete = (Ref.to(JOB, own.workers),) if gives_way and own.workers else ()
    going_on = _going_on(sweep, seen, search, own, facts, now)
    return replace(going_on, apply=apply, effects=effects, delete=delete)


def _going_on(sweep: Sweep, seen: Seen, search: Search, own: Own, facts: Manifest, now: datetime) -> Plan:
    """What there is to say, and to wait for, while it is not over."""
    doubt = status.doubt(seen.report)
    if sweep.spec.suspend:
        return _plan(sweep, states.suspended(), status.without_running(facts), now)
    if any((pod.get("status") or {}).get("phase") == "Succeeded" for pod in (*own.speaking, *own.working)):
        # A worker ends well only when it was told that there is nothing more to do.
        return _plan(sweep, states.finishing("Finishing", "the search is over; its Jobs are being closed"), facts, now)
    speaking = [pod for pod in own.speaking if pods.is_running(pod)]
    working = [pod for pod in own.working if pods.is_running(pod)]
    if speaking and not own.is_pool:
        return _plan(sweep, podpertrial.state(sweep, own.trials, facts, speaking[-1], doubt), facts, now)
    awaited = [] if speaking and working else [*own.speaking, *([] if working else own.working)]
    limit = sweep.spec.trial_template.spec.pending_deadline_seconds
    again = "correct the image, and run it again as a new Sweep"
    patience = waiting.Patience(awaited, limit, facts.get("imageErrorSince"), now, again)
    if (hopeless := patience.hopeless()) is not None:
        return _give_up(sweep, hopeless, own, facts, now)
    if own.workers is not None and own.workers["spec"].get("suspend") and queues.is_queued(sweep.manifest):
        return _plan(sweep, queues.held(sweep.manifest, "its workers"), facts, now)
    if speaking and working:
        kept_back = next((trouble.message for pod in own.working if (trouble := pods.trouble(pod)) is not None), "")
        odd = "; ".join(filter(None, (in_template(kept_back), doubt)))
        return _plan(sweep, status.running(working, workers(sweep, search.most), speaking[-1], odd), facts, now)
    for job, its_pods in own.pairs:
        if not its_pods and (waited := waiting.without_pods(job, now)) is not None:
            refused = in_template(waiting.refusal(job, its_pods, seen))
            if waited < waiting.NO_POD and not refused:
                return _plan(sweep, STARTING, facts, now, after=waiting.NO_POD - waited)
            missing, after = waiting.no_pod(job, refused), waiting.sooner(None, refused)
            return _plan(sweep, states.pending(missing.reason, missing.message), facts, now, after=after)
    return _plan(sweep, _trouble(own, speaking, working), facts, now, after=patience.next_look())


def _trouble(own: Own, speaking: list[Manifest], working: list[Manifest]) -> states.State:
    """Why no trial runs, by the pods that are missing."""
    missing = [*([] if speaking else own.speaking), *([] if working else own.working)]
    for pod in reversed(missing):
        if (trouble := pods.trouble(pod)) is not None:
            return states.pending(trouble.reason, in_template(trouble.message))
    for job, its_pods in own.pairs:
        failures = pods.failures(its_pods)
        if failures and pods.is_last(job, failures):
            said = in_template(pods.verdict(failures[-1]).sentence)
            return states.finishing("Finishing", f"{said}; no other pod takes its place, and the sweep ends")
    failures = pods.failures(missing)
    waits = any((pod.get("status") or {}).get("phase") in ("Pending", "Running") for pod in missing)
    if failures and not waits:
        said = in_template(pods.verdict(failures[-1]).sentence)
        return states.pending("Retrying", f"{said}; another pod takes its place")
    return STARTING


def _children(sweep: Sweep, seen: Seen, search: Search, own: Own, warm_start: tuple[str, ...]) -> tuple[Manifest, ...]:
    names, platform = search.space.names, seen.platform
    task = sweep_task(sweep, platform, search.most, warm_start)
    made: list[Manifest | None] = [source_config_map(sweep), coordinator_service(sweep)]
    jobs = [(own.coordinator, coordinator_job(sweep, task, platform))]
    if own.is_pool:
        job = workers_job(sweep, platform, names, search.most)  # refused here, also while it is held
        jobs += [] if _gives_way(sweep) else [(own.workers, job)]
    for live, job in jobs:
        if live is None:
            made.append(job)
            continue
        # Fewer pods do not make those failures too many that have been.
        job["spec"]["backoffLimit"] = max(job["spec"]["backoffLimit"], live["spec"].get("backoffLimit", 0))
        # The coordinator's Job has no number of pods, but for the one that the API server puts there.
        made.append(queues.with_changes(live, job, CHANGING & job["spec"].keys()))
    if not own.is_pool:
        command(sweep, names)  # refused once, and not trial by trial
        made += podpertrial.trial_jobs(sweep, seen.report, own.trials, platform)
    return tuple(manifest for manifest in made if manifest is not None)


def _gives_way(sweep: Sweep) -> bool:
    """Whether its author holds it, and a queue its workers: then it has no place there."""
    return sweep.spec.suspend and queues.is_queued(sweep.manifest)


def questions(sweep: Sweep, seen: Seen) -> tuple[Question, ...]:
    """Ask the storage for the summary if the coordinator has said that it is over, before why a Job has no pod."""
    if states.is_over(sweep.status):
        return ()
    own = own_of(sweep, seen)
    if own.is_over:
        return (_summary(sweep, seen.platform),)
    return tuple(waiting.question(job) for job, its_pods in own.pairs if not its_pods and waiting.lacks_pods(job))


def _summary(sweep: Sweep, platform: Platform) -> ReadText:
    return ReadText(prefix(sweep, platform) + SUMMARY_NAME)


def _search(sweep: Sweep, platform: Platform) -> Search:
    space = read_space(sweep.manifest["spec"]["searchSpace"])
    type, early = sweep.spec.algorithm.type, sweep.spec.early_termination is not None
    check_algorithm(space, type, len(objectives(sweep)), early)
    if sweep.name in sweep.spec.algorithm.warm_start_from:
        message = f"spec.algorithm.warmStartFrom names {sweep.name} itself; make it anew without that"
        raise InvalidSpec(message)
    search = Search(space, max_trials(sweep, Grid(space).size if type == "grid" else None))
    if has_pod_per_trial(sweep) and search.most > MOST_PODS:
        message = f"the grid of spec.searchSpace has {search.most} points, and execution PodPerTrial {MOST_PODS} trials"
        raise InvalidSpec(f"{message} at most; set limits.maxTrials, or let a Pool run them")
    if search.most > MAX_TRIALS:
        message = f"the grid of spec.searchSpace has {search.most} points, and a Sweep {MAX_TRIALS} trials at most; set"
        raise InvalidSpec(f"{message} limits.maxTrials, which takes a sample of them, or take values away")
    if both := sorted(sweep.spec.trial_template.spec.parameters.keys() & {*space.names}):
        message = f"{listed(both)} in spec.searchSpace and in spec.trialTemplate.spec.parameters"
        raise InvalidSpec(f"{message}; give each parameter in one of them")
    names = {*sweep.spec.trial_template.spec.parameters, *space.names}
    if has_pod_per_trial(sweep) and len(names) > MAX_PARAMETERS:
        # Else each trial's job would be refused, for ever.
        message = f"spec.searchSpace and spec.trialTemplate.spec.parameters have {len(names)} parameters together, and"
        raise InvalidSpec(f"{message} a TrainingJob {MAX_PARAMETERS} at most; leave some out, or let a Pool run them")
    if has_pod_per_trial(sweep) and not platform.progress_url:
        message = "spec.execution: PodPerTrial needs coordinators that reach the operator; set progress.enabled in the"
        raise InvalidSpec(f"{message} chart, or let a Pool run the trials")
    return search


def _warm_start(sweep: Sweep, seen: Seen) -> tuple[tuple[str, ...], states.State | None]:
    """The prefixes of the sweeps whose trials count as known; or what is said while one is missing, or still runs.

    The status remembers them: those sweeps may be deleted, and what they have stored stays.
    """
    names, platform = sweep.spec.algorithm.warm_start_from, seen.platform
    if not names:
        return (), None
    below = f"s3://{platform.storage_bucket}/{sweep.namespace}/sweeps/"
    told = sweep.status.get("warmStart") or []
    if len(told) == len(names) and all(
        uri.startswith(f"{below}{name}/") and uri.endswith("/") for name, uri in zip(names, told, strict=True)
    ):
        return tuple(told), None
    others = {other["metadata"]["name"]: other for other in seen.others("Sweep")}
    if missing := [name for name in names if name not in others]:
        remedy = "create it, or make this one anew without it in spec.algorithm.warmStartFrom"
        return (), states.pending("WarmStartMissing", f"Sweep {missing[0]} not found in {sweep.namespace}; {remedy}")
    mine = _aims(sweep.manifest)
    for name in names:
        if (theirs := _aims(others[name])) != mine:
            message = f"spec.algorithm.warmStartFrom: Sweep {name} is to {theirs} and this one to {mine}, so its trials"
            raise InvalidSpec(f"{message} say nothing here; name sweeps with the same objectives, or leave it out")
    for name in names:
        if (others[name].get("status") or {}).get("state") not in ENDED:
            message = f"Sweep {name}, whose trials spec.algorithm.warmStartFrom takes for known, has not ended yet"
            return (), states.pending("WarmStartUnfinished", message)
    return tuple(prefix_of(platform, sweep.namespace, name, others[name]["metadata"]["uid"]) for name in names), None


def _aims(manifest: Manifest) -> str:
    """What a Sweep makes small or large, in words."""
    spec = manifest["spec"]
    each = spec.get("objectives") or [spec["objective"]]
    return ", ".join(f"{one.get('goal', 'minimize')} {one['metric']}" for one in each)


def _plan(
    sweep: Sweep,
    state: states.State,
    facts: Manifest,
    now: datetime,
    *,
    create: tuple[Manifest, ...] = (),
    delete: tuple[Ref, ...] = (),
    after: timedelta | None = None,
) -> Plan:
    new = states.build(sweep, state, facts, now, "; ".join(filter(None, (unused(sweep), unlearned(sweep)))))
    return Plan(new, create=create, delete=delete, events=states.diary(sweep, new), after=after)


def _over(sweep: Sweep, seen: Seen, search: Search, own: Own, facts: Manifest, now: datetime) -> Plan:
    """The coordinator has ended well: what it said last decides, and what it has stored tells the best."""
    assert own.coordinator is not None
    answer, told = seen.answers.get(_summary(sweep, seen.platform)), own.told
    whole: SweepSummary | None = None
    why = ""
    if isinstance(answer, str):
        try:
            whole = SweepSummary.from_json(answer)
        except ValueError as error:
            why = str(error)
    elif isinstance(answer, StorageError) and (answer.reason in LOST or (told and not answer.transient)):
        why = answer.message
    else:
        said = answer.message if isinstance(answer, StorageError) else "not asked yet"
        state = states.finishing("ReadingSummary", f"the summary is being read from the storage: {said}")
        return _plan(sweep, state, facts, now, after=STORAGE_RETRY)
    summary = whole or told
    if summary is None or not (told or summary).outcome:
        message = f"its coordinator has ended, but what it has found cannot be had: {why or 'it says no outcome'}"
        lost = pods.Verdict("SummaryLost", "", None, message, "", "the journal at status.journal.uri has its trials")
        return _ended_badly(sweep, own.coordinator, lost, facts, now)
    facts = status.with_summary(sweep, facts, summary, seen.platform, search.most)
    last = told if told and told.outcome != summary.outcome else summary  # the same in short, as a rule
    if last.outcome != "Succeeded":
        message, _, tail = (last.message or "its coordinator has ended it").partition("\n")
        if last.reason == "DeadlineExceeded" and (cause := _kept_back(own, summary)):
            message = f"no trial ran within spec.activeDeadlineSeconds={sweep.spec.active_deadline_seconds}: {cause}"
        hint = pods.command_failed(sweep.namespace, last.pod, message) if last.pod else ""
        verdict = pods.Verdict(last.reason or "SweepFailed", last.pod, last.exit_code or None, message, tail, hint)
        return _ended_badly(sweep, own.coordinator, verdict, facts, now)
    if sweep.spec.register_best is not None:
        return _registering(sweep, seen, summary, last, own.coordinator, facts, now)
    return _ended_well(sweep, own.coordinator, last, facts, now, _front(sweep, summary, whole is not None))


def _front(sweep: Sweep, summary: SweepSummary, is_whole: bool) -> str:
    """What there is of a Pareto front, in words; nothing where there is one objective, or no trial."""
    many = len(summary.best)
    if len(objectives(sweep)) == 1 or not many:
        return ""
    more = " or more" if many >= FRONT or not is_whole else ""
    return f"the Pareto front has {many}{more} trial{'s' if many > 1 or more else ''}"


def _kept_back(own: Own, summary: SweepSummary) -> str:
    """Why no trial has ever run, where that can be seen; one that only waited for its pod was stopped at the end."""
    if summary.succeeded or summary.failed or (summary.stopped and own.is_pool):
        return ""
    if not own.is_pool:
        trouble = podpertrial.kept_back(job for job in own.trials if not podpertrial.is_over(job))
        return trouble.message if trouble else ""
    found = (trouble for pod in own.working if (trouble := pods.trouble(pod)) is not None)
    return next((in_template(trouble.message) for trouble in found), "")


def _registering(
    sweep: Sweep,
    seen: Seen,
    summary: SweepSummary,
    last: SweepSummary,
    coordinator: Manifest,
    facts: Manifest,
    now: datetime,
) -> Plan:
    best = summary.best[0] if summary.best else None
    record = stored(sweep, best, seen.platform).get(best_output(sweep)) if best else None
    if best is None or record is None:
        what = f"trial {best.trial} has no output {best_output(sweep)!r}" if best else "no trial has succeeded"
        message = f"there is nothing to register as Model {sweep.spec.register_best}: {what}"
        verdict = pods.Verdict("NothingToRegister", "", None, message, "", "see the trials in status.journal.uri")
        return _ended_badly(sweep, coordinator, verdict, facts, now)
    if create := to_register(sweep, best, record, facts.get("mlflow"), seen):
        name = create[-1]["metadata"]["name"]
        state = states.finishing("Registering", f"registering {name}, of trial {best.trial}")
        return _plan(sweep, state, facts, now, create=create, after=SOON)
    version = registered(sweep, seen)
    first, *others = facts["best"]
    facts = {**facts, "best": [{**first, "modelVersion": version}, *others], "modelVersion": version}
    return _ended_well(sweep, coordinator, last, facts, now)


def _ended_well(
    sweep: Sweep, coordinator: Manifest, last: SweepSummary, facts: Manifest, now: datetime, front: str = ""
) -> Plan:
    facts = status.ended(facts, coordinator, now)
    said = last.message or f"{facts['progress']} trials are over"
    best = facts.get("bestValue")
    found = front or (f"the best value is {best}" if best else "")
    message = f"{said}; {found}" if found else said
    return _ended(sweep, states.succeeded(message, last.reason[:256] or "Finished"), facts, now)


def _ended_badly(sweep: Sweep, job: Manifest, verdict: pods.Verdict, facts: Manifest, now: datetime) -> Plan:
    verdict = replace(verdict, message=in_template(verdict.message), hint=in_template(verdict.hint))
    facts = {**status.ended(facts, job, now), "failure": pods.failure(verdict)}
    return _ended(sweep, states.failed(verdict.reason[:256], verdict.sentence), facts, now)


def _ended(sweep: Sweep, state: states.State, facts: Manifest, now: datetime) -> Plan:
    """The status says so first; what still runs of it is deleted after that."""
    return _plan(sweep, state, facts, now, after=SOON)


def _give_up(sweep: Sweep, verdict: pods.Verdict, own: Own, facts: Manifest, now: datetime) -> Plan:
    return _ended_badly(sweep, own.coordinator or {}, verdict, facts, now)


def _failed(
    sweep: Sweep, job: Manifest, condition: Mapping[str, str], its_pods: list[Manifest], facts: Manifest, now: datetime
) -> Plan:
    """One of its Jobs has failed for good: nobody is left to give trials, or to run them."""
    failures = pods.failures(its_pods)
    if not failures and _is_fresh(condition, now):
        # Jobs and pods are watched apart: the pod's last words may be a moment behind.
        state = states.finishing("Finishing", "it has failed; what its pod said last is awaited")
        return _plan(sweep, state, facts, now, after=LAST_WORDS)
    failures.sort(key=lambda pod: pods.finished(pod) or str(pod["metadata"]["creationTimestamp"]))
    causes = [pod for pod in failures if not pods.is_disrupted(pod)] or failures
    if condition.get("reason") == "DeadlineExceeded":
        why = f": {pods.verdict(causes[-1]).sentence}" if causes else ""
        message = f"it has not ended within spec.activeDeadlineSeconds={sweep.spec.active_deadline_seconds}{why}"
        remedy = f"see the events of Job {job['metadata']['name']} and of its pods, or raise it"
        verdict = pods.Verdict("DeadlineExceeded", "", None, message, "", remedy)
    elif causes:
        verdict = pods.verdict(causes[-1])
    else:
        reason, name = str(condition.get("reason") or "JobFailed"), job["metadata"]["name"]
        said = str(condition.get("message") or f"Job {name} failed and its pods are gone")
        verdict = pods.Verdict(reason, "", None, said, "", f"see the events of Job {name}")
    return _ended_badly(sweep, job, verdict, facts, now)


def _is_fresh(condition: Mapping[str, str], now: datetime) -> bool:
    told = condition.get("lastTransitionTime")
    return told is not None and abs(now - parse_timestamp(told)) < LONGEST_LAG


def _after_the_end(sweep: Sweep, own: Own, now: datetime) -> Plan:
    """A finished sweep is never judged anew; what goes on of it is ended, and it waits for its TTL."""
    kept = [c for c in sweep.status.get("conditions") or [] if c.get("type") != "Reconciled"]
    new = {**sweep.status, "observedGeneration": sweep.generation, "conditions": kept}
    left = _time_to_live(sweep, new, now)
    if left is not None and left <= timedelta():
        return Plan(new, delete=(Ref.to(SWEEP, sweep.manifest),))
    going_on = [
        job
        for job in own.jobs
        if not (job_condition(job, "Complete") or job_condition(job, "Failed"))
        and not job["metadata"].get("deletionTimestamp")
        and not (job is own.coordinator and own.is_over)
    ]
    trials = [job for job in own.trials if not (podpertrial.is_over(job) or job["metadata"].get("deletionTimestamp"))]
    # Since the status said so: an operator that was away may not know yet which trials ended meanwhile.
    ends = (one for one in kept if one.get("type") in ENDED and one.get("status") == "True")
    told = next((one["lastTransitionTime"] for one in ends if "lastTransitionTime" in one), new.get("completionTime"))
    ended = parse_timestamp(told) if told else now - STORING
    # Those that end by themselves now keep their pods, and these their logs. One that was made since is of a restore,
    # which says of each how it ended.
    waits = {
        job["metadata"]["uid"]: (STORING if _is_running(job) else ENDING) - (now - max(ended, _created(job)))
        for job in (*going_on, *trials)
    }
    due = {uid for uid, wait in waits.items() if wait <= timedelta()}
    refs = (*(Ref.to(JOB, job) for job in going_on), *(Ref.to(TRAINING_JOB, job) for job in trials))
    looks = [wait for uid, wait in waits.items() if uid not in due] + ([] if left is None else [left])
    return Plan(new, delete=tuple(ref for ref in refs if ref.uid in due), after=min(looks, default=None))


def _created(job: Manifest) -> datetime:
    return parse_timestamp(job["metadata"]["creationTimestamp"])


def _is_running(job: Manifest) -> bool:
    return (job.get("status") or {}).get("state") == "Running"


def _time_to_live(sweep: Sweep, finished: Manifest, now: datetime) -> timedelta | None:
    ttl = sweep.spec.ttl_seconds_after_finished
    if ttl is None or "completionTime" not in finished:
        return None
    return max(timedelta(seconds=ttl) - (now - parse_timestamp(finished["completionTime"])), timedelta())
