"""Profile of a table: profile.json and profile.parquet for programs, profile.html to look at, and a summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ultramarine_contract.dataset_records import (
    MAX_SUMMARY_COLUMNS,
    PROFILE_JSON,
    PROFILE_PAGE,
    PROFILE_PARQUET,
    SUMMARY_NAME,
    ColumnFacts,
    ProfileSummary,
    ProfileTask,
    ViolationFacts,
)

from ultramarine_data.checks import type_of, violations
from ultramarine_data.errors import DataError
from ultramarine_data.page import page
from ultramarine_data.statistics import ColumnProfile, column_profiles
from ultramarine_data.tables import Table, open_table

_TOP = pa.list_(pa.struct([("value", pa.string()), ("count", pa.int64())]))
_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("type", pa.string()),
        ("nulls", pa.int64()),
        ("distinct", pa.int64()),
        ("minimum", pa.string()),
        ("maximum", pa.string()),
        ("mean", pa.float64()),
        ("standardDeviation", pa.float64()),
        ("quantiles", pa.map_(pa.string(), pa.float64())),
        ("shortest", pa.int64()),
        ("longest", pa.int64()),
        ("top", _TOP),
        ("histogram", pa.struct([("edges", pa.list_(pa.float64())), ("counts", pa.list_(pa.int64()))])),
    ]
)


def write_profile(task: ProfileTask, data: Path, folder: Path) -> None:
    """Profile the table in `data`. A table that cannot be read is a violation, and has an empty profile."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open_table(data) as table:
            broken = tuple(violations(table, task))
            profiles = list(column_profiles(table))
            _write(task.title, table, profiles, broken, folder)
    except DataError as error:
        summary = ProfileSummary(violations=(ViolationFacts(str(error)),))
        _write_files(task.title, {"rows": 0, "columns": []}, [], summary, folder)


def _write(
    title: str, table: Table, profiles: list[ColumnProfile], broken: tuple[ViolationFacts, ...], folder: Path
) -> None:
    types = {column.name: type_of(column) for column in table.columns}
    columns = [profile.document | {"type": types[profile.name]} for profile in profiles]
    for profile in profiles:
        profile.type = types[profile.name]
    first = profiles[:MAX_SUMMARY_COLUMNS]
    summary = ProfileSummary(
        format=table.format,
        rows=table.rows,
        column_count=len(profiles),
        columns=tuple(ColumnFacts(profile.name, profile.type, profile.nulls) for profile in first),
        violations=broken,
    )
    _write_files(title, {"format": table.format, "rows": table.rows, "columns": columns}, profiles, summary, folder)
    print(f"rows={table.rows}")
    print(f"columns={len(profiles)}")
    print(f"violations={len(broken)}")


def _write_files(
    title: str, document: dict[str, Any], profiles: list[ColumnProfile], summary: ProfileSummary, folder: Path
) -> None:
    whole = {"title": title, **document, "violations": summary.document()["violations"]}
    (folder / PROFILE_JSON).write_text(json.dumps(whole, ensure_ascii=False, indent=1))
    pq.write_table(pa.Table.from_pylist(document["columns"], _SCHEMA), folder / PROFILE_PARQUET)
    (folder / PROFILE_PAGE).write_text(page(title, summary, profiles))
    (folder / SUMMARY_NAME).write_text(summary.to_json())
