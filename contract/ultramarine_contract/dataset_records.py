"""Documents of the program ultramarine-data: its tasks, and the summaries that it leaves beside its results."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from .common import Count, Document, Task

TASK_NAME = "task.json"  # in the folder in which the program starts
SUMMARY_NAME = "summary.json"  # beside the files of a profile or an import
PROFILE_JSON, PROFILE_PARQUET, PROFILE_PAGE = "profile.json", "profile.parquet", "profile.html"
DATA, PROFILE, FACTS = "data", "profile", "facts"  # inputs and outputs of its jobs
MAX_SUMMARY_COLUMNS = 200  # the profile has all columns
PLACE_OF_SECRET = "DATA_SOURCE_SECRET"  # variable with the address of a database, or with a token

# Formats of tables, by the ends of names.
TABLE_FORMATS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "csv",
    ".tsv.gz": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
}


def table_format(paths: Iterable[str]) -> str:
    """Return the format of a table by the paths of its files; empty if it is not a table.

    Files whose names begin with a dot or an underscore are marks of other programs.
    """
    names = [name for path in paths if not (name := PurePosixPath(path).name.lower()).startswith((".", "_"))]
    formats = {next((format for end, format in TABLE_FORMATS.items() if name.endswith(end)), "") for name in names}
    return formats.pop() if len(formats) == 1 else ""


class ColumnTask(Task, frozen=True):
    """Requirements on a column, as resources.dataset.Column has them."""

    name: str
    type: str = ""
    nullable: bool = True
    unique: bool = False
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    values: tuple[str, ...] = ()


class ExpectationTask(Task, frozen=True):
    """Condition over one row, and the share of rows that may break it."""

    name: str
    condition: str
    tolerated_share: float = 0.0


class ProfileTask(Task, frozen=True):
    """Profile of a table: its title, and the requirements on it; without columns every schema is right."""

    NOUN = "the task of a profile"

    title: str = ""
    columns: tuple[ColumnTask, ...] = ()
    other_columns: bool = True
    expectations: tuple[ExpectationTask, ...] = ()

    def to_json(self) -> str:
        return json.dumps(self.document(), sort_keys=True)


class ColumnFacts(Document, frozen=True):
    """Name, type and number of missing values of a column."""

    name: str
    type: str = ""
    nulls: Count = 0


class ViolationFacts(Document, frozen=True):
    """Requirement that rows break, in words, with examples of the rows."""

    rule: str
    column: str = ""
    rows: Count = 0
    examples: tuple[str, ...] = ()


class ProfileSummary(Document, frozen=True):
    """Facts for the status of a version; `columns` are the first of `column_count`."""

    NOUN = "the summary of a profile"

    format: str = ""
    rows: Count = 0
    column_count: Count = 0
    columns: tuple[ColumnFacts, ...] = ()
    violations: tuple[ViolationFacts, ...] = ()

    def to_json(self) -> str:
        return json.dumps(self.document(), sort_keys=True)


class ImportTask(Task, frozen=True):
    """Import of a dataset from outside: files of the input `folder`, the file at `url`, or the result of `query`.

    A query reads the SQLite file in `folder` or, without a folder, PostgreSQL at the address in PLACE_OF_SECRET. `etag`
    and `watermark` are those of the last import. The `etag` of a folder is that of the copy.
    """

    NOUN = "the task of an import"

    folder: str = ""
    url: str = ""
    query: str = ""
    partition_by: str = ""
    watermark_column: str = ""
    timeout_seconds: Count = 3600
    etag: str = ""
    watermark: str = ""

    def to_json(self) -> str:
        return json.dumps(self.document(), sort_keys=True)


class ImportSummary(Document, frozen=True):
    """Outcome of an import. Without `changed` nothing was stored."""

    NOUN = "the summary of an import"

    changed: bool = False
    rows: Count = 0
    etag: str = ""
    watermark: str = ""

    @classmethod
    def prepare(cls, document: Any) -> Any:
        """Return the document of an import, which names `changed`."""
        if not isinstance(document, dict) or "changed" not in document:
            raise ValueError("expected an object with the field changed")
        return document

    def to_json(self) -> str:
        return json.dumps(self.document(), sort_keys=True)
