"""Lineage: where an object comes from and what came of it, by the records in the storage and the live objects."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from ultramarine_contract.errors import StorageError
from ultramarine_contract.lineage import ENDS, KINDS, STARTED_BY, Fact, Part, facts, reference
from ultramarine_contract.lineage_graph import Graph, identity_of, starters
from ultramarine_contract.records import Verdict, folder, read_all, verify

from .kube.errors import NotFound

if TYPE_CHECKING:
    from .client import Client

LATEST = "latest"
VERSIONED = {"model": "ModelVersion", "dataset": "DatasetVersion"}
_SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_PRODUCER = "https://ultramarine.dev/lineage"
_SQL_FACET = "https://openlineage.io/spec/facets/1-1-0/SQLJobFacet.json#/$defs/SQLJobFacet"
_MAX_SHOWN_QUERY = 200  # characters; the JSON has the whole text
ABOVE = "  (above)"
_EVENTS = {"Failed": "FAIL", "Stopped": "ABORT", "Cancelled": "ABORT"}


@dataclass(frozen=True)
class Lineage:
    """Lineage of one object: `origins` are the facts that it comes from, `consequences` those that came of it."""

    uri: str
    graph: Graph
    namespace: str

    @cached_property
    def origins(self) -> list[Fact]:
        """Facts that the object comes from, the nearest first."""
        return self.graph.origins(self.uri)

    @cached_property
    def consequences(self) -> list[Fact]:
        """Facts that came of the object, the nearest first."""
        return self.graph.consequences(self.uri)

    def tree(self) -> str:
        """Return both directions as a tree of text."""
        lines = [self.uri]
        begun = {self.uri, *(part.uri for fact in self.graph.all_begun(self.uri) for part in fact.made)}

        def users(uri: str) -> list[Fact]:
            return [*(self.graph.begun(uri) if uri in begun else []), *self.graph.users(uri)]

        branches = (
            ("comes from", self.graph.makers, lambda fact: fact.used),
            ("used by", users, lambda fact: fact.made),
        )
        shown = [branch for branch in branches if any(fact.value for fact in branch[1](self.uri))]
        for place, (title, at, ways) in enumerate(shown):
            is_last = place == len(shown) - 1
            lines.append(f"{'└─' if is_last else '├─'} {title}")
            lines += self._branch(self.uri, at, ways, "   " if is_last else "│  ", {self.uri})
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """Return both directions as JSON values; `until` is the end of a value that holds no more."""
        parts: dict[str, Any] = {"object": self.uri, "namespace": self.namespace}
        for name, some in (("origins", self.origins), ("consequences", self.consequences)):
            parts[name] = [msgspec.to_builtins(fact) | self._until(fact) for fact in some]
        return parts

    def _until(self, fact: Fact) -> dict[str, str]:
        end = self.graph.end(fact)
        return {"until": end.time} if end is not None else {}

    def mermaid(self) -> str:
        """Return both directions as a flowchart of Mermaid."""
        names: dict[str, str] = {}

        def node(text: str, shape: tuple[str, str]) -> str:
            if text not in names:
                names[text] = f"n{len(names)}"
                quoted = text.replace('"', "#quot;")
                lines.append(f'  {names[text]}{shape[0]}"{quoted}"{shape[1]}')
            return names[text]

        lines = ["flowchart LR"]
        for fact in (*reversed(self.origins), *self.consequences):
            activity = node(self._words(fact), ("([", "])"))
            lines += [f"  {node(part.uri, ('[', ']'))} --> {activity}" for part in fact.used]
            lines += [f"  {activity} --> {node(part.uri, ('[', ']'))}" for part in fact.made]
            lines += [
                f"  {node(version, ('[', ']'))} --> {node(part.uri, ('[', ']'))}"
                for part in fact.used
                for version in self.graph.wholes(part.uri)
            ]
        if self.uri in names:
            lines.append(f"  style {names[self.uri]} stroke-width:4px")
        return "\n".join(dict.fromkeys(lines))

    def events(self) -> list[dict[str, Any]]:
        """Return both directions as run events of OpenLineage, the oldest first.

        A value that lasts is a run, which starts with it and is complete at its end.
        """
        events = []
        for fact in (*self.origins, *self.consequences):
            if not fact.lasts:
                events.append(self._event(fact, _EVENTS.get(fact.value, "COMPLETE"), fact.time))
                continue
            events.append(self._event(fact, "START", fact.time))
            if (end := self.graph.end(fact)) is not None:
                events.append(self._event(fact, "COMPLETE", end.time or fact.time))
        return sorted(events, key=lambda event: str(event["eventTime"]))

    def _event(self, fact: Fact, type: str, time: str) -> dict[str, Any]:
        identity = identity_of(fact) if fact.lasts else f"{fact.key}={fact.value}"
        run = str(uuid.uuid5(uuid.NAMESPACE_URL, identity))
        job: dict[str, Any] = {
            "namespace": f"ultramarine://{self.namespace}",
            "name": f"{fact.kind}/{fact.name}/{fact.slot}",
        }
        if query := fact.details.get("query"):
            job["facets"] = {"sql": {"_producer": _PRODUCER, "_schemaURL": _SQL_FACET, "query": query}}
        return {
            "eventType": type,
            "eventTime": time or "1970-01-01T00:00:00Z",
            "producer": _PRODUCER,
            "schemaURL": _SCHEMA,
            "run": {"runId": run},
            "job": job,
            "inputs": [self._dataset(part) for part in fact.used],
            "outputs": [self._dataset(part) for part in fact.made],
        }

    def _dataset(self, part: Part) -> dict[str, Any]:
        if match := re.fullmatch(r"(s3://[^/]+)/(.*)", part.uri):
            return {"namespace": match[1], "name": match[2]}
        return {"namespace": f"ultramarine://{self.namespace}", "name": part.uri}

    def _branch(
        self,
        uri: str,
        at: Callable[[str], list[Fact]],
        ways: Callable[[Fact], tuple[Part, ...]],
        indent: str,
        met: set[str],
    ) -> Iterator[str]:
        """Yield the lines below a part; what stands further up, or in another branch already, is not repeated."""
        some = [fact for fact in at(uri) if fact.value]
        for place, fact in enumerate(some):
            is_last = place == len(some) - 1
            identity = identity_of(fact)
            yield f"{indent}{'└─' if is_last else '├─'} {self._words(fact)}{ABOVE if identity in met else ''}"
            if identity in met:
                continue
            met.add(identity)
            deeper = indent + ("   " if is_last else "│  ")
            parts = [part for part in ways(fact) if part.uri != uri]
            if query := _query_of(fact):
                yield f"{deeper}{'├─' if parts else '└─'} query: {query}"
            for number, part in enumerate(parts):
                ends = number == len(parts) - 1
                label = f"{part.name}: " if part.name and part.name != part.uri else ""
                digest = f"  {part.digest[:19]}" if part.digest else ""
                yield f"{deeper}{'└─' if ends else '├─'} {label}{part.uri}{digest}{ABOVE if part.uri in met else ''}"
                if part.uri not in met:
                    met.add(part.uri)
                    further = starters if part.name == STARTED_BY else ways
                    yield from self._branch(part.uri, at, further, deeper + ("   " if ends else "│  "), met)

    def _words(self, fact: Fact) -> str:
        """Return a fact in a line, with its time; of a value that lasts with its end."""
        what = f"{fact.kind}/{fact.name}"
        change = fact.value if fact.value in (*ENDS, "Ready") else f"{fact.slot} {fact.value}"
        time = f" {fact.time}" if fact.time else ""
        if (end := self.graph.end(fact)) is not None:
            time = f"{' from' if time else ''}{time} until {end.time or 'an unknown time'}"
        elif fact.lasts and time:
            time = f" since{time}"
        return f"{what} {change}{time}{f' by {fact.by}' if fact.by else ''}"


def lineage_of(client: Client, kind: str, name: str) -> Lineage:
    """Return the lineage of an object. Raises NotFound for one that nothing is recorded about.

    `kind` is model or dataset with a name such as churn@8 or churn@champion, the name of another kind, or uri.
    """
    recorded = all_facts(client)
    graph = Graph(recorded)
    uri = _uri(client, recorded, kind.lower(), name)
    if uri not in graph:
        raise NotFound(f"nothing is recorded about {uri} in namespace {client.namespace}. Correct the name.")
    return Lineage(uri, graph, client.namespace)


def all_facts(client: Client) -> list[Fact]:
    """Return the recorded facts of the namespace, and those that live objects tell and no record has yet."""
    try:
        entries = read_all(client.storage, folder(client.platform.facts.bucket, client.namespace))
    except StorageError as error:
        if error.reason != "BucketNotFound":
            raise
        entries = []
    recorded = [entry.fact for entry in entries]
    newest = {fact.key: fact.value for fact in recorded}
    return [*recorded, *(fact for fact in live_facts(client) if newest.get(fact.key) != fact.value)]


def live_facts(client: Client) -> Iterator[Fact]:
    """Yield what the objects of the namespace tell now."""
    for entry in client.kinds.ours():
        if entry.resource.kind in KINDS:
            for manifest in client.cluster.list(entry.resource):
                yield from facts(manifest)


def audit(client: Client, head: str = "") -> Verdict:
    """Check the records of the namespace against each other, and against the live objects. Raises StorageError.

    `head` is the digest that an earlier check gave for the last record.
    """
    place = folder(client.platform.facts.bucket, client.namespace)
    before = list(live_facts(client))  # a record is written after its fact: objects first
    verdict = verify(client.storage, place, head)
    recorded = {(entry.fact.key, entry.fact.value) for entry in read_all(client.storage, place)}
    missing = [fact for fact in before if (fact.key, fact.value) not in recorded]
    problems = [f"{fact.kind} {fact.name}: no record says {fact.slot} {fact.value}" for fact in missing]
    return verdict._replace(faults=[*verdict.faults, *problems])


def _uri(client: Client, recorded: list[Fact], kind: str, name: str) -> str:
    if kind == "uri":
        return name
    if kind not in VERSIONED or ("@" not in name and kind != "model"):
        resource = client.kinds.named(kind)
        return reference(resource.kind, name)
    base, _, version = name.partition("@")
    version_kind = VERSIONED[kind]
    if not version or version == LATEST:
        pattern = re.compile(re.escape(base) + r"-(\d+)")
        numbers = [
            int(match[1]) for fact in recorded if fact.kind == version_kind and (match := pattern.fullmatch(fact.name))
        ]
        version = str(max(numbers, default=0))
    elif not version.isdigit():
        moves = [fact.value for fact in recorded if fact.slot == f"alias/{version}" and fact.name == base]
        version = moves[-1] if moves else version
    return reference(version_kind, f"{base}-{version}")


def _query_of(fact: Fact) -> str:
    """Return the query that made a version in one line, cut to a length for a terminal."""
    text = " ".join(str(fact.details.get("query") or "").split())
    return text if len(text) <= _MAX_SHOWN_QUERY else f"{text[:_MAX_SHOWN_QUERY]}..."


def as_text(lineage: Lineage, format: str) -> str:
    """Return a lineage in a format: tree, json, mermaid or openlineage (a line of JSON for each event)."""
    match format:
        case "json":
            return json.dumps(lineage.document(), indent=2, ensure_ascii=False)
        case "mermaid":
            return lineage.mermaid()
        case "openlineage":
            return "\n".join(json.dumps(event, ensure_ascii=False) for event in lineage.events())
    return lineage.tree()
