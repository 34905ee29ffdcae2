"""Search spaces of all kinds, for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_NAMES = ("a", "b", "c", "d", "e")
_SMALL = st.integers(-20, 20)


def _range(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(numbers, numbers).map(sorted).map(lambda ends: {"min": ends[0], "max": ends[1]})


_INT = _range(_SMALL).map(lambda bounds: {"int": bounds})
_STEPPED = st.builds(
    lambda low, many, step: {"uniform": {"min": low / 10, "max": (low + many * step) / 10, "step": step / 10}},
    _SMALL,
    st.integers(1, 6),
    st.integers(1, 5),
)
_CHOICE = st.one_of(
    st.lists(st.sampled_from(["gbtree", "dart", "gblinear", "x y"]), min_size=1, max_size=4, unique=True),
    st.lists(_SMALL, min_size=1, max_size=4, unique=True),
    st.just([True, False]),
).map(lambda values: {"choice": values})
_CONSTANT = st.one_of(st.text(max_size=5), _SMALL, st.booleans()).map(lambda value: {"constant": value})
_ENDLESS = st.one_of(
    _range(st.floats(-1e6, 1e6)).map(lambda bounds: {"uniform": bounds}),
    _range(st.floats(1e-9, 1e6)).map(lambda bounds: {"logUniform": bounds}),
)
_LOG_INT = _range(st.integers(1, 3000)).map(lambda bounds: {"logInt": bounds})


def _values_of(parameter: dict[str, Any]) -> list[Any]:
    match parameter:
        case {"int": {"min": low, "max": high}}:
            return list(range(low, high + 1))
        case {"choice": values}:
            return list(values)
        case {"constant": value}:
            return [value]
    return []


@st.composite
def search_spaces(draw: st.DrawFn, finite: bool = False) -> dict[str, Any]:
    """spec.searchSpace with some parameters, of which some exist only where others have certain values."""
    kinds = st.one_of(_INT, _STEPPED, _CHOICE, _CONSTANT, *(() if finite else (_ENDLESS, _LOG_INT)))
    space: dict[str, Any] = {}
    # Reversed, so that the order of names is not the order of conditions.
    for name in reversed(_NAMES[: draw(st.integers(1, len(_NAMES)))]):
        parameter = dict(draw(kinds))
        others = [other for other in space if _values_of(space[other])]
        if others and draw(st.booleans()):
            chosen = draw(st.lists(st.sampled_from(others), min_size=1, max_size=2, unique=True))
            parameter["when"] = {
                other: draw(st.lists(st.sampled_from(_values_of(space[other])), min_size=1, max_size=3, unique=True))
                for other in chosen
            }
        space[name] = parameter
    return space
