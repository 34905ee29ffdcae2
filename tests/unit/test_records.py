"""Records of older releases and of users' own commands, and records that every reader can read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from ultramarine_contract import common, routes, serving_records, sweep_records, training_records, version_records
from ultramarine_contract.common import ArtifactManifest, Document, FileEntry
from ultramarine_contract.sweep_records import BestTrial, SweepSummary, WantedTrial
from ultramarine_contract.training_records import CheckpointRecord, Progress, SourceRecord, TerminationRecord
from ultramarine_contract.version_records import CompileRecord

MODULES = (common, routes, serving_records, sweep_records, training_records, version_records)
# Each line has a record's name and a document that 0.1.0 wrote while its records were dataclasses.
OLD = [line.split(" ", 1) for line in Path(__file__).with_name("old_records.txt").read_text().splitlines()]

FAILED: dict[str, Any] = {"outputs": {}, "metrics": {}, "reason": "", "message": "", "tail": "", "source": {}}
CHECKPOINT = {"uri": "s3://b/c/", "digest": "d", "time": "2026-01-01T00:00:00Z"}
SUMMARY: dict[str, Any] = {"best": [{"trial": 1, "values": [0.5]}], "wanted": [{"trial": 2}]}


def record_named(name: str) -> type[Document]:
    return next(vars(module)[name] for module in MODULES if name in vars(module))


@pytest.mark.parametrize(("name", "text"), OLD)
def test_documents_of_an_older_release_are_read(name: str, text: str) -> None:
    """Trainers in users' images wrote them, and operators before an upgrade; they are written again as they were."""
    record: Any = record_named(name).from_json(text)

    assert json.loads(record.to_json()) == json.loads(text)


@pytest.mark.parametrize(
    "change",
    [
        {"source": None},
        {"source": ""},
        {"inputs": None},
        {"inputs": []},
        {"checkpoint": None},
        {"step": -1, "field_of_a_newer_trainer": float("nan")},
    ],
)
def test_an_empty_part_of_a_termination_record_counts_as_absent(change: dict[str, Any]) -> None:
    """A command that writes its own record may say null where the trainer leaves a field out."""
    assert TerminationRecord.from_json(json.dumps(FAILED | change)) == TerminationRecord()


def test_a_checkpoint_may_have_floats_as_counts() -> None:
    """JSON of other languages has 5.0 for 5; the record has whole numbers."""
    document: dict[str, Any] = CHECKPOINT | {"bytes": 5.0, "step": 7.0}
    document = document | {"previous": document}
    previous = CheckpointRecord("s3://b/c/", "d", "2026-01-01T00:00:00Z", bytes=5, step=7)
    expected = structs.replace(previous, previous=previous)

    assert CheckpointRecord.from_json(json.dumps(document)) == expected
    for record in (TerminationRecord, Progress):
        read = record.from_json(json.dumps(FAILED | {"checkpoint": document}))
        assert read.checkpoint == expected
        assert '"bytes": 5,' in json.dumps(read.document())


@pytest.mark.parametrize("previous", ["", None, 5, [CHECKPOINT]])
def test_a_faulty_predecessor_leaves_its_checkpoint_valid(previous: object) -> None:
    """The predecessor is dropped; the checkpoint is what the next attempt needs."""
    read = CheckpointRecord.from_json(json.dumps(CHECKPOINT | {"previous": previous}))

    assert read == CheckpointRecord("s3://b/c/", "d", "2026-01-01T00:00:00Z")


def test_a_manifest_may_have_texts_as_sizes() -> None:
    """Users' own tools write manifests of models that they trained elsewhere."""
    entries = [{"path": str(size), "bytes": size, "sha256": "s"} for size in ("5", 5.0)]
    read = ArtifactManifest.from_json(json.dumps({"files": entries, "format": None}))

    assert read == ArtifactManifest((FileEntry("5", 5, "s"), FileEntry("5.0", 5, "s")))


@pytest.mark.parametrize("empty", [None, "", [], {}])
def test_an_empty_part_of_a_summary_counts_as_absent(empty: object) -> None:
    """Each list, and each trial's parameters and outputs."""
    best, next_trial = SUMMARY["best"][0], SUMMARY["wanted"][0]
    trials = {"best": [best | {"params": empty, "outputs": empty}], "wanted": [next_trial | {"params": empty}]}

    assert SweepSummary.from_json(json.dumps(dict.fromkeys(("best", "wanted", "paused"), empty))) == SweepSummary()
    assert SweepSummary.from_json(json.dumps(trials)) == SweepSummary(
        best=(BestTrial(1, (0.5,)),), wanted=(WantedTrial(2),)
    )


@pytest.mark.parametrize(
    "record",
    [
        TerminationRecord(message="a\udcff", tail="\ud83d", source=SourceRecord("\udcff")),
        Progress(mlflow_run="\udcff", metrics={"\udcff": 1.0}),
        CheckpointRecord("\udcff", "d", "t"),
        CompileRecord(message="\udcff"),
        SweepSummary(message="\udcff"),
        ArtifactManifest((FileEntry("\udcff", 5, "s"),)),
    ],
)
def test_bytes_that_are_not_utf8_leave_a_record_readable(record: Any) -> None:
    """A file's name has lone surrogates in Python; strict readers refuse those, so none is written."""
    written = record.to_json()
    text = written if isinstance(written, str) else written.decode()

    assert "\\ufffd" in text
    assert "\\ud" not in text
    assert type(record).from_json(text).to_json() == written
    old = text.replace("\\ufffd", "\\udcff")  # as older trainers wrote it
    assert type(record).from_json(old).to_json() == written


BAD_NUMBERS = ("NaN", "-Infinity", "1e999", "1" * 400)
FIELDS = '"files": [{"path": "p", "sha256": "s", "bytes": %s}], "uri": "", "digest": "", "time": "", "rows_from": ""'
COUNTS = ', "bytes": %s, "percent": %s, "cpu_hours": %s'
JSON = ("", "[]", "null", '"\\udcff"', "{", "[" * 100_000, '{"previous":' * 100_000, b"\xff", "1" * 5000)


@pytest.mark.parametrize("record", [ArtifactManifest, CheckpointRecord, CompileRecord, Progress, SweepSummary])
@pytest.mark.parametrize("text", [*JSON, *("{" + (FIELDS + COUNTS).replace("%s", bad) + "}" for bad in BAD_NUMBERS)])
def test_unreadable_documents_are_refused_in_a_sentence(record: type[Document], text: str | bytes) -> None:
    """Depth, numbers that are none, and numbers without bound among them."""
    with pytest.raises(ValueError, match=f"^not {record.NOUN}: ") as refusal:
        record.from_json(text)
    assert type(refusal.value) is ValueError
    assert len(str(refusal.value)) < 250
    assert "\n" not in str(refusal.value)


def test_the_resources_load_no_records() -> None:
    """`import ultramarine.resources` needs pydantic and the contract's limits, which stand in pyproject.toml."""
    program = "import sys, ultramarine.resources.sweep, ultramarine.resources.onlineendpoint; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert "ultramarine_contract.parameters" in loaded
    assert not [name for name in loaded if name.endswith("_records") or name in ("boto3", "ultramarine_operator")]
