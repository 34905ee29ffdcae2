"""tpe: Optuna's tree-structured Parzen estimator, for parameters with conditions and trials in parallel."""

from __future__ import annotations

from collections.abc import Container
from random import Random

import optuna.logging
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from ultramarine_contract.searchdomains import Value
from ultramarine_contract.searchspace import Parameter, Space

from ultramarine_sweep.samplers.history import RUNNING, SUCCEEDED, History, Trial
from ultramarine_sweep.samplers.space import Params, distribution, from_units, settle

# Trials that something was measured of, before which all are drawn at random; Optuna's default.
STARTUP = 10

# What the estimator looks at of many trials. It tells the best 25 from the rest, so those are all there; with several
# objectives the best tenth, which costs more to find.
BEST, NEWEST = 100, 700
BEST_OF_SEVERAL, NEWEST_OF_SEVERAL = 50, 250
LARGEST_PRODUCT = 1e300

_NAME = "sweep"

optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would say for each trial that a study was created


class ParzenSearch:
    """Draws from where good trials lie more densely than others, together for parameters that exist together."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._distributions = {parameter.name: distribution(parameter.domain) for parameter in space.parameters}
        # By their conditions, each after those that it depends on. Optuna could find the groups itself, from what
        # trials have in common, and would draw those that then do not exist.
        self._groups: dict[object, list[Parameter]] = {}
        for parameter in space.parameters:
            self._groups.setdefault(parameter.when, []).append(parameter)
        self._frozen: dict[int, tuple[Trial, FrozenTrial]] = {}

    def propose(self, number: int, history: History, random: Random) -> Params | None:
        """The parameters of the trial with this number."""
        if history.informative < STARTUP:
            return from_units(self._space, random.random)
        best, newest = (BEST, NEWEST) if len(history.signs) == 1 else (BEST_OF_SEVERAL, NEWEST_OF_SEVERAL)
        selected = [*history.selection(best, newest), *(history.running[number] for number in sorted(history.running))]
        self._frozen = {trial.number: (trial, self._freeze(trial, history)) for trial in selected}
        study = _study([frozen for _, frozen in self._frozen.values()], len(history.signs))
        sampler = TPESampler(n_startup_trials=0, multivariate=True, constant_liar=True, seed=random.getrandbits(32))
        asking = _frozen(number, TrialState.RUNNING, {}, {})
        params: Params = {}
        for group in self._groups.values():
            if group[0].exists(params):
                params |= self._draw(group, sampler, study, asking)
        return params

    def _draw(self, group: list[Parameter], sampler: TPESampler, study: Study, asking: FrozenTrial) -> Params:
        """Draw those parameters that exist under the same conditions."""
        distributions = {
            parameter.name: self._distributions[parameter.name] for parameter in group if parameter.domain.size != 1
        }
        drawn = sampler.sample_relative(study, asking, distributions)
        return {
            parameter.name: settle(parameter.domain, drawn[parameter.name])
            if parameter.name in distributions
            else parameter.domain.value(0)
            for parameter in group
        }

    def _freeze(self, trial: Trial, history: History) -> FrozenTrial:
        """The trial as Optuna knows it, made once."""
        source, frozen = self._frozen.get(trial.number, (None, None))
        return frozen if frozen is not None and source is trial else freeze(trial, self._distributions, history)


def freeze(trial: Trial, distributions: dict[str, BaseDistribution], history: History) -> FrozenTrial:
    """The trial as Optuna knows it, all objectives to be minimised.

    One that was stopped has been pruned there. So has one that failed, before its first step: what is ignored, as
    Optuna ignores failed trials, is tried again and again.
    """
    own = {name: distributions[name] for name in trial.params}
    if trial.outcome == RUNNING:
        return _frozen(trial.number, TrialState.RUNNING, dict(trial.params), own)
    if trial.outcome == SUCCEEDED:
        losses = history.losses(trial)
        if len(losses) > 1:
            # Of several Optuna multiplies the distances, and their product is to be a float.
            most = LARGEST_PRODUCT ** (1 / len(losses))
            losses = tuple(min(max(loss, -most), most) for loss in losses)
        return _frozen(trial.number, TrialState.COMPLETE, dict(trial.params), own, list(losses))
    points = {trial.points[-1][0]: history.last_loss(trial)} if history.is_informative(trial) else {}
    return _frozen(trial.number, TrialState.PRUNED, dict(trial.params), own, points=points)


def _frozen(
    number: int,
    state: TrialState,
    params: dict[str, Value],
    distributions: dict[str, BaseDistribution],
    values: list[float] | None = None,
    points: dict[int, float] | None = None,
) -> FrozenTrial:
    return FrozenTrial(
        number, state, None, None, None, params, distributions, {}, {}, points or {}, number, values=values
    )


class _Known(InMemoryStorage):
    """The storage of a study that is there for one question: it has the trials that it was made of, without copies."""

    def __init__(self, trials: list[FrozenTrial]) -> None:
        super().__init__()
        self._trials = trials

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: object) -> None:
        """Forget what the sampler tells others that would ask at the same time."""


def _study(trials: list[FrozenTrial], objectives: int) -> Study:
    storage = _Known(trials)
    storage.create_new_study([StudyDirection.MINIMIZE] * objectives, _NAME)
    return Study(_NAME, storage)
