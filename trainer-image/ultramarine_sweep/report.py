"""A report of a sweep for people: one file, with its pictures inside, that asks nothing of anybody else."""

from __future__ import annotations

from base64 import b64encode
from html import escape

from ultramarine.shared.contract import REPORT_NAME
from ultramarine.shared.searchdomains import Value

from ultramarine_sweep.history import FAILED, RUNNING, STOPPED, SUCCEEDED
from ultramarine_sweep.pictures import captions, pictures, png, svg
from ultramarine_sweep.reasons import Reasons
from ultramarine_sweep.results import Results
from ultramarine_sweep.trial import Trial

ROWS = 25  # trials of the table

_TITLES = {
    "history": "Trials",
    "front": "Pareto front",
    "importances": "Parameters that matter",
    "slices": "Values of each parameter",
    "parallel": "Parameters together",
}

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#1b1f24;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}img{max-width:100%}"
    "table{border-collapse:collapse;font-size:.85rem}th,td{padding:.25rem .7rem;border-bottom:1px solid #d8dee4;"
    "text-align:right}.text{text-align:left}th{background:#f3f5f8}.wide{overflow-x:auto}"
)


def files(results: Results) -> dict[str, bytes]:
    """What a finished sweep leaves to be looked at, by file name: report and pictures."""
    drawn = pictures(results)
    shapes = {name: svg(figure) for name, figure in drawn.items()}
    found = {REPORT_NAME: report(results, shapes).encode()}
    for name, figure in drawn.items():
        found[f"pictures/{name}.png"] = png(figure)
        found[f"pictures/{name}.svg"] = shapes[name]
    return found


def report(results: Results, shapes: dict[str, bytes] | None = None) -> str:
    """The report as HTML. `shapes` are its pictures as SVG, where they are drawn already."""
    if shapes is None:
        shapes = {name: svg(figure) for name, figure in pictures(results).items()}
    counts = {"succeeded": SUCCEEDED, "stopped early": STOPPED, "failed": FAILED, "running": RUNNING}
    told = ", ".join(f"{results.count(outcome)} {word}" for word, outcome in counts.items() if results.count(outcome))
    goals = ", ".join(
        f"{escape(metric)} {'maximised' if sign < 0 else 'minimised'}"
        for metric, sign in zip(results.metrics, results.history.signs, strict=True)
    )
    parts = [
        "<!doctype html>",
        f'<html lang="en"><meta charset="utf-8"><title>{escape(results.name)}</title><style>{_STYLE}</style>',
        f"<h1>{escape(results.name)}</h1>",
        f"<p>{len(results.trials)} trials: {told or 'none'}. {goals}.</p>",
        _table(results),
        _failures(results),
    ]
    said = captions(results)
    for name, shape in shapes.items():
        # As an image, in which no script runs, whatever a parameter is called.
        source = f"data:image/svg+xml;base64,{b64encode(shape).decode()}"
        parts.append(f'<h2>{_TITLES[name]}</h2><img alt="{_TITLES[name]}" src="{source}">')
        parts += [f"<p>{escape(said[name])}.</p>"] if name in said else []
    return "\n".join(parts) + "\n"


def _table(results: Results) -> str:
    """The best trials with their values and parameters."""
    best = results.best[:ROWS]
    if not best:
        return "<p>No trial succeeded.</p>"
    title = "Pareto front" if len(results.objectives) > 1 else "Best trials"
    more = f" ({len(best)} of {len(results.best)})" if len(results.best) > len(best) else ""
    head = "".join(f"<th>{escape(name)}</th>" for name in ("trial", *results.metrics, *results.space.names))
    rows = []
    for trial in best:
        values = [_text(value) for value in trial.values]
        params = [_text(trial.params[name]) if name in trial.params else "" for name in results.space.names]
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (str(trial.number), *values, *params))
        rows.append(f"<tr>{cells}</tr>")
    return f'<h2>{title}{more}</h2><div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _failures(results: Results) -> str:
    """Why trials have failed, as far as they say so."""
    reasons = Reasons()
    for trial in results.trials:
        if isinstance(trial, Trial) and trial.outcome == FAILED:
            reasons.add(trial.number, trial.message)
    rows = [
        f'<tr><td>{count}</td><td class="text">{escape(reason)}</td><td>{first}</td></tr>'
        for reason, count, first in reasons.counted
    ]
    head = '<tr><th>trials</th><th class="text">reason</th><th>the first</th></tr>'
    return f'<h2>Failed trials</h2><div class="wide"><table>{head}{"".join(rows)}</table></div>' if rows else ""


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
