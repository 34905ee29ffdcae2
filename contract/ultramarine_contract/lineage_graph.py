"""Graph of lineage: where a part comes from, and what came of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from .lineage import STARTED_BY, Fact, Part


class Graph:
    """Facts by what they used and made.

    The object that started a run is not data: a walk reaches it and goes on to what started it, and to no other input
    of it. So a step of a pipeline does not come from the data of its siblings.
    """

    def __init__(self, facts: Iterable[Fact]) -> None:
        self._making: dict[str, list[Fact]] = defaultdict(list)
        self._using: dict[str, list[Fact]] = defaultdict(list)
        self._begun: dict[str, list[Fact]] = defaultdict(list)
        for fact in facts:
            for part in fact.made:
                self._making[part.uri].append(fact)
            for part in fact.used:
                (self._begun if part.name == STARTED_BY else self._using)[part.uri].append(fact)

    def __contains__(self, uri: str) -> bool:
        return uri in self._making or uri in self._using or uri in self._begun

    def makers(self, uri: str) -> list[Fact]:
        """Return the facts that made a part."""
        return self._making.get(uri, [])

    def users(self, uri: str) -> list[Fact]:
        """Return the facts that used a part."""
        return self._using.get(uri, [])

    def begun(self, uri: str) -> list[Fact]:
        """Return the facts of runs that an object started itself."""
        return self._begun.get(uri, [])

    def all_begun(self, uri: str) -> list[Fact]:
        """Return the facts of runs that an object started, and of those that they started."""
        return _walk([uri], self.begun, lambda fact: fact.made)

    def origins(self, uri: str) -> list[Fact]:
        """Return every fact that a part comes from, the nearest first."""
        reached = _walk([uri], self.makers, inputs)
        starts = [part.uri for fact in reached for part in starters(fact)]
        return _unique([*reached, *_walk(starts, self.makers, starters)])

    def consequences(self, uri: str) -> list[Fact]:
        """Return every fact that comes from a part, the nearest first."""
        begun = self.all_begun(uri)
        starts = [uri, *(part.uri for fact in begun for part in fact.made)]
        return _unique([*begun, *_walk(starts, self.users, lambda fact: fact.made)])


def inputs(fact: Fact) -> tuple[Part, ...]:
    """Return what a fact used, without the object that started it."""
    return tuple(part for part in fact.used if part.name != STARTED_BY)


def starters(fact: Fact) -> tuple[Part, ...]:
    """Return the object that started a run."""
    return tuple(part for part in fact.used if part.name == STARTED_BY)


def identity_of(fact: Fact) -> str:
    """Return a text that no other fact has."""
    return f"{fact.key}={fact.value}@{fact.time}"


def _unique(facts: Iterable[Fact]) -> list[Fact]:
    return list({identity_of(fact): fact for fact in facts}.values())


def _walk(
    starts: list[str], facts_at: Callable[[str], list[Fact]], ways: Callable[[Fact], tuple[Part, ...]]
) -> list[Fact]:
    reached: dict[str, Fact] = {}
    queue = list(dict.fromkeys(starts))
    met = set(queue)
    for uri in queue:  # which grows meanwhile
        for fact in facts_at(uri):
            if identity_of(fact) not in reached:
                reached[identity_of(fact)] = fact
                further = [part.uri for part in ways(fact) if part.uri not in met]
                met.update(further)
                queue += further
    return list(reached.values())
