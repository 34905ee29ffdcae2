"""Whether two deployments answer alike: answers joined by the name of their request, compared and counted."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ultramarine_gateway.pods.agreement import (
    LABELS,
    LARGEST,
    NUMBERS,
    TOLERANCE,
    Agreement,
    Answer,
    Outputs,
    Pairs,
    alike,
    answers_in,
)


def label(value: str, name: str = "label") -> tuple[str, str, Any]:
    """An output of labels."""
    return name, LABELS, value


def numbers(*values: float | None, name: str = "y") -> tuple[str, str, Any]:
    """An output of numbers."""
    return name, NUMBERS, list(values)


@pytest.mark.parametrize(
    ("champion", "candidate", "said"),
    [
        ([label("a")], [label("a")], True),
        ([label("a")], [label("b")], False),
        ([numbers(0.1), label("a")], [label("a"), numbers(0.9)], True),  # the label decides, wherever it stands
        ([numbers(0.1), label("a")], [label("b"), numbers(0.1)], False),
        ([("p", LARGEST, "x"), numbers(1)], [("p", LARGEST, "x"), numbers(2)], True),  # else the first
        ([numbers(100, 1)], [numbers(100.9, 1)], True),
        ([numbers(100, 1)], [numbers(101.1, 1)], False),
        ([numbers(0)], [numbers(1e-7)], True),
        ([numbers(1, None)], [numbers(1, None)], True),
        ([numbers(1, None)], [numbers(1, 1)], False),
        ([numbers(1, 2)], [numbers(1)], False),
        ([label("a")], [label("a", "class")], None),  # by name
        ([label("a")], [("label", LARGEST, "a")], None),  # and by kind
        ([label("a")], [], None),
        ([label("a")], None, None),
    ],
)
def test_what_answers_are_alike(champion: Outputs, candidate: Outputs | None, said: bool | None) -> None:
    """Labels decide, else the first output that both have; numbers are the same within a hundredth."""
    assert alike(champion, candidate) is said


@given(st.floats(-1e12, 1e12), st.floats(-2 * TOLERANCE, 2 * TOLERANCE))
def test_numbers_are_compared_the_same_way_round(one: float, part: float) -> None:
    """It does not matter who is the champion."""
    other = one * (1 + part)
    assert alike([numbers(one)], [numbers(other)]) == alike([numbers(other)], [numbers(one)])


KINDS: tuple[tuple[Outputs, Outputs | None, tuple[int, int, int]], ...] = (
    ([label("a")], [label("a")], (1, 1, 0)),
    ([label("a")], [label("b")], (1, 0, 0)),
    ([label("a")], None, (1, 0, 1)),
    ([label("a")], [numbers(1)], (1, 0, 1)),
    ([], [], (0, 0, 0)),  # too large to compare
)


@given(st.lists(st.sampled_from(KINDS), max_size=30), st.randoms(use_true_random=False))
def test_each_pair_counts_once_in_whatever_order_its_halves_come(kinds: list[Any], dice: random.Random) -> None:
    """Of champion and candidate, in any order and repeated: the counts are those of the requests."""
    halves: list[tuple[bool, Answer]] = []
    for number, (champion, candidate, _) in enumerate(kinds):
        halves += [(False, (str(number), champion)), (True, (str(number), candidate))]
    dice.shuffle(halves)
    counts = Agreement()
    pairs = Pairs(counts)
    for of_candidate, one in halves:
        pairs.take([one], 0.0, of_candidate=of_candidate)
    wanted = [sum(column) for column in zip((0, 0, 0), *(count for *_, count in kinds), strict=True)]
    assert [counts.compared, counts.agreed, counts.unlike] == wanted


def test_a_champion_that_fails_is_no_measure() -> None:
    """Whatever the candidate says to what the champion could not answer counts for nothing."""
    counts = Agreement()
    pairs = Pairs(counts)
    pairs.take([("1", None), ("2", None)], 0.0, of_candidate=False)
    pairs.take([("1", [label("a")]), ("2", None)], 0.0, of_candidate=True)
    assert counts == Agreement()


def test_halves_are_forgotten() -> None:
    """A half that waits for too long, or behind too many others, meets the other one no more."""
    counts = Agreement()
    pairs = Pairs(counts)
    pairs.take([("old", [label("a")])], 0.0, of_candidate=False)
    pairs.take([], 121.0, of_candidate=False)
    pairs.take([("old", [label("a")])], 121.0, of_candidate=True)
    pairs.take([(f"{number}", [label("a")]) for number in range(10_001)], 122.0, of_candidate=False)
    pairs.take([("0", [label("a")]), ("10000", [label("a")])], 122.0, of_candidate=True)
    assert counts == replace(Agreement(), compared=1, agreed=1)


@pytest.mark.parametrize(
    "document",
    [
        {"a": 1},
        None,
        7,
        [1],
        [["a"]],
        [[1, None]],
        [["a", 7]],
        [["a", [["y", NUMBERS]]]],
        [["a", [["y", NUMBERS, ["x"]]]]],
        [["a", [["y", NUMBERS, 7]]]],
        [["a", [[1, LABELS, "x"]]]],
    ],
)
def test_what_is_no_answer_is_refused(document: Any) -> None:
    """A pod runs a user's code, and may say anything."""
    with pytest.raises(ValueError, match="expected answers"):
        answers_in(document)


def test_answers_are_read_as_servers_write_them() -> None:
    """Names, outputs and errors."""
    assert answers_in([["1", [["y", NUMBERS, [0.5, None]]]], ["2", None]]) == [("1", [numbers(0.5, None)]), ("2", None)]
