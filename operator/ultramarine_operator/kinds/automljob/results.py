"""Results of an AutoMLJob's children, as its status has them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError
from ultramarine.resources.automl import (
    MAX_GUARDRAILS,
    AutoMLJobStatus,
    Candidate,
    Guardrail,
    StoredFile,
    StoredFolder,
    TestScore,
)
from ultramarine.resources.base import Failure
from ultramarine.resources.dataset import DatasetPin
from ultramarine_contract.automl import CODE_NAME, MAX_LEADERBOARD, OBJECTIVE, PAGE_NAME, AutoMLSummary, LeaderboardRow
from ultramarine_contract.meta import Manifest

from ...shared.plan import Platform
from ...shared.statuses import cut
from ...training.composing import failure_of
from .children import candidates_uri

SEVERITIES = ("error", "warning", "info")
COSTS = ("std", "fit_seconds", "p95_milliseconds", "mebibytes")
_DISPLAYED = 4  # digits


def take_dataset(child: Manifest | None, status: AutoMLJobStatus) -> None:
    """Keep the version of the Dataset that the first child has resolved."""
    pin = (_status(child).get("datasets") or {}).get("data")
    if pin and status.dataset is None:
        try:
            status.dataset = DatasetPin.model_validate(pin)
        except ValidationError:
            return


def output(child: Manifest, name: str) -> StoredFolder:
    """Return an output of a job that has succeeded."""
    stored = (_status(child).get("outputs") or {}).get(name) or {}
    return StoredFolder(uri=str(stored.get("uri") or ""), digest=stored.get("digest"))


def candidates(sweep: Manifest, platform: Platform) -> StoredFolder:
    """Return the folder with the predictions of the candidates."""
    return StoredFolder(uri=candidates_uri(sweep, platform))


def take_search(sweep: Manifest, status: AutoMLJobStatus) -> None:
    """Write the progress of the Sweep into the status."""
    search = _status(sweep)
    status.progress = str(search.get("progress") or "")
    rows = []
    for trial in search.get("best") or []:
        params, score = dict(trial.get("params") or {}), (trial.get("values") or {}).get(OBJECTIVE)
        if score is not None:
            row = LeaderboardRow(str(params.get("algorithm") or ""), float(score), params=params)
            rows.append(_candidate(row, ()))
    if rows:
        status.leaderboard = rows[:MAX_LEADERBOARD]
        _set_best(rows[0], status)


def take_summary(summary: AutoMLSummary, child: Manifest, status: AutoMLJobStatus) -> None:
    """Write the result of the last child into the status."""
    status.metric = summary.metric[:63]
    status.leaderboard = [_candidate(row) for row in summary.leaderboard[:MAX_LEADERBOARD]]
    _set_best(_candidate(summary.best), status)
    scores = (summary.test_score, summary.low, summary.high, summary.baseline)
    if all(map(math.isfinite, scores)):
        names = ("score", "low", "high", "baseline")
        status.test = TestScore(rows=summary.test_rows, **dict(zip(names, scores, strict=True)))
    gravest = sorted(summary.guardrails, key=lambda guardrail: _rank(guardrail.severity))
    status.guardrails = [
        Guardrail(**cut(Guardrail, **{name: getattr(own, name) for name in Guardrail.model_fields}))
        for own in gravest[:MAX_GUARDRAILS]
    ]
    made, report = output(child, "model"), output(child, "report")
    status.model = made
    status.report, status.code = StoredFile(uri=report.uri + PAGE_NAME), StoredFile(uri=report.uri + CODE_NAME)
    version = (_status(child).get("outputs") or {}).get("model") or {}
    status.model_version = str(version.get("modelVersion") or "")


def sentence(phase: str, status: AutoMLJobStatus) -> str:
    """Return what a job does, or has come to; the phase is empty at its end."""
    if phase == "Preparing":
        return "preparing the table"
    done, _, most = status.progress.partition("/")
    trials = f"{done or 0} of {most} trials" if most else "the search begins"
    best = f", best {status.best_score}" if status.best_score else ""
    if phase == "Searching":
        return f"{trials}{best}"
    if phase:
        return f"fitting and testing the best of {done or 'the'} trials{best}"
    algorithm = status.best.algorithm if status.best else "the model"
    test = f", {_number(status.test.score)} on test rows" if status.test else ""
    return f"{algorithm}, {status.best_score}{test}; {done or 0} trials"


def failure(reason: str, child: Manifest) -> Failure:
    """Return the failure of a child as that of the job: the sentence of the program, if it has one."""
    own = _status(child).get("failure") or {}
    tail = str(own.get("tail") or "")
    words = [line.strip() for line in tail.splitlines() if line.strip()]
    is_program = own.get("exitCode") is not None and child["kind"] == "TrainingJob" and words
    message = words[-1] if is_program else failure_of(child)
    fields = {"reason": reason, "pod": str(own.get("pod") or ""), "message": message, "tail": tail}
    fields["hint"] = str(own.get("hint") or "")
    code = {"exit_code": own["exitCode"]} if isinstance(own.get("exitCode"), int) else {}
    return Failure(**cut(Failure, **{name: text for name, text in fields.items() if text}), **code)


def overrun(message: str) -> Failure:
    """Return the failure of a job that was too slow."""
    return Failure(reason="DeadlineExceeded", message=message)


def lost(message: str) -> Failure:
    """Return the failure of a job whose summary is lost."""
    return Failure(**cut(Failure, reason="ResultLost", message=message))


def _status(child: Manifest | None) -> Mapping[str, Any]:
    return (child or {}).get("status") or {}


def _set_best(best: Candidate, status: AutoMLJobStatus) -> None:
    status.best, status.best_score = best, f"{status.metric} {_number(best.score)}"


def _candidate(row: LeaderboardRow, costs: Collection[str] = COSTS) -> Candidate:
    params = {name: value for name, value in list(row.params.items())[:64] if name != "algorithm"}
    kept = {name: value for name in costs if math.isfinite(value := getattr(row, name))}
    more: dict[str, Any] = {**kept, **({"params": params} if params else {})}  # the API server keeps no empty map
    return Candidate(algorithm=row.algorithm[:63], score=row.score, **more)


def _number(value: float) -> str:
    return f"{value:.{_DISPLAYED}g}"


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
