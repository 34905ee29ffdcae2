"""Colours and marks that all pictures of a sweep share. They can be told apart by eyes that see few colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ultramarine_sweep.samplers.history import FAILED, STOPPED, SUCCEEDED

# Okabe and Ito's palette, besides the product's own blue; outcomes differ by their marks too.
BLUE, LIGHT, AMBER, RED, GREY, DARK = "#1f4e8c", "#7fb2e5", "#e69f00", "#c2410c", "#9aa3ad", "#3b434b"
COLORS = {SUCCEEDED: LIGHT, STOPPED: AMBER, FAILED: RED}
WORDS = {SUCCEEDED: "succeeded", STOPPED: "stopped early", FAILED: "failed"}

MANY = 1000  # trials, beyond which dots are drawn as an image


def dots(axes: Any, scale: Scale, places: Any, values: Sequence[float], size: float, colors: Any, **how: Any) -> None:
    """Draw a dot for each value, and a triangle for one beyond the scale."""
    sides, heights = np.array([scale.side(value) for value in values]), np.array(scale.drawn(values))
    usual = how.pop("marker", "o")
    for side, marker in ((0, usual), (1, "^"), (-1, "v")):
        if (there := sides == side).any():
            shades = colors if isinstance(colors, str) else np.array(colors)[there]
            at = np.array(places)[there], heights[there]
            axes.scatter(*at, size * (1 + abs(side)), shades, marker=marker, **how)
            how.pop("label", None)  # once


def star(axes: Any, place: float, height: float, **how: Any) -> None:
    """Mark the best trial."""
    axes.scatter([place], [height], 130, BLUE, marker="*", edgecolors="white", linewidths=0.8, zorder=5, **how)


def legend(axes: Any, columns: int = 5) -> Any:
    """Put the legend above the picture, where it hides nothing, and return it."""
    return axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
        handletextpad=0.4,
        columnspacing=1.4,
        fontsize=8.5,
    )


FURTHEST = 1e300  # largest value in a picture; the width of an axis must be a float too.
FEWEST = 4  # values, of which some can be far off.
FINER = 4.0  # gain in resolution for most values that justifies to cut off the others.
BAND = 0.12  # of the height between the bounds, for each side on which values lie beyond
_BAND_COLOR, _TEXT_COLOR = "#eef0f3", "#57606a"


@dataclass(frozen=True)
class Scale:
    """An axis from `bottom` to `top`; `above` and `below` values lie beyond, and are drawn in bands of their own."""

    bottom: float
    top: float
    log: bool = False
    above: int = 0
    below: int = 0

    @property
    def is_cut(self) -> bool:
        return bool(self.above or self.below)

    def side(self, value: float) -> int:
        """Return 1 above the scale, -1 below it, and 0 on it."""
        return int(value > self.top) - int(value < self.bottom)

    def drawn(self, values: Sequence[float] | Any) -> list[float]:
        """Return where values are drawn: those beyond in the middle of their band."""
        half = BAND / 2 * (self.top - self.bottom) if self.is_cut else 0.0
        places = {1: self.top + half, -1: self.bottom - half}
        return [places.get(self.side(value), float(value)) for value in values]

    def set(self, axes: Any, metric: str = "", what: str = "", way: Literal["x", "y"] = "y") -> None:
        """Set up an axis, and name it; `what` lies beyond it, if those are not trials."""
        up = way == "y"
        axis = axes.yaxis if up else axes.xaxis
        if metric:
            axis.set_label_text(f"{metric} (log scale)" if self.log else metric)
        if self.log:
            (axes.set_yscale if up else axes.set_xscale)("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=10))
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(NullFormatter())
        if not self.is_cut:
            return
        width = BAND * (self.top - self.bottom)
        for count, bound, sign, word in ((self.above, self.top, 1, "above"), (self.below, self.bottom, -1, "below")):
            if not count:
                continue
            span, line = (axes.axhspan, axes.axhline) if up else (axes.axvspan, axes.axvline)
            span(bound, bound + sign * width, color=_BAND_COLOR, zorder=0, linewidth=0)
            line(bound, color=_TEXT_COLOR, linewidth=0.7, linestyle=(0, (4, 3)))
            if metric:
                middle, text = bound + sign * width / 2, f"{count} {what}{word}\n{bound:.4g}"
                place = (1.005, middle) if up else (middle, 1.01)
                where = axes.get_yaxis_transform() if up else axes.get_xaxis_transform()
                sides = {"ha": "left", "va": "center"} if up else {"ha": "center", "va": "bottom"}
                axes.text(*place, text, transform=where, fontsize=7.5, color=_TEXT_COLOR, **sides)
        ends = self.bottom - width * bool(self.below), self.top + width * bool(self.above)
        (axes.set_ylim if up else axes.set_xlim)(*ends)
        ticks = MaxNLocator(6).tick_values(self.bottom, self.top)
        axis.set_ticks([tick for tick in ticks if not self.side(tick)])

    @property
    def caption(self) -> str:
        """Count of the values that lie beyond, in words; nothing if none does."""
        sides = ((self.above, "above", self.top), (self.below, "below", self.bottom))
        parts = [f"{count} {word} {bound:.4g}" for count, word, bound in sides if count]
        return f"{' and '.join(parts)}: far off, and drawn in the grey band, not to scale" if parts else ""


def far(values: Sequence[float]) -> list[float]:
    """Return the values, as far as they can be drawn."""
    return [min(max(value, -FURTHEST), FURTHEST) for value in values]


def scale_of(values: Sequence[float]) -> Scale:
    """Return an axis for these values: if a few would press all others together, logarithmic, or else without them."""
    bounded = far(values)
    bounds = _most(bounded) if len(bounded) >= FEWEST else None
    if bounds and bounded == [*values] and min(values) > 0 and _most([math.log10(value) for value in values]) is None:
        return Scale(0.0, FURTHEST, log=True)
    low, high = bounds or (-FURTHEST, FURTHEST)
    return Scale(low, high, above=sum(value > high for value in values), below=sum(value < low for value in values))


def _most(values: list[float]) -> tuple[float, float] | None:
    """Return bounds around most values; None if all of them can be seen together."""
    low, high = np.quantile(values, [0.25, 0.75])
    reach = 3 * (high - low)
    near = [value for value in values if low - reach <= value <= high + reach]
    width = max(near) - min(near)
    if 0 < FINER * width <= max(values) - min(values):
        return min(near) - 0.05 * width, max(near) + 0.05 * width
    return None
