"""Which of many attacks `make test` repeats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def tenth(cases: Iterable[Any]) -> list[Any]:
    """The cases as parameters: each tenth one for `make test`, the others for `make test-all`."""
    marks = {False: [pytest.mark.slow], True: []}
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), id=_id(case), marks=marks[number % 10 == 0])
        for number, case in enumerate(cases)
    ]


def _id(case: Any) -> str | None:
    return str(case) if isinstance(case, str | dict) else None
