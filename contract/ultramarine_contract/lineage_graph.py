"""Graph of lineage: where a part comes from, and what came of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from .lineage import FILES, STARTED_BY, Fact, Part
from .meta import DATASET_VERSION


class Graph:
    """Facts by what they used and made.

    The object that started a run is not data: a walk reaches it and goes on to what started it, and to no other input
    of it. So a step of a pipeline does not come from the data of its siblings.

    Files below the folder of a DatasetVersion, such as a partition, are of that version: they come from its
    registration, and what used them used the version.

    Facts are in the order in which they were recorded: the next one of a lasting property ends the one before.
    """

    def __init__(self, facts: Iterable[Fact]) -> None:
        self._making: dict[str, list[Fact]] = defaultdict(list)
        self._using: dict[str, list[Fact]] = defaultdict(list)
        self._begun: dict[str, list[Fact]] = defaultdict(list)
        self._next: dict[str, Fact] = {}  # fact that ended a lasting one, by the identity of the latter
        self._registered: dict[str, list[Fact]] = defaultdict(list)  # by the folder of the version
        self._inside: dict[str, list[Fact]] = defaultdict(list)  # what used files, by each folder above them
        newest: dict[str, Fact] = {}
        for fact in facts:
            if fact.lasts:
                if (former := newest.get(fact.key)) is not None:
                    self._next[identity_of(former)] = fact
                newest[fact.key] = fact
            if fact.kind == DATASET_VERSION.kind:
                for part in fact.used:
                    if part.name == FILES and part.uri.endswith("/"):
                        self._registered[part.uri].append(fact)
            for part in fact.used:
                for folder in _folders(part.uri):
                    self._inside[folder].append(fact)
            for part in fact.made:
                self._making[part.uri].append(fact)
            for part in fact.used:
                (self._begun if part.name == STARTED_BY else self._using)[part.uri].append(fact)

    def __contains__(self, uri: str) -> bool:
        return uri in self._making or uri in self._using or uri in self._begun

    def end(self, fact: Fact) -> Fact | None:
        """Return the fact that ended the value of a lasting property; None if the value holds."""
        return self._next.get(identity_of(fact))

    def makers(self, uri: str) -> list[Fact]:
        """Return the facts that made a part; of a part of a DatasetVersion those that registered the version."""
        return self._making.get(uri) or self._registrations(uri)

    def users(self, uri: str) -> list[Fact]:
        """Return the facts that used a part, or parts of a DatasetVersion."""
        folders = {
            part.uri
            for fact in self._making.get(uri, [])
            for part in fact.used
            if fact.kind == DATASET_VERSION.kind and part.name == FILES
        }
        return _unique(
            [*self._using.get(uri, []), *(fact for folder in folders for fact in self._inside.get(folder, []))]
        )

    def wholes(self, uri: str) -> list[str]:
        """Return the DatasetVersions that a part lies in, unless a fact made it by itself."""
        registrations = [] if self._making.get(uri) else self._registrations(uri)
        return [part.uri for fact in registrations for part in fact.made]

    def _registrations(self, uri: str) -> list[Fact]:
        return [fact for folder in _folders(uri) for fact in self._registered.get(folder, [])]

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


def _folders(uri: str) -> Iterator[str]:
    """Yield the folders that files lie in, from the nearest one to the bucket's."""
    while uri.startswith("s3://") and (uri := f"{uri.rstrip('/').rpartition('/')[0]}/") != "s3://":
        yield uri


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
