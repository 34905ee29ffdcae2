"""A warning that requests for one version of an endpoint are refused by another that answers them, or will.

A rollout turns such a version back. Without one the endpoint does what its spec, its alias or @latest says, and the
status says what follows. The inputs are remembered: when the new version's pods tell theirs, the former ones are gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from ...shared.conditions import Condition
from ...shared.meta import Manifest
from ...shared.plan import Seen
from ...shared.routes import RouteState
from .judge import Judged
from .manifests import Endpoint
from .signature_schema import MAX_INPUTS, MAX_VERSIONS, InputStatus, SignaturesStatus, VersionInputs
from .signatures import Input, Inputs, change, inputs_of
from .steps import Shares, told

CONDITION = "SignatureChanged"
MAX_BYTES = 16 * 1024  # of the inputs of a version, which are not remembered if they are more
_SHOWN = 3  # pairs of versions in a message


@dataclass(frozen=True)
class SignatureChange:
    """The entry in the status, and the condition that is there while versions take different requests."""

    status: SignaturesStatus
    condition: Condition | None = None

    def written(self) -> Manifest:
        """The entry in the status."""
        return self.status.model_dump(by_alias=True, exclude_defaults=True, mode="json")


def is_wanted(endpoint: Endpoint) -> bool:
    """True if pods have to be asked what their models take, as far as the status knows."""
    known = _remembered(endpoint)
    is_known = bool(known.versions) and {*known.versions} <= {one.version for one in known.known}
    return not is_known and any(deployment.model for deployment in endpoint.spec.deployments)


def compared(
    endpoint: Endpoint, judged: Mapping[str, Judged], shares: Shares, seen: Seen, proxies: Iterable[RouteState]
) -> SignatureChange:
    """Compare the versions that requests shall go to with each other, and with those that they went to before."""
    old = _remembered(endpoint)
    versions = sorted({judged[name].version for name in shares if name in judged} - {""})[:MAX_VERSIONS]
    if not versions:
        return SignatureChange(old)
    before = old.before if versions == old.versions else _before(endpoint, old, versions, judged)
    known = {one.version: _inputs(one) for one in old.known}
    takes: dict[str, Inputs] = {}
    for version in sorted({*versions, *before}):
        if inputs := inputs_of(version, seen, ()) or known.get(version) or inputs_of(version, seen, proxies):
            takes[version] = inputs
    # A former version of which nothing is known now will not tell any more.
    before = [version for version in before if version in takes]
    found = list(_differences(versions, before, takes))
    if not found and {*versions} <= takes.keys():
        before = []
    entries = (_entry(version, takes[version]) for version in sorted({*versions, *before} & takes.keys()))
    kept = [entry for entry in entries if entry is not None][:MAX_VERSIONS]
    status = SignaturesStatus(versions=versions, before=before, known=kept) if kept else SignaturesStatus()
    if not found:
        return SignatureChange(status)
    message = f"{'; '.join(found[:_SHOWN])}. Change the clients, or serve versions that take the same requests"
    return SignatureChange(status, Condition(CONDITION, True, "InputsDiffer", message))


def _before(endpoint: Endpoint, old: SignaturesStatus, versions: list[str], judged: Mapping[str, Judged]) -> list[str]:
    """The versions that clients know when others join them or take their place; none if those come back.

    A version that never had a ready pod has no clients.
    """
    if {*versions} <= {*old.before}:
        return []
    asked = judged if old.versions else told(endpoint)  # an earlier release remembered nothing
    there = {version for name in asked if name in judged for version in judged[name].serves.split(" and ")} - {""}
    if old.versions:
        there = {*old.versions, *old.before} & there or {*old.versions}
    return sorted(there - {*versions} or there)[:MAX_VERSIONS]


def _differences(versions: list[str], before: list[str], takes: Mapping[str, Inputs]) -> Iterator[str]:
    """A sentence for each pair of which one refuses what the other takes: the newer one, unless both are as new."""
    new = [version for version in versions if version not in before]
    for version in new:
        for former in before:
            if why := _refuses(version, former, takes):
                yield why
    for group in (new, [version for version in versions if version in before]):
        for place, first in enumerate(group):
            for second in group[place + 1 :]:
                if why := _refuses(second, first, takes) or _refuses(first, second, takes):
                    yield why


def _refuses(version: str, former: str, takes: Mapping[str, Inputs]) -> str:
    if version not in takes or former not in takes:
        return ""
    why = change(takes[former], takes[version])
    return f"{version} refuses requests that {former} takes: {why}" if why else ""


def _remembered(endpoint: Endpoint) -> SignaturesStatus:
    """What the status says, if that can be: anybody may have written it."""
    try:
        return SignaturesStatus.model_validate(endpoint.status.get("signatures") or {})
    except ValidationError:
        return SignaturesStatus()


def _inputs(entry: VersionInputs) -> Inputs:
    return tuple(Input(one.name, one.datatype, tuple(one.shape), frozenset(one.features)) for one in entry.inputs)


def _entry(version: str, inputs: Inputs) -> VersionInputs | None:
    """The inputs as the status has them; None if they are too many for it."""
    if len(inputs) > MAX_INPUTS or sum(len(one.features) for one in inputs) > MAX_INPUTS:
        return None
    try:
        listed = [
            InputStatus(name=one.name, datatype=one.datatype, shape=list(one.shape), features=sorted(one.features))
            for one in inputs
        ]
        entry = VersionInputs(version=version, inputs=listed)
    except ValidationError:  # a pod may tell anything
        return None
    return entry if len(json.dumps(entry.model_dump(mode="json"))) <= MAX_BYTES else None
