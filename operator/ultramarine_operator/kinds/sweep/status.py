"""What a Sweep says of itself: the words that people read, judged from what was seen and what its coordinator says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from ultramarine.resources.sweep import MAX_BEST, MAX_PARAMETERS
from ultramarine.resources.sweep_space import MAX_TEXT
from ultramarine_contract import common as contract
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.meta import Manifest
from ultramarine_contract.score import score
from ultramarine_contract.sweep_records import BestTrial, SweepSummary

from ...shared import pods, waiting
from ...shared.conditions import Condition, health, in_words, parse_timestamp, timestamp
from ...shared.plan import Platform, Seen
from ...shared.states import State
from .. import training
from .manifests import Sweep, objectives, prefix, stored

LONGEST = 10**10  # trials, hours: more would not fit the status
MAX_DOUBT = 1000  # characters
MAX_PARAMS = 8192  # characters of one trial's parameters in the status; the journal has all
JUDGED = {"conditions", "state", "observedGeneration", "completionTime", "duration", "failure", "imageErrorSince"}


def running(workers: list[Manifest], wanted: int, coordinator: Manifest, doubt: str) -> State:
    """Trials run."""
    return trials_run(
        f"{len(workers)} of {wanted} workers run; pod {coordinator['metadata']['name']} gives them trials", doubt
    )


def trials_run(message: str, doubt: str) -> State:
    """Trials run; `doubt` is what the coordinator finds odd about them."""
    message = f"{message}; {doubt}" if doubt else message
    return "Running", (Condition("Running", True, "TrialsRunning", message), *health(done=False, progress=message))


def doubt(summary: SweepSummary | None) -> str:
    """What the coordinator finds odd about trials while they run."""
    return "" if summary is None or summary.outcome else summary.message.partition("\n")[0][:MAX_DOUBT]


def kept(sweep: Sweep, platform: Platform) -> Manifest:
    """The facts that earlier passes knew, and those that stand from the beginning."""
    facts: Manifest = {name: value for name, value in sweep.status.items() if name not in JUDGED}
    return {**facts, "journal": {"uri": f"{prefix(sweep, platform)}{contract.JOURNAL_NAME}/"}}


def gathered(sweep: Sweep, own_pods: list[Manifest], seen: Seen, most: int, now: datetime) -> Manifest:
    """The facts that can be read off the pods and what the coordinator has posted; what was known stays known."""
    facts = kept(sweep, seen.platform)
    starts = [start for pod in own_pods if (start := pods.started(pod))]
    if starts and "startTime" not in facts:
        facts["startTime"] = min(starts)
    facts["imageErrorSince"] = waiting.image_error_since(sweep.status, own_pods, now)
    return with_summary(sweep, facts, seen.report, seen.platform, most) if seen.report else facts


def with_summary(sweep: Sweep, facts: Manifest, summary: SweepSummary, platform: Platform, most: int) -> Manifest:
    """The facts with what the coordinator says of the trials, of which there can be `most`."""
    counts = {name: min(getattr(summary, name), LONGEST) for name in ("running", "succeeded", "stopped", "failed")}
    over = counts["succeeded"] + counts["stopped"] + counts["failed"]
    known = facts.get("trials") or {}
    if summary.outcome == "Failed" and not over and any(known.get(each) for each in ("succeeded", "stopped", "failed")):
        return without_running(facts)  # by a coordinator that could not read its journal, say
    used = {"cpuHours": summary.cpu_hours, "gpuHours": summary.gpu_hours}
    names = [objective["metric"] for objective in objectives(sweep)]
    best = [_best(one, names, stored(sweep, one, platform)) for one in summary.best[:MAX_BEST]]
    found = {
        **facts,
        "trials": counts,
        "progress": f"{over}/{most}" if most else str(over),
        "mlflow": training.mlflow(facts.get("mlflow"), platform, [summary.mlflow_run]),
        "budgetUsed": {name: round(hours, 4) for name, hours in used.items() if 0 < hours < LONGEST},
    }
    if summary.report:
        found["report"] = {"uri": prefix(sweep, platform) + contract.REPORT_NAME}
    return {**found, "best": best, "bestValue": _value(summary.best[0], names)} if best else found


def without_running(facts: Manifest) -> Manifest:
    """The facts of a sweep none of whose trials runs any more."""
    return {**facts, "trials": {**facts["trials"], "running": 0}} if facts.get("trials") else facts


def _best(one: BestTrial, names: list[str], outputs: dict[str, OutputRecord]) -> Manifest:
    found: Manifest = {"trial": one.trial, "values": dict(zip(names, one.values, strict=False))}
    params = {
        name: told for name, value in list(one.params.items())[:MAX_PARAMETERS] if (told := _plain(value)) is not None
    }
    if params and len(json.dumps(params)) <= MAX_PARAMS:
        found["params"] = params
    return {**found, "outputs": {name: output.uri for name, output in outputs.items()}} if outputs else found


def _plain(value: Any) -> str | int | float | bool | None:
    """A value that a status has room for; nothing for what is none of a search space."""
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e300:
        return value
    return None


def _value(one: BestTrial, names: list[str]) -> str:
    """The best value as a column of `kubectl get`."""
    if len(names) == 1:
        return f"{one.values[0]:.6g}" if one.values else ""
    return score(dict(zip(names, one.values, strict=False)))


def ended(facts: Manifest, job: Manifest, now: datetime) -> Manifest:
    """The facts with the time of the end, by the Job's own clock where it tells."""
    counts = job.get("status") or {}
    times = [c.get("lastTransitionTime") for c in _ends(counts.get("conditions") or [])]
    end = str(counts.get("completionTime") or next((t for t in times if t), None) or timestamp(now))
    start = facts.get("startTime") or counts.get("startTime")
    seconds = max(int((parse_timestamp(end) - parse_timestamp(start)).total_seconds()), 0) if start else 0
    return without_running({**facts, "startTime": start, "completionTime": end, "duration": in_words(seconds)})


def _ends(conditions: Iterable[Manifest]) -> list[Manifest]:
    return [c for c in conditions if c.get("type") in ("Complete", "Failed") and c.get("status") == "True"]
