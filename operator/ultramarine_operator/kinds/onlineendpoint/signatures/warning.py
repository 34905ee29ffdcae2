"""A warning that requests for one version of an endpoint are refused by another that answers them, or will.

A rollout turns such a version back. Without one the endpoint does what its spec, its alias or @latest says, and the
status says what follows. The inputs are remembered: when the new version's pods tell theirs, the former ones are gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydantic import ValidationError
from ultramarine.resources.onlineendpoint_signature import (
    MAX_INPUTS,
    MAX_VERSIONS,
    InputStatus,
    SignaturesStatus,
    VersionInputs,
)
from ultramarine_contract.meta import Manifest
from ultramarine_contract.routes import RouteState

from ....shared.conditions import Condition
from ....shared.plan import Seen
from ..deployment.health import SETTLED, Judged
from ..deployment.manifests import Endpoint
from ..routing.step import Shares, told
from .inputs import Input, Inputs, change, inputs_of

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


def is_wanted(endpoint: Endpoint, seen: Seen) -> bool:
    """True if pods have to be asked what their models take, as far as the status knows."""
    status, digests = _remembered(endpoint), _digests(seen)
    current = {entry.version for entry in status.known if not _is_stale(entry, digests)}
    is_known = bool(status.versions) and {*status.versions} <= current
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
    digests = _digests(seen)
    entries = _entries({*versions, *before}, old, digests, judged, seen, proxies)
    takes: dict[str, Inputs] = {}
    for version, entry in entries.items():
        inputs = () if _is_stale(entry, digests) else inputs_of(version, seen, ()) or _inputs(entry)
        if inputs:
            takes[version] = inputs
    # A former version of which nothing is known now will not tell any more.
    before = [version for version in before if version in takes]
    found = list(_differences(versions, before, takes))
    if not found and {*versions} <= takes.keys():
        before = []
    kept = [entries[version] for version in sorted({*versions, *before} & entries.keys())][:MAX_VERSIONS]
    status = SignaturesStatus(versions=versions, before=before, known=kept) if kept else SignaturesStatus()
    if not found:
        return SignatureChange(status)
    message = f"{'; '.join(found[:_SHOWN])}. Change the clients, or serve versions that take the same requests"
    return SignatureChange(status, Condition(CONDITION, True, "InputsDiffer", message))


def _entries(
    versions: Iterable[str],
    old: SignaturesStatus,
    digests: Mapping[str, str],
    judged: Mapping[str, Judged],
    seen: Seen,
    proxies: Iterable[RouteState],
) -> dict[str, VersionInputs]:
    """The inputs of each version: as its ModelVersion declares them, as remembered or, if they are not, as pods tell.

    Pods of an earlier ModelVersion of the same name tell its inputs: they are believed when none of them is left.
    """
    remembered = {entry.version: entry for entry in old.known}
    settled = {one.version for one in judged.values()} - {o.version for o in judged.values() if o.state not in SETTLED}
    entries: dict[str, VersionInputs] = {}
    for version in versions:
        entry = remembered.get(version)
        is_stale = entry is not None and _is_stale(entry, digests)
        asks = entry is None or (is_stale and version in settled)
        inputs = inputs_of(version, seen, proxies if asks else ())
        if inputs is not None:
            entries[version] = _entry(version, digests.get(version, ""), inputs)
        elif entry is not None:
            digest = entry.digest or digests.get(version, "")
            entries[version] = entry.model_copy(update={"digest": digest})
    return entries


def _digests(seen: Seen) -> dict[str, str]:
    return {one["metadata"]["name"]: str(one["spec"].get("digest", "")) for one in seen.others("ModelVersion")}


def _is_stale(entry: VersionInputs, digests: Mapping[str, str]) -> bool:
    """True if the entry is of an earlier ModelVersion of the same name; one that is gone has no later one."""
    return bool(entry.digest) and digests.get(entry.version, entry.digest) != entry.digest


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


def _entry(version: str, digest: str, inputs: Inputs) -> VersionInputs:
    """The inputs as the status has them; none if they are too many for it, so that pods are not asked again."""
    none = VersionInputs(version=version, digest=digest, inputs=[])
    if len(inputs) > MAX_INPUTS or sum(len(one.features) for one in inputs) > MAX_INPUTS:
        return none
    try:
        listed = [
            InputStatus(name=one.name, datatype=one.datatype, shape=list(one.shape), features=sorted(one.features))
            for one in inputs
        ]
        entry = VersionInputs(version=version, digest=digest, inputs=listed)
    except ValidationError:  # a pod may tell anything
        return none
    return entry if len(json.dumps(entry.model_dump(mode="json"))) <= MAX_BYTES else none
