"""cmaes: a normal distribution that moves, turns and narrows towards good trials, for numbers that act together."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from cmaes import CMA, SepCMA, get_warm_start_mgd
from threadpoolctl import ThreadpoolController
from ultramarine_contract.searchspace import Space

from ultramarine_sweep.samplers.history import SUCCEEDED, History, Trial
from ultramarine_sweep.samplers.space import Cube, Params

WIDTH = 0.3  # of the cube: the deviation that it begins with
AXES = 100  # of more, no covariances are kept
_LIBRARIES = ThreadpoolController()
_KNOWN = 10  # trials of other sweeps that tell where to begin
_KEPT = 8  # states that are kept, for trials that end after others that began later

_Batch = tuple[Trial, ...]


@dataclass(frozen=True)
class _State:
    """Distribution after a number of batches; `size` trials make the next one."""

    optimizer: Any
    size: int
    restarts: int = 0


class EvolutionSearch:
    """Learns from finished trials in batches, by their numbers, whichever distribution they were drawn from.

    So no trial waits for a generation to end, and the state is a function of the trials. It learns from their order
    alone: stopped and failed trials are the last of theirs. Where a distribution has become a point, another begins,
    with larger batches.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._seed = seed
        self._cube = Cube(space)
        self._version = -1
        self._batches: list[_Batch] = []
        self._states: dict[int, _State] = {}  # by the number of batches that were learned

    def propose(self, number: int, history: History, random: Random) -> Params | None:
        """The parameters of the trial with this number."""
        if not self._cube.size:
            return self._cube.decode([])
        # By one thread: with another number of them the last digits are others, and so would the trial be.
        with _LIBRARIES.limit(limits=1):
            if self._version != history.version:
                self._learn(history)
                self._version = history.version
            optimizer = self._states[len(self._batches)].optimizer
            optimizer.reseed_rng(random.getrandbits(31))
            return self._cube.decode(optimizer.ask().tolist())

    def _learn(self, history: History) -> None:
        """Go on from the last state whose batches are still the same."""
        trials = history.finished()
        own = [trial for trial in trials if trial.number >= 0]
        if 0 not in self._states:
            self._states = {0: self._first(history, [trial for trial in trials if trial.number < 0])}
        taken = self._taken(own)
        self._batches = self._batches[:taken]
        self._states = {count: state for count, state in self._states.items() if count <= taken}
        start = sum(len(batch) for batch in self._batches)
        state = self._states[taken]
        while len(batch := tuple(own[start : start + state.size])) == state.size:
            state = self._after(state, batch, history)
            start += len(batch)
            self._batches.append(batch)
            self._states[len(self._batches)] = state
            kept = {0, *range(len(self._batches) - _KEPT, len(self._batches) + 1)}
            self._states = {count: state for count, state in self._states.items() if count in kept}

    def _taken(self, own: list[Trial]) -> int:
        """Return the number of batches that need not be learned again."""
        start = taken = 0
        for count, batch in enumerate(self._batches, 1):
            end = start + len(batch)
            if tuple(own[start:end]) != batch:
                break
            start = end
            taken = count if count in self._states else taken
        return taken

    def _after(self, state: _State, batch: _Batch, history: History) -> _State:
        points = [np.array(self._cube.encode(trial.params)) for trial in batch]
        places = {rank: float(place) for place, rank in enumerate(sorted({history.rank(trial) for trial in batch}))}
        optimizer = deepcopy(state.optimizer)
        optimizer.tell([(point, places[history.rank(trial)]) for point, trial in zip(points, batch, strict=True)])
        if all((point == points[0]).all() for point in points[1:]) or optimizer.should_stop():
            return self._restart(state)
        return _State(optimizer, state.size, state.restarts)

    def _restart(self, state: _State) -> _State:
        random = Random(f"{self._seed}/restart/{state.restarts}")
        mean = np.array([0.1 + 0.8 * random.random() for _ in range(self._cube.size)])
        return _made(mean, WIDTH, None, state.restarts + 1, 2 * state.size if state.restarts < 4 else state.size)

    def _first(self, history: History, trials: list[Trial]) -> _State:
        solutions = [
            (np.array(self._cube.encode(trial.params)), history.losses(trial)[0])
            for trial in trials
            if trial.outcome == SUCCEEDED
        ]
        if len(solutions) < _KNOWN or self._cube.size > AXES:
            return _made(np.full(self._cube.size, 0.5), WIDTH)
        mean, width, covariance = get_warm_start_mgd(solutions)
        return _made(np.clip(mean, 0.01, 0.99), max(float(width), 1e-3), covariance)


def _made(mean: Any, width: float, covariance: Any = None, restarts: int = 0, size: int | None = None) -> _State:
    bounds = np.tile([0.0, 1.0], (len(mean), 1))
    if len(mean) > AXES:
        optimizer = SepCMA(mean=mean, sigma=width, bounds=bounds, population_size=size, seed=0)
    else:
        optimizer = CMA(mean=mean, sigma=width, bounds=bounds, population_size=size, cov=covariance, seed=0)
    return _State(optimizer, optimizer.population_size, restarts)
