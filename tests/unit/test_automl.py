"""AutoML: the space that is searched, and the programs that prepare, try and finish."""

from __future__ import annotations

import pytest
from ultramarine_contract.automl import METRICS, AutoMLTask, goal_of, metric_of, portfolio, search_space
from ultramarine_contract.searchspace import read_points, read_space


@pytest.mark.parametrize("task", METRICS)
@pytest.mark.parametrize("block", [(), ("hist_gradient_boosting", "svm")])
def test_the_portfolio_lies_in_the_space_of_every_metric(task: str, block: tuple[str, ...]) -> None:
    for metric in ("auto", *METRICS[task]):
        own = AutoMLTask(task, "y", metric, block=block)  # type: ignore[arg-type]
        space = read_space(search_space(own))
        starts = read_points(space, portfolio(own))
        assert 8 <= len(starts) <= 16
        assert not {start["algorithm"] for start in starts} & set(block)
        assert AutoMLTask.from_json(own.to_json()) == own


def test_a_metric_or_an_algorithm_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"no metric r2.*log_loss"):
        metric_of(AutoMLTask("classification", "y", "r2"))
    with pytest.raises(ValueError, match=r"no algorithm ridge.*logistic"):
        search_space(AutoMLTask("classification", "y", block=("ridge",)))
    assert goal_of(AutoMLTask("classification", "y")) == "minimize"
    assert goal_of(AutoMLTask("regression", "y", "r2")) == "maximize"
