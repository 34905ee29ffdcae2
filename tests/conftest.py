"""Options that all tests share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# The same examples in each run, and as much time as they take: what fails on a busy machine only is no finding.
# `--hypothesis-profile=default` draws others.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/golden --update-golden` writes the golden files anew."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.yaml as things are now")
