"""Batches of rows, written as Parquet files: in folders by the value of a column, and in files of limited size."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ultramarine_data.errors import DataError

MAX_ROWS = 1_000_000  # of a file
MAX_OPEN, MAX_PARTITIONS = 64, 10_000
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"  # as DuckDB, Spark and pyarrow name it


class ParquetFolder:
    """Writes batches of one schema into a folder; memory holds one batch and the open files."""

    def __init__(self, folder: Path, partition_by: str = "") -> None:
        self.rows = 0
        self._folder, self._partition_by = folder, partition_by
        self._open: OrderedDict[str, tuple[pq.ParquetWriter, int]] = OrderedDict()
        self._files: defaultdict[str, int] = defaultdict(int)

    def __enter__(self) -> ParquetFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for writer, _rows in self._open.values():
            writer.close()

    def write(self, table: pa.Table) -> None:
        """Write rows. Raises DataError for a missing column, and for too many values of the partitions' column."""
        self.rows += table.num_rows
        if not self._partition_by:
            self._append("", table)
            return
        if self._partition_by not in table.column_names:
            has = ", ".join(table.column_names)
            raise DataError(f"partitionBy: the result has no column {self._partition_by}; it has {has}")
        keys, rest = table[self._partition_by], table.drop_columns([self._partition_by])
        for value in pc.unique(keys).to_pylist():
            chosen = pc.is_null(keys) if value is None else pc.equal(keys, pa.scalar(value, keys.type))
            text = NULL_FOLDER if value is None else quote(str(value), safe=" :+-_.,")
            self._append(f"{quote(self._partition_by, safe=' _-')}={text}", rest.filter(chosen))
        if len(self._files) > MAX_PARTITIONS:
            message = f"partitionBy: {self._partition_by} has more than {MAX_PARTITIONS:,} values"
            raise DataError(f"{message}; choose a column with fewer, such as date_trunc('month', DAY)")

    def _append(self, place: str, table: pa.Table) -> None:
        while table.num_rows or place not in self._files:
            is_open = place in self._open
            writer, rows = self._open.pop(place) if is_open else (self._begin(place, table.schema), 0)
            part = table.slice(0, MAX_ROWS - rows)
            writer.write_table(part)
            table = table.slice(part.num_rows)
            if rows + part.num_rows >= MAX_ROWS:
                writer.close()
            else:
                self._open[place] = (writer, rows + part.num_rows)
        while len(self._open) > MAX_OPEN:
            _, (writer, _rows) = self._open.popitem(last=False)
            writer.close()

    def _begin(self, place: str, schema: pa.Schema) -> pq.ParquetWriter:
        folder = self._folder / place
        folder.mkdir(parents=True, exist_ok=True)
        self._files[place] += 1
        return pq.ParquetWriter(folder / f"part-{self._files[place]:05}.parquet", schema, compression="zstd")
