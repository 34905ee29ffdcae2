"""Sizes and charts in plain characters."""

from __future__ import annotations

_DOT, _BEST = "·", "━"


def chart(points: list[tuple[int, float, float]], width: int = 72, height: int = 14) -> list[str]:
    """Return lines that show values by number, and a line for the best so far; none for fewer than two values.

    Each point is a number, its value, and the best value up to it, in the order of the numbers.
    """
    if len(points) < 2:
        return []
    values = [value for _, value, _ in points]
    least, most = min(values), max(values)
    first, last = points[0][0], points[-1][0]
    scale = [f"{most:.4g}", f"{least:.4g}"]
    margin = max(map(len, scale))
    width = max(width - margin - 2, 10)

    def column(number: int) -> int:
        return round((number - first) / max(last - first, 1) * (width - 1))

    def row(value: float) -> int:
        return round((most - value) / (most - least) * (height - 1)) if most > least else height // 2

    grid = [[" "] * width for _ in range(height)]
    ends = [*(column(number) for number, _, _ in points[1:]), width]
    for (number, _, best), end in zip(points, ends, strict=True):
        for place in range(column(number), max(end, column(number) + 1)):
            grid[row(best)][place] = _BEST
    for number, value, best in points:
        if value != best:
            grid[row(value)][column(number)] = _DOT
    labels = [scale[0], *[""] * (height - 2), scale[1]]
    lines = [f"{label:>{margin}} ┤{''.join(cells).rstrip()}" for label, cells in zip(labels, grid, strict=True)]
    return [*lines, f"{'':{margin}} └{'─' * width}", f"{'':{margin}}  {f'trial {first}':<{width - 8}}{last:>8}"]


def size_text(bytes: int) -> str:
    """Return a size as text, such as 1.5 GiB."""
    size = float(bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{bytes} B" if unit == "B" else f"{size:.1f} {unit}"
