"""A kind of custom resource: all that the engine, the generator and the chart need to know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import BaseModel
from ultramarine.resources.base import RunStatus
from ultramarine_contract.meta import GROUP, MAX_NAME, VERSION, Key, Manifest, Resource

from .plan import Obj, Plan, Seen
from .questions import Question
from .reporting import Reporting

ANY = "*"  # the topic of an object that looks at all objects of the namespace

Rule = tuple[str, str]  # a CEL expression over the whole object, and its message

_SHORT = (f"size(self.metadata.name) <= {MAX_NAME}", f"metadata.name must have at most {MAX_NAME} characters")
NO_DOT: Rule = ("!self.metadata.name.contains('.')", "metadata.name must not contain a dot")
LETTER_FIRST: Rule = (
    "!self.metadata.name.contains('.') && self.metadata.name.matches('^[a-z]')",
    "metadata.name must start with a letter and must not contain a dot: it becomes a Service's name",
)
PLAIN_NAME: tuple[Rule, ...] = (_SHORT, NO_DOT)
HOST_NAME: tuple[Rule, ...] = (
    _SHORT,
    ("!self.metadata.name.contains('.')", "metadata.name must not contain a dot: it becomes a host name"),
)
SERVICE_NAME: tuple[Rule, ...] = (_SHORT, LETTER_FIRST)


@dataclass(frozen=True)
class Column:
    """A printer column of `kubectl get`; priority 1 shows with `-o wide`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_REQUESTER = Column("Requester", ".status.requestedBy", priority=1)


def _condition(column: str, type: str, field: str = "message", priority: int = 1) -> Column:
    return Column(column, f'.status.conditions[?(@.type=="{type}")].{field}', priority=priority)


READY = _condition("Ready", "Ready", "status", priority=0)

OPERATOR, MLFLOW = "operator", "mlflow"  # peers beside the kinds


@dataclass(frozen=True)
class Peer:
    """Pods that other pods connect to: those of a kind, OPERATOR or MLFLOW, at some TCP ports; none given: at all."""

    name: str
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class PodGroup:
    """Pods with the same network rules, which become the NetworkPolicy ultramarine-NAME of each namespace.

    Storage, DNS and addresses outside the cluster are open to all of them. `labels` and `matches`, expressions on
    labels, select them beside the label of the kind. `serves` are ports that are open to all, or to the pods with the
    labels `serves_to`. A group that `adds` has its rules beside those of another group, and goes with the release.
    Pods that reach `outside` connect to package indexes, as the chart's `environments` allows.
    """

    name: str
    talks_to: tuple[Peer, ...] = ()
    serves: tuple[int, ...] = ()
    serves_to: Manifest = field(default_factory=dict)
    kinds: tuple[str, ...] = ()  # the kind's own, unless given
    labels: Mapping[str, str] = field(default_factory=dict)
    matches: tuple[Manifest, ...] = ()
    adds: bool = False
    outside: bool = False


@dataclass(frozen=True)
class Feature:
    """Further children, and further types to delete, of a kind where the platform has a feature."""

    children: tuple[Resource, ...]
    deletes: tuple[Resource, ...] = ()


def no_questions(_obj: Obj[Any], _seen: Seen) -> tuple[Question, ...]:
    """Ask nothing."""
    return ()


def no_topics(_manifest: Manifest) -> frozenset[str]:
    """Return no topic: the kind looks at its own children only."""
    return frozenset()


