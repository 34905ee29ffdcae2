"""Warning that one version of an endpoint refuses requests for another.

A rollout rolls such a version back. Without a rollout the endpoint follows its spec, and the condition SignatureChanged
warns. The status remembers inputs, because the pods of the former version are gone when the new pods report theirs.
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
from ultramarine_contract.routes import RouteState

from ....shared.conditions import Condition
from ....shared.plan import Seen
from ..deployment.health import SETTLED, DeploymentHealth
from ..endpoint import Endpoint, Shares
from .inputs import Input, Inputs, attributed, incompatibility, inputs_of

Health = Mapping[str, DeploymentHealth]  # by deployment

CONDITION = "SignatureChanged"
MAX_BYTES = 16 * 1024  # of the inputs of a version; larger ones are not remembered
_MAX_SHOWN = 3  # pairs of versions in a message


@dataclass(frozen=True)
class SignatureChange:
    """The entry in the status, and the condition while versions accept different requests."""

    status: SignaturesStatus
    condition: Condition | None = None


def is_needed(endpoint: Endpoint, seen: Seen) -> bool:
    """True if the gateway must ask pods for the inputs of their models."""
    status, digests = _former(endpoint), _digests(seen)
    current = {entry.version for entry in status.known if not _is_stale(entry, digests)}
    is_complete = bool(status.versions) and {*status.versions} <= current
    return not is_complete and any(
        d.model and (d.container is None or d.container.api == "v2") for d in endpoint.spec.deployments
    )


def check_signatures(
    endpoint: Endpoint,
    health: Health,
    shares: Shares,
    seen: Seen,
    proxies: Iterable[RouteState],
) -> SignatureChange:
    """Compare the versions that get requests with each other, and with the former ones."""
    old = _former(endpoint)
    versions = sorted({health[name].version for name in shares if name in health} - {""})[:MAX_VERSIONS]
    if not versions:
        return SignatureChange(old)
    before = old.before if versions == old.versions else _before(endpoint, old, versions, health)
    digests = _digests(seen)
    reporting = attributed(proxies, of_containers(endpoint, health))
    entries = _entries({*versions, *before}, old, digests, health, seen, reporting)
    takes: dict[str, Inputs] = {}
    for version, entry in entries.items():
        inputs = () if _is_stale(entry, digests) else inputs_of(version, seen, ()) or _inputs(entry)
        if inputs:
            takes[version] = inputs
    # The inputs of a former version that are unknown now stay unknown.
    before = [version for version in before if version in takes]
    differences = list(_differences(versions, before, takes))
    if not differences and {*versions} <= takes.keys():
        before = []
    kept = [entries[version] for version in sorted({*versions, *before} & entries.keys())][:MAX_VERSIONS]
    status = SignaturesStatus(versions=versions, before=before, known=kept) if kept else SignaturesStatus()
    if not differences:
        return SignatureChange(status)
    message = (
        f"{'; '.join(differences[:_MAX_SHOWN])}. Change the clients, or serve versions that take the same requests"
    )
    return SignatureChange(status, Condition(CONDITION, True, "InputsDiffer", message))


def of_containers(endpoint: Endpoint, health: Health) -> dict[str, str]:
    """Return the version of each deployment with a container; empty while its pods may be of several."""
    names = [deployment.name for deployment in endpoint.spec.deployments if deployment.container is not None]
    return {name: health[name].version if health[name].state in SETTLED else "" for name in names if name in health}


def _entries(
    versions: Iterable[str],
    old: SignaturesStatus,
    digests: Mapping[str, str],
    health: Health,
    seen: Seen,
    proxies: Iterable[RouteState],
) -> dict[str, VersionInputs]:
    """Return the inputs of each version: as declared, as remembered, or as pods report them.

    Pods of an earlier ModelVersion of the same name report its inputs, so reports wait until none of them is left.
    """
    remembered = {entry.version: entry for entry in old.known}
    unsettled = {deployment.version for deployment in health.values() if deployment.state not in SETTLED}
    settled = {deployment.version for deployment in health.values()} - unsettled
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
    return {v["metadata"]["name"]: str(v["spec"].get("digest", "")) for v in seen.others("ModelVersion")}


def _is_stale(entry: VersionInputs, digests: Mapping[str, str]) -> bool:
    """True if the entry belongs to an earlier ModelVersion of the same name."""
    return bool(entry.digest) and digests.get(entry.version, entry.digest) != entry.digest


def _before(endpoint: Endpoint, old: SignaturesStatus, versions: list[str], health: Health) -> list[str]:
    """Return the former versions, whose requests clients send; none if those versions come back.

    A version that never had a ready pod has no clients.
    """
    if {*versions} <= {*old.before}:
        return []
    names = health if old.versions else endpoint.former_traffic  # an earlier release remembered no versions
    served = {version for name in names if name in health for version in health[name].serves.split(" and ")} - {""}
    if old.versions:
        served = {*old.versions, *old.before} & served or {*old.versions}
    return sorted(served - {*versions} or served)[:MAX_VERSIONS]


def _differences(versions: list[str], before: list[str], takes: Mapping[str, Inputs]) -> Iterator[str]:
    """Describe each pair in which the newer version refuses requests for the other; both if they are equally new."""
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
    why = incompatibility(takes[former], takes[version])
    return f"{version} refuses requests that {former} takes: {why}" if why else ""


def _former(endpoint: Endpoint) -> SignaturesStatus:
    return endpoint.former.signatures or SignaturesStatus()


def _inputs(entry: VersionInputs) -> Inputs:
    return tuple(Input(i.name, i.datatype, tuple(i.shape), frozenset(i.features)) for i in entry.inputs)


def _entry(version: str, digest: str, inputs: Inputs) -> VersionInputs:
    """Return the inputs for the status; an empty entry if they are too many, so that pods are not asked again."""
    empty = VersionInputs(version=version, digest=digest, inputs=[])
    if len(inputs) > MAX_INPUTS or sum(len(tensor.features) for tensor in inputs) > MAX_INPUTS:
        return empty
    try:
        listed = [
            InputStatus(name=i.name, datatype=i.datatype, shape=list(i.shape), features=sorted(i.features))
            for i in inputs
        ]
        entry = VersionInputs(version=version, digest=digest, inputs=listed)
    except ValidationError:  # a pod may report anything
        return empty
    return entry if len(json.dumps(entry.model_dump(mode="json"))) <= MAX_BYTES else empty
