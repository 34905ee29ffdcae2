"""The next step of any routing, with or without a gateway."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ultramarine_contract.meta import Manifest
from ultramarine_contract.routes import rescaled

from ....shared.conditions import Condition
from ..endpoint import Shares

SOON = timedelta(seconds=1)


@dataclass(frozen=True)
class RoutingStep:
    """The shares that answer now, and the children that change them.

    `shares` is empty if no deployment answers. `needed` are deployments that may still get requests; None if that is
    unknown, and then nothing is deleted. `settled` means that routing follows the spec, and `waits` says what it waits
    for besides pods. `answers` is False if requests cannot reach any pod. `blocked` is a message that asks for user
    action. With `frozen` the pods stay as they are. `secure` means that clients use https. `url` is the address if it
    differs from the Service's. `diverted` are deployments without a ready pod, whose requests others answer.
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
    frozen: bool = False
    secure: bool = False
    diverted: frozenset[str] = frozenset()

    @property
    def answering(self) -> Shares:
        """The shares that answer now: those of deployments with pods, if any has pods."""
        return rescaled(self.shares, self.diverted)
