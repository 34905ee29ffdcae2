"""One step of a rollout: its weights confirmed, its time, its evidence; then the next step, or the way back."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from ultramarine.resources.onlineendpoint_rollout import RolloutCounters, RolloutEvidence, RolloutStatus

from ....shared.conditions import parse_timestamp, timestamp
from ....shared.plan import Event
from .decision import PAUSED, PROGRESSING, PROMOTED, ROLLED_BACK, WAITING, Course, Stage, line
from .evidence import Counts, Evidence, counted
from .gates import FAILED, MORE, PASSED, Verdict, verdicts

FAILING = timedelta(seconds=20)  # that long a candidate's pods may fail: one that restarts is back before
EVIDENCE = timedelta(seconds=30)  # that old numbers in the status may be: new ones are a write

Changes = dict[str, object]  # fields of a status
MEASURED: Changes = {"since": None, "failing_since": None, "base": [], "champion": None}  # as after the end


def step(stage: Stage, number: int, champion: RolloutCounters | None = None) -> RolloutStatus:
    """The beginning of a step, before the gateway has its weights."""
    weight = stage.spec.steps[number - 1]
    return RolloutStatus(phase=WAITING, identity=stage.identity, step=number, weight=weight, champion=champion)


def in_step(stage: Stage, old: RolloutStatus) -> Course:
    """One look: how the candidate's pods are, what it has answered, and whether its time is up."""
    status, gates = _watched(stage, old), stage.spec.gates
    since = status.since
    if stage.signature_change:
        return refused(stage, status)
    if status.failing_since and stage.now - parse_timestamp(status.failing_since) >= FAILING:
        return _failed(stage, status, "CandidateFailing", stage.candidate.message or "it has no ready pod", ())
    if stage.absence and status.weight < 100:
        return _absent(stage, status)
    if since is None:
        return _unconfirmed(stage, status)
    evidence = _evidence(stage, status)
    judged: tuple[Verdict, ...] = ()
    if gates is not None:
        if evidence is None:
            return _unknown(stage, status)
        judged = verdicts(gates, evidence)
        status = status.model_copy(update={"base": list(evidence.base)})
    if failed := [verdict.message for verdict in judged if verdict.outcome == FAILED]:
        return _failed(stage, status, "GateFailed", "; ".join(failed), judged)
    over = stage.now - parse_timestamp(since) >= timedelta(seconds=stage.spec.step_seconds)
    passed = all(verdict.outcome == PASSED for verdict in judged)
    if over and passed and stage.candidate.state == "Ready":
        return _passed(stage, status, judged, evidence)
    return _measuring(stage, status, judged, over=over)


def _watched(stage: Stage, status: RolloutStatus) -> RolloutStatus:
    """Note since when the candidate's pods fail while it may get requests."""
    fails = stage.candidate.state == "Failing" or not (stage.candidate.ready or stage.candidate.may_sleep)
    since = None
    if fails and stage.way.may_ask(stage.spec.candidate):
        since = status.failing_since or timestamp(stage.now)
    return status.model_copy(update={"failing_since": since})


def _evidence(stage: Stage, status: RolloutStatus) -> Evidence | None:
    if stage.spec.gates is None:
        return None
    evidence = counted(stage.spec.candidate, stage.champions, stage.way.proxies, status.base)
    if evidence is None or status.champion is None:
        return evidence
    shown = Counts.read(status.champion)
    return replace(evidence, candidate=evidence.candidate.with_copies_of(shown), champion=shown, ended=True)


def _unconfirmed(stage: Stage, status: RolloutStatus) -> Course:
    """The weights are on their way; what is counted from when every gateway pod has them is the step's evidence."""
    shares = stage.shares(status)
    if not stage.way.confirms(shares):
        why = stage.candidate.message or "the gateway has to take the weights"
        update = {"phase": WAITING, "reason": "Waiting", "message": f"{stage.where(status)} waits: {why}"}
        return stage.course(status.model_copy(update=update), shares)
    evidence = _evidence(stage, status)
    if evidence is None and stage.spec.gates is not None:
        return _unknown(stage, status)
    begun = {"since": timestamp(stage.now), "base": list(evidence.base) if evidence else []}
    judged = verdicts(stage.spec.gates, evidence) if stage.spec.gates and evidence else ()
    course = _measuring(stage, status.model_copy(update=begun), judged, over=False)
    return replace(course, events=(Event("RolloutStep", stage.where(status)),))


def _absent(stage: Stage, status: RolloutStatus) -> Course:
    """Without its champion nothing can be compared: the step starts again when that is back."""
    message = f"{stage.where(status)} waits for its champion, and starts again then: {stage.absence}"
    update: Changes = {"since": None, "base": [], "phase": WAITING, "reason": "ChampionNotReady", "message": message}
    return stage.course(status.model_copy(update=update), stage.shares(status))


