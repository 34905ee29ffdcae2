"""Inputs that fuzzers discovered, and their initial inputs."""

from __future__ import annotations

import pytest
from security.fuzz import TARGETS, replay


@pytest.mark.attack(
    "model/fuzzed",
    asset="the server, the operator, the trainer",
    threat="a file, a record or a request of bytes by chance",
    control="`make fuzz` looks for what is not answered in words; what it has found is repeated",
)
@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once_is_read_or_refused_in_words(name: str) -> None:
    """No seed ends a parser, runs anything or writes beside its folder."""
    replay(name)
