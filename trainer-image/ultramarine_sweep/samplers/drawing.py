"""The algorithms that look at no result: random, grid and sobol."""

from __future__ import annotations

from functools import cached_property
from random import Random
from typing import Any

from ultramarine_contract.searchgrid import Grid
from ultramarine_contract.searchspace import Space

from ultramarine_sweep.samplers.history import History
from ultramarine_sweep.samplers.space import Params, from_units


class RandomSearch:
    """Draws each parameter by itself."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space

    def propose(self, number: int, history: History, random: Random) -> Params | None:
        """The parameters of the trial with this number."""
        return from_units(self._space, random.random)


class GridSearch:
    """Gives every combination once, shuffled: a sweep that ends early has then seen a sample of all of them."""

    def __init__(self, space: Space, seed: int) -> None:
        self._grid = Grid(space)
        self._size = self._grid.size
        self._seed = seed

    @cached_property
    def _order(self) -> Any:
        import numpy as np

        return np.random.default_rng(self._seed).permutation(self._size)

    def propose(self, number: int, history: History, random: Random) -> Params | None:
        """The parameters of the trial with this number; None where all points were given."""
        return self._grid.point(int(self._order[number])) if number < self._size else None


class SobolSearch:
    """Gives the points of a scrambled Sobol sequence: they fill the space more evenly than chance does."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed

    @cached_property
    def _sequence(self) -> Any:
        from scipy.stats import qmc  # half a second, for this algorithm only

        return qmc.Sobol(len(self._space.parameters), scramble=True, rng=self._seed)

    def propose(self, number: int, history: History, random: Random) -> Params | None:
        """The parameters of the trial with this number."""
        self._sequence.reset()
        if number:
            self._sequence.fast_forward(number)
        return from_units(self._space, iter(self._sequence.random(1)[0].tolist()).__next__)
