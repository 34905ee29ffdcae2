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
from matplotlib.ticker import LogLocator, NullFormatter
from ultramarine.shared.searchdomains import Choice, Real, Value, Whole
from ultramarine.shared.searchspace import Parameter

from ultramarine_sweep.dominance import front
from ultramarine_sweep.history import FAILED, STOPPED, SUCCEEDED, Trial
from ultramarine_sweep.results import Results
from ultramarine_sweep.space import to_unit

SHOWN = 12  # parameters of a picture, those that matter most
MANY = 1000  # trials, beyond which dots are drawn as an image

_BLUE, _GREY, _RED, _LIGHT = "#1f4e8c", "#9aa3ad", "#b3261e", "#8fb3dd"

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
    if stopped:
        last = [trial.points[-1][1] for trial in stopped]
        axes.scatter(_numbers(stopped), last, 14, _GREY, label="stopped, at its last value", rasterized=image)
    if succeeded:
        values = [trial.values[0] for trial in succeeded]
        axes.scatter(_numbers(succeeded), values, 14, _LIGHT, label="succeeded", rasterized=image)
        so_far = np.maximum.accumulate(values) if results.history.signs[0] < 0 else np.minimum.accumulate(values)
        axes.step(_numbers(succeeded), so_far, color=_BLUE, where="post", label="best so far")
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
    _scale(axes, [trial.values[0] for trial in succeeded])
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
    for axes, parameter in zip(grid, parameters, strict=False):
        having = [trial for trial in trials if parameter.name in trial.params][::-1]  # the best ones on top
        places = [_axis_place(parameter, trial.params[parameter.name]) for trial in having]
        values = [trial.values[0] for trial in having]
        axes.scatter(
            places,
            values,
            12,
            _numbers(having),
            cmap="Blues",
            vmin=-0.4 * len(trials),
            edgecolors=_BLUE,
            linewidths=0.3,
            rasterized=len(trials) > MANY,
        )
        axes.set_title(parameter.name, fontsize=9)
        _scale(axes, [trial.values[0] for trial in trials])
        if isinstance(parameter.domain, Choice):
            axes.set_xticks(
                range(parameter.domain.size), [_short(value) for value in parameter.domain.values], rotation=30
            )
        elif parameter.domain.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=4))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
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
        [(place, to_unit(parameter.domain, trial.params[parameter.name])) for place, parameter in enumerate(parameters)]
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
        for height, end in ((-0.03, 0), (1.03, -1)):
            axes.text(
                place,
                height,
                _short(_ends(parameter)[end]),
                ha="center",
                va="top" if end == 0 else "bottom",
                fontsize=7,
            )
    return figure


def _front(results: Results) -> Figure | None:
    """The first two objectives against each other, and those trials that no other is better than in both."""
    trials = results.history.succeeded()
    if len(results.objectives) < 2 or len(trials) < 2:
        return None
    figure = Figure(figsize=(6, 5))
    axes = figure.add_subplot()
    axes.scatter(
        [one.values[0] for one in trials], [one.values[1] for one in trials], 14, _LIGHT, rasterized=len(trials) > MANY
    )
    best = [trials[place] for place in front([results.history.losses(trial)[:2] for trial in trials])]
    best.sort(key=lambda trial: trial.values[0])
    axes.plot(
        [one.values[0] for one in best], [one.values[1] for one in best], "o-", color=_BLUE, markersize=4, linewidth=0.8
    )
    axes.set_xlabel(results.metrics[0])
    axes.set_ylabel(results.metrics[1])
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


def _ends(parameter: Parameter) -> tuple[Value, Value]:
    match parameter.domain:
        case Choice(values):
            return values[0], values[-1]
        case Real(low, high) | Whole(low, high):
            return low, high


def _short(value: Value) -> str:
    text = str(value).lower() if isinstance(value, bool) else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 14 else text[:13] + "…"


def _scale(axes: Any, values: Sequence[float]) -> None:
    """Show where most values lie: a few that are far off would press all others together."""
    if len(values) < 4:
        return
    low, high = np.quantile(values, [0.25, 0.75])
    reach = 3 * (high - low)
    if not np.isfinite(reach) or reach <= 0:
        return
    bottom, top = max(min(values), low - reach), min(max(values), high + reach)
    if bottom > min(values) or top < max(values):
        margin = 0.05 * (top - bottom)
        axes.set_ylim(bottom - margin, top + margin)
