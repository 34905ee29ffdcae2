"""All combinations of a search space's values, and which algorithm can search which space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .errors import InvalidSpec
from .searchdomains import Value
from .searchspace import Parameter, Space

ALGORITHMS = ("random", "grid", "sobol", "tpe", "gp", "cmaes", "nsga2")
SINGLE_OBJECTIVE = ("gp", "cmaes")
BLIND = ("random", "grid", "sobol")  # ignore the results of trials

GRID_LIMIT = 1_000_000
_STATES = 20_000  # of a grid's conditions: what they can come to in combination

# The values so far that later conditions name; a value that none of them names is left out, like one that is not there.
_State = tuple[tuple[str, Value], ...]


def check_algorithm(space: Space, algorithm: str, objectives: int = 1, early_termination: bool = False) -> None:
    """Raise InvalidSpec if `algorithm` cannot search this space for this number of objectives."""
    if algorithm not in ALGORITHMS:
        raise InvalidSpec(f"spec.algorithm.type is {algorithm}; choose one of {', '.join(ALGORITHMS)}")
    if objectives > 1 and algorithm in SINGLE_OBJECTIVE:
        raise InvalidSpec(f"spec.algorithm.type {algorithm} takes one objective; choose nsga2 or tpe for several")
    if objectives > 1 and early_termination:
        raise InvalidSpec("spec.earlyTermination takes one objective; remove it, or all objectives but one")
    if algorithm == "grid" and (size := Grid(space).size) > GRID_LIMIT:
        raise InvalidSpec(
            f"spec.searchSpace has {size} combinations, and a grid at most {GRID_LIMIT}; "
            "take values away, or choose random or sobol"
        )


@dataclass
class Grid:
    """Points of a space whose parameters all have finitely many values: their number, and the nth of them.

    No list of them is made: parameters that others depend on branch, and the rest multiply.
    """

    space: Space
    _counts: dict[tuple[int, _State], int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of points. Raises InvalidSpec if a parameter has infinitely many values."""
        for parameter in self.space.parameters:
            if parameter.domain.size is None:
                raise InvalidSpec(
                    f"spec.searchSpace.{parameter.name}: a grid needs finitely many values; "
                    "use choice, or uniform with a step"
                )
        return self._count(0, ())

    def point(self, index: int) -> dict[str, Value]:
        """Return the parameters of the point at a place from 0 to below `size`."""
        params: dict[str, Value] = {}
        state: _State = ()
        for depth, parameter in enumerate(self.space.parameters):
            for places, following in self._branches(depth, state):
                below = self._count(depth + 1, following)
                if index < len(places) * below:
                    place, index = divmod(index, below)
                    state = following
                    if parameter.exists(params):
                        params[parameter.name] = parameter.domain.value(places[place])
                    break
                index -= len(places) * below
        return params

    def _count(self, depth: int, state: _State) -> int:
        """Return the number of combinations from the parameter number `depth` on."""
        if depth == len(self.space.parameters):
            return 1
        key = (depth, state)
        if key not in self._counts:
            if len(self._counts) >= _STATES:
                raise InvalidSpec("spec.searchSpace has too many conditions for a grid; choose random or tpe")
            branches = self._branches(depth, state)
            self._counts[key] = sum(len(places) * self._count(depth + 1, after) for places, after in branches)
        return self._counts[key]

    def _branches(self, depth: int, state: _State) -> Iterator[tuple[Sequence[int], _State]]:
        """Yield the values of the parameter number `depth`; those that conditions treat alike come together."""
        parameter = self.space.parameters[depth]
        later = self.space.parameters[depth + 1 :]
        kept = tuple((name, value) for name, value in state if _asked(name, later))
        if not parameter.exists(dict(state)):
            yield range(1), kept
            return
        asked = [parameter.domain.index(value) for value in _asked(parameter.name, later)]
        named = sorted({place for place in asked if place is not None})
        for place in named:
            yield (place,), (*kept, (parameter.name, parameter.domain.value(place)))
        if others := parameter.domain.size - len(named) if parameter.domain.size is not None else 0:
            yield _Others(named, others), kept


class _Others(Sequence[int]):
    """Places that are not among the `named` ones."""

    def __init__(self, named: Sequence[int], many: int) -> None:
        self._named = named
        self._many = many

    def __len__(self) -> int:
        return self._many

    def __getitem__(self, index: int) -> int:  # type: ignore[override]  # no caller takes slices
        for place in self._named:
            index += place <= index
        return index


def _asked(name: str, parameters: Sequence[Parameter]) -> list[Value]:
    """Return the values of a parameter that conditions of these others name."""
    conditions = [condition for parameter in parameters for condition in parameter.when]
    return [value for other, values in conditions if other == name for value in values]
