"""Versions of datasets that references lead to. The operator and forecasts resolve them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ultramarine_contract.errors import listed
from ultramarine_contract.meta import DATASET, DATASET_VERSION, Manifest

from .dataset import DatasetPin
from .model import LATEST, version_name, version_number

READY, QUARANTINED, REFUSED, INVALID = "Ready", "Quarantined", "Refused", "Invalid"  # states of versions


@dataclass(frozen=True)
class NotReady:
    """Reason why an input has no version yet; `is_final` if no wait changes it."""

    message: str
    is_final: bool = False


Resolve = Callable[[str], DatasetPin | NotReady]


def number_of(version: Manifest) -> int:
    """Return the number of a DatasetVersion."""
    return version_number(version["spec"].get("version"))


def resolve(reference: str, owner: Manifest | None, versions: Iterable[Manifest]) -> DatasetPin | NotReady:
    """Return the version that DATASET@REFERENCE names, by the Dataset and its versions, the newest first."""
    dataset, _, selected = reference.partition("@")
    versions = list(versions)
    if selected == LATEST:
        ready = next((v for v in versions if _ready(v).get("status") == "True"), None)
        if ready is not None:
            return _pin(ready)
        if versions:
            return NotReady(f"no version of Dataset {dataset} is ready: {_why(versions[0])}")
        return NotReady(f"Dataset {dataset} has no version yet; `ultramarine data put FILE --register {dataset}`")
    number, leads = selected, ""
    if not selected.isdigit():
        if owner is None:
            return NotReady(f"Dataset {dataset} does not exist yet; apply it, or correct the name")
        aliases = (owner.get("spec") or {}).get("aliases") or {}
        if selected not in aliases:
            has = listed(sorted(aliases)) or "none"
            return NotReady(f"Dataset {dataset} has no alias {selected} (it has: {has}); set spec.aliases.{selected}")
        number, leads = str(aliases[selected]), f"alias {selected} of Dataset {dataset} leads to "
    version = next((v for v in versions if str(v["spec"].get("version")) == number), None)
    if version is None:
        has = listed(map(number_of, versions)) or "none"
        name = version_name(dataset, number)
        return NotReady(f"{leads}DatasetVersion {name}{', which' if leads else ''} does not exist (there are: {has})")
    state = str((version.get("status") or {}).get("state", ""))
    if state == READY or (state == QUARANTINED and not leads):
        return _pin(version)
    return NotReady(f"{leads}{_why(version)}", is_final=not leads and state in (REFUSED, INVALID))


def look_up(reference: str, find: Callable[[str, str], Manifest | None]) -> DatasetPin | NotReady:
    """Return the version that DATASET@REFERENCE names; `find` returns an object by its kind and name."""
    dataset, _, selected = reference.partition("@")
    owner = find(DATASET.kind, dataset)
    if selected == LATEST:
        status = (owner or {}).get("status") or {}
        number = status.get("latestReadyVersion") or status.get("latestVersion")
    else:
        aliases = ((owner or {}).get("spec") or {}).get("aliases") or {}
        number = selected if selected.isdigit() else aliases.get(selected)
    version = find(DATASET_VERSION.kind, version_name(dataset, str(number))) if number else None
    return resolve(reference, owner, [version] if version else [])


def references_in(spec: Manifest) -> dict[str, str]:
    """Return the references to datasets in the spec of a TrainingJob or a Sweep, by the name of the input."""
    inputs = trial_spec(spec).get("inputs") or {}
    return {name: str(source["dataset"]) for name, source in inputs.items() if source.get("dataset")}


def trial_spec(spec: Manifest) -> Manifest:
    """Return the spec of a Sweep's trials; that of a TrainingJob as it is."""
    return (spec.get("trialTemplate") or {}).get("spec") or spec


def pinned(
    spec: Manifest, identity: Manifest, resolve: Resolve, numbers: Mapping[str, str] | None = None
) -> tuple[Manifest, Manifest]:
    """Return the spec of a TrainingJob or a Sweep, and its identity, with what aliases of datasets lead to.

    The spec gets numbers of versions, and the identity digests. An input whose version is not ready stays as it is: its
    job waits. `numbers` are references by number in place of others.
    """
    if "trialTemplate" in spec:
        template, alike = spec["trialTemplate"], identity["trialTemplate"]
        inner, inner_identity = pinned(template.get("spec") or {}, alike.get("spec") or {}, resolve, numbers)
        with_inner = {**spec, "trialTemplate": {**template, "spec": inner}}
        return with_inner, {**identity, "trialTemplate": {**alike, "spec": inner_identity}}
    inputs, contents = dict(spec.get("inputs") or {}), dict(identity.get("inputs") or {})
    for name, reference in references_in(spec).items():
        reference = (numbers or {}).get(reference, reference)
        inputs[name] = {**inputs[name], "dataset": reference}
        if isinstance(pin := resolve(reference), DatasetPin):
            dataset = reference.partition("@")[0]
            number = pin.version.removeprefix(f"{dataset}-")
            inputs[name] = {**inputs[name], "dataset": f"{dataset}@{number}"}
            kept = {field: value for field, value in contents[name].items() if field != "dataset"}
            contents[name] = {**kept, "digest": pin.digest}
    return ({**spec, "inputs": inputs}, {**identity, "inputs": contents}) if inputs else (spec, identity)


def _pin(version: Manifest) -> DatasetPin:
    spec = version["spec"]
    return DatasetPin(version=version["metadata"]["name"], uri=spec["uri"], digest=spec["digest"])


def _ready(version: Manifest) -> Manifest:
    """Return the condition Ready of a version; empty before its first pass."""
    conditions = (version.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if isinstance(c, dict) and c.get("type") == "Ready"), {})


def _why(version: Manifest) -> str:
    message = _ready(version).get("message") or "it is being checked"
    return f"DatasetVersion {version['metadata']['name']} is not ready: {message}"
