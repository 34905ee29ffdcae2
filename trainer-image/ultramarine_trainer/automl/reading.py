"""Reading of a table for AutoML, with one sentence about a mistake in its names or lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from ultramarine_contract.automl import AutoMLTask, Guardrail
from ultramarine_contract.errors import listed
from ultramarine_data.errors import DataError
from ultramarine_data.tables import NAME, Table, open_table

from ultramarine_trainer.automl.plan import AutoMLError, ColumnPlan

MIN_ROWS = 20
_DECIMAL = r"[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?"
_THOUSANDS = r"[+-]?\d{1,3}([.,]\d{3})*"


@dataclass
class Columns:
    """Features as far as they are decided, with what was noticed."""

    plans: list[ColumnPlan] = field(default_factory=list)
    guardrails: list[Guardrail] = field(default_factory=list)

    def warn(self, name: str, column: str, message: str, severity: str = "warning") -> None:
        self.guardrails.append(Guardrail(name, severity, column, message))


def read_table(task: AutoMLTask, data: Path, columns: Columns) -> pd.DataFrame:
    """Return the columns that can be used, and warn of what is left out. Raises AutoMLError."""
    try:
        with open_table(data) as table:
            _check_names(task, data, table)
            if table.unreadable:
                count = sum(problem.rows for problem in table.unreadable)
                rules = listed([problem.rule for problem in table.unreadable], 3)
                columns.warn("unreadable", "", f"{count:,} lines cannot be read and are left out; {rules}.")
            if table.rows < MIN_ROWS:
                raise AutoMLError(f"the table has {table.rows} rows, and a search needs at least {MIN_ROWS}. Add rows.")
            frame = _frame(task, table, columns)
            booleans = [column.name for column in table.columns if column.type == "BOOLEAN"]
            if table.format != "csv":
                return frame
            frame = _with_decimals(task, frame, columns)
            return _with_words(data, frame, booleans) if booleans else frame
    except DataError as error:
        raise AutoMLError(str(error)) from error


def _check_names(task: AutoMLTask, data: Path, table: Table) -> None:
    names = [column.name for column in table.columns]
    if doubles := _doubles(data, table):
        raise AutoMLError(f"column {doubles[0]} occurs {doubles[1]} times in the table. Rename or remove one of them.")
    roles = [("target", task.target), ("weight", task.weight), ("group", task.group), ("time", task.time)]
    roles += [("types", name) for name in task.types] + [("drop", name) for name in task.drop]
    for role, name in roles:
        if name and name not in names:
            near = get_close_matches(name, names, 1, 0.5)
            hint = f"Did you mean {near[0]}?" if near else f"It has {listed(names, 10)}."
            raise AutoMLError(f"{role} {name} is not a column of the table. {hint}")
    if task.target in (task.weight, task.group, task.time, *task.drop):
        raise AutoMLError(f"column {task.target} is the target and has another part in the task. Give it one part.")


def _doubles(data: Path, table: Table) -> tuple[str, int] | None:
    """Return a name that the header of a CSV file has twice; DuckDB has renamed the second one."""
    if table.format != "csv":
        return None
    if not any(re.search(r"_\d+$", column.name) for column in table.columns):
        return None
    path = next(path for path in sorted(data.rglob("*.?sv*")) if path.is_file())
    line = pd.read_csv(path, nrows=1, header=None, sep=None, engine="python", dtype=str, encoding_errors="replace")
    counts = line.iloc[0].dropna().str.lower().value_counts()
    return (str(counts.index[0]), int(counts.iloc[0])) if len(counts) and counts.iloc[0] > 1 else None


def _with_words(data: Path, frame: pd.DataFrame, booleans: list[str]) -> pd.DataFrame:
    """Return yes and no as the files have them, which DuckDB reads as booleans: a server gets these words too."""
    path = next(path for path in sorted(data.rglob("*.?sv*")) if path.is_file())
    usual: dict[str, Any] = {"dtype": str, "encoding_errors": "replace", "on_bad_lines": "skip"}
    head = pd.read_csv(path, nrows=10_000, sep=None, engine="python", keep_default_na=False, **usual)
    for name in frame.columns.intersection(booleans).intersection(head.columns):
        words = {word for word in head[name].str.strip().unique() if word}
        if words & {"true", "True", "TRUE", "false", "False", "FALSE"}:
            continue
        meanings = {word.lower() in ("yes", "y", "t", "1"): word for word in sorted(words)}
        frame[name] = frame[name].map(meanings)
    return frame


def _with_decimals(task: AutoMLTask, frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Return numbers for texts with a decimal comma; where each comma could be one of thousands, texts stay.

    Classes stay words.
    """
    for name in map(str, frame.columns):
        texts = frame[name].dropna()
        is_class = task.task == "classification" and name == task.target
        if is_class or pd.api.types.is_numeric_dtype(texts) or task.types.get(name, "numeric") != "numeric":
            continue
        if texts.empty or not isinstance(text := texts.iloc[0], str) or not re.fullmatch(_DECIMAL, text.strip()):
            continue  # most columns of texts end here
        if not all(isinstance(text, str) for text in texts):
            continue
        texts = texts.str.strip()
        if not texts.str.fullmatch(_DECIMAL).all() or texts.str.fullmatch(_THOUSANDS).all():
            continue
        numbers = texts.str.replace(".", "").str.replace(",", ".").astype(float)
        frame[name] = numbers.reindex(frame.index)
        columns.warn(
            "decimalComma",
            name,
            f"Column {name} has decimal commas, such as {texts.iloc[0]}. Its values are read as numbers; send numbers.",
            "info",
        )
    return frame


def _frame(task: AutoMLTask, table: Table, columns: Columns) -> pd.DataFrame:
    """Return the columns that can be used; those of DuckDB's other types are left out."""
    kept = []
    for column in table.columns:
        nested = column.type.endswith("[]") or column.type.startswith(("STRUCT", "MAP", "BLOB", "LIST"))
        if column.name in task.drop:
            continue
        if nested and column.name != task.target:
            columns.warn("unsupported", column.name, f"Column {column.name} has the type {column.type}; left out.")
            continue
        cast = "::DOUBLE" if column.type.startswith(("DECIMAL", "HUGEINT", "UHUGEINT")) else ""
        cast = "::VARCHAR" if nested or column.type.startswith(("ENUM", "UUID", "TIME", "INTERVAL")) else cast
        if column.type.startswith(("TIMESTAMP", "DATE")):
            form = "%Y-%m-%d" if column.type == "DATE" else "%Y-%m-%dT%H:%M:%S"
            kept.append(f"strftime({column.sql}::TIMESTAMP, '{form}') AS {column.sql}")
        else:
            kept.append(f"{column.sql}{cast} AS {column.sql}")
    try:
        return table.connection.execute(f"SELECT {', '.join(kept)} FROM {NAME}").df()
    except duckdb.OutOfMemoryException as error:
        raise AutoMLError(
            f"{table.rows:,} rows with {len(kept)} columns do not fit into the memory. Ask for more memory."
        ) from error
