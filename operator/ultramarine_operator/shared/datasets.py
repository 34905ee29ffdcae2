"""Versions of datasets that a pass sees, and the runs that read one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ultramarine.resources import dataset_versions
from ultramarine.resources.dataset import DatasetPin
from ultramarine.resources.dataset_versions import NotReady, number_of, references_in, trial_spec
from ultramarine_contract.meta import Manifest

from .conditions import ENDED
from .plan import Seen


def topic_of(dataset: str) -> str:
    """Return the topic of a Dataset and its versions; no Model has a name with a slash."""
    return f"datasets/{dataset}"


def topics_of(run: Manifest) -> frozenset[str]:
    """Return the topics of the Datasets that a TrainingJob or a Sweep reads and writes."""
    spec = trial_spec(run.get("spec") or {})
    outputs = (output.get("dataset") for output in (spec.get("outputs") or {}).values())
    names = {reference.partition("@")[0] for reference in references_in(run.get("spec") or {}).values()}
    return frozenset(topic_of(str(name)) for name in (*names, *outputs) if name)


def versions_of(dataset: str, seen: Seen) -> list[Manifest]:
    """Return the versions of a Dataset, the newest first."""
    versions = [v for v in seen.others("DatasetVersion") if v["spec"].get("dataset") == dataset]
    return sorted(versions, key=number_of, reverse=True)


def resolve(reference: str, seen: Seen) -> DatasetPin | NotReady:
    """Return the version that DATASET@REFERENCE names, among the objects that share a topic."""
    dataset = reference.partition("@")[0]
    owner = next((d for d in seen.others("Dataset") if d["metadata"]["name"] == dataset), None)
    return dataset_versions.resolve(reference, owner, versions_of(dataset, seen))


def look_up(reference: str, seen: Seen) -> DatasetPin | NotReady:
    """Return the version that DATASET@REFERENCE names, looked up by name: `seen.related` needs no Dataset."""
    return dataset_versions.look_up(reference, seen.look)


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
        for name, reference in references_in(run.get("spec") or {}).items():
            if reference.partition("@")[0] == dataset:
                pin = pins.get(name)
                version = str(pin.get("version", "")) if isinstance(pin, dict) else ""
                readers.setdefault(version or dataset, []).append(f"{run['kind']} {run['metadata']['name']}")
    return readers


class RunPin(NamedTuple):
    """Version of a Dataset to which a PipelineRun is pinned; empty while none is ready.

    `lasts` is True if the pin protects the version after the run's end, too.
    """

    dataset: str
    version: str
    lasts: bool


def pins_of(run: Manifest) -> list[RunPin]:
    """Return the versions that the steps of a PipelineRun read, and those whose partitions they run for."""
    status = run.get("status") or {}
    parts = [step["partitions"] for step in status.get("steps") or [] if step.get("partitions")]
    pins = [(part.get("dataset"), part.get("version"), True) for part in parts]
    pins += [(pin.get("reference"), pin.get("version"), False) for pin in status.get("datasets") or []]
    return [RunPin(str(reference).partition("@")[0], str(version or ""), lasts) for reference, version, lasts in pins]


def pinned_by(dataset: str, runs: Iterable[Manifest]) -> dict[str, list[str]]:
    """Return the PipelineRuns that are pinned to versions of a Dataset, by the name of the version.

    A run that has ended counts by its partitions: it is a record of work that can be repeated as long as its data
    exist. An unfinished run that has no version yet counts under the name of the Dataset.
    """
    users: dict[str, list[str]] = {}
    for run in runs:
        is_over = (run.get("status") or {}).get("state") in ENDED
        name = f"{run['kind']} {run['metadata']['name']}"
        pins = [pin for pin in pins_of(run) if pin.dataset == dataset]
        for version in sorted({pin.version or dataset for pin in pins if not is_over or (pin.lasts and pin.version)}):
            users.setdefault(version, []).append(name)
    return users
