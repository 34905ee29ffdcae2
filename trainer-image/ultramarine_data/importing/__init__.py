"""Imports: files of the storage, a file at an https address, and results of queries, as the files of a version."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ultramarine_contract.dataset_records import SUMMARY_NAME, ImportSummary, ImportTask
from ultramarine_contract.sql import query_fault

from ultramarine_data.errors import DataError


def import_data(task: ImportTask, inputs: Path, data: Path, facts: Path) -> None:
    """Fill `data` with the files of a version, and `facts` with the summary; without a change `data` stays empty."""
    data.mkdir(parents=True, exist_ok=True)
    facts.mkdir(parents=True, exist_ok=True)
    if fault := query_fault(task.query):
        raise DataError(f"source.sql.query {fault}")
    summary = _work(task)(task, inputs, data)
    if summary.changed and not any(data.iterdir()):
        raise DataError("the source has no files, so there is nothing to import")
    (facts / SUMMARY_NAME).write_text(summary.to_json())
    print(f"changed={int(summary.changed)}")
    print(f"rows={summary.rows}")


def _work(task: ImportTask) -> Callable[[ImportTask, Path, Path], ImportSummary]:
    if task.url:
        from ultramarine_data.importing.https import fetch

        return fetch
    if task.query and task.folder:
        from ultramarine_data.importing.sqlite import read

        return read
    if task.query:
        from ultramarine_data.importing.postgres import read as read_postgres

        return read_postgres
    return _copy


def _copy(task: ImportTask, inputs: Path, data: Path) -> ImportSummary:
    """Move the fetched files: input and output lie on one disk or not."""
    for path in (inputs / task.folder).iterdir():
        shutil.copytree(path, data / path.name) if path.is_dir() else shutil.copy2(path, data / path.name)
    return ImportSummary(changed=True, etag=task.etag)
