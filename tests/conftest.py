"""Options that all tests share."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/golden --update-golden` writes the golden files anew."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.yaml as things are now")
