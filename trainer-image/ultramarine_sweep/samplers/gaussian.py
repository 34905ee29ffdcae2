"""gp: a Gaussian process over all parameters, and the point where it expects the most improvement.

Optuna's own needs torch, which the image does not have. Asking takes some tenths of a second.
"""

from __future__ import annotations

import warnings
from random import Random
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from threadpoolctl import ThreadpoolController
from ultramarine_contract.searchspace import Space

from ultramarine_sweep.samplers import SMALLER
from ultramarine_sweep.samplers.drawing import SobolSearch
from ultramarine_sweep.samplers.history import STOPPED, SUCCEEDED, History, Trial
from ultramarine_sweep.samplers.space import Cube, Params, from_units

STARTUP = 8  # trials that something was measured of, before which all are spread evenly
BEST, NEWEST = 40, 110  # trials that it is fitted to: the time grows with the third power of their number
AXES = 30  # of more, one length for all is fitted, and not one each

_ANYWHERE, _NEARBY, _ROUNDS = 400, 40, 4  # points to evaluate: everywhere, then around the best ones
_LIBRARIES = ThreadpoolController()
_NEAR = (0.2, 0.1, 0.03, 0.01)  # of an axis, by rounds


class GaussianSearch:
    """Fits a process to the losses. Running trials count with what it expects of them, so that none is tried twice."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._cube = Cube(space)
        self._start = SobolSearch(space, seed)
        self._fitted: tuple[int, Any, Any, Any] = (-1, None, None, None)  # for a version: process, points, losses

    def propose(self, number: int, history: History, random: Random) -> Params | None:
        """The parameters of the trial with this number."""
        if history.informative < STARTUP or not self._cube.size:
            return self._start.propose(number, history, random)
        # By one thread: with another number of them the last digits are others, and so would the trial be.
        with _LIBRARIES.limit(limits=1):
            return self._search(history, random)

    def _search(self, history: History, random: Random) -> Params:
        process, points, losses = self._fit(history)
        best = losses.min()
        if history.running:
            process, points = self._believe(process, points, losses, history)
        good = points[np.argsort(losses, kind="stable")[:5]]
        draws = np.random.default_rng(random.getrandbits(64))

        tried = [from_units(self._space, random.random) for _ in range(_ANYWHERE)]
        table = np.array([self._cube.encode(point) for point in tried])
        gain = _improvement(process, table, best)
        for near in _NEAR:
            around = np.repeat(np.vstack([good, table[np.argsort(-gain, kind="stable")[:5]]]), _NEARBY // 5, axis=0)
            moved = np.clip(around + draws.normal(0.0, near, around.shape), 0.0, 1.0)
            more = [self._cube.decode(point) for point in moved.tolist()]
            rows = np.array([self._cube.encode(point) for point in more])
            tried, table = tried + more, np.vstack([table, rows])
            gain = np.concatenate([gain, _improvement(process, rows, best)])
        return tried[int(np.argmax(gain))]

    def _fit(self, history: History) -> tuple[Any, Any, Any]:
        """The process of all finished trials, with its points and losses; fitted once."""
        if self._fitted[0] != history.version:
            trials = history.selection(BEST, NEWEST)
            points = np.array([self._cube.encode(trial.params) for trial in trials])
            losses = _scaled(trials, history)
            axes = self._cube.size
            lengths = np.full(axes, 0.5) if axes <= AXES else 0.5 * axes**0.5
            kernel = ConstantKernel(1.0, (0.05, 20.0)) * Matern(lengths, (0.02, 50.0), nu=2.5)
            process = GaussianProcessRegressor(kernel + WhiteKernel(1e-3, (1e-6, 0.5)), optimizer=_optimum)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # at a bound: a parameter that does not matter
                process.fit(points, losses)
            self._fitted = (history.version, process, points, losses)
        return self._fitted[1:]

    def _believe(self, process: Any, points: Any, losses: Any, history: History) -> tuple[Any, Any]:
        """The process as if running trials had come to what it expects of them."""
        running = np.array([self._cube.encode(history.running[number].params) for number in sorted(history.running)])
        believing = GaussianProcessRegressor(process.kernel_, optimizer=None)
        believing.fit(np.vstack([points, running]), np.concatenate([losses, process.predict(running)]))
        return believing, points


def _optimum(loss: Any, start: Any, bounds: Any) -> tuple[Any, float]:
    """The kernel's lengths, well enough: each further step costs as much as the first ones, and gives little."""
    optimum = minimize(loss, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": 15})
    return optimum.x, float(optimum.fun)


def _improvement(process: Any, points: Any, best: float) -> Any:
    """Return the expected improvement of each point over `best`."""
    mean, deviation = process.predict(points, return_std=True)
    deviation = np.maximum(deviation, 1e-9)
    far = (best - mean) / deviation
    return deviation * (far * norm.cdf(far) + norm.pdf(far))


def _scaled(trials: list[Trial], history: History) -> Any:
    """The losses of these trials, around 0 and about 1 apart.

    A stopped trial counts with its last loss, but not as better than half of those that succeeded, and a failed one as
    the worst. Losses far beyond most others are drawn in: they would make all of the others look alike.
    """
    succeeded = [history.losses(trial)[0] * SMALLER for trial in trials if trial.outcome == SUCCEEDED]
    middle = float(np.median(succeeded)) if succeeded else -np.inf
    losses_so_far = [
        history.losses(trial)[0] * SMALLER
        if trial.outcome == SUCCEEDED
        else max(history.last_loss(trial) * SMALLER, middle)
        if trial.outcome == STOPPED and trial.points
        else None
        for trial in trials
    ]
    measured = np.array([loss for loss in losses_so_far if loss is not None])
    low, high = np.quantile(measured, [0.25, 0.75])
    worst = min(measured.max(), high + 3.0 * (high - low)) if high > low else measured.max()
    losses = np.minimum(np.array([worst if loss is None else loss for loss in losses_so_far]), worst)
    losses -= losses.min()
    losses /= losses.max() or 1.0  # before the deviation, whose squares could be too large
    return (losses - losses.mean()) / (losses.std() or 1.0)
