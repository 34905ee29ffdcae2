"""Word that a Greeting's pod posts when it has read the text."""

from __future__ import annotations

from ultramarine_contract.meta import POD, Manifest

from ...shared.reporting import Reporting


def _senders(_name: str, children: list[Manifest]) -> list[Manifest]:
    return [child for child in children if child["kind"] == POD.kind]


REPORTING = Reporting(path="greetings", read=bytes.decode, record="str", senders=_senders, sender="the newest pod")
