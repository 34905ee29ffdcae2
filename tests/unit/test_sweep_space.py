"""The search space of a sweep: what can be written, what it means, and how many points it has."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.searchgrid import Grid, check_algorithm
from ultramarine_contract.searchspace import read_space
from unit.sweep_spaces import search_spaces

BOOSTERS = {"choice": ["gbtree", "dart"]}

REFUSED = {
    "no parameter": ({}, "spec.searchSpace must have 1 to 64 parameters, not 0"),
    "too many": ({f"p{n}": {"constant": 1} for n in range(65)}, "not 65"),
    "no object": ({"lr": 3}, "spec.searchSpace.lr must be an object with one of uniform, logUniform"),
    "no kind": ({"lr": {}}, "spec.searchSpace.lr must have exactly one of uniform, .*; it has nothing"),
    "two kinds": ({"lr": {"choice": [1], "constant": 2}}, "it has choice, constant"),
    "unknown kind": ({"lr": {"normal": {}}}, "it has normal"),
    "no bounds": ({"lr": {"uniform": 3}}, "spec.searchSpace.lr.uniform must be an object with min and max"),
    "no max": ({"lr": {"uniform": {"min": 1}}}, "spec.searchSpace.lr.uniform.max must be a finite number, not None"),
    "text": ({"lr": {"uniform": {"min": "1", "max": 2}}}, "min must be a finite number, not '1'"),
    "boolean": ({"lr": {"int": {"min": True, "max": 2}}}, "min must be an integer"),
    "not a number": ({"lr": {"uniform": {"min": float("nan"), "max": 2}}}, "min must be a finite number"),
    "beyond floats": ({"lr": {"uniform": {"min": 0, "max": 10**400}}}, "max must be a finite number"),
    "no integer": ({"n": {"int": {"min": 1.5, "max": 2}}}, "spec.searchSpace.n.int.min must be an integer"),
    "huge integer": ({"n": {"int": {"min": 1, "max": 2**60}}}, "max must be an integer of at most 2"),
    "min above max": ({"lr": {"uniform": {"min": 2, "max": 1}}}, "min is 2.0, above max, which is 1.0; exchange them"),
    "width beyond floats": (
        {"lr": {"uniform": {"min": -1e308, "max": 1e308}}},
        r"spec.searchSpace.lr.uniform.max is 1e\+308, and beyond 1e\+300; take a narrower range",
    ),
    "min beyond": ({"lr": {"uniform": {"min": -1e301, "max": 0}}}, r"min is -1e\+301, and beyond 1e\+300; take a narr"),
    "power beyond": ({"lr": {"logUniform": {"min": 1, "max": 1.1e300}}}, r"logUniform.max is 1.1e\+300, and beyond"),
    "no width": ({"lr": {"uniform": {"min": 0, "max": 5e-324}}}, "max - min below 1e-300; take a wider range, or a"),
    "logarithm of 0": ({"lr": {"logUniform": {"min": 0, "max": 1}}}, "logUniform.min must be above 0: .* use uniform"),
    "logarithm of -1": ({"n": {"logInt": {"min": -1, "max": 1}}}, "logInt.min must be at least 1: .* use int"),
    "step of a logarithm": ({"lr": {"logUniform": {"min": 1, "max": 2, "step": 1}}}, "step cannot be: remove it"),
    "step of integers": ({"n": {"logInt": {"min": 1, "max": 2, "step": 1}}}, "step cannot be: remove it"),
    "step of 0": ({"lr": {"uniform": {"min": 1, "max": 2, "step": 0}}}, "step must be above 0 and at most max - min"),
    "wide step": ({"lr": {"uniform": {"min": 1, "max": 2, "step": 3}}}, "step must be above 0 and at most max - min"),
    "fine step": ({"lr": {"uniform": {"min": 0, "max": 1e300, "step": 1e-300}}}, "step is too small for so wide"),
    "half a step": ({"n": {"int": {"min": 1, "max": 9, "step": 0.5}}}, "step must be an integer from 1 to max - min"),
    "no choice": ({"b": {"choice": []}}, "spec.searchSpace.b.choice must be a list of 1 to 100 values"),
    "choice of a list": ({"b": {"choice": [[1]]}}, r"choice has \[1\]; a value must be a text, a finite number or"),
    "mixed types": ({"b": {"choice": ["x", 1, True]}}, r"values of 3 types \(boolean, number, text\); write all"),
    "twice": ({"b": {"choice": ["x", "y", "x"]}}, "choice has 'x' twice; remove one of them"),
    "twice as floats": ({"b": {"choice": [1, 1.0]}}, "choice has 1.0 twice"),
    "constant list": ({"b": {"constant": [1]}}, "spec.searchSpace.b.constant must be a text, a finite number or"),
    "when of a list": ({"b": BOOSTERS, "r": {"constant": 1, "when": ["b"]}}, "r.when must name parameters"),
    "nobody": ({"r": {"constant": 1, "when": {"b": [1]}}}, r"searchSpace.r.when.b: there is no parameter b; add it"),
    "float": (
        {"b": {"uniform": {"min": 0, "max": 1}}, "r": {"constant": 1, "when": {"b": [1]}}},
        "b is neither a choice nor",
    ),
    "no value": ({"b": BOOSTERS, "r": {"constant": 1, "when": {"b": []}}}, "r.when.b must be a list of at least one"),
    "impossible": ({"b": BOOSTERS, "r": {"constant": 1, "when": {"b": ["x"]}}}, "b can never be 'x'; name values"),
    "true is not 1": ({"b": {"constant": 1}, "r": {"constant": 1, "when": {"b": [True]}}}, "b can never be True"),
    "itself": ({"b": {"choice": [1, 2], "when": {"b": [1]}}}, "b -> b depend on each other; remove one condition"),
    "circle": (
        {
            "a": {"constant": 1, "when": {"c": [1]}},
            "b": {"constant": 1, "when": {"a": [1]}},
            "c": {"constant": 1, "when": {"b": [1]}},
            "d": {"constant": 1, "when": {"a": [1]}},
        },
        "spec.searchSpace.a.when: a -> c -> b -> a depend on each other",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_searched_is_refused_with_field_and_remedy(why: str) -> None:
    """A mistake in spec.searchSpace gives InvalidSpec, whose message names the field and what to do."""
    document, message = REFUSED[why]

    with pytest.raises(InvalidSpec, match=message):
        read_space(document)


def test_values_have_the_type_that_a_person_expects() -> None:
    """uniform gives floats and int integers, whatever JSON made of their bounds; a step gives 0.3, no noise."""
    space = read_space(
        {
            "u": {"uniform": {"min": 0, "max": 1, "step": 0.1}},
            "i": {"int": {"min": 1.0, "max": 9, "step": 2}},
            "c": {"choice": [1, 0.5]},
            "k": {"choice": [1, 2]},
        }
    )
    domains = {parameter.name: parameter.domain for parameter in space.parameters}

    assert [repr(domains["u"].value(n)) for n in range(4)] == ["0.0", "0.1", "0.2", "0.3"]
    assert [domains["i"].value(n) for n in range(domains["i"].size or 0)] == [1, 3, 5, 7, 9]
    assert [repr(domains["c"].value(n)) for n in range(2)] == ["1", "0.5"]
    assert [repr(domains["k"].value(n)) for n in range(2)] == ["1", "2"]


def test_a_step_that_does_not_end_at_max_ends_before_it() -> None:
    """max need not be reached by steps: no value is beyond it."""
    domain = read_space({"u": {"uniform": {"min": 0, "max": 1, "step": 0.3}}}).parameters[0].domain

    assert [domain.value(n) for n in range(domain.size or 0)] == [0.0, 0.3, 0.6, 0.9]


def test_the_order_of_parameters_is_that_of_their_names_and_conditions_only() -> None:
    """However the document is sorted, a parameter comes after those that it depends on."""
    document = {
        "a": {"constant": 1, "when": {"z": ["on"]}},
        "b": {"constant": 1},
        "m": {"choice": ["x", "y"]},
        "z": {"choice": ["on", "off"], "when": {"m": ["x"]}},
    }
    names = {read_space(dict(order)).names for order in itertools.permutations(document.items())}

    assert names == {("b", "m", "z", "a")}


def test_a_chain_of_conditions_ends_where_one_is_not_met() -> None:
    """If a parameter does not exist, those that depend on it do not exist either."""
    space = read_space(
        {
            "m": {"choice": ["x", "y"]},
            "z": {"choice": ["on", "off"], "when": {"m": ["x"]}},
            "a": {"int": {"min": 1, "max": 3}, "when": {"z": ["on"]}},
        }
    )

    assert [Grid(space).point(n) for n in range(Grid(space).size)] == [
        {"m": "x", "z": "on", "a": 1},
        {"m": "x", "z": "on", "a": 2},
        {"m": "x", "z": "on", "a": 3},
        {"m": "x", "z": "off"},
        {"m": "y"},
    ]
    assert space.refusal({"m": "x", "z": "on"}) == "it has no a"
    assert space.refusal({"m": "y", "z": "on"}) == "it has z, which does not exist there"
    assert space.refusal({"m": "y", "q": 1}) == "it has q, which is not a parameter"
    assert space.refusal({"m": "w"}) == "m cannot be 'w'"
    assert space.refusal({"m": "y"}) == ""


def _all_points(document: dict[str, Any]) -> set[str]:
    """Every combination, by brute force."""
    space = read_space(document)
    points: list[dict[str, Any]] = [{}]
    for parameter in space.parameters:
        points = [
            point | ({parameter.name: value} if value is not None else {})
            for point in points
            for value in (
                [parameter.domain.value(n) for n in range(parameter.domain.size or 0)]
                if parameter.exists(point)
                else [None]
            )
        ]
        if len(points) > 3000:
            return set()
    return {json.dumps(point, sort_keys=True) for point in points}


@given(search_spaces(finite=True))
def test_a_grid_has_every_point_once(document: dict[str, Any]) -> None:
    """A grid's points are all combinations of values, conditions respected, each of them exactly once."""
    if expected := _all_points(document):
        grid = Grid(read_space(document))
        points = [json.dumps(grid.point(n), sort_keys=True) for n in range(grid.size)]

        assert len(points) == len(set(points))
        assert set(points) == expected