def _unknown(stage: Stage, status: RolloutStatus) -> Course:
    """Without figures no gate can be judged, and the step stays."""
    message = f"{stage.where(status)}: not every gateway pod tells its figures, and the gates wait for them"
    update = {"phase": PROGRESSING if status.since else WAITING, "reason": "NoFigures", "message": message}
    return stage.course(status.model_copy(update=update), stage.shares(status))


def _measuring(stage: Stage, status: RolloutStatus, judged: tuple[Verdict, ...], *, over: bool) -> Course:
    where = stage.where(status)
    if any(verdict.outcome == MORE for verdict in judged):
        reason, message = "InsufficientData", f"{where}: too few requests yet to judge it"
    elif over:
        reason, message = "Waiting", f"{where}: it goes on when its pods are ready"
    else:
        reason, message = "Progressing", f"{where}, for at least {stage.spec.step_seconds} s"
    update = {"phase": PROGRESSING, "reason": reason, "message": message}
    noted = _noted(status, judged, stage.now).model_copy(update=update)
    return stage.course(noted, stage.shares(status), well=None if reason == "InsufficientData" else True)


def _noted(status: RolloutStatus, judged: tuple[Verdict, ...], now: datetime, *, fresh: bool = False) -> RolloutStatus:
    """The evidence in words; its numbers stay as they are for a while, unless a verdict changes."""
    new = [RolloutEvidence(gate=v.gate, verdict=v.outcome, message=v.message[:1024]) for v in judged]
    same = [one.verdict for one in new] == [one.verdict for one in status.evidence]
    recent = status.checked is not None and now - parse_timestamp(status.checked) < EVIDENCE
    if not new or (same and recent and not fresh):
        return status
    return status.model_copy(update={"evidence": new, "checked": timestamp(now)})


def _passed(stage: Stage, status: RolloutStatus, judged: tuple[Verdict, ...], evidence: Evidence | None) -> Course:
    name, steps = stage.spec.candidate, stage.spec.steps
    shown = "; ".join(verdict.message for verdict in judged)
    if status.step == len(steps):
        message = f"{name} answers everything; give it 100 in traffic, and remove rollout"
        update: Changes = {**MEASURED, "phase": PROMOTED, "reason": PROMOTED, "message": message}
        done = _noted(status, judged, stage.now, fresh=True).model_copy(update=update)
        words = line(f"{name} ({stage.candidate.serves}) has passed every step", shown)
        return stage.course(done, {name: 100}, Event(PROMOTED, words), well=True)
    # At 100 percent nobody answers beside it: there it is compared with what the others have shown until now, and no
    # requests of theirs are copied any more.
    last = steps[status.step] == 100
    champion = evidence.champion.with_copies_of(evidence.candidate).written() if last and evidence else None
    course = _unconfirmed(stage, step(stage, status.step + 1, champion))
    words = line(f"{name} has passed step {status.step} of {len(steps)}, at {status.weight} %", shown)
    return replace(course, events=(Event("RolloutPassed", words), *course.events))


def refused(stage: Stage, status: RolloutStatus) -> Course:
    """Turn back a candidate that does not take the champion's requests, whatever onFailure says."""
    name, champions = stage.spec.candidate, " and ".join(stage.champions)
    message = (
        f"{name} is not rolled out, and {champions} gets all requests: {stage.signature_change}. Roll out a version "
        f"with the same inputs; to go on with this one, remove rollout and give {name} its share in traffic"
    )
    update: Changes = {**MEASURED, "phase": ROLLED_BACK, "reason": "SignatureChanged", "weight": 0, "message": message}
    event = Event(ROLLED_BACK, message, "Warning")
    return stage.course(status.model_copy(update=update), stage.champions, event, well=False, in_need=True)


def _failed(stage: Stage, status: RolloutStatus, reason: str, why: str, judged: tuple[Verdict, ...]) -> Course:
    noted = _noted(status, judged, stage.now, fresh=True).model_copy(update={**MEASURED, "reason": reason})
    name, where = stage.spec.candidate, stage.where(status)
    remedy = "change the version, its settings or the rollout to start another one"
    if stage.spec.on_failure == "Pause":
        message = f"{name} has failed and stays ({where}): {why}; {remedy}"
        event = Event("RolloutPaused", message, "Warning")
        paused = noted.model_copy(update={"phase": PAUSED, "message": message})
        return stage.course(paused, stage.shares(status), event, well=False)
    message = f"{name} has failed ({where}), and {' and '.join(stage.champions)} gets all requests: {why}; {remedy}"
    event = Event(ROLLED_BACK, message, "Warning")
    back = noted.model_copy(update={"phase": ROLLED_BACK, "weight": 0, "message": message})
    return stage.course(back, stage.champions, event, well=False, in_need=True)
