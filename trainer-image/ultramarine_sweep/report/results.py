"""Results of a sweep: its best trials, and the importance of its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ultramarine_contract.searchspace import Space

from ultramarine_sweep.samplers import SMALLER
from ultramarine_sweep.samplers.history import History, Told, Trial, as_trial, signs_of
from ultramarine_sweep.samplers.space import Cube

FEWEST = 8  # trials that succeeded, before which nothing is said of parameters
FOREST = 2000  # trials that importances are given from


@dataclass(frozen=True)
class Results:
    """A sweep's name, and the trials that it made; `objectives` and `space` are those of its spec.

    `given` are its importances, where they are known already.
    """

    name: str
    space: Space
    objectives: Sequence[Mapping[str, Any]]
    trials: Sequence[Told]
    given: Mapping[str, float] | None = None

    @cached_property
    def history(self) -> History:
        history = History(signs_of(self.objectives))
        for trial in self.trials:
            history.tell(as_trial(trial))
        return history

    @property
    def metrics(self) -> list[str]:
        """The objectives' names."""
        return [str(objective["metric"]) for objective in self.objectives]

    @cached_property
    def best(self) -> list[Trial]:
        """The succeeded trials from the best to the worst; of several objectives those that no other is better than."""
        trials = self.history.succeeded()
        if len(self.objectives) == 1:
            return trials
        from ultramarine_sweep.samplers.dominance import front

        return [trials[place] for place in front([self.history.losses(trial) for trial in trials])]

    @cached_property
    def importances(self) -> dict[str, float]:
        """Share of the differences in the first objective that each parameter explains: 1 in all, the largest first.

        By a forest's splits. Losses far above most others are drawn in, or one bad trial would be all that counts.
        """
        if self.given is not None:
            return dict(self.given)
        trials = self.history.succeeded()
        cube = Cube(self.space)
        if len(trials) < FEWEST or not cube.size:
            return {}
        import numpy as np
        from sklearn.ensemble import RandomForestRegressor

        # Those that are spread over all of them, and not the best: what matters shows in the differences.
        chosen = [trials[place * len(trials) // FOREST] for place in range(FOREST)] if len(trials) > FOREST else trials
        losses = np.array([self.history.losses(trial)[0] * SMALLER for trial in chosen])
        low, high = np.quantile(losses, [0.0, 0.75])
        losses = np.minimum(losses, high + 1.5 * (high - low))
        losses = (losses - low) / ((losses.max() - low) or 1.0)
        points = np.array([cube.encode(trial.params) for trial in chosen])
        forest = RandomForestRegressor(n_estimators=64, min_samples_leaf=2, random_state=0).fit(points, losses)
        importances = cube.by_parameter(forest.feature_importances_.tolist())
        return dict(sorted(importances.items(), key=lambda entry: (-entry[1], entry[0])))

    def count(self, outcome: str) -> int:
        return sum(trial.outcome == outcome for trial in self.history.trials.values())