@given(search_spaces())
def test_a_space_has_its_own_values(document: dict[str, Any]) -> None:
    """Each domain has what it gives, and finds the place again."""
    for parameter in read_space(document).parameters:
        domain = parameter.domain
        for place in range(min(domain.size or 0, 50)):
            assert domain.index(domain.value(place)) == place
        assert not domain.has("no such value")


def test_a_huge_grid_is_counted_without_making_it() -> None:
    """Sixty-four parameters of a hundred values each are counted at once, and refused as a grid."""
    space = read_space({f"p{n}": {"int": {"min": 1, "max": 100}} for n in range(64)})

    assert Grid(space).size == 100**64
    assert Grid(space).point(100**64 - 1) == {f"p{n}": 100 for n in range(64)}
    with pytest.raises(InvalidSpec, match="combinations, and a grid at most 1000000; take values away, or choose ran"):
        check_algorithm(space, "grid")


def test_conditions_on_a_wide_parameter_cost_nothing() -> None:
    """A condition on one of 2**53 values neither lists them nor forgets the others."""
    space = read_space({"n": {"int": {"min": 0, "max": 2**53 - 1}}, "x": {"choice": [1, 2], "when": {"n": [7, 9]}}})
    grid = Grid(space)

    assert grid.size == 2**53 + 2
    assert [grid.point(n) for n in (0, 3, 4, 11, 12)] == [
        {"n": 7, "x": 1},
        {"n": 9, "x": 2},
        {"n": 0},
        {"n": 8},
        {"n": 10},
    ]


