"""Test material of Greeting."""

from __future__ import annotations

from ultramarine_contract.meta import Manifest

from ...shared.plan import Obj, Plan, Platform
from ...shared.testing import (
    NAME_OF_40,
    NOW,
    Life,
    Material,
    Neighbour,
    World,
    applied,
    clash,
    named,
    seen,
    stored,
    until_true,
)
from .plan import plan
from .schema import GreetingSpec


def loud_greeting(platform: Platform) -> Plan:
    """A loud greeting."""
    spec = {"text": "hello", "tone": "loud", "volume": 11}
    return plan(Obj(stored("Greeting", "hello", spec), GreetingSpec.model_validate(spec)), seen(platform=platform), NOW)


def _complete(_: Manifest, spec: Manifest) -> None:
    spec.setdefault("volume", 1)


async def _is_ready(world: World) -> None:
    await until_true(world, "Greeting", "hello")


MATERIAL = Material(
    kind="Greeting",
    whole={"metadata": {"name": "hello"}, "spec": {"text": "hello", "tone": "loud", "volume": 3}},
    least={"text": "hello"},
    defaults={"tone": "plain"},
    edit={"volume": 5},
    free=({"text": "bye", "tone": "plain"},),
    rules=(
        named("metadata.name must have at most 40", NAME_OF_40, NAME_OF_40 + "a"),
        named("metadata.name must not contain a dot", "a-b", "a.b"),
        clash("a loud greeting needs volume", {"tone": "plain"}, {"tone": "loud", "volume": None}),
    ),
    lives=(
        Life(
            "is ready",
            (applied("Greeting", "hello", {"text": "hello"}),),
            _is_ready,
            edits=({"text": "bye"},),
            refused=(({"tone": "rude"}, "tone"),),
        ),
    ),
    samples=(loud_greeting,),
    complete=_complete,
    neighbour=Neighbour(
        lambda name, _: applied("Greeting", name, {"text": "hello"}), children=(("ConfigMap", "NAME"),), ready=True
    ),
)
