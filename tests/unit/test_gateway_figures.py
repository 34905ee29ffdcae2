"""Means over some seconds, taken of what Envoy has counted."""

from __future__ import annotations

import pytest
from ultramarine_contract.routes import DeploymentFigures
from ultramarine_gateway.figures import means


def latency(**up_to):
    """Counts up to 10, 100 and 1,000 ms."""
    return tuple((float(bound), up_to.get(f"ms{bound}", 0)) for bound in (10, 100, 1000))


@pytest.mark.parametrize(
    ("reason", "old", "new", "rate", "concurrency"),
    [
        ("nothing has come", (5, 0, ()), (5, 0, ()), 0.0, 0.0),
        ("a request that goes on is one", (5, 1, ()), (5, 1, ()), 0.0, 1.0),
        ("what has come and is not answered yet counts", (5, 0, ()), (5, 20, ()), 2.0, 20.0),
        ("long requests are those in flight", (5, 8, latency(ms1000=5)), (9, 8, latency(ms1000=9)), 0.4, 8.0),
        (
            "short ones are rate by mean latency, whatever is in flight at the moment",
            (0, 0, latency()),
            (100, 3, latency(ms100=100, ms1000=100)),
            10.3,
            10.3 * 0.055,
        ),
        ("latency comes later than counts", (0, 0, latency()), (100, 3, latency()), 10.3, 3.0),
    ],
)
def test_means(reason, old, new, rate, concurrency):
    """Over ten seconds, given requests, those in flight, and latency before and after."""
    before, after = (
        DeploymentFigures(requests=requests, active=active, latency=counts) for requests, active, counts in (old, new)
    )
    told = means(after, before, 10.0)

    assert (told.rate, told.concurrency) == (pytest.approx(rate), pytest.approx(concurrency)), reason


def test_an_envoy_that_has_started_anew_has_no_means_yet():
    """Counts that fall are of another Envoy; a deployment that was not there before has nothing to compare with."""
    few, many = DeploymentFigures(requests=2), DeploymentFigures(requests=200)

    assert means(few, many, 10.0) == few
    assert means(few, None, 10.0) == few
