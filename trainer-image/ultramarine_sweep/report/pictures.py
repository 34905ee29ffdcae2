"""Pictures of a sweep. matplotlib is used without its global state: there is no window, and no current figure.

What is drawn of very many trials is an image inside of an SVG, which would otherwise be as large as all of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from ultramarine_contract.searchdomains import Choice, Domain, Value, Whole
from ultramarine_contract.searchspace import Parameter

from ultramarine_sweep.report.canvas import BLUE, GREY, LIGHT, MANY, Scale, dots, legend, scale_of
from ultramarine_sweep.report.results import Results
from ultramarine_sweep.report.trialpictures import BEST_CURVES, CURVES, curves, history, history_scale, timeline
from ultramarine_sweep.samplers.dominance import front
from ultramarine_sweep.samplers.history import Trial
from ultramarine_sweep.samplers.space import to_unit

SHOWN = 12  # parameters of a picture, those that matter most
LABELLED = 8  # values of a choice, of which each is written

_WAYS: tuple[Literal["x", "y"], ...] = ("x", "y")
_SIDES: tuple[Any, Any] = ("top", "bottom")  # where the words at an axis's two ends stand

# A sign of a mathematical text is a sign like others, and the same trials give the same bytes.
_SETTINGS: Any = {
    "text.parse_math": False,
    "svg.hashsalt": "sweep",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def pictures(results: Results) -> dict[str, Figure]:
    """All pictures that there is something for, by name."""
    drawn: dict[str, Figure] = {}
    with matplotlib.rc_context(_SETTINGS):
        for name, draw in _PICTURES.items():
            if (figure := draw(results)) is not None:
                drawn[name] = figure
    return drawn


def captions(results: Results) -> dict[str, str]:
    """Return notes below some pictures: the trials that are not drawn in their place."""
    trials = results.history.succeeded()
    captions = {"history": history_scale(results).caption, "slices": _scale(results).caption}
    having = sum(1 for trial in results.trials if any(True for _ in trial.points))
    if having > CURVES:
        captions["curves"] = f"The best {BEST_CURVES} of {having} trials and others spread evenly over the sweep"
    if len(results.objectives) > 1 and trials:
        notes = [
            (metric, scale.caption) for metric, scale in zip(results.metrics, _front_scales(results), strict=False)
        ]
        captions["front"] = "; ".join(f"{metric}: {caption}" for metric, caption in notes if caption)
    if len(trials) > MANY:
        captions["parallel"] = f"The best {MANY} of {len(trials)} trials that succeeded"
    return {name: notes for name, notes in captions.items() if notes}


def png(figure: Figure) -> bytes:
    """The picture as an image."""
    return _written(figure, "png", {"Software": None})


def svg(figure: Figure) -> bytes:
    """The picture as shapes."""
    return _written(figure, "svg", {"Date": None, "Creator": None})


def _written(figure: Figure, format: str, metadata: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
        renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        bounds = figure.get_tightbbox(renderer).padded(0.1)  # "tight" would find the same in twice the time
        figure.savefig(file, format=format, metadata=metadata, dpi=110, bbox_inches=bounds)
    return file.getvalue()


def _importances(results: Results) -> Figure | None:
    """Draw the share of the differences that each parameter explains."""
    shown = list(results.importances.items())[:SHOWN][::-1]
    if not shown:
        return None
    figure = Figure(figsize=(11, 0.6 + 0.32 * len(shown)))
    axes = figure.add_subplot()
    bars = axes.barh([name for name, _ in shown], [share for _, share in shown], color=BLUE)
    axes.bar_label(bars, [f" {share:.2f}" for _, share in shown])
    axes.margins(x=0.1)
    axes.set_xlabel(f"share of what explains {results.metrics[0]}")
    return figure


def _slices(results: Results) -> Figure | None:
    """The first objective against each parameter."""
    trials = results.history.succeeded()
    parameters = _shown(results)
    if len(trials) < 2 or not parameters:
        return None
    columns = min(len(parameters), 3 if len(parameters) in (5, 6, 9) else 4)
    rows = -(-len(parameters) // columns)
    figure = Figure(figsize=(11, 2.4 * rows))
    figure.subplots_adjust(wspace=0.08, hspace=0.5)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    scale = _scale(results)
    for place, (axes, parameter) in enumerate(zip(grid, parameters, strict=False)):
        having = [trial for trial in trials if parameter.name in trial.params][::-1]  # the best ones on top
        places = [_axis_place(parameter, trial.params[parameter.name]) for trial in having]
        values = [trial.values[0] for trial in having]
        dots(
            axes,
            scale,
            places,
            values,
            12,
            _numbers(having),
            cmap="Blues",
            vmin=-0.4 * len(trials),
            vmax=max(_numbers(trials)),
            edgecolors=BLUE,
            linewidths=0.3,
            rasterized=len(trials) > MANY,
        )
        axes.set_title(parameter.name, fontsize=9)
        scale.set(axes, results.metrics[0] if place % columns == 0 else "")
        if isinstance(parameter.domain, Choice):
            axes.set_xticks(
                range(parameter.domain.size), [_short(value) for value in parameter.domain.values], rotation=30
            )
        elif parameter.domain.log:
            axes.set_xscale("log")
            narrow = not places or max(places) < 30 * min(places)
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=4))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        elif isinstance(parameter.domain, Whole):
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    for axes in grid[len(parameters) :]:
        axes.remove()
    return figure


def _parallel(results: Results) -> Figure | None:
    """Each trial as a line through its parameters, the best ones dark."""
    trials = results.history.succeeded()[:MANY][::-1]
    parameters = [parameter for parameter in _shown(results) if not parameter.when]
    if len(trials) < 2 or len(parameters) < 2:
        return None
    figure = Figure(figsize=(11, 4))
    axes = figure.add_subplot()
    lines = [
        [(place, _height(parameter.domain, trial.params[parameter.name])) for place, parameter in enumerate(parameters)]
        for trial in trials
    ]
    shades = np.linspace(0.1, 1.0, len(lines)) ** 3
    axes.add_collection(
        LineCollection(lines, cmap="Blues", array=shades, alpha=0.7, linewidths=1.0, rasterized=len(lines) > MANY // 2)
    )
    axes.set_xlim(-0.2, len(parameters) - 0.8)
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0, pad=16)
    axes.set_xticks(
        range(len(parameters)), [parameter.name for parameter in parameters], rotation=20 if len(parameters) > 8 else 0
    )
    for place, parameter in enumerate(parameters):
        axes.axvline(place, color=GREY, linewidth=0.8)
        for end, value in enumerate(_ends(parameter.domain)):
            axes.text(place, 1.03 if end else -0.03, _short(value), ha="center", va=_SIDES[end], fontsize=7)
        if isinstance(parameter.domain, Choice) and parameter.domain.size <= LABELLED:
            for value in parameter.domain.values[1:-1]:
                axes.text(place + 0.03, _height(parameter.domain, value), _short(value), va="center", fontsize=7)
    return figure


def _front(results: Results) -> Figure | None:
    """The first two objectives against each other, and those trials that no other is better than in both."""
    trials = results.history.succeeded()
    if len(results.objectives) < 2 or len(trials) < 2:
        return None
    figure = Figure(figsize=(11, 4.6))
    axes = figure.add_subplot()
    scales = _front_scales(results)
    for scale, metric, way in zip(scales, results.metrics, _WAYS, strict=False):
        scale.set(axes, metric, way=way)
    xs, ys = _pairs(scales, trials)
    axes.scatter(xs, ys, 18, LIGHT, label=f"succeeded ({len(trials)})", rasterized=len(trials) > MANY)
    best = [trials[place] for place in front([results.history.losses(trial)[:2] for trial in trials])]
    best.sort(key=lambda trial: trial.values[0])
    axes.plot(*_pairs(scales, best), "o-", color=BLUE, markersize=5, linewidth=0.9, label=f"front ({len(best)})")
    legend(axes)
    return figure


def _front_scales(results: Results) -> list[Scale]:
    """Return the axes of the first two objectives."""
    return [scale_of([trial.values[place] for trial in results.history.succeeded()]) for place in (0, 1)]


_PICTURES: Mapping[str, Callable[[Results], Figure | None]] = {
    "history": history,
    "curves": curves,
    "front": _front,
    "importances": _importances,
    "slices": _slices,
    "parallel": _parallel,
    "timeline": timeline,
}


def _numbers(trials: Sequence[Trial]) -> list[int]:
    return [trial.number for trial in trials]


def _scale(results: Results) -> Scale:
    return scale_of([trial.values[0] for trial in results.history.succeeded()])


def _shown(results: Results) -> list[Parameter]:
    """The parameters that matter most, of those with more than one value."""
    order = {name: place for place, name in enumerate(results.importances)}
    having = [parameter for parameter in results.space.parameters if parameter.domain.size != 1]
    return sorted(having, key=lambda parameter: order.get(parameter.name, len(order)))[:SHOWN]


def _axis_place(parameter: Parameter, value: Value) -> float:
    if isinstance(parameter.domain, Choice):
        place = parameter.domain.index(value)
        assert place is not None
        return place
    assert not isinstance(value, str)
    return float(value)


def _ends(domain: Domain) -> tuple[Value, Value]:
    """The first and the last value."""
    if domain.size is not None:
        return domain.value(0), domain.value(domain.size - 1)
    assert not isinstance(domain, Choice)
    return domain.low, domain.high


def _height(domain: Domain, value: Value) -> float:
    """Return the place of a value between the first one, at 0, and the last one, at 1."""
    first, last = (to_unit(domain, end) for end in _ends(domain))
    return (to_unit(domain, value) - first) / (last - first)


def _short(value: Value) -> str:
    text = str(value).lower() if isinstance(value, bool) else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 14 else text[:13] + "…"


def _pairs(scales: Sequence[Scale], trials: Sequence[Trial]) -> list[list[float]]:
    """Return where the first two objectives are drawn."""
    return [scale.drawn([trial.values[place] for trial in trials]) for place, scale in enumerate(scales)]
