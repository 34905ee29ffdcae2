"""A table in local files, as a relation of DuckDB: CSV and JSON lines are read once into a database on the disk."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
from ultramarine_contract.dataset_records import TABLE_FORMATS, ViolationFacts, table_format

from ultramarine_data.errors import DataError
from ultramarine_data.texts import header, in_utf8

NAME = "data"  # of the table or view
ROW = "ultramarine_row"  # column of a view with the number of the row in its file, from 0
FILE = "ultramarine_file"
MEMORY_LIMIT, CPU_LIMIT = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/cpu.max")
MEMORY_SHARE, MAX_MEMORY = 0.5, 4 * 2**30  # of the container's limit; the rest is Python, Arrow and the page cache
MAX_EXAMPLES, MAX_EXAMPLE = 5, 500
MAX_LINE = 16 * 2**20  # bytes of a line of CSV
SAMPLE = 100_000  # rows by which types are guessed
MAX_REJECTS = 10_000
DELIMITERS = ",;\t|"  # the first one if a table has one column


@dataclass(frozen=True)
class Column:
    """Column of a table: its name, DuckDB's type, and the one of the four classes by which it is described."""

    name: str
    type: str

    @property
    def sql(self) -> str:
        """Name of the column in SQL."""
        return quoted(self.name)

    @property
    def kind(self) -> str:
        """`number`, `time`, `boolean` or `text`; lists, structs and blobs are described as texts."""
        type = self.type.partition("(")[0]
        if type in NUMBERS:
            return "number"
        return "time" if type.startswith(("DATE", "TIME")) else "boolean" if type == "BOOLEAN" else "text"


WHOLE = "TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT UHUGEINT"
NUMBERS = frozenset((*WHOLE.split(" "), "FLOAT", "DOUBLE", "DECIMAL"))


