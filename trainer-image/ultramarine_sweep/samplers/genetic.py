"""nsga2: children of the trials that no other is better than, for several objectives.

Deb et al. 2002, in its steady form (Durillo et al. 2009): the parents of a trial are the best of all finished trials.
No trial waits for the end of a generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from ultramarine_contract.searchdomains import Choice, Value
from ultramarine_contract.searchspace import Parameter, Space

from ultramarine_sweep.samplers.dominance import crowding, front
from ultramarine_sweep.samplers.history import History
from ultramarine_sweep.samplers.space import Params, from_unit, from_units, to_unit

POPULATION, FEWEST = 50, 12  # limits of the number of parents, which is a third of all that succeeded.
STARTUP = 25  # succeeded trials, before which all are drawn at random.
CROSSOVER = 0.9  # share of children with two parents.
ATTEMPTS = 20  # at a child that is neither one of the parents nor running
SPREAD = 0.1  # of an axis: how far a value is moved


class GeneticSearch:
    """Takes each parameter from one of two good trials, and moves about one of them."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._version = -1
        self._parents: list[tuple[Mapping[str, Value], int, float]] = []  # parameters, front, distance

    def propose(self, number: int, history: History, random: Random) -> Params | None:
        """The parameters of the trial with this number."""
        if len(history.succeeded()) < STARTUP:
            return from_units(self._space, random.random)
        if self._version != history.version:
            self._select(history)
            self._version = history.version
        tried = [params for params, _, _ in self._parents] + [trial.params for trial in history.running.values()]
        for _ in range(ATTEMPTS):
            parent = self._parent(random)
            other = self._parent(random) if random.random() < CROSSOVER else parent
            if (child := self._child(parent, other, random)) not in tried:
                break
        return child

    def _select(self, history: History) -> None:
        left = history.elite(min(max(len(history.succeeded()) // 3, FEWEST), POPULATION))
        self._parents = []
        level = 0
        while left:
            losses = [history.losses(trial) for trial in left]
            best = front(losses)
            spread = crowding([losses[place] for place in best])
            self._parents += [(left[place].params, level, far) for place, far in zip(best, spread, strict=True)]
            left = [trial for place, trial in enumerate(left) if place not in best]
            level += 1

    def _parent(self, random: Random) -> Mapping[str, Value]:
        """The better one of two: of an earlier front, or farther from its neighbours."""
        first, other = random.choice(self._parents), random.choice(self._parents)
        return (first if (first[1], -first[2]) <= (other[1], -other[2]) else other)[0]

    def _child(self, parent: Mapping[str, Value], other: Mapping[str, Value], random: Random) -> Params:
        params: Params = {}
        for parameter in self._space.parameters:
            # Always four numbers for a parameter, or a condition would change all that comes after it.
            side, mixing, mutation, unit = (random.random() for _ in range(4))
            if not parameter.exists(params):
                continue
            first, second = parent.get(parameter.name), other.get(parameter.name)
            value = _mixed(parameter, first, second, side, mixing)
            if value is None:
                value = from_unit(parameter.domain, unit)
            elif mutation * len(self._space.parameters) < 1:
                value = _moved(parameter, value, unit)
            params[parameter.name] = value
        return params


def _mixed(parameter: Parameter, value: Value | None, other: Value | None, side: float, mixing: float) -> Value | None:
    """The value of one of two parents; of two numbers, half of the time one between them or a little beyond."""
    if value is None or other is None or isinstance(parameter.domain, Choice) or mixing < 0.5:
        value, other = (value, other) if side < 0.5 else (other, value)
        return other if value is None else value
    start, end = to_unit(parameter.domain, value), to_unit(parameter.domain, other)
    at = start + (1.4 * side - 0.2) * (end - start)
    return from_unit(parameter.domain, min(max(at, 0.0), 1.0))


def _moved(parameter: Parameter, value: Value, unit: float) -> Value:
    """Another value: of a choice any, of numbers mostly one nearby."""
    if isinstance(parameter.domain, Choice):
        return from_unit(parameter.domain, unit)
    # The cube of a number around 0 is near 0 for most of them; the farthest way is half of the axis.
    moved = to_unit(parameter.domain, value) + (2 * unit - 1) ** 3 * 5 * SPREAD
    return from_unit(parameter.domain, min(max(moved, 0.0), 1.0))
