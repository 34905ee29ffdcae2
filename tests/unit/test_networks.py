"""Network rules that follow from groups of pods."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ultramarine_operator.generate.networks import networks
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.shared.kind import Kind, Peer, PodGroup

MODEL, TRAININGJOB = (next(kind for kind in KINDS if kind.name == name) for name in ("Model", "TrainingJob"))


def with_group(kind: Kind, group: PodGroup) -> list[Kind]:
    """Return all kinds, where `kind` has one group of pods more."""
    return [replace(kind, pods=(*kind.pods, group)) if other is kind else other for other in KINDS]


@pytest.mark.attack("client/around-the-gateway")
def test_no_peer_opens_pods_that_check_no_key():
    """A kind whose pods call endpoints gets the way to those that check keys, and none around the gateway."""
    caller = PodGroup("callers", talks_to=(Peer("OnlineEndpoint", (8080,)),), labels={"role": "caller"})
    rules = {network["name"]: network for network in networks(with_group(MODEL, caller))}
    (guarded,) = rules["serving-guarded"]["ingress"]
    labels = {"app.kubernetes.io/name": "ultramarine", "app.kubernetes.io/component": "gateway"}
    assert guarded["from"] == [{"podSelector": {"matchLabels": labels}}]
    _, called = rules["serving"]["ingress"]
    assert called == {
        "ports": [{"port": 8080, "protocol": "TCP"}],
        "from": [{"podSelector": {"matchLabels": {"ultramarine.dev/kind": "Model", "role": "caller"}}}],
    }


@pytest.mark.parametrize(
    ("group", "fault"),
    [
        (PodGroup("serving"), "two groups of pods have the name serving"),
        (PodGroup("own", talks_to=(Peer("Nonsense"),)), "cannot talk to Nonsense"),
    ],
)
def test_a_faulty_group_is_refused(group: PodGroup, fault: str):
    """A second group of one name would replace the policy of the first; an unknown peer would open nothing."""
    with pytest.raises(ValueError, match=fault):
        networks(with_group(TRAININGJOB, group))
