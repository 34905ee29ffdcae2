"""Requirements on a table: columns, values and conditions over rows, each with rows that break it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import duckdb
from ultramarine_contract.dataset_records import ColumnTask, ExpectationTask, ProfileTask, ViolationFacts
from ultramarine_contract.errors import listed

from ultramarine_data.tables import NAME, Column, Table, literal

# Types of a schema, and DuckDB's types that have them.
TYPES = {
    "boolean": ("BOOLEAN",),
    "int64": ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"),
    "float64": ("FLOAT", "DOUBLE"),
    "decimal": ("DECIMAL", "HUGEINT", "UBIGINT", "UHUGEINT"),
    "string": ("VARCHAR", "UUID", "JSON", "ENUM"),
    "date": ("DATE",),
    "timestamp": ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"),
    "binary": ("BLOB",),
}
# A text format writes a whole number as 1, and a table of no rows has no types.
WIDER = {"float64": ("int64", "decimal"), "decimal": ("int64", "float64"), "timestamp": ("date",)}
CAST = {"int64": "BIGINT", "float64": "DOUBLE", "decimal": "DECIMAL(38, 10)", "boolean": "BOOLEAN"}
CAST |= {"date": "DATE", "timestamp": "TIMESTAMP"}


def type_of(column: Column) -> str:
    """Return the type of a schema that a column has; DuckDB's for any other."""
    base = column.type.partition("(")[0]
    return next((name for name, types in TYPES.items() if base in types), column.type)


def violations(table: Table, task: ProfileTask) -> Iterator[ViolationFacts]:
    """Yield the requirements that a table breaks, also those of its format."""
    yield from table.unreadable
    columns = {column.name: column for column in table.columns}
    if task.columns and not task.other_columns:
        permitted = {column.name for column in task.columns}
        for name in filter(lambda name: name not in permitted, columns):
            yield ViolationFacts(f"column {name} is not in the schema", name)
    for required in task.columns:
        column = columns.get(required.name)
        if column is None:
            near = difflib.get_close_matches(required.name, columns, 1)
            hint = f"it has {near[0]}" if near else f"it has {listed(columns, 10) or 'none'}"
            yield ViolationFacts(f"column {required.name} is missing; {hint}", required.name)
        else:
            yield from _of_column(table, column, required)
    for expectation in task.expectations:
        yield from _of_rows(table, expectation)


def _of_column(table: Table, column: Column, required: ColumnTask) -> Iterator[ViolationFacts]:
    name, value = column.name, column.sql
    actual = type_of(column)
    if required.type and required.type != actual and actual not in WIDER.get(required.type, ()) and table.rows:
        rule = f"{name} must have the type {required.type}; it has {actual}"
        cast = CAST.get(required.type)
        other = f"{value} IS NOT NULL AND TRY_CAST({value}::VARCHAR AS {cast}) IS NULL" if cast else ""
        yield _broken(table, rule, name, other) if other else ViolationFacts(rule, name, table.rows)
        return
    text = f"{value}::VARCHAR"
    conditions: list[tuple[str, str]] = []
    if not required.nullable:
        conditions.append((f"{name} must not be missing", f"{value} IS NULL"))
    if required.minimum is not None:
        conditions.append((f"{name} must be at least {required.minimum:g}", f"{value} < {required.minimum!r}"))
    if required.maximum is not None:
        conditions.append((f"{name} must be at most {required.maximum:g}", f"{value} > {required.maximum!r}"))
    if required.pattern is not None:
        rule = f"{name} must match {required.pattern}"
        conditions.append((rule, f"NOT regexp_full_match({text}, {literal(required.pattern)})"))
    if required.values:
        permitted = ", ".join(map(literal, required.values))
        rule = f"{name} must be one of {listed(required.values, 10)}"
        conditions.append((rule, f"{value} IS NOT NULL AND {text} NOT IN ({permitted})"))
    for rule, condition in conditions:
        broken = _checked(table, rule, name, condition)
        if broken.rows:
            yield broken
    if required.unique and (doubles := _doubles(table, column)) is not None:
        yield doubles


def _checked(table: Table, rule: str, name: str, condition: str) -> ViolationFacts:
    """Return the rows that meet a condition; a requirement that does not fit the column is broken by all of them."""
    try:
        return _broken(table, rule, name, condition)
    except duckdb.Error as error:
        return ViolationFacts(f"{rule}: {str(error).splitlines()[0]}", name, max(table.rows, 1))


def _broken(table: Table, rule: str, name: str, condition: str) -> ViolationFacts:
    (rows,) = table.row(f"SELECT count(*) FROM {NAME} WHERE {condition}")
    examples = table.examples(condition, (name,) if name else ()) if rows else ()
    return ViolationFacts(rule, name, int(rows), examples)


def _doubles(table: Table, column: Column) -> ViolationFacts | None:
    """Return values that occur in several rows; the values are counted on the disk if need be."""
    groups = f"SELECT {column.sql} v, count(*) n FROM {NAME} WHERE {column.sql} IS NOT NULL GROUP BY 1 HAVING n > 1"
    (rows,) = table.row(f"SELECT coalesce(sum(n), 0)::BIGINT FROM ({groups})")
    if not rows:
        return None
    values = table.connection.execute(f"SELECT v::VARCHAR, n FROM ({groups}) ORDER BY n DESC, 1 LIMIT 5").fetchall()
    examples = tuple(f"{value} in {count} rows"[:500] for value, count in values)
    return ViolationFacts(f"{column.name} must be unique", column.name, int(rows), examples)


def _of_rows(table: Table, expectation: ExpectationTask) -> Iterator[ViolationFacts]:
    """Yield the condition if too many rows break it; one that is not true because of a missing value is broken."""
    condition = f"NOT coalesce(({expectation.condition}), false)"
    rule = f"{expectation.name}: {expectation.condition}"
    broken = _checked(table, rule, "", condition)
    if broken.rows > expectation.tolerated_share * table.rows:
        yield broken
