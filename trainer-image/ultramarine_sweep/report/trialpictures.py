"""Pictures of how a sweep went: its trials by number, their learning curves, and when each of them ran."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ultramarine_sweep.report.canvas import (
    AMBER,
    BLUE,
    COLORS,
    LIGHT,
    MANY,
    RED,
    WORDS,
    Scale,
    dots,
    legend,
    scale_of,
    star,
)
from ultramarine_sweep.report.results import Results
from ultramarine_sweep.samplers.history import FAILED, STOPPED, SUCCEEDED, Told
from ultramarine_sweep.state.trial import Trial as Own

CURVES, BEST_CURVES = 300, 50  # all curves of a picture, and those of the best trials.
STEEP = 8  # times as far as half of the curves goes the longest one where steps have a logarithmic axis


def history_scale(results: Results) -> Scale:
    """Return the axis of the first objective, for succeeded trials and the last values of stopped ones."""
    stopped = [trial.points[-1][1] for trial in results.history.finished() if trial.outcome == STOPPED and trial.points]
    return scale_of([*(trial.values[0] for trial in results.history.succeeded()), *stopped])


def history(results: Results) -> Figure | None:
    """Draw the first objective of each trial, and the best one so far."""
    trials = results.history.finished()
    succeeded = [trial for trial in trials if trial.outcome == SUCCEEDED]
    stopped = [trial for trial in trials if trial.outcome == STOPPED and trial.points]
    if not succeeded and not stopped:
        return None
    figure = Figure(figsize=(11, 4))
    axes = figure.add_subplot()
    image = len(trials) > MANY
    size = 16 if len(trials) <= MANY else 5
    scale = history_scale(results)
    scale.set(axes, results.metrics[0])
    if stopped:
        last, label = [trial.points[-1][1] for trial in stopped], f"stopped early, at its last value ({len(stopped)})"
        numbers = [trial.number for trial in stopped]
        dots(axes, scale, numbers, last, size, AMBER, marker="s", label=label, rasterized=image)
    if succeeded:
        values, numbers = [trial.values[0] for trial in succeeded], [trial.number for trial in succeeded]
        dots(axes, scale, numbers, values, size, LIGHT, label=f"succeeded ({len(succeeded)})", rasterized=image)
        so_far = np.maximum.accumulate(values) if results.history.signs[0] < 0 else np.minimum.accumulate(values)
        axes.step(numbers, scale.drawn(so_far), color=BLUE, where="post", linewidth=1.6, label="best so far")
        best = results.history.succeeded()[0]
        star(axes, best.number, scale.drawn([best.values[0]])[0], label=f"best: trial {best.number}")
    if failed := [trial.number for trial in trials if trial.outcome == FAILED]:
        axes.scatter(
            failed,
            [0.025] * len(failed),
            size,
            RED,
            marker="x",
            linewidths=1.1,
            transform=axes.get_xaxis_transform(),
            label=f"failed ({len(failed)})",
            rasterized=image,
        )
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.set_xlabel("trial")
    legend(axes)
    return figure


def curves(results: Results) -> Figure | None:
    """Draw the first objective by step, of each trial that told it on the way."""
    chosen = chosen_curves(results)
    drawn = {trial.number: [point for point in trial.points if math.isfinite(point[1])] for trial in chosen}
    if not any(len(points) > 1 for points in drawn.values()):
        return None
    figure = Figure(figsize=(11, 4.4))
    axes = figure.add_subplot()
    scale = scale_of([value for points in drawn.values() for _, value in points])
    scale.set(axes, results.metrics[0], "points ")
    image = len(drawn) > MANY // 5
    lasts = sorted(points[-1][0] for points in drawn.values())
    if lasts[-1] >= STEEP * max(lasts[len(lasts) // 2], 1):
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    best = next((trial.number for trial in results.best if trial.number in drawn), None)
    alpha = max(0.15, min(0.6, 25 / len(drawn)))  # so that the many show where they are dense
    outcomes = {number: results.history.trials[number].outcome for number in drawn}
    for outcome in (FAILED, STOPPED, SUCCEEDED):
        numbers = [number for number in drawn if outcomes[number] == outcome and number != best]
        if not numbers:
            continue
        lines = [
            list(zip([step for step, _ in points], scale.drawn([value for _, value in points]), strict=True))
            for points in (drawn[number] for number in numbers)
        ]
        axes.add_collection(
            LineCollection(lines, colors=COLORS[outcome], linewidths=0.9, alpha=alpha, rasterized=image)
        )
        marker = {FAILED: "x", STOPPED: "s", SUCCEEDED: "o"}[outcome]
        ends = [drawn[number][-1] for number in numbers]
        label = {STOPPED: "ended early", FAILED: "failed"}.get(outcome, "succeeded")
        dots(
            axes,
            scale,
            [step for step, _ in ends],
            [value for _, value in ends],
            11,
            COLORS[outcome],
            marker=marker,
            label=f"{label} ({len(numbers)})",
            rasterized=image,
        )
    if best is not None:
        steps, values = [step for step, _ in drawn[best]], [value for _, value in drawn[best]]
        axes.plot(steps, scale.drawn(values), color=BLUE, linewidth=2.2, zorder=4)
        star(axes, steps[-1], scale.drawn(values[-1:])[0], label=f"best: trial {best}")
    axes.set_xlabel("step")
    legend(axes)
    return figure


def chosen_curves(results: Results) -> list[Told]:
    """Return the trials whose curves are drawn: the best, and others spread evenly over the sweep."""
    having = [trial for trial in results.trials if _has_points(trial) and results.history.trials[trial.number].outcome]
    if len(having) <= CURVES:
        return having
    best = {trial.number for trial in islice(results.best, BEST_CURVES)}
    others = [trial for trial in having if trial.number not in best]
    rest = CURVES - BEST_CURVES
    spread = {others[place * len(others) // rest].number for place in range(rest)}
    return [trial for trial in having if trial.number in best or trial.number in spread]


def _has_points(trial: Told) -> bool:
    return any(math.isfinite(value) for _, value in trial.points)


def timeline(results: Results) -> Figure | None:
    """Draw when each trial ran, and how it ended."""
    ran = timed(results.trials)
    if not ran:
        return None
    figure = Figure(figsize=(11, min(4.4, 1.4 + 0.09 * len(ran))))
    axes = figure.add_subplot()
    longest = max(trial.ended for trial in ran)
    unit, seconds = next((word, size) for word, size in _UNITS if longest >= 2 * size or size == 1)
    span = max(trial.number for trial in ran) + 1
    width = max(min(250 / span, 7.0), 0.6)
    for outcome in (SUCCEEDED, STOPPED, FAILED):
        bars = [trial for trial in ran if results.history.trials[trial.number].outcome == outcome]
        lines = [
            [(trial.began / seconds, trial.number), (max(trial.ended, trial.began) / seconds, trial.number)]
            for trial in bars
        ]
        if lines:
            label = f"{WORDS[outcome]} ({len(bars)}): {words(_median(bars))} each"
            color = COLORS[outcome]
            image = len(ran) > MANY
            axes.add_collection(
                LineCollection(lines, colors=color, linewidths=width, label=label, rasterized=image, capstyle="butt")
            )
    if (best := next(iter(results.best), None)) and (own := next((t for t in ran if t.number == best.number), None)):
        star(axes, own.ended / seconds, own.number, label=f"best: trial {best.number}")
    axes.set_xlim(0, longest / seconds * 1.02 or 1)
    axes.set_ylim(span - 0.2, -0.8)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlabel(f"{unit} since the sweep began")
    axes.set_ylabel("trial")
    for handle in legend(axes).legend_handles:
        if isinstance(handle, LineCollection):
            handle.set_linewidth(5.0)
    return figure


_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def timed(trials: Sequence[Told]) -> list[Own]:
    """Return the trials whose beginning and end are known."""
    return [trial for trial in trials if isinstance(trial, Own) and trial.outcome and trial.ended > 0]


def seconds_of(trial: Own) -> float:
    """Return how long its command ran; a paused trial's earlier parts count too."""
    return trial.seconds or max(trial.ended - trial.began, 0.0)


def _median(trials: Sequence[Own]) -> float:
    return float(np.median([seconds_of(trial) for trial in trials]))


def words(seconds: float) -> str:
    """Return a time in words: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
