"""Report of a sweep for users: one file with its pictures inside, without references to other servers."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from html import escape

from ultramarine_contract.common import REPORT_NAME
from ultramarine_contract.errors import counted, listed
from ultramarine_contract.searchdomains import Choice, Value
from ultramarine_contract.searchspace import Parameter

from ultramarine_sweep.report.canvas import AMBER, GREY, LIGHT, RED
from ultramarine_sweep.report.pictures import captions, pictures, png, svg
from ultramarine_sweep.report.results import Results
from ultramarine_sweep.report.trialpictures import seconds_of, timed, words
from ultramarine_sweep.samplers.history import FAILED, RUNNING, STOPPED, SUCCEEDED
from ultramarine_sweep.samplers.history import Trial as Known
from ultramarine_sweep.state.ends import Reasons
from ultramarine_sweep.state.trial import Trial

ROWS = 25  # trials of the table
STEPS = 8  # at which trials were stopped, that are listed
SHOWN_CHOICES = 12  # values of a choice that are listed

_TITLES = {
    "history": ("Trials", "Each trial's value in the order in which they began, and the best one so far."),
    "curves": ("Learning curves", "What each trial told on its way. A square is where early termination ended one."),
    "front": ("Pareto front", "Trials that no other is better than in both objectives, joined by a line."),
    "importances": ("Parameters that matter", "How much of the differences between trials each parameter explains."),
    "slices": ("Values of each parameter", "Each trial's value by one parameter alone; later trials are darker."),
    "parallel": ("Parameters together", "Each trial is a line through its parameters; better trials are darker."),
    "timeline": ("When trials ran", "Each bar is a trial, from its beginning to its end."),
}

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#1b1f24;background:#f6f7f9;margin:0}"
    "main{max-width:66rem;margin:0 auto;padding:1.5rem 1rem 3rem}"
    "h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.05rem;margin:0 0 .2rem}p{margin:.1rem 0}"
    "section,.tile{background:#fff;border:1px solid #e1e5ea;border-radius:8px;padding:1rem 1.2rem;margin-top:1rem}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:1rem}"
    ".tile b{display:block;font-size:1.5rem;line-height:1.3;overflow-wrap:anywhere}.tile,.hint{color:#57606a}"
    ".tile b{color:#1b1f24}.hint{font-size:.88rem;margin-bottom:.6rem}img{width:100%;display:block}"
    ".bar{display:flex;height:.6rem;border-radius:3px;overflow:hidden;margin:.35rem 0}"
    "table{border-collapse:collapse;font-size:.85rem}th,td{padding:.3rem .8rem;border-bottom:1px solid #e8ebef;"
    "text-align:right;white-space:nowrap}.text{text-align:left;white-space:normal}"
    "th{color:#57606a;font-weight:600}tr.best td{background:#eef4fb;font-weight:600}.wide{overflow-x:auto}"
)


def files(results: Results) -> dict[str, bytes]:
    """Return what a finished sweep leaves to be looked at, by file name: report and pictures."""
    drawn = pictures(results)
    shapes = {name: svg(figure) for name, figure in drawn.items()}
    contents = {REPORT_NAME: report(results, shapes).encode()}
    for name, figure in drawn.items():
        contents[f"pictures/{name}.png"] = png(figure)
        contents[f"pictures/{name}.svg"] = shapes[name]
    return contents


def report(results: Results, shapes: dict[str, bytes] | None = None) -> str:
    """Return the report as HTML. `shapes` are its pictures as SVG, if they are drawn already."""
    if shapes is None:
        shapes = {name: svg(figure) for name, figure in pictures(results).items()}
    pages = {name: _picture(name, shape, captions(results).get(name, "")) for name, shape in shapes.items()}
    parts = [
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{escape(results.name)}</title><style>{_STYLE}</style><main>",
        f"<h1>{escape(results.name)}</h1>",
        f"<p>{_counts(results)}. {_goals(results)}.</p>",
        _tiles(results),
        *(pages.pop(name) for name in ("history", "front", "curves") if name in pages),
        _best(results),
        *pages.values(),
        _space(results),
        _stops(results),
        _failures(results),
        "</main>",
    ]
    return "\n".join(filter(None, parts)) + "\n"


def _counts(results: Results) -> str:
    counts = {"succeeded": SUCCEEDED, "stopped early": STOPPED, "failed": FAILED, "running": RUNNING}
    parts = ", ".join(f"{results.count(outcome)} {word}" for word, outcome in counts.items() if results.count(outcome))
    return f"{counted(len(results.trials), 'trial')}: {parts or 'none'}"


def _goals(results: Results) -> str:
    return ", ".join(
        f"{escape(metric)} {'maximised' if sign < 0 else 'minimised'}"
        for metric, sign in zip(results.metrics, results.history.signs, strict=True)
    )


def _tiles(results: Results) -> str:
    """The four figures that are asked for first."""
    tiles, best, ran = [], results.best, timed(results.trials)
    if best and len(results.objectives) == 1:
        metric = escape(results.metrics[0])
        tiles.append((_text(best[0].values[0]), f"best {metric}, by trial {best[0].number}"))
    elif best:
        tiles.append((str(len(best)), "trials on the Pareto front"))
    else:
        tiles.append(("none", "no trial succeeded"))
    colors = {SUCCEEDED: LIGHT, STOPPED: AMBER, FAILED: RED, RUNNING: GREY}
    shares = "".join(
        f'<i style="flex:{results.count(outcome)};background:{color}"></i>'
        for outcome, color in colors.items()
        if results.count(outcome)
    )
    trials = counted(len(results.trials), "trial")
    tiles.append((trials, f'<span class="bar">{shares}</span>{_counts(results).partition(": ")[2]}'))
    if ran:
        all_time, wall = sum(map(seconds_of, ran)), max(trial.ended for trial in ran)
        tiles.append((words(wall), f"in all; {words(all_time)} of trials, {_by_outcome(results, ran)}"))
    if stopped := results.count(STOPPED):
        share = stopped / max(len(results.trials) - results.count(RUNNING), 1)
        tiles.append((str(stopped), f"stopped early, {share:.0%} of those that ended"))
    return f'<div class="tiles">{"".join(f"<div class=tile><b>{big}</b>{small}</div>" for big, small in tiles)}</div>'


def _by_outcome(results: Results, ran: Iterable[Trial]) -> str:
    """Return each outcome's share of the time of trials, in per cent."""
    spent: defaultdict[str, float] = defaultdict(float)
    for trial in ran:
        spent[results.history.trials[trial.number].outcome] += seconds_of(trial)
    total = sum(spent.values()) or 1
    outcomes = {"succeeded": SUCCEEDED, "stopped early": STOPPED, "failed": FAILED}
    return ", ".join(f"{spent[outcome] / total:.0%} {word}" for word, outcome in outcomes.items() if spent[outcome])


