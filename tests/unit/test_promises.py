"""Each promise of the documentation has a test."""

from __future__ import annotations

import pytest
from promises import Proof, promises, table

TESTS = [
    Proof("tests/unit/test_a.py", "test_one", "unit", (("client/x", "refused"),)),
    Proof("tests/api/test_b.py", "test_one_more", "api", (("client/x", ""),)),
]


def test_every_promise_has_a_test() -> None:
    """Each row of docs/reliability.md names tests that exist, and the table has all attacks of docs/security.md."""
    rows = table().splitlines()
    assert sum(row.startswith("| 1 |") for row in rows) == 1
    assert all("`tests/" in row for row in rows[2:])


def test_a_promise_finds_its_tests() -> None:
    """Patterns match names and ends of paths; tests of one attack share a row's words."""
    page = "| 1 | It holds. <!-- tests: test_one* --> |\n| 2 | So does this. <!-- tests: api/test_b.py::* --> |"
    assert promises(page, TESTS) == {
        "1 | It holds.": sorted(TESTS),
        "2 | So does this.": [TESTS[1]],
        "client/x | refused": TESTS,
    }


@pytest.mark.parametrize(
    ("page", "words"),
    [("| 1 | It holds. |", "names no tests"), ("| 1 | It holds. <!-- tests: test_two --> |", "no test matches")],
)
def test_a_promise_without_a_test_is_refused(page: str, words: str) -> None:
    """A row without tests, and one that names a test that does not exist, are errors."""
    with pytest.raises(ValueError, match=words):
        promises(page, TESTS)
