"""Registration of outputs as DatasetVersions, exactly once, as `registration` does it for models.

An output with the content of the newest version makes no other version: that one has its data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ultramarine.resources.dataset_versions import number_of
from ultramarine.resources.model import version_name, version_number
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.meta import API_VERSION, Manifest

from ..shared.datasets import versions_of
from ..shared.plan import Seen
from .registration import LABEL_OUTPUT, Maker, annotated


@dataclass(frozen=True)
class Data:
    """Output that is to become a version of `dataset`, and where it comes from."""

    output: str
    dataset: str
    record: OutputRecord
    lineage: Manifest


def registered(maker: Maker, outputs: Iterable[Data], seen: Seen) -> dict[str, str]:
    """Return the outputs whose content is that of a DatasetVersion, with its name."""
    names: dict[str, str] = {}
    for data in outputs:
        versions = versions_of(data.dataset, seen)
        version = next((v for v in versions if _is_made(v, maker, data)), None)
        if version is None and versions and versions[0]["spec"].get("digest") == data.record.digest:
            version = versions[0]
        if version is not None:
            names[data.output] = version["metadata"]["name"]
    return names


def to_register(maker: Maker, outputs: Iterable[Data], seen: Seen) -> tuple[Manifest, ...]:
    """Return the Datasets and DatasetVersions that do not exist yet."""
    outputs = tuple(outputs)
    done = registered(maker, outputs, seen)
    datasets = {dataset["metadata"]["name"]: dataset for dataset in seen.others("Dataset")}
    newest: dict[str, int] = {}
    create: list[Manifest] = []
    for data in outputs:
        if data.output in done:
            continue
        name = data.dataset
        if name not in datasets and name not in newest:
            create.append(_object(maker, "Dataset", name, {}))
        latest = version_number(((datasets.get(name) or {}).get("status") or {}).get("latestVersion"))
        number = newest.get(name, max([latest, *map(number_of, versions_of(name, seen))])) + 1
        newest[name] = number
        requested = {"requestedBy": maker.requested_by} if maker.requested_by else {}
        spec = {
            "dataset": name,
            "version": str(number),
            "uri": data.record.uri,
            "digest": data.record.digest,
            "lineage": data.lineage | requested,
        }
        labels = {maker.label: maker.uid, LABEL_OUTPUT: data.output}
        create.append(_object(maker, "DatasetVersion", version_name(name, str(number)), spec, labels))
    return tuple(create)


def _is_made(version: Manifest, maker: Maker, data: Data) -> bool:
    labels = version["metadata"].get("labels") or {}
    return labels.get(maker.label) == maker.uid and labels.get(LABEL_OUTPUT) == data.output


def _object(maker: Maker, kind: str, name: str, spec: Manifest, labels: Manifest | None = None) -> Manifest:
    metadata = {"name": name, "namespace": maker.namespace, **annotated(maker)}
    metadata |= {"labels": labels} if labels else {}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