@dataclass(frozen=True)
class Table:
    """A table that is open, with lines that could not be read."""

    connection: duckdb.DuckDBPyConnection
    format: str
    columns: tuple[Column, ...]
    rows: int
    unreadable: tuple[ViolationFacts, ...] = ()

    def row(self, query: str) -> tuple[Any, ...]:
        """Return the only row of a query."""
        result = self.connection.execute(query).fetchone()
        assert result is not None
        return tuple(result)

    def examples(self, condition: str, columns: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the first rows that meet an SQL condition, with their place, cut to a length."""
        names = [column.name for column in self.columns if not columns or column.name in columns]
        place = f"{FILE}, {ROW} + 1" if self.format == "parquet" else "'', rowid + 1"
        shown = ", ".join(map(quoted, names[:20]))
        query = f"SELECT {place}, {shown} FROM {NAME} WHERE {condition} LIMIT {MAX_EXAMPLES}"
        lines = []
        for file, number, *values in self.connection.execute(query).fetchall():
            content = {name: _plain(value) for name, value in zip(names, values, strict=False)}
            where = f"row {number}{f' of {Path(file).name}' if file else ''}"
            lines.append(f"{where}: {json.dumps(content, ensure_ascii=False)}"[:MAX_EXAMPLE])
        return tuple(lines)


def quoted(name: str) -> str:
    """Return a name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


@contextmanager
def open_table(folder: Path) -> Iterator[Table]:
    """Open the table in a folder. Raises DataError for a folder without a table, and for one that cannot be read."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith((".", "_")))
    format = table_format(str(path) for path in paths)
    if not format:
        ends = ", ".join(TABLE_FORMATS)
        raise DataError(f"the version is not a table: the names of all files must have one of these ends: {ends}")
    if not any(path.stat().st_size for path in paths):
        raise DataError("the table is empty: no file has a line with the names of its columns")
    with TemporaryDirectory(prefix="ultramarine-data-") as temporary:
        connection = duckdb.connect(str(Path(temporary, "data.duckdb")))
        try:
            connection.execute(f"SET temp_directory = {literal(str(Path(temporary, 'spill')))}")
            connection.execute(f"SET memory_limit = '{memory() // 2**20}MiB'")
            connection.execute(f"SET threads = {cpus()}")
            if format != "parquet":
                paths = [in_utf8(path, Path(temporary, "utf-8")) for path in paths]
            yield _READERS[format](connection, [str(path) for path in paths])
        except duckdb.Error as error:
            raise DataError(f"the table cannot be read as {format}: {_first_line(error)}") from error
        finally:
            connection.close()


def memory() -> int:
    """Return the bytes of memory for DuckDB: a share of the container's limit."""
    try:
        limit = int(MEMORY_LIMIT.read_text())
    except (OSError, ValueError):  # no limit, or another system
        return MAX_MEMORY
    return min(int(limit * MEMORY_SHARE), MAX_MEMORY)


def cpus() -> int:
    """Return the number of CPUs that the container may use, at least 1."""
    own = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_LIMIT.read_text().split()
        return max(min(own, int(quota) // int(period)), 1)
    except (OSError, ValueError):  # no limit, or another system
        return own


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _parquet(connection: duckdb.DuckDBPyConnection, paths: list[str]) -> Table:
    files = f"[{', '.join(map(literal, paths))}]"
    connection.execute(
        f"CREATE VIEW {NAME} AS SELECT * RENAME (file_row_number AS {ROW}, filename AS {FILE}) "
        f"FROM read_parquet({files}, union_by_name = true, file_row_number = true, filename = true)"
    )
    return _table(connection, "parquet", ())


def _jsonl(connection: duckdb.DuckDBPyConnection, paths: list[str]) -> Table:
    """Read JSON lines; broken ones are left out. If there are any, types are guessed by all others."""
    try:
        connection.execute(f"CREATE TABLE {NAME} AS SELECT * FROM {_jsonl_reader(paths, SAMPLE)}")
        return _table(connection, "jsonl", ())
    except duckdb.InvalidInputException:
        with TemporaryDirectory(prefix="ultramarine-lines-") as folder:
            whole, broken = _whole_lines(paths, Path(folder))
            if not broken:
                raise
            if not any(path.stat().st_size for path in whole):
                message = f"the table cannot be read as jsonl: no line is left; {broken[0].rule}"
                raise DataError(f"{message}; {broken[0].examples[0]}") from None
            reader = _jsonl_reader([str(path) for path in whole], -1)
            connection.execute(f"CREATE OR REPLACE TABLE {NAME} AS SELECT * FROM {reader}")
    return _table(connection, "jsonl", broken)


def _jsonl_reader(paths: list[str], sample: int) -> str:
    files = f"[{', '.join(map(literal, paths))}]"
    return f"read_ndjson({files}, sample_size = {sample}, union_by_name = true, maximum_object_size = {MAX_LINE})"


def _whole_lines(paths: list[str], folder: Path) -> tuple[list[Path], tuple[ViolationFacts, ...]]:
    """Copy the lines that are JSON below a folder; return the copies, and the broken lines by their rule."""
    copies = [folder / f"{number}.jsonl" for number in range(len(paths))]
    counts, examples = Counter[str](), defaultdict[str, list[str]](list)
    for path, copy in zip(paths, copies, strict=True):
        with Path(path).open("rb") as lines, copy.open("wb") as sink:
            for number, line in enumerate(lines, 1):
                if (rule := _broken_rule(line)) is None:
                    sink.write(line)
                    continue
                counts[rule] += 1
                if len(examples[rule]) < MAX_EXAMPLES:
                    text = line[:MAX_EXAMPLE].decode(errors="replace").rstrip()
                    place = f"line {number}{f' of {Path(path).name}' if len(paths) > 1 else ''}"
                    examples[rule].append(f"{place}: {text}"[:MAX_EXAMPLE])
    return copies, tuple(ViolationFacts(rule, rows=counts[rule], examples=tuple(examples[rule])) for rule in counts)


def _broken_rule(line: bytes) -> str | None:
    """Return the rule that a line breaks; None for an empty line, and for one that is JSON."""
    try:
        if line.strip():
            json.loads(line.decode(), parse_constant=_no_number)
    except UnicodeDecodeError:
        return "JSON lines: every line is UTF-8"
    except (ValueError, RecursionError):
        return "JSON lines: every line is one JSON object"
    return None


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _csv(connection: duckdb.DuckDBPyConnection, paths: list[str]) -> Table:
    """Read CSV; a column with values of several types becomes text, and broken lines are left out.

    Types are guessed by the first rows. If a later value does not fit, the files are read again with a text. If the
    first rows have broken quotes, no type is guessed.
    """
    names, *_ = [header(Path(path), MAX_LINE) for path in paths]
    delimiter = "\t" if paths[0].endswith(".tsv") else _delimiter(names)
    texts: dict[str, str] = {}
    columns: list[str] = []
    while True:
        reader = _csv_reader(paths, delimiter, texts, columns)
        try:
            connection.execute(f"CREATE OR REPLACE TABLE {NAME} AS SELECT * FROM {reader}")
        except duckdb.InvalidInputException as error:
            if columns or "sniffing" not in str(error):
                raise
            columns = _columns(names, delimiter)
            continue
        query = "SELECT DISTINCT column_name FROM reject_errors WHERE error_type = 'CAST'"
        mixed = {str(name): "VARCHAR" for (name,) in connection.execute(query).fetchall()}
        if not mixed.keys() - texts.keys():
            break
        texts |= mixed
        connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
    return _table(connection, "csv", tuple(_rejects(connection)))


def _delimiter(names: str) -> str:
    """Return the delimiter that occurs most between the names of the columns; DuckDB's guess looks at broken rows."""
    bare = re.sub(r'"(?:[^"]|"")*"', "", names)
    return max(DELIMITERS, key=bare.count)


def _columns(names: str, delimiter: str) -> list[str]:
    """Return the names of the columns; a missing name and the second one of two get their place."""
    columns: dict[str, str] = {}  # by what DuckDB compares
    for place, name in enumerate(next(csv.reader(names.splitlines(keepends=True), delimiter=delimiter))):
        own = name if name and name.lower() not in columns else f"{name or 'column'}_{place}"
        columns[own.lower()] = own
    return list(columns.values())


def _csv_reader(paths: list[str], delimiter: str, texts: dict[str, str], columns: list[str]) -> str:
    """Return the table function; with `columns` nothing is guessed, and all values are texts."""
    files = f"[{', '.join(map(literal, paths))}]"
    types = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in columns or texts)
    options = [
        "header = true",
        f"delim = {literal(delimiter)}",
        "quote = '\"'",
        "escape = '\"'",
        f"max_line_size = {MAX_LINE}",
        f"buffer_size = {2 * MAX_LINE}",  # DuckDB's own choice, 16 lines, is beyond the memory of a small pod
        f"rejects_limit = {MAX_REJECTS}",
        "store_rejects = true",
        *([f"auto_detect = false, columns = {{{types}}}"] if columns else [f"sample_size = {SAMPLE}"]),
        *([f"types = {{{types}}}"] if texts and not columns else []),
    ]
    return f"read_csv({files}, {', '.join(options)})"


REMEDIES = {
    "INVALID ENCODING": "every line is UTF-8",
    "UNQUOTED VALUE": "every quoted value ends with a quote",
    "MISSING COLUMNS": "every line has as many values as the first one",
    "TOO MANY COLUMNS": "every line has as many values as the first one",
    "LINE SIZE OVER MAXIMUM": f"no line has more than {MAX_LINE // 2**20} MiB",
}


def _rejects(connection: duckdb.DuckDBPyConnection) -> Iterator[ViolationFacts]:
    """Yield broken lines, by the rule that they break."""
    query = (
        "SELECT type, count(*), list({line: line, text: text} ORDER BY file_id, line)[1:5] FROM (SELECT file_id, line, "
        "min(error_type::VARCHAR) AS type, any_value(csv_line) AS text FROM reject_errors "
        "WHERE error_type <> 'CAST' GROUP BY file_id, line) GROUP BY type ORDER BY type"
    )
    for type, count, lines in connection.execute(query).fetchall():
        examples = tuple(f"line {line['line']}: {line['text'].rstrip()}"[:MAX_EXAMPLE] for line in lines)
        yield ViolationFacts(f"CSV: {REMEDIES.get(type, type.lower())}", rows=count, examples=examples)


def _table(connection: duckdb.DuckDBPyConnection, format: str, unreadable: tuple[ViolationFacts, ...]) -> Table:
    described = connection.execute(f"DESCRIBE {NAME}").fetchall()
    columns = tuple(Column(str(name), str(type)) for name, type, *_ in described if name not in (ROW, FILE))
    (rows,) = connection.execute(f"SELECT count(*) FROM {NAME}").fetchone() or (0,)
    return Table(connection, format, columns, int(rows), unreadable)


_READERS = {"parquet": _parquet, "jsonl": _jsonl, "csv": _csv}
