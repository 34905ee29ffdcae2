"""Croissant metadata of versions, read by mlcroissant, the library of the format's authors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import mlcroissant
import pytest
from ultramarine.versions.croissant import document
from ultramarine_contract.common import FileEntry
from ultramarine_operator.kinds.dataset.testing import WHOLE_DATASET, stored_version

COLUMNS = [
    {"name": "id", "type": "int64"},
    {"name": "plan name", "type": "string"},
    {"name": "paid", "type": "float64"},
]
PARTS = {"part 1.csv": "id,plan name,paid\n1,pro,2.5\n", "more/part-2.csv": "id,plan name,paid\n2,free,0\n"}


def described(folder: Path, files: dict[str, str], dataset: dict[str, Any], **status: Any) -> dict[str, Any]:
    """Store files in a folder, and return the metadata of the version that has them."""
    entries = []
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        entries.append(FileEntry(name, len(content), hashlib.sha256(content.encode()).hexdigest()))
    return document(stored_version(2, {"state": "Ready", **status}).manifest, dataset, entries)


def read(folder: Path, metadata: dict[str, Any]) -> mlcroissant.Dataset:
    """Read metadata, with the files of the folder in place of those of the storage; an error of the format raises."""
    files = [entry for entry in metadata["distribution"] if "contentUrl" in entry]
    mapping = {entry["@id"]: str(folder / entry["contentUrl"].removeprefix(metadata["url"])) for entry in files}
    place = folder / "croissant.json"
    place.write_text(json.dumps(metadata))
    return mlcroissant.Dataset(place, mapping=mapping)


@pytest.mark.parametrize("count", [1, 2])
def test_the_rows_of_a_table_are_read_by_its_metadata(tmp_path: Path, count: int) -> None:
    """One file or several: each row has each column, with its type."""
    files = dict(list(PARTS.items())[:count])
    metadata = described(tmp_path, files, WHOLE_DATASET["spec"], columns=COLUMNS)
    read_back = read(tmp_path, metadata)

    assert (read_back.metadata.name, read_back.metadata.version) == ("churn", "2.0.0")
    assert [file.sha256 for file in read_back.metadata.distribution if hasattr(file, "content_url") and file.sha256]
    rows = [list(row.values()) for row in read_back.records("rows")]
    assert sorted(rows) == [[1, b"pro", 2.5], [2, b"free", 0.0]][:count]


def test_other_files_are_described_without_rows(tmp_path: Path) -> None:
    """Also those of a Dataset without a description and a card."""
    read_back = read(tmp_path, described(tmp_path, {"a/one.png": "1", "b/one.png": "2"}, {}))
    assert [file.id for file in read_back.metadata.distribution] == ["a/one.png", "b/one.png"]
    assert read_back.metadata.record_sets == []
