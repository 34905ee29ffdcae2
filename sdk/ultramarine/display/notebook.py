"""Runs as notebooks show them: state, progress, metrics and trials, as text and as HTML."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from ultramarine_contract.errors import UltramarineError

from ..results import latest
from ..runs import Run, duration_of, explanation, state_of
from ..sweeps import SweepRun, Trial, bests_so_far

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

_COLOURS = {
    "Succeeded": "#2a9d57",
    "Failed": "#d1495b",
    "Invalid": "#d1495b",
    "Cancelled": "#8a6d3b",
    "Running": "#3a7bd5",
}
_WIDTH, _HEIGHT, _MARGIN = 520, 180, 12
_MOST_TRIALS = 20  # rows of the table


def bundle(run: Run) -> dict[str, str]:
    """Return a run as text and as HTML; of a cluster that does not answer, its error."""
    try:
        object = run.object
        trials = run.trial_list() if isinstance(run, SweepRun) else []
        html = "".join(_parts(run, object, trials))
    except UltramarineError as error:
        return {"text/plain": f"{run!r}: {error.message}"}
    return {"text/plain": f"{run!r}: {explanation(object)}", "text/html": html}


def _parts(run: Run, object: Manifest, trials: list[Trial]) -> Iterable[str]:
    status, state = object.get("status") or {}, state_of(object)
    badge = f'<b style="color:{_COLOURS.get(state, "inherit")}">{escape(state)}</b>'
    duration = duration_of(status)
    facts = [f"{run.resource.kind} <b>{escape(run.name)}</b>", badge]
    facts += [f"{duration.total_seconds():.0f} s"] if duration else []
    yield f"<div>{' · '.join(facts)}</div>"
    percent = percent_of(status)
    if percent is not None and state == "Running":
        yield f'<progress max="100" value="{percent}"></progress> {percent} %'
    yield f"<div><small>{escape(explanation(object))}</small></div>"
    if metrics := latest(status):
        yield _table(["metric", "latest"], [[name, f"{value:g}"] for name, value in metrics.items()])
    if isinstance(run, SweepRun):
        from ..sweeps import objectives_of

        metric, maximize = objectives_of(object)[0]
        yield svg(bests_so_far(trials, metric, maximize), metric)
        yield _trials(trials, metric, maximize)
    if version := status.get("modelVersion"):
        yield f"<div>registered: <code>{escape(str(version))}</code></div>"


def percent_of(status: Manifest) -> int | None:
    """Return the progress of a TrainingJob or, as ended trials, of a Sweep; None if it is not known."""
    progress = status.get("progress")
    if isinstance(progress, str):
        ended, _, total = progress.partition("/")
        return 100 * int(ended) // int(total) if ended.isdecimal() and total.isdecimal() and int(total) else None
    return (progress or {}).get("percent")


def _trials(trials: list[Trial], metric: str, maximize: bool) -> str:
    """Return the best trials as a table."""
    measured = [trial for trial in trials if metric in trial.values and trial.outcome == "Succeeded"]
    best = sorted(measured, key=lambda trial: trial.values[metric], reverse=maximize)[:_MOST_TRIALS]
    names = sorted({name for trial in best for name in trial.params})
    rows = [
        [str(trial.number), f"{trial.values[metric]:g}", *(str(trial.params.get(name, "")) for name in names)]
        for trial in best
    ]
    return _table(["trial", metric, *names], rows) if rows else ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"


def svg(points: list[tuple[int, float, float]], metric: str) -> str:
    """Return a chart of values by trial, with a line for the best so far; empty without two values."""
    if len(points) < 2:
        return ""
    values = [value for _, value, _ in points]
    least, most = min(values), max(values)
    numbers = points[0][0], points[-1][0]

    def place(number: int, value: float) -> tuple[float, float]:
        x = (number - numbers[0]) / (numbers[1] - numbers[0])
        y = (value - least) / (most - least) if most > least else 0.5
        return _MARGIN + x * (_WIDTH - 2 * _MARGIN), _HEIGHT - _MARGIN - y * (_HEIGHT - 2 * _MARGIN)

    dots = "".join('<circle cx="{:.1f}" cy="{:.1f}" r="2.5"/>'.format(*place(n, value)) for n, value, _ in points)
    steps: list[str] = []
    for number, _, best in points:
        x, y = place(number, best)
        steps.append(f"H{x:.1f}V{y:.1f}" if steps else f"M{x:.1f} {y:.1f}")
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="{escape(metric)} by trial">'
        f'<g fill="currentColor" opacity="0.5">{dots}</g>'
        f'<path d="{"".join(steps)}" fill="none" stroke="{_COLOURS["Running"]}" stroke-width="2"/>'
        f'<text x="{_MARGIN}" y="10" font-size="10" fill="currentColor">{escape(metric)}: '
        f"{least:g} to {most:g}</text></svg>"
    )
