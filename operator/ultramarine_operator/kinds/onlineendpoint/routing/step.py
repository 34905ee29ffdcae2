"""What both ways of sharing requests say of the next step: without a gateway, and with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from ultramarine_contract.meta import Manifest
from ultramarine_contract.routes import rescaled

from ....shared.conditions import Condition
from ..deployment.manifests import Endpoint

SOON = timedelta(seconds=1)

Shares = Mapping[str, int]  # percent by deployment; nobody has 0


@dataclass(frozen=True)
class Step:
    """How requests are shared now, and what is done next.

    `shares` says who answers, as was seen; nobody where it is empty. `apply` are the children through which requests
    come. `needed` are deployments that still may get requests, or None while that is not known for sure: then nothing
    is deleted. `settled` is whether all is as the spec says; `waits` why not, where it is not the pods. `answers` is
    False where nobody can answer, whatever the pods say, and `blocked` says what only a person can mend. With `held`
    the pods are left as they are. `secure` is whether the endpoint is asked by https; `url` is
    where clients ask, if not at the endpoint's Service. `away` are the deployments that get no requests because they
    have no ready pod, while others have.
    """

    shares: Shares
    apply: tuple[Manifest, ...]
    needed: frozenset[str] | None
    settled: bool
    waits: str = ""
    answers: bool = True
    blocked: str = ""
    condition: Condition | None = None
    port: int = 0
    url: str = ""
    after: timedelta | None = None
    held: bool = False
    secure: bool = False
    away: frozenset[str] = frozenset()

    @property
    def answering(self) -> Shares:
        """Deployments that answer requests now: those of `shares` that have pods, if any has."""
        return rescaled(self.shares, self.away)


def told(endpoint: Endpoint) -> dict[str, int]:
    """Who answered when the status was written; whatever stands in it, no more than 100 percent."""
    shares = {
        name: share
        for name, share in (endpoint.status.get("traffic") or {}).items()
        if type(share) is int and 0 < share <= 100
    }
    return shares if sum(shares.values()) <= 100 else {}
