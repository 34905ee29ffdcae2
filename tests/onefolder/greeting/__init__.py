"""Greeting: keep a text in a ConfigMap, and read it in a pod that reports. The test of what a kind costs adds it."""

from __future__ import annotations

from ultramarine_contract.meta import CONFIG_MAP, JOB, POD

from ...shared.kind import OPERATOR, READY, Column, Kind, Peer, PodGroup
from .plan import plan
from .report import REPORTING
from .schema import GreetingSpec, GreetingStatus

KIND = Kind(
    short="gr",
    description="Greeting keeps a text in a ConfigMap.",
    spec=GreetingSpec,
    status=GreetingStatus,
    columns=(READY, Column("Length", ".status.length", "integer")),
    plan=plan,
    children=(CONFIG_MAP, JOB, POD),
    report=REPORTING,
    pods=(PodGroup("greetings", talks_to=(Peer(OPERATOR),)),),
)