def test_tangled_conditions_end_in_a_refusal() -> None:
    """Conditions that come to more combinations than can be counted are refused, not counted for hours."""
    document: dict[str, Any] = {f"p{n:02}": {"choice": [True, False]} for n in range(32)}
    document |= {f"q{n:02}": {"constant": 1, "when": {f"p{n:02}": [True], "p00": [True, False]}} for n in range(31)}
    document["z"] = {"constant": 1, "when": {f"p{n:02}": [True] for n in range(32)}}

    with pytest.raises(InvalidSpec, match="too many conditions for a grid; choose random or tpe"):
        check_algorithm(read_space(document), "grid")


ENDLESS = {"lr": {"logUniform": {"min": 1e-5, "max": 1}}}


@pytest.mark.parametrize(
    ("algorithm", "objectives", "early", "message"),
    [
        (
            "grid",
            1,
            False,
            "spec.searchSpace.lr: a grid needs finitely many values; use choice, or uniform with a step",
        ),
        ("gp", 2, False, "spec.algorithm.type gp takes one objective; choose nsga2 or tpe for several"),
        ("cmaes", 2, False, "spec.algorithm.type cmaes takes one objective"),
        ("tpe", 2, True, "spec.earlyTermination takes one objective; remove it, or all objectives but one"),
        ("annealing", 1, False, "spec.algorithm.type is annealing; choose one of random, grid, sobol"),
    ],
)
def test_an_algorithm_that_cannot_search_the_space_is_refused(
    algorithm: str, objectives: int, early: bool, message: str
) -> None:
    """An unsupported space is refused before the first trial."""
    with pytest.raises(InvalidSpec, match=message):
        check_algorithm(read_space(ENDLESS), algorithm, objectives, early)


@pytest.mark.parametrize("algorithm", ["random", "sobol", "tpe", "nsga2"])
def test_several_objectives_are_for_those_that_can(algorithm: str) -> None:
    """Random, sobol, tpe and nsga2 take several objectives."""
    check_algorithm(read_space(ENDLESS), algorithm, 3)
