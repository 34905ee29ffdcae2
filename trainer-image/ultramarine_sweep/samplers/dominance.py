"""Which trials of several objectives are better than others; all values are to be minimised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ultramarine_sweep.samplers import SMALLER

Losses = Sequence[Sequence[float]]


def front(losses: Losses) -> list[int]:
    """The places of those that no other is better than: nowhere worse, and somewhere better."""
    return [] if not len(losses) else sorted(_front(np.asarray(losses, float), np.arange(len(losses))))


def elite(losses: Losses, many: int) -> list[int]:
    """The places of the best: front after front, and of the last one those that are farthest from their neighbours."""
    table = np.asarray(losses, float)
    left = np.arange(len(losses))
    chosen: list[int] = []
    while len(left) and len(chosen) < many:
        best = _front(table, left)
        if len(chosen) + len(best) > many:
            spread = crowding(table[best])
            best = sorted(best, key=lambda place: (-spread[best.index(place)], place))[: many - len(chosen)]
        chosen += best
        left = np.setdiff1d(left, best, assume_unique=True)
    return chosen


def crowding(losses: Any) -> list[float]:
    """Return the distance of each from its neighbours, over all objectives; infinite at the ends."""
    table = np.asarray(losses, float) * SMALLER
    many, objectives = table.shape
    distance = np.zeros(many)
    for axis in range(objectives):
        order = np.argsort(table[:, axis], kind="stable")
        ordered = table[order, axis]
        width = ordered[-1] - ordered[0]
        distance[order[[0, -1]]] = np.inf
        if width > 0:
            distance[order[1:-1]] += (ordered[2:] - ordered[:-2]) / width
    return [float(width) for width in distance]


def _front(table: Any, places: Any) -> list[int]:
    """The front of the rows at these places."""
    chosen: list[int] = []
    # In this order none is better than one before it, so that each is compared with the front alone.
    left = places[np.lexsort(table[places].T[::-1])]
    while len(left):
        first = table[left[0]]
        rows = table[left]
        same = (rows == first).all(axis=1)
        chosen += [int(place) for place in left[same]]
        left = left[(rows < first).any(axis=1) & ~same]
    return chosen
