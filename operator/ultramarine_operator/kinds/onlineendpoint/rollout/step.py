"""One step of a rollout: confirmed weights, time and evidence; then the next step, or back to the champions."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from ultramarine.resources.onlineendpoint_rollout import RolloutCounters, RolloutEvidence, RolloutStatus

from ....shared.conditions import parse_timestamp, timestamp
from ....shared.plan import Event
from ....shared.statuses import cut
from ..endpoint import PAUSED, PROGRESSING, PROMOTED, ROLLED_BACK, WAITING
from .decision import RolloutDecision, Stage, with_details
from .evidence import Counts, Evidence, evidence_since
from .gates import FAILED, MORE, PASSED, GateResult, check_gates

MAX_FAILING = timedelta(seconds=20)  # a candidate's pod that restarts is ready before
EVIDENCE_AGE = timedelta(seconds=30)  # of the figures in the status: new ones are a write

Changes = dict[str, object]  # fields of a status
ENDED: Changes = {"since": None, "failing_since": None, "base": [], "champion": None}
CHANGE_REMEDY = "change the version, its settings or the rollout to start another one"


def first_status(stage: Stage, number: int, champion: RolloutCounters | None = None) -> RolloutStatus:
    """Return the status at the beginning of a step, before the gateway has its weights."""
    weight = stage.spec.steps[number - 1]
    return RolloutStatus(phase=WAITING, identity=stage.identity, step=number, weight=weight, champion=champion)


def continue_step(stage: Stage, former: RolloutStatus) -> RolloutDecision:
    """Assess the candidate's pods, its evidence and the time of the step."""
    status, gates = _with_failing_since(stage, former), stage.spec.gates
    since = status.since
    if stage.signature_change:
        return roll_back_signature(stage, status)
    if status.failing_since and stage.now - parse_timestamp(status.failing_since) >= MAX_FAILING:
        return _failed(stage, status, "CandidateFailing", stage.candidate.message or "it has no ready pod", ())
    if stage.absence and status.weight < 100:
        return _champion_absent(stage, status)
    if since is None:
        return _wait_for_weights(stage, status)
    evidence = _evidence(stage, status)
    results: tuple[GateResult, ...] = ()
    if gates is not None:
        if evidence is None:
            return _without_figures(stage, status)
        results = check_gates(gates, evidence)
        status = status.model_copy(update=_base(evidence))
    if failed := [result.message for result in results if result.verdict == FAILED]:
        return _failed(stage, status, "GateFailed", "; ".join(failed), results)
    over = stage.now - parse_timestamp(since) >= timedelta(seconds=stage.spec.step_seconds)
    passed = all(result.verdict == PASSED for result in results)
    if over and passed and stage.candidate.state == "Ready":
        return _passed(stage, status, results, evidence)
    return _measuring(stage, status, results, over=over)


def _with_failing_since(stage: Stage, status: RolloutStatus) -> RolloutStatus:
    """Record since when the candidate's pods fail while it may get requests."""
    fails = stage.candidate.state == "Failing" or not (stage.candidate.ready or stage.candidate.may_sleep)
    since = None
    if fails and stage.routing.may_receive(stage.spec.candidate):
        since = status.failing_since or timestamp(stage.now)
    return status.model_copy(update={"failing_since": since})


def _evidence(stage: Stage, status: RolloutStatus) -> Evidence | None:
    if stage.spec.gates is None:
        return None
    evidence = evidence_since(stage.spec.candidate, stage.champions, stage.routing.proxies, status.base)
    if evidence is None or status.champion is None:
        return evidence
    champion = Counts.read(status.champion)
    return replace(evidence, candidate=evidence.candidate.with_copies_of(champion), champion=champion, ended=True)


def _base(evidence: Evidence) -> Changes:
    """Return the counters as the status has room for them; a gateway pod beyond has no evidence."""
    return cut(RolloutStatus, base=list(evidence.base))


def _wait_for_weights(stage: Stage, status: RolloutStatus) -> RolloutDecision:
    """Wait until every gateway pod has the weights; from then on figures are evidence of the step."""
    shares = stage.shares(status)
    if not stage.routing.confirms(shares):
        why = stage.candidate.message or "the gateway has to take the weights"
        update = {"phase": WAITING, "reason": "Waiting", "message": f"{stage.step_name(status)} waits: {why}"}
        return stage.decision(status.model_copy(update=update), shares)
    evidence = _evidence(stage, status)
    if evidence is None and stage.spec.gates is not None:
        return _without_figures(stage, status)
    begun = {"since": timestamp(stage.now), **(_base(evidence) if evidence else {"base": []})}
    results = check_gates(stage.spec.gates, evidence) if stage.spec.gates and evidence else ()
    decision = _measuring(stage, status.model_copy(update=begun), results, over=False)
    return replace(decision, events=(Event("RolloutStep", stage.step_name(status)),))


def _champion_absent(stage: Stage, status: RolloutStatus) -> RolloutDecision:
    """Restart the step when the champion is back, since nothing can be compared without it."""
    message = f"{stage.step_name(status)} waits for its champion, and starts again then: {stage.absence}"
    update: Changes = {"since": None, "base": [], "phase": WAITING, "reason": "ChampionNotReady", "message": message}
    return stage.decision(status.model_copy(update=update), stage.shares(status))


