"""Network rules of pods, from what their kinds say: charts/ultramarine/files/networks.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ultramarine_contract.meta import LABEL_KIND, Manifest

from ..kinds import KINDS
from ..shared.kind import MLFLOW, OPERATOR, PodGroup


def networks() -> list[Manifest]:
    """Return the rules of each group of pods, by the name of its policy.

    A group has `selector`, `ingress`, `egress`, `operator` and `mlflow`: whether its pods connect to these. The chart
    adds what holds for all pods. A group that adds to another has no `ingress`.
    """
    groups = {group.name: group for kind in KINDS for group in kind.groups}
    return [_network(group, list(groups.values())) for group in groups.values()]


def _network(group: PodGroup, groups: list[PodGroup]) -> Manifest:
    peers = {peer.name for peer in group.talks_to}
    network: Manifest = {"name": group.name, "selector": _selector(group.kinds, group.labels, group.matches)}
    if not group.adds:
        network["ingress"] = [*_served(group), *_heard(group, groups)]
    to = [peer for peer in group.talks_to if peer.name not in (OPERATOR, MLFLOW)]
    network["egress"] = [{"ports": _ports(peer.ports), "to": [_pods([peer.name])]} for peer in to]
    return network | {"operator": OPERATOR in peers, "mlflow": MLFLOW in peers}


def _served(group: PodGroup) -> list[Manifest]:
    """Return the rule for ports that are open to all, or to some pods of the namespace."""
    sources = {"from": [{"podSelector": {"matchLabels": group.serves_to}}]} if group.serves_to else {}
    return [{"ports": _ports(group.serves), **sources}] if group.serves else []


def _heard(group: PodGroup, groups: list[PodGroup]) -> list[Manifest]:
    """Return a rule for each set of ports at which pods of other groups connect to this one."""
    callers: dict[tuple[int, ...], set[str]] = {}
    for other in groups:
        for peer in other.talks_to:
            if peer.name in group.kinds:
                callers.setdefault(peer.ports, set()).update(other.kinds)
    return [{"ports": _ports(ports), "from": [_pods(sorted(kinds))]} for ports, kinds in callers.items()]


def _ports(ports: Iterable[int]) -> list[Manifest]:
    return [{"port": port, "protocol": "TCP"} for port in ports] or [{"protocol": "TCP"}]


def _pods(kinds: list[str]) -> Manifest:
    return {"podSelector": _selector(kinds)}


def _selector(
    kinds: Sequence[str], labels: Mapping[str, str] | None = None, matches: Iterable[Manifest] = ()
) -> Manifest:
    equal = ({LABEL_KIND: kinds[0]} if len(kinds) == 1 else {}) | dict(labels or {})
    any_of = [{"key": LABEL_KIND, "operator": "In", "values": sorted(kinds)}] if len(kinds) > 1 else []
    expressions = [*any_of, *matches]
    return {**({"matchLabels": equal} if equal else {}), **({"matchExpressions": expressions} if expressions else {})}
