"""Pictures of a sweep. matplotlib is used without its global state: there is no window, and no current figure.

What is drawn of very many trials is an image inside of an SVG, which would otherwise be as large as all of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from ultramarine.shared.searchdomains import Choice, Domain, Value, Whole
from ultramarine.shared.searchspace import Parameter

from ultramarine_sweep.dominance import front
from ultramarine_sweep.history import FAILED, STOPPED, SUCCEEDED, Trial
from ultramarine_sweep.results import Results
from ultramarine_sweep.scale import FURTHEST, Scale, far, scale_of
from ultramarine_sweep.space import to_unit

SHOWN = 12  # parameters of a picture, those that matter most
MANY = 1000  # trials, beyond which dots are drawn as an image

LABELLED = 8  # values of a choice, of which each is written

_BLUE, _GREY, _RED, _LIGHT, _DARK = "#1f4e8c", "#9aa3ad", "#b3261e", "#8fb3dd", "#4a5258"
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
    """What is to be said below some of the pictures: which trials are not to be seen where they belong."""
    trials = results.history.succeeded()
    stopped = [trial.points[-1][1] for trial in results.history.finished() if trial.outcome == STOPPED and trial.points]
    values = [trial.values[0] for trial in trials]
    scale = _scale(results)
    found = {"history": scale.caption([*values, *stopped]), "slices": scale.caption(values)}
    if beyond := sum(_pairs([trial]) != ([trial.values[0]], [trial.values[1]]) for trial in trials if trial.values[1:]):
        found["front"] = f"{beyond} of {len(trials)} trials lie beyond {FURTHEST:g} and are drawn there"
    if len(trials) > MANY:
        found["parallel"] = f"the best {MANY} of {len(trials)} trials that succeeded"
    return {name: told for name, told in found.items() if told}


def png(figure: Figure) -> bytes:
    """The picture as an image."""
    return _written(figure, "png", {"Software": None})


def svg(figure: Figure) -> bytes:
    """The picture as shapes."""
    return _written(figure, "svg", {"Date": None, "Creator": None})


def _written(figure: Figure, format: str, metadata: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(file, format=format, metadata=metadata, dpi=110, bbox_inches="tight")
    return file.getvalue()


def _history(results: Results) -> Figure | None:
    """The first objective of each trial, and the best one so far."""
    trials = results.history.finished()
    succeeded = [trial for trial in trials if trial.outcome == SUCCEEDED]
    stopped = [trial for trial in trials if trial.outcome == STOPPED and trial.points]
    if not succeeded and not stopped:
        return None
    figure = Figure(figsize=(8, 4))
    axes = figure.add_subplot()
    image = len(trials) > MANY
    scale = _scale(results)
    if stopped:
        last = [trial.points[-1][1] for trial in stopped]
        _dots(axes, scale, _numbers(stopped), last, 14, _GREY, label="stopped, at its last value", rasterized=image)
    if succeeded:
        values = [trial.values[0] for trial in succeeded]
        _dots(axes, scale, _numbers(succeeded), values, 14, _LIGHT, label="succeeded", rasterized=image)
        so_far = np.maximum.accumulate(values) if results.history.signs[0] < 0 else np.minimum.accumulate(values)
        axes.step(_numbers(succeeded), scale.drawn(so_far), color=_BLUE, where="post", label="best so far")
    if failed := [trial.number for trial in trials if trial.outcome == FAILED]:
        axes.scatter(
            failed,
            [0.02] * len(failed),
            18,
            _RED,
            marker="x",
            transform=axes.get_xaxis_transform(),
            label="failed",
            rasterized=image,
        )
    scale.set(axes)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    if told := captions(results).get("history"):
        axes.set_title(told, fontsize=8, color=_DARK)
    axes.set_xlabel("trial")
    axes.set_ylabel(results.metrics[0])
    axes.legend(frameon=False)
    return figure


def _importances(results: Results) -> Figure | None:
    """How much each parameter explains."""
    shown = list(results.importances.items())[:SHOWN][::-1]
    if not shown:
        return None
    figure = Figure(figsize=(8, 0.6 + 0.32 * len(shown)))
    axes = figure.add_subplot()
    bars = axes.barh([name for name, _ in shown], [share for _, share in shown], color=_BLUE)
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
    columns = min(len(parameters), 4)
    rows = -(-len(parameters) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    scale = _scale(results)
    if told := captions(results).get("slices"):
        figure.suptitle(told, fontsize=8, color=_DARK)
    for axes, parameter in zip(grid, parameters, strict=False):
        having = [trial for trial in trials if parameter.name in trial.params][::-1]  # the best ones on top
        places = [_axis_place(parameter, trial.params[parameter.name]) for trial in having]
        values = [trial.values[0] for trial in having]
        _dots(
            axes,
            scale,
            places,
            values,
            12,
            _numbers(having),
            cmap="Blues",
            vmin=-0.4 * len(trials),
            vmax=max(_numbers(trials)),
            edgecolors=_BLUE,
            linewidths=0.3,
            rasterized=len(trials) > MANY,
        )
        axes.set_title(parameter.name, fontsize=9)
        scale.set(axes)
        if isinstance(parameter.domain, Choice):
            axes.set_xticks(
                range(parameter.domain.size), [_short(value) for value in parameter.domain.values], rotation=30
            )
        elif parameter.domain.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=4))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        elif isinstance(parameter.domain, Whole):
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    for axes in grid[len(parameters) :]:
        axes.remove()
    for row in range(rows):
        grid[row * columns].set_ylabel(results.metrics[0])
    return figure


def _parallel(results: Results) -> Figure | None:
    """Each trial as a line through its parameters, the best ones dark."""
    trials = results.history.succeeded()[:MANY][::-1]
    parameters = [parameter for parameter in _shown(results) if not parameter.when]
    if len(trials) < 2 or len(parameters) < 2:
        return None
    figure = Figure(figsize=(max(6.0, 1.3 * len(parameters)), 4))
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
    axes.tick_params(length=0, pad=8)
    axes.set_xticks(range(len(parameters)), [parameter.name for parameter in parameters], rotation=20)
    for place, parameter in enumerate(parameters):
        axes.axvline(place, color=_GREY, linewidth=0.8)
        for end, value in enumerate(_ends(parameter.domain)):
            axes.text(place, 1.03 if end else -0.03, _short(value), ha="center", va=_SIDES[end], fontsize=7)
        if isinstance(parameter.domain, Choice) and parameter.domain.size <= LABELLED:
            for value in parameter.domain.values[1:-1]:
                axes.text(place + 0.03, _height(parameter.domain, value), _short(value), va="center", fontsize=7)
    if told := captions(results).get("parallel"):
        axes.set_title(told, fontsize=8, color=_DARK, pad=14)
    return figure


def _front(results: Results) -> Figure | None:
    """The first two objectives against each other, and those trials that no other is better than in both."""
    trials = results.history.succeeded()
    if len(results.objectives) < 2 or len(trials) < 2:
        return None
    figure = Figure(figsize=(6, 5))
    axes = figure.add_subplot()
    axes.scatter(*_pairs(trials), 14, _LIGHT, rasterized=len(trials) > MANY)
    best = [trials[place] for place in front([results.history.losses(trial)[:2] for trial in trials])]
    best.sort(key=lambda trial: trial.values[0])
    axes.plot(*_pairs(best), "o-", color=_BLUE, markersize=4, linewidth=0.8)
    axes.set_xlabel(results.metrics[0])
    axes.set_ylabel(results.metrics[1])
    if told := captions(results).get("front"):
        axes.set_title(told, fontsize=8, color=_DARK)
    return figure


_PICTURES: Mapping[str, Callable[[Results], Figure | None]] = {
    "history": _history,
    "front": _front,
    "importances": _importances,
    "slices": _slices,
    "parallel": _parallel,
}


def _numbers(trials: Sequence[Trial]) -> list[int]:
    return [trial.number for trial in trials]


def _shown(results: Results) -> list[Parameter]:
    """The parameters that matter most, of those with more than one value."""
    order = {name: place for place, name in enumerate(results.importances)}
    having = [one for one in results.space.parameters if one.domain.size != 1]
    return sorted(having, key=lambda one: order.get(one.name, len(order)))[:SHOWN]


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
    """Where a value lies between the first one, at 0, and the last one, at 1."""
    first, last = (to_unit(domain, end) for end in _ends(domain))
    return (to_unit(domain, value) - first) / (last - first)


def _short(value: Value) -> str:
    text = str(value).lower() if isinstance(value, bool) else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 14 else text[:13] + "…"


def _pairs(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    """The first two objectives."""
    return far([trial.values[0] for trial in trials]), far([trial.values[1] for trial in trials])


def _scale(results: Results) -> Scale:
    return scale_of([trial.values[0] for trial in results.history.succeeded()])


def _dots(axes: Any, scale: Scale, places: Any, values: Sequence[float], size: int, colors: Any, **how: Any) -> None:
    """A dot for each value; for one beyond the scale a triangle at its edge."""
    sides, heights = np.array([scale.side(value) for value in values]), np.array(scale.drawn(values))
    for side, marker in ((0, "o"), (1, "^"), (-1, "v")):
        if (there := sides == side).any():
            shades = colors if isinstance(colors, str) else np.array(colors)[there]
            at = np.array(places)[there], heights[there]
            axes.scatter(*at, size * (1 + abs(side)), shades, marker=marker, clip_on=not side, **how)
            how.pop("label", None)  # once
