"""Parameters to try next: `suggest` as a function, and a `Suggester` that takes trials one by one.

A suggestion depends on the seed, the trial's number and the trials known by then, and on nothing else. The order of the
trials and restarts of the process do not change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from ultramarine_contract.searchgrid import BLIND, check_algorithm
from ultramarine_contract.searchspace import Space, read_points

from ultramarine_sweep.samplers.drawing import GridSearch, RandomSearch, SobolSearch
from ultramarine_sweep.samplers.history import History, Suggestion, Told, Trial, as_trial, signs_of
from ultramarine_sweep.samplers.space import Params

DEFAULT = "tpe"


class Search(Protocol):
    """One algorithm. `random` is that of the trial, and `history` knows of all others."""

    def propose(self, number: int, history: History, random: Random) -> Params | None:
        """The parameters of the trial with this number, or None where all were given."""


def _parzen(space: Space, seed: int) -> Search:
    from ultramarine_sweep.samplers.parzen import ParzenSearch

    return ParzenSearch(space, seed)


def _gaussian(space: Space, seed: int) -> Search:
    from ultramarine_sweep.samplers.gaussian import GaussianSearch

    return GaussianSearch(space, seed)


def _evolution(space: Space, seed: int) -> Search:
    from ultramarine_sweep.samplers.evolution import EvolutionSearch

    return EvolutionSearch(space, seed)


def _genetic(space: Space, seed: int) -> Search:
    from ultramarine_sweep.samplers.genetic import GeneticSearch

    return GeneticSearch(space, seed)


# Optuna, SciPy and scikit-learn are imported for those that need them: a coordinator starts in a moment.
_SEARCHES: dict[str, Callable[[Space, int], Search]] = {
    "random": RandomSearch,
    "grid": GridSearch,
    "sobol": SobolSearch,
    "tpe": _parzen,
    "gp": _gaussian,
    "cmaes": _evolution,
    "nsga2": _genetic,
}


class Suggester:
    """Says what to try, as trials come and go.

    `objectives` and `algorithm` are those of a Sweep's spec. `history` has the sweep's own trials so far, running ones
    too, and `adopted` those of other sweeps, as `adopt` chose them. Raises InvalidSpec if the algorithm
    cannot search this space.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Mapping[str, Any]],
        algorithm: Mapping[str, Any] | None = None,
        history: Iterable[Told] = (),
        adopted: Iterable[Told] = (),
    ) -> None:
        name = str((algorithm or {}).get("type") or DEFAULT)
        check_algorithm(space, name, len(objectives))
        self._seed = int((algorithm or {}).get("seed") or 0)
        self._first = read_points(space, (algorithm or {}).get("initialTrials") or ())
        self._search = _SEARCHES[name](space, self._seed)
        self._history, self._looks = History(signs_of(objectives)), name not in BLIND  # blind ones need no history
        for trial in (*adopted, *history):
            self.tell(trial)

    def ask(self, number: int) -> Params | None:
        """Parameters for the trial with this number, which counts as running from now on; None when all were given.

        Numbers count from 0. Of a trial that is known already the answer is what it has.
        """
        if (running := self._history.trials.get(number)) is not None:
            return dict(running.params)
        if number < len(self._first):
            params: Params | None = dict(self._first[number])
        else:
            params = self._search.propose(number, self._history, Random(f"{self._seed}/{number}"))
        if params is not None and self._looks:
            self._history.tell(Trial(number, params))
        return params

    def tell(self, trial: Told) -> None:
        """Take a trial, or what has become of it."""
        if self._looks:
            self._history.tell(as_trial(trial))


def suggest(
    space: Space,
    history: Iterable[Told],
    n: int,
    *,
    objectives: Sequence[Mapping[str, Any]],
    algorithm: str = DEFAULT,
    seed: int = 0,
    adopted: Iterable[Told] = (),
) -> list[Suggestion]:
    """Say what to try next: `n` trials with the numbers after the last one of `history`, or fewer of a grid's end."""
    trials = list(history)
    suggester = Suggester(space, objectives, {"type": algorithm, "seed": seed}, trials, adopted)
    first = max((trial.number for trial in trials), default=-1) + 1
    answers = ((number, suggester.ask(number)) for number in range(first, first + n))
    return [Suggestion(number, params) for number, params in answers if params is not None]
