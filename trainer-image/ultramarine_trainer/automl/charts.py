"""Charts as SVG inside of a page, with a text for readers who do not see them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

# Of Okabe and Ito's palette, besides the product's own blue.
BLUE, LIGHT, AMBER, GREY = "#1f4e8c", "#7fb2e5", "#e69f00", "#9aa3ad"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _MARGIN = 640, 300, 76, 46, 16
Points = Sequence[tuple[float, float]]


class Axis:
    """Positions of values between two pixels, linear or logarithmic, with round marks."""

    def __init__(self, values: Iterable[float], start: float, end: float, *, log: bool = False) -> None:
        finite = [value for value in values if np.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        if log:
            low, high = max(low, 1e-6), max(high, 2e-6)
        pad = 0.0 if log else (high - low) * 0.04 or abs(high) * 0.05 or 0.5
        self.low, self.high, self.start, self.end, self.log = low - pad, high + pad, start, end, log

    def place(self, value: float) -> float:
        """Return the pixel of a value; values beyond an end are drawn at the end."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.log:
            low, high, value = np.log(low), np.log(high * 1.0001), np.log(value)
        return float(self.start + (value - low) / (high - low) * (self.end - self.start))

    def marks(self) -> list[float]:
        """Return about five round values."""
        if self.log:
            powers = range(int(np.floor(np.log10(self.low))), int(np.ceil(np.log10(self.high))) + 1)
            values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        else:
            raw = (self.high - self.low) / 5
            power = 10 ** np.floor(np.log10(raw))
            step = float(power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999))
            values = [float(value) for value in np.arange(np.ceil(self.low / step), self.high / step + 1e-9) * step]
        return [value for value in values if self.low <= value <= self.high]


def chart(
    label: str,
    names: tuple[str, str],
    dots: Points,
    *,
    marked: Points = (),
    line: Points = (),
    diagonal: bool = False,
    level: tuple[str, float] | None = None,
    log: bool = False,
    ends: tuple[float, float] | None = None,
) -> str:
    """Return dots, with some marked, a line of steps or through them, and a dashed level with its name."""
    everything = [*dots, *marked, *line]
    heights = [*(ends or [y for _, y in everything]), *([level[1]] if level and not ends else [])]
    widths = [x for x, _ in everything]
    if diagonal:
        widths = heights = [*widths, *heights]
    across = Axis(widths, _LEFT, _WIDTH - _MARGIN, log=log)
    up = Axis(heights, _HEIGHT - _BOTTOM, _MARGIN)
    parts = [_grid(across, up, names)]
    if diagonal:
        parts.append(_path([(up.low, up.low), (up.high, up.high)], across, up, GREY, dashed=True))
    if level:
        y = up.place(level[1])
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _MARGIN}" stroke="{AMBER}" stroke-dasharray="5 4"/>')
        parts.append(f'<text x="{_WIDTH - _MARGIN}" y="{y - 5:.1f}" text-anchor="end">{escape(level[0])}</text>')
    if line:
        parts.append(_path(line, across, up, BLUE))
    for points, color, size in ((dots, LIGHT, 3.5), (marked, BLUE, 5.0)):
        parts += [
            f'<circle cx="{across.place(x):.1f}" cy="{up.place(y):.1f}" r="{size}" fill="{color}" fill-opacity=".8"/>'
            for x, y in points
        ]
    return _svg(label, _HEIGHT, "".join(parts))


def bars(label: str, rows: Sequence[tuple[str, float, float]], noun: str) -> str:
    """Return a horizontal bar for each row: its name, value and deviation."""
    left, height = 190, 24
    across = Axis([0.0, *(value + deviation for _, value, deviation in rows)], left, _WIDTH - 70)
    parts = []
    for place, (name, value, deviation) in enumerate(rows):
        y, zero, end = place * height + 4, across.place(0), across.place(value)
        short = name if len(name) <= 24 else f"{name[:23]}…"
        parts.append(
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(short)}</text>'
            f'<rect x="{min(zero, end):.1f}" y="{y}" width="{abs(end - zero):.1f}" height="15" fill="{LIGHT}"/>'
            f'<path d="M{across.place(value - deviation):.1f} {y + 7.5}H{across.place(value + deviation):.1f}" '
            f'stroke="{BLUE}" stroke-width="2"/>'
            f'<text x="{across.place(value + deviation) + 6:.1f}" y="{y + 13}">{value:.3g}</text>'
        )
    bottom = len(rows) * height + 20
    parts.append(f'<text x="{left}" y="{bottom - 2}">{escape(noun)}</text>')
    return _svg(label, bottom + 4, "".join(parts))


def _svg(label: str, height: float, content: str) -> str:
    return f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {_WIDTH} {height}">{content}</svg>'


def _grid(across: Axis, up: Axis, names: tuple[str, str]) -> str:
    parts = []
    for value in up.marks():
        y = up.place(value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _MARGIN}" stroke="#e8ebef"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    parts += [
        f'<text x="{across.place(value):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{value:.6g}</text>'
        for value in across.marks()
    ]
    middle = (_LEFT + _WIDTH - _MARGIN) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(names[0])}</text>')
    height = (_HEIGHT - _BOTTOM) / 2
    turned = f'transform="rotate(-90 12 {height})"'
    parts.append(f'<text x="12" y="{height}" text-anchor="middle" {turned}>{escape(names[1])}</text>')
    return "".join(parts)


def _path(points: Points, across: Axis, up: Axis, color: str, *, dashed: bool = False) -> str:
    steps = "L".join(f"{across.place(x):.1f} {up.place(y):.1f}" for x, y in points)
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="M{steps}" fill="none" stroke="{color}" stroke-width="1.5"{dashes}/>'