@dataclass(frozen=True)
class Kind:
    """One kind of custom resource. Its name is that of its spec's class: the kind of GreetingSpec is Greeting.

    `related` are kinds whose objects a plan looks at without owning them: those of the namespace with which its
    object shares a topic. A change of an object of one of `rung_by` rings what shares a topic with it. Topics are
    read off the plain manifest: names of Models, and where in the storage a version's files are. An object with the
    topic ANY sees all of `related`, and all of them see it and ring it. Its own changes ring no object by that topic.
    With `runs` its children are objects of any kind that ends, which its spec names at `template.kind`.
    """

    short: str
    description: str
    spec: type[BaseModel]
    status: type[BaseModel]
    plan: Callable[[Obj[Any], Seen, datetime], Plan]
    columns: tuple[Column, ...] = ()  # beside those that all kinds have
    names: tuple[Rule, ...] = HOST_NAME
    rules: tuple[Rule, ...] = ()  # over the whole object, beside those on its name
    children: tuple[Resource, ...] = ()
    features: Mapping[str, Feature] = field(default_factory=dict)  # by the name of a feature of the platform
    related: tuple[Resource, ...] = ()
    rung_by: tuple[Resource, ...] = ()
    rung_by_edits: tuple[Resource, ...] = ()  # as rung_by, but only for another spec, a new object or its end
    topics: Callable[[Manifest], frozenset[str]] = no_topics
    questions: Callable[[Obj[Any], Seen], tuple[Question, ...]] = no_questions
    report: Reporting | None = None  # what its pods post, if they do
    creates: tuple[Resource, ...] = ()  # made through Plan.create or an effect
    deletes: tuple[Resource, ...] = ()  # by its plans
    edits: tuple[Resource, ...] = ()  # by its plans
    confirms: tuple[Resource, ...] = ()  # in Plan.absent
    pods: tuple[PodGroup, ...] = ()  # one without peers, unless given, if the kind makes pods
    runs: bool = False

    @cached_property
    def resource(self) -> Resource:
        """Type in the API: its plural is the kind in lower case with an s."""
        kind = self.spec.__name__.removesuffix("Spec")
        return Resource(GROUP, VERSION, f"{kind.lower()}s", kind)

    @property
    def name(self) -> str:
        return self.resource.kind

    @property
    def ends(self) -> bool:
        """True if its objects run to an end."""
        return issubclass(self.status, RunStatus)

    @property
    def all_rules(self) -> tuple[Rule, ...]:
        """All CEL rules over the whole object."""
        return (*self.names, *self.rules)

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """All printer columns, in the order in which kubectl shows them."""
        shown = tuple(column for column in self.columns if not column.priority)
        wide = tuple(column for column in self.columns if column.priority)
        if self.ends:
            shown = (Column("State", ".status.state"), *shown, Column("Duration", ".status.duration"))
        messages = (_condition("Message", "Running" if self.ends else "Ready"), _condition("Failure", "Stalled"))
        return (*shown, _AGE, *wide, *messages, _REQUESTER)

    @property
    def groups(self) -> tuple[PodGroup, ...]:
        """Groups of its pods, for network policies; none if it makes no pods."""
        makes_pods = any(child.kind == "Pod" for child in self.children)
        groups = self.pods or ((PodGroup(self.resource.plural),) if makes_pods else ())
        return tuple(replace(group, kinds=group.kinds or (self.name,)) for group in groups)

    def on(self, features: Iterable[str]) -> Kind:
        """Return the kind as it is on a platform with these features."""
        more = [self.features[name] for name in features if name in self.features]
        children = (*self.children, *(child for feature in more for child in feature.children))
        deletes = (*self.deletes, *(gone for feature in more for gone in feature.deletes))
        return replace(self, children=children, deletes=deletes)

    def over(self, kinds: Iterable[Kind]) -> Kind:
        """Return a kind that `runs` with those kinds that end as its children."""
        runnable = tuple(kind.resource for kind in kinds if kind.ends)
        names = [resource.kind for resource in runnable]
        rule = (f"self.spec.template.kind in {names}", f"spec.template.kind must be one of {', '.join(names)}")
        children, deletes = (*self.children, *runnable), (*self.deletes, *runnable)
        return replace(self, children=children, deletes=deletes, rules=(*self.rules, rule))

    def key(self, manifest: Manifest) -> Key:
        return Key(self.name, manifest["metadata"]["namespace"], manifest["metadata"]["name"])