def _without_figures(stage: Stage, status: RolloutStatus) -> RolloutDecision:
    """Stay in the step, since no gate can be assessed without figures."""
    message = f"{stage.step_name(status)}: not every gateway pod reports its figures, and the gates wait for them"
    update = {"phase": PROGRESSING if status.since else WAITING, "reason": "NoFigures", "message": message}
    return stage.decision(status.model_copy(update=update), stage.shares(status))


def _measuring(stage: Stage, status: RolloutStatus, results: tuple[GateResult, ...], *, over: bool) -> RolloutDecision:
    name = stage.step_name(status)
    if any(result.verdict == MORE for result in results):
        reason, message = "InsufficientData", f"{name}: too few requests yet to assess it"
    elif over:
        reason, message = "Waiting", f"{name}: it goes on when its pods are ready"
    else:
        reason, message = "Progressing", f"{name}, for at least {stage.spec.step_seconds} s"
    update = {"phase": PROGRESSING, "reason": reason, "message": message}
    status = _with_evidence(status, results, stage.now).model_copy(update=update)
    return stage.decision(status, stage.shares(status), healthy=None if reason == "InsufficientData" else True)


def _with_evidence(
    status: RolloutStatus, results: tuple[GateResult, ...], now: datetime, *, fresh: bool = False
) -> RolloutStatus:
    """Record the results of the gates; their figures stay for EVIDENCE_AGE unless a verdict changes."""
    new = [RolloutEvidence(**cut(RolloutEvidence, gate=r.gate, verdict=r.verdict, message=r.message)) for r in results]
    same = [gate.verdict for gate in new] == [gate.verdict for gate in status.evidence]
    recent = status.checked is not None and now - parse_timestamp(status.checked) < EVIDENCE_AGE
    if not new or (same and recent and not fresh):
        return status
    return status.model_copy(update={"evidence": new, "checked": timestamp(now)})


def _passed(
    stage: Stage, status: RolloutStatus, results: tuple[GateResult, ...], evidence: Evidence | None
) -> RolloutDecision:
    name, steps = stage.spec.candidate, stage.spec.steps
    details = "; ".join(result.message for result in results)
    if status.step == len(steps):
        message = f"{name} answers everything; give it 100 in traffic, and remove rollout"
        update: Changes = {**ENDED, "phase": PROMOTED, "reason": PROMOTED, "message": message}
        promoted = _with_evidence(status, results, stage.now, fresh=True).model_copy(update=update)
        version = f" ({stage.candidate.serves})" if stage.candidate.serves else ""
        summary = with_details(f"{name}{version} has passed every step", details)
        return stage.decision(promoted, {name: 100}, Event(PROMOTED, summary), healthy=True)
    # At 100 percent the champions get no requests, and no copies of theirs are made. The candidate is compared with
    # what they have shown until then.
    last = steps[status.step] == 100
    champion = evidence.champion.with_copies_of(evidence.candidate).written() if last and evidence else None
    decision = _wait_for_weights(stage, first_status(stage, status.step + 1, champion))
    summary = with_details(f"{name} has passed step {status.step} of {len(steps)}, at {status.weight} %", details)
    return replace(decision, events=(Event("RolloutPassed", summary), *decision.events))


def roll_back_signature(stage: Stage, status: RolloutStatus) -> RolloutDecision:
    """Roll back a candidate that refuses the champion's requests, whatever onFailure says."""
    name, champions = stage.spec.candidate, " and ".join(stage.champions)
    message = (
        f"{name} is not rolled out, and {champions} gets all requests: {stage.signature_change}. Roll out a version "
        f"with the same inputs; to go on with this one, remove rollout and give {name} its share in traffic"
    )
    update: Changes = {**ENDED, "phase": ROLLED_BACK, "reason": "SignatureChanged", "weight": 0, "message": message}
    event = Event(ROLLED_BACK, message, "Warning")
    return stage.decision(status.model_copy(update=update), stage.champions, event, healthy=False, urgent=True)


def _failed(
    stage: Stage, status: RolloutStatus, reason: str, why: str, results: tuple[GateResult, ...]
) -> RolloutDecision:
    status = _with_evidence(status, results, stage.now, fresh=True).model_copy(update={**ENDED, "reason": reason})
    name, step = stage.spec.candidate, stage.step_name(status)
    if stage.spec.on_failure == "Pause":
        message = f"{name} has failed and stays ({step}): {why}; {CHANGE_REMEDY}"
        event = Event("RolloutPaused", message, "Warning")
        paused = status.model_copy(update={"phase": PAUSED, "message": message})
        return stage.decision(paused, stage.shares(status), event, healthy=False)
    champions = " and ".join(stage.champions)
    message = f"{name} has failed ({step}), and {champions} gets all requests: {why}; {CHANGE_REMEDY}"
    event = Event(ROLLED_BACK, message, "Warning")
    back = status.model_copy(update={"phase": ROLLED_BACK, "weight": 0, "message": message})
    return stage.decision(back, stage.champions, event, healthy=False, urgent=True)
