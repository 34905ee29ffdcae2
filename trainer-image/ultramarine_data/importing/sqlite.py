"""The result of a query on an SQLite file: the file is opened for reading alone."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from ultramarine_contract.dataset_records import ImportSummary, ImportTask
from ultramarine_contract.errors import listed

from ultramarine_data.errors import DataError
from ultramarine_data.importing.parquet import ParquetFolder
from ultramarine_data.tables import quoted

BATCH = 50_000  # rows
STEPS = 10_000  # instructions of SQLite between two looks at the clock


def read(task: ImportTask, inputs: Path, data: Path) -> ImportSummary:
    """Write the result of the query as Parquet. Raises DataError for a query that fails, writes or takes too long."""
    files = [path for path in (inputs / task.folder).rglob("*") if path.is_file()]
    if len(files) != 1:
        raise DataError(
            f"source.sql.uri must name one SQLite file; it has {listed(sorted(map(str, files)), 3) or 'none'}"
        )
    query = task.query.strip().rstrip(";")
    connection = sqlite3.connect(f"file:{quote(str(files[0]))}?mode=ro&immutable=1", uri=True)
    end = time.monotonic() + task.timeout_seconds
    connection.set_progress_handler(lambda: time.monotonic() > end, STEPS)
    try:
        connection.execute("PRAGMA query_only = true")
        cursor = connection.execute(f"SELECT * FROM ({query}) LIMIT 0")
        names = [str(column[0]) for column in cursor.description]
        mark = _watermark(connection, query, task, names)
        if task.watermark and mark == task.watermark:
            return ImportSummary(watermark=mark)
        schema = pa.schema([(name, _type(connection, query, name)) for name in names])
        with ParquetFolder(data, task.partition_by) as folder:
            rows = connection.execute(query)
            folder.write(_table([], schema))
            while batch := rows.fetchmany(BATCH):
                folder.write(_table(batch, schema))
        return ImportSummary(changed=True, rows=folder.rows, watermark=mark)
    except sqlite3.Error as error:
        if time.monotonic() > end:
            raise DataError(f"the query took longer than source.sql.timeoutSeconds={task.timeout_seconds}") from error
        raise DataError(f"source.sql.query: {error}; correct the query") from error
    finally:
        connection.close()


def _watermark(connection: sqlite3.Connection, query: str, task: ImportTask, names: list[str]) -> str:
    if not task.watermark_column:
        return ""
    if task.watermark_column not in names:
        raise DataError(f"watermark: the result has no column {task.watermark_column}; it has {', '.join(names)}")
    (value,) = connection.execute(f"SELECT max({quoted(task.watermark_column)}) FROM ({query})").fetchone()
    return "" if value is None else str(value)[:256]


def _type(connection: sqlite3.Connection, query: str, name: str) -> pa.DataType:
    """Return the type of a column by the types of all its values: SQLite's columns have none."""
    types = {row[0] for row in connection.execute(f"SELECT DISTINCT typeof({quoted(name)}) FROM ({query})")} - {"null"}
    if types == {"integer"}:
        return pa.int64()
    if types and types <= {"integer", "real"}:
        return pa.float64()
    return pa.binary() if types == {"blob"} else pa.string()


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ([] for _ in schema)
    arrays = [pa.array(_fitting(values, field.type), field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _fitting(values: Any, type: pa.DataType) -> list[Any]:
    if type != pa.string():
        return list(values)
    return [
        value if value is None or isinstance(value, str) else value.hex() if isinstance(value, bytes) else str(value)
        for value in values
    ]
