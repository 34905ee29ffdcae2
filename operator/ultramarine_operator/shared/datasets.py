"""Versions of datasets: the one that an input refers to, and the runs that read one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ultramarine.resources.dataset import DatasetPin
from ultramarine.resources.model import LATEST, version_name, version_number
from ultramarine_contract.errors import listed
from ultramarine_contract.meta import DATASET, DATASET_VERSION, Manifest

from .conditions import ENDED, find, is_true
from .plan import Seen

READY, QUARANTINED, REFUSED, INVALID = "Ready", "Quarantined", "Refused", "Invalid"  # states of versions


@dataclass(frozen=True)
class NotReady:
    """Reason why an input has no version yet; `is_final` if no wait changes it."""

    message: str
    is_final: bool = False


def topic_of(dataset: str) -> str:
    """Return the topic of a Dataset and its versions; no Model has a name with a slash."""
    return f"datasets/{dataset}"


def topics_of(run: Manifest) -> frozenset[str]:
    """Return the topics of the Datasets that a TrainingJob or a Sweep reads and writes."""
    spec = _trial_spec(run)
    outputs = (output.get("dataset") for output in (spec.get("outputs") or {}).values())
    names = {reference.partition("@")[0] for reference in references_in(run).values()}
    return frozenset(topic_of(str(name)) for name in (*names, *outputs) if name)


def references_in(run: Manifest) -> dict[str, str]:
    """Return the references to datasets in the spec of a TrainingJob or a Sweep, by the name of the input."""
    inputs = _trial_spec(run).get("inputs") or {}
    return {name: str(source["dataset"]) for name, source in inputs.items() if source.get("dataset")}


def _trial_spec(run: Manifest) -> Manifest:
    spec: Manifest = run.get("spec") or {}
    return (spec.get("trialTemplate") or {}).get("spec") or spec


def versions_of(dataset: str, seen: Seen) -> list[Manifest]:
    """Return the versions of a Dataset, the newest first."""
    versions = [v for v in seen.others("DatasetVersion") if v["spec"].get("dataset") == dataset]
    return sorted(versions, key=number_of, reverse=True)


def number_of(version: Manifest) -> int:
    """Return the number of a DatasetVersion."""
    return version_number(version["spec"].get("version"))


def resolve(reference: str, seen: Seen) -> DatasetPin | NotReady:
    """Find the version that DATASET@REFERENCE names."""
    dataset, _, selected = reference.partition("@")
    versions = versions_of(dataset, seen)
    if selected == LATEST:
        ready = next((v for v in versions if is_true(v.get("status") or {}, "Ready")), None)
        if ready is not None:
            return _pin(ready)
        if versions:
            return NotReady(f"no version of Dataset {dataset} is ready: {_why(versions[0])}")
        return NotReady(f"Dataset {dataset} has no version yet; `ultramarine data put FILE --register {dataset}`")
    number, leads = selected, ""
    if not selected.isdigit():
        owner = next((d for d in seen.others("Dataset") if d["metadata"]["name"] == dataset), None)
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


def look_up(reference: str, seen: Seen) -> DatasetPin | NotReady:
    """Find the version that DATASET@REFERENCE names, looked up by name: `seen.related` needs no Dataset."""
    dataset, _, selected = reference.partition("@")
    owner = seen.look(DATASET.kind, dataset) or {}
    if selected == LATEST:
        status = owner.get("status") or {}
        number = status.get("latestReadyVersion") or status.get("latestVersion")
    else:
        number = selected if selected.isdigit() else ((owner.get("spec") or {}).get("aliases") or {}).get(selected)
    version = seen.look(DATASET_VERSION.kind, version_name(dataset, str(number))) if number else None
    return resolve(reference, replace(seen, related=tuple(manifest for manifest in (owner, version) if manifest)))


def _pin(version: Manifest) -> DatasetPin:
    spec = version["spec"]
    return DatasetPin(version=version["metadata"]["name"], uri=spec["uri"], digest=spec["digest"])


def _why(version: Manifest) -> str:
    status = version.get("status") or {}
    message = (find(status, "Ready") or {}).get("message") or "it is being checked"
    return f"DatasetVersion {version['metadata']['name']} is not ready: {message}"


def readers_of(dataset: str, runs: Iterable[Manifest]) -> dict[str, list[str]]:
    """Return the unfinished runs that read versions of a Dataset, by the name of the version.

    A run that has not resolved its reference yet counts under the name of the Dataset.
    """
    readers: dict[str, list[str]] = {}
    for run in runs:
        status = run.get("status") or {}
        if status.get("state") in ENDED:
            continue
        pins = status.get("datasets") or {}
        for name, reference in references_in(run).items():
            if reference.partition("@")[0] == dataset:
                pin = pins.get(name)
                version = str(pin.get("version", "")) if isinstance(pin, dict) else ""
                readers.setdefault(version or dataset, []).append(f"{run['kind']} {run['metadata']['name']}")
    return readers