def _picture(name: str, shape: bytes, caption: str) -> str:
    # As an image, in which no script runs, whatever a parameter is called.
    title, hint = _TITLES[name]
    source = f"data:image/svg+xml;base64,{b64encode(shape).decode()}"
    note = f" <em>{escape(caption)}.</em>" if caption else ""
    return _section(title, f'<p class="hint">{hint}{note}</p><img alt="{title}" src="{source}">')


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: Sequence[int] = (), best: bool = False) -> str:
    """A table of escaped cells; the columns `texts` hold words. The first row stands out as the best one."""

    def cell(tag: str, place: int, content: str) -> str:
        words = ' class="text"' if place in texts else ""
        return f"<{tag}{words}>{escape(content)}</{tag}>"

    lines = ["".join(cell("th", place, name) for place, name in enumerate(head))]
    lines += ["".join(cell("td", place, text) for place, text in enumerate(row)) for row in rows]
    marked = [f"<tr{' class=best' if best and place == 1 else ''}>{line}</tr>" for place, line in enumerate(lines)]
    return f'<div class="wide"><table>{"".join(marked)}</table></div>'


def _best(results: Results) -> str:
    """The best trials with their values, parameters and durations."""
    best = results.best[:ROWS]
    if not best:
        return _section("Best trials", "<p>No trial succeeded.</p>")
    title = "Trials on the Pareto front" if len(results.objectives) > 1 else "Best trials"
    more = f" ({len(best)} of {len(results.best)})" if len(results.best) > len(best) else ""
    durations = {trial.number: words(seconds_of(trial)) for trial in timed(results.trials)}
    time = ("duration",) if durations else ()
    rows = [
        (
            str(trial.number),
            *map(_text, trial.values),
            *(_text(trial.params[name]) if name in trial.params else "" for name in results.space.names),
            *((durations.get(trial.number, ""),) if durations else ()),
        )
        for trial in best
    ]
    head = ("trial", *results.metrics, *results.space.names, *time)
    return _section(title + more, _table(head, rows, best=len(results.objectives) == 1))


def _space(results: Results) -> str:
    """The parameters, the values that they could have, and what the best trial has."""
    best = results.best[0] if results.best and len(results.objectives) == 1 else None
    rows = [
        (
            parameter.name,
            _domain(parameter),
            _condition(parameter),
            *((_text(best.params[parameter.name]) if parameter.name in best.params else "",) if best else ()),
            *(
                (f"{results.importances[parameter.name]:.0%}" if parameter.name in results.importances else "",)
                if results.importances
                else ()
            ),
        )
        for parameter in results.space.parameters
    ]
    head = [
        "parameter",
        "values",
        "only if",
        *(["best"] if best else []),
        *(["importance"] if results.importances else []),
    ]
    return _section("Search space", _table(head, rows, texts=(0, 1, 2)))


def _domain(parameter: Parameter) -> str:
    """The values of a parameter in words."""
    domain = parameter.domain
    if isinstance(domain, Choice):
        shown = listed(map(_text, domain.values), SHOWN_CHOICES)
        return shown if domain.size > 1 else f"{shown} (constant)"
    step = f", in steps of {_text(domain.step)}" if domain.step and domain.step != 1 else ""
    return f"{_text(domain.low)} to {_text(domain.high)}{step}{', log scale' if domain.log else ''}"


def _condition(parameter: Parameter) -> str:
    return "; ".join(f"{other} is {' or '.join(_text(value) for value in values)}" for other, values in parameter.when)


def _stops(results: Results) -> str:
    """At which steps trials were stopped, and how many."""
    stopped: list[Known] = [trial for trial in results.history.trials.values() if trial.outcome == STOPPED]
    if not stopped:
        return ""
    steps = Counter(trial.points[-1][0] for trial in stopped if trial.points)
    kept = sorted(step for step, _ in steps.most_common(STEPS))
    rows = [(str(step), str(steps[step])) for step in kept]
    if rest := len(stopped) - sum(steps[step] for step in kept):
        rows.append(("others", str(rest)))
    return _section("Stopped early", _table(("last step", "trials"), rows))


def _failures(results: Results) -> str:
    """Why trials have failed, as far as they say so."""
    reasons = Reasons()
    for trial in results.trials:
        if isinstance(trial, Trial) and trial.outcome == FAILED:
            reasons.add(trial.number, trial.message)
    rows = [(str(count), reason, str(first)) for reason, count, first in reasons.counted]
    return _section("Failed trials", _table(("trials", "reason", "the first"), rows, texts=(1,))) if rows else ""


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
