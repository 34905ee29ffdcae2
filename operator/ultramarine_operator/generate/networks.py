"""Network rules of pods, from the groups of their kinds: charts/ultramarine/files/networks.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from ultramarine_contract.meta import LABEL_KIND, Manifest

from ..kinds import KINDS
from ..shared.kind import MLFLOW, OPERATOR, Kind, PodGroup


def networks(kinds: Iterable[Kind] = KINDS) -> list[Manifest]:
    """Return the rules of each group of pods, by the name of its policy.

    A group has `selector`, `ingress`, `egress`, `operator` and `mlflow`: whether its pods connect to these. It has
    `outside` if its pods connect to package indexes. The chart adds what holds for all pods. A group that adds to
    another has no `ingress`. Raises ValueError for two groups of one name, and for a peer that is none.
    """
    groups: dict[str, PodGroup] = {}
    for group in (group for kind in kinds for group in kind.groups):
        if groups.setdefault(group.name, group) != group:
            raise ValueError(f"two groups of pods have the name {group.name}; rename one of them")
    peers = {OPERATOR, MLFLOW, *(kind for group in groups.values() for kind in group.kinds)}
    for group in groups.values():
        if unknown := {peer.name for peer in group.talks_to} - peers:
            names = ", ".join(sorted(unknown))
            raise ValueError(f"the pods of group {group.name} cannot talk to {names}: no such pods exist")
    return [_network(group, list(groups.values())) for group in groups.values()]


def _network(group: PodGroup, groups: list[PodGroup]) -> Manifest:
    peers = {peer.name for peer in group.talks_to}
    network: Manifest = {"name": group.name, "selector": _selector(group)}
    if not group.adds:
        network["ingress"] = [*_served(group), *_called(group, groups)]
    to = [peer for peer in group.talks_to if peer.name not in (OPERATOR, MLFLOW)]
    network["egress"] = [{"ports": _ports(peer.ports), "to": [_pods([peer.name])]} for peer in to]
    outside = {"outside": True} if group.outside else {}
    return network | {"operator": OPERATOR in peers, "mlflow": MLFLOW in peers} | outside


def _served(group: PodGroup) -> list[Manifest]:
    """Return the rule for ports that are open to all, or to some pods of the namespace."""
    sources = {"from": [{"podSelector": {"matchLabels": group.serves_to}}]} if group.serves_to else {}
    return [{"ports": _ports(group.serves), **sources}] if group.serves else []


def _called(group: PodGroup, groups: list[PodGroup]) -> list[Manifest]:
    """Return a rule for each set of ports at which pods of other groups connect to this one.

    A group that serves some pods alone is closed to all others: these check no key of a caller.
    """
    if group.serves_to:
        return []
    callers: dict[tuple[int, ...], list[PodGroup]] = {}
    for caller in groups:
        for peer in caller.talks_to:
            if peer.name in group.kinds:
                callers.setdefault(peer.ports, []).append(caller)
    rules = []
    for ports, calling in callers.items():
        whole = sorted({kind for caller in calling if not (caller.labels or caller.matches) for kind in caller.kinds})
        parts = [{"podSelector": _selector(caller)} for caller in calling if caller.labels or caller.matches]
        rules.append({"ports": _ports(ports), "from": [*([_pods(whole)] if whole else []), *parts]})
    return rules


def _ports(ports: Iterable[int]) -> list[Manifest]:
    return [{"port": port, "protocol": "TCP"} for port in ports] or [{"protocol": "TCP"}]


def _pods(kinds: Sequence[str]) -> Manifest:
    return {"podSelector": _labels(kinds)}


def _selector(group: PodGroup) -> Manifest:
    return _labels(group.kinds, group.labels, group.matches)


def _labels(
    kinds: Sequence[str], labels: Mapping[str, str] = MappingProxyType({}), matches: Iterable[Manifest] = ()
) -> Manifest:
    equal = ({LABEL_KIND: kinds[0]} if len(kinds) == 1 else {}) | dict(labels)
    any_of = [{"key": LABEL_KIND, "operator": "In", "values": sorted(kinds)}] if len(kinds) > 1 else []
    expressions = [*any_of, *matches]
    return {**({"matchLabels": equal} if equal else {}), **({"matchExpressions": expressions} if expressions else {})}
