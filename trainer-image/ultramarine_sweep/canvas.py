"""Colours and marks that all pictures of a sweep share. They can be told apart by eyes that see few colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ultramarine_sweep.history import FAILED, STOPPED, SUCCEEDED
from ultramarine_sweep.scale import Scale

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
