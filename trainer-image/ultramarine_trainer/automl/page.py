"""Report of a job as one HTML page with charts: no script, no font and no address outside of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from ultramarine_contract.automl import AutoMLSummary, LeaderboardRow
from ultramarine_contract.errors import counted

from ultramarine_trainer.automl.charts import bars, chart
from ultramarine_trainer.automl.plan import Plan
from ultramarine_trainer.automl.scoring import Array, codes_of, is_better

MAX_ROWS, MAX_BARS, MAX_DOTS, MAX_CLASSES, BINS = 25, 20, 1000, 12, 10
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#1b1f24;background:#f6f7f9;margin:0}"
    "main{max-width:66rem;margin:0 auto;padding:1.5rem 1rem 3rem}"
    "h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.05rem;margin:0 0 .2rem}p{margin:.1rem 0}"
    "section,.tile{background:#fff;border:1px solid #e1e5ea;border-radius:8px;padding:1rem 1.2rem;margin-top:1rem}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:1rem}"
    ".pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr));gap:0 1rem}"
    ".tile b{display:block;font-size:1.5rem;line-height:1.3;overflow-wrap:anywhere}.tile,.hint{color:#57606a}"
    ".tile b{color:#1b1f24}.hint{font-size:.88rem;margin-bottom:.6rem}svg{width:100%;display:block}"
    "svg text{font-size:14px;fill:#57606a}.narrow{max-width:40rem}.name{white-space:nowrap;text-align:left}"
    "li.warning::marker{color:#c2410c}ul{margin:.3rem 0;padding-left:1.2rem}"
    "table{border-collapse:collapse;font-size:.85rem}th,td{padding:.3rem .8rem;border-bottom:1px solid #e8ebef;"
    "text-align:right;white-space:nowrap}.text{text-align:left;white-space:normal;overflow-wrap:anywhere}"
    "th{color:#57606a;font-weight:600}tr.best td{background:#eef4fb;font-weight:600}.wide{overflow-x:auto}"
    ".matrix td{text-align:center}@media print{body{background:#fff}section,.tile{break-inside:avoid}}"
)


@dataclass(frozen=True)
class Results:
    """All that the page shows; `scores` are those of the candidates in the order in which they were tried."""

    plan: Plan
    summary: AutoMLSummary
    candidates: Sequence[LeaderboardRow]
    scores: Sequence[float]
    y: Array
    predictions: Array
    importances: dict[str, tuple[float, float]]
    test_baseline: float


def page(results: Results) -> str:
    """Return the page."""
    task = results.plan.task
    title = f"AutoML: {task.task} of {task.target}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style><main>",
            f"<h1>{escape(title)}</h1>",
            f"<p>{escape(_headline(results))}</p>",
            _tiles(results),
            _leaderboard(results),
            f'<div class="pair">{_history(results)}{_costs(results)}</div>',
            f'<div class="pair">{"".join(_errors(results))}</div>',
            _importances(results),
            _guardrails(results),
            "</main>",
            "",
        ]
    )


def _words(algorithm: str) -> str:
    return algorithm.replace("_", " ")


def _headline(results: Results) -> str:
    summary, metric = results.summary, results.plan.metric
    word = "better" if is_better(summary.goal, summary.test_score, results.test_baseline) else "no better"
    return (
        f"The best model, {_words(summary.best.algorithm)}, reaches {metric} {summary.test_score:.4g} on "
        f"{counted(summary.test_rows, 'row')} that no model has seen. This is {word} than {results.test_baseline:.4g}, "
        "that of a model without columns."
    )


def _tiles(results: Results) -> str:
    summary = results.summary
    less = "more" if summary.goal == "maximize" else "less"
    tiles = [
        (f"{summary.test_score:.4g}", f"test {results.plan.metric}; 95 %: {summary.low:.4g} to {summary.high:.4g}"),
        (f"{summary.best.score:.4g}", f"cross-validated ± {summary.best.std:.2g}; {less} is better"),
        (str(summary.candidates), f"candidates on {counted(summary.rows, 'row')}"),
        (f"{summary.best.p95_milliseconds:.3g} ms", f"for a row (p95); {summary.best.mebibytes:.3g} MiB"),
    ]
    cells = "".join(f"<div class=tile><b>{escape(big)}</b>{escape(small)}</div>" for big, small in tiles)
    return f'<div class="tiles">{cells}</div>'


def _section(title: str, hint: str, content: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="hint">{escape(hint)}</p>{content}</section>'


def _row(tag: str, cells: Iterable[str], *, texts: dict[int, str] | None = None, marked: bool = False) -> str:
    texts = texts or {}
    inner = "".join(
        f"<{tag}{' class=' + texts[place] if place in texts else ''}>{escape(cell)}</{tag}>"
        for place, cell in enumerate(cells)
    )
    return f"<tr{' class=best' if marked else ''}>{inner}</tr>"


def _leaderboard(results: Results) -> str:
    summary, texts = results.summary, {1: "name", 8: "text"}
    head = ("", "algorithm", results.plan.metric, "±", "fit s", "p95 ms", "MiB", "share", "parameters")
    rows = [_row("th", head, texts=texts)]

    def costs(row: LeaderboardRow) -> tuple[str, ...]:
        values = (row.std, row.fit_seconds, row.p95_milliseconds, row.mebibytes)
        return (f"{row.score:.5g}", *(f"{value:.3g}" for value in values))

    if summary.weights:
        rows.append(_row("td", ("", "ensemble", *costs(summary.best), "100%", ""), texts=texts, marked=True))
    for rank, row in enumerate(results.candidates[:MAX_ROWS], 1):
        weight = summary.weights.get(str(rank), 0.0)
        own = {name.removeprefix(f"{row.algorithm}_"): value for name, value in row.params.items()}
        params = ", ".join(f"{name} {_text(value)}" for name, value in own.items() if name != "algorithm")
        cells = (str(rank), _words(row.algorithm), *costs(row), f"{weight:.0%}" if weight else "", params)
        rows.append(_row("td", cells, texts=texts, marked=row == summary.best))
    baseline = ("", "without columns", f"{summary.baseline:.5g}", *[""] * 6)
    rows.append(_row("td", baseline, texts=texts))
    shown = min(len(results.candidates), MAX_ROWS)
    hint = f"The best {shown} of {counted(len(results.candidates), 'candidate')}, by cross-validation."
    return _section("Leaderboard", hint, f'<div class="wide"><table>{"".join(rows)}</table></div>')


def _text(value: str | int | float | bool) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ends(results: Results) -> tuple[float, float]:
    """Return bounds of scores in a chart: those from the best one to the worst of most, or to the baseline."""
    scores, baseline = np.array(results.scores), results.plan.baseline
    best = scores.max() if results.plan.goal == "maximize" else scores.min()
    middle = float(np.median(scores))
    reach = max(abs(baseline - best), abs(middle - best)) * 1.05
    worst = scores.min() if results.plan.goal == "maximize" else scores.max()
    edge = best - reach if results.plan.goal == "maximize" else best + reach
    edge = max(edge, worst) if results.plan.goal == "maximize" else min(edge, worst)
    return float(min(best, edge)), float(max(best, edge))


def _history(results: Results) -> str:
    dots = [(place + 1.0, score) for place, score in enumerate(results.scores)]
    pick = np.maximum if results.plan.goal == "maximize" else np.minimum
    steps: list[tuple[float, float]] = []
    for place, score in enumerate(pick.accumulate(np.array(results.scores))):
        steps += [(place + 1.0, steps[-1][1] if steps else float(score)), (place + 1.0, float(score))]
    names = ("candidate", results.plan.metric)
    picture = chart("Scores by candidate", names, dots, line=steps, ends=_ends(results))
    return _section(
        "Learning of the search", "Each candidate's score in its order; the line is the best so far.", picture
    )


def _costs(results: Results) -> str:
    dots = [(max(row.p95_milliseconds, 0.01), row.score) for row in results.candidates]
    front: list[tuple[float, float]] = []
    for cost, score in sorted(dots):
        if not front or is_better(results.plan.goal, score, front[-1][1]):
            front.append((cost, score))
    names = ("p95 of one row, ms (log scale)", results.plan.metric)
    hint = "Dark: no other candidate is better and faster."
    if results.summary.weights:
        best = results.summary.best
        hint += f" The ensemble takes {best.p95_milliseconds:.3g} ms."
    picture = chart("Scores by latency", names, dots, marked=front, line=front, log=True, ends=_ends(results))
    return _section("Score and latency", hint, picture)


# ---- Errors on the test rows


def _errors(results: Results) -> Iterator[str]:
    if results.plan.classes:
        yield _confusion(results)
        yield _calibration(results)
        return
    rows = np.random.default_rng(0).permutation(len(results.y))[:MAX_DOTS]
    actual, predicted = results.y[rows].astype(float), results.predictions[rows]
    pairs = list(zip(map(float, predicted), map(float, actual), strict=True))
    names = ("predicted", "actual")
    yield _section(
        "Predictions",
        "Test rows; on the dashed line both are equal.",
        chart("Predictions", names, pairs, diagonal=True),
    )
    residuals = list(zip(map(float, predicted), map(float, actual - predicted), strict=True))
    picture = chart("Residuals", ("predicted", "actual - predicted"), residuals, level=("0", 0.0))
    yield _section(
        "Residuals", "Errors of test rows by their prediction; a pattern is what the model has missed.", picture
    )


def _confusion(results: Results) -> str:
    classes = results.plan.classes
    actual, predicted = codes_of(classes, results.y), results.predictions.argmax(axis=1)
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (actual, predicted), 1)
    shown = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[:MAX_CLASSES])
    rows = [_row("th", ["actual \\ predicted", *(str(classes[place]) for place in shown)])]
    for place in shown:
        total = max(int(counts[place].sum()), 1)
        cells = "".join(
            f'<td style="background:rgba(127,178,229,{counts[place, other] / total:.2f})">{counts[place, other]:,}</td>'
            for other in shown
        )
        rows.append(f"<tr><th>{escape(str(classes[place]))}</th>{cells}</tr>")
    hint = "Test rows by class; darker is a larger share of the actual class."
    if len(classes) > len(shown):
        hint += f" The {len(shown)} most frequent of {len(classes)} classes."
    return _section("Confusion matrix", hint, f'<div class="wide"><table class="matrix">{"".join(rows)}</table></div>')


def _calibration(results: Results) -> str:
    sure = results.predictions.max(axis=1)
    right = codes_of(results.plan.classes, results.y) == results.predictions.argmax(axis=1)
    order = np.argsort(sure, kind="stable")
    bins = [rows for rows in np.array_split(order, min(BINS, max(len(order) // 10, 1))) if len(rows)]
    points = [(float(sure[rows].mean()), float(right[rows].mean())) for rows in bins]
    picture = chart(
        "Calibration",
        ("probability of the predicted class", "share that is right"),
        points,
        marked=points,
        diagonal=True,
    )
    hint = "Test rows in groups of equal size. Below the dashed line the model is too sure."
    return _section("Calibration", hint, picture)


def _importances(results: Results) -> str:
    rows = [(name, value, deviation) for name, (value, deviation) in results.importances.items()]
    if not rows:
        return ""
    hint = "Loss of score on test rows when the values of a column are shuffled. Columns that say the same share it."
    if len(rows) > MAX_BARS:
        hint += f" The first {MAX_BARS} of {len(rows)} columns."
    picture = bars("Importances of columns", rows[:MAX_BARS], f"loss of {results.plan.metric}")
    return _section("Columns that matter", hint, f'<div class="narrow">{picture}</div>')


def _guardrails(results: Results) -> str:
    guardrails = sorted(results.summary.guardrails, key=lambda own: own.severity == "info")
    items = "".join(f'<li class="{own.severity}">{escape(own.message)}</li>' for own in guardrails)
    content = f"<ul>{items}</ul>" if items else "<p>Nothing to report.</p>"
    return _section("Guardrails", "Weaknesses of the data; those in red may make scores worthless.", content)
