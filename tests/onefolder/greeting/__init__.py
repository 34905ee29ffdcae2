"""Greeting: keep a text in a ConfigMap. The smallest kind there is, for the test of what a kind costs."""

from __future__ import annotations

from ultramarine_contract.meta import CONFIG_MAP

from ...shared.kind import OPERATOR, READY, Column, Kind, Peer, PodGroup
from .plan import plan
from .schema import GreetingSpec, GreetingStatus

KIND = Kind(
    short="gr",
    description="Greeting keeps a text in a ConfigMap.",
    spec=GreetingSpec,
    status=GreetingStatus,
    columns=(READY, Column("Length", ".status.length", "integer")),
    plan=plan,
    children=(CONFIG_MAP,),
    pods=(PodGroup("greetings", talks_to=(Peer(OPERATOR),)),),
)
