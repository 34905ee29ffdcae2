"""Profiles of tables: figures, requirements, and data that is not what it should be."""

from __future__ import annotations

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from measuring import peak_memory
from ultramarine_contract.dataset_records import ColumnTask, ExpectationTask, ProfileSummary, ProfileTask
from ultramarine_data.__main__ import main
from ultramarine_data.page import MAX_CARDS
from ultramarine_data.profiling import write_profile

ROWS = 3000
HEAD = "id,name,v,day,ok\n"
LINES = "".join(f"{i},n{i % 7},{i * 0.5},2024-01-{i % 28 + 1:02},{'true' if i % 2 else 'false'}\n" for i in range(ROWS))


def profiled(tmp_path: Path, files: dict[str, bytes | str], **task: Any) -> tuple[ProfileSummary, dict[str, Any]]:
    """Profile files; return the summary and the figures of the columns by name."""
    data, out = tmp_path / "data", tmp_path / "profile"
    for name, content in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content.encode() if isinstance(content, str) else content)
    write_profile(ProfileTask("churn@1", **task), data, out)
    document = json.loads((out / "profile.json").read_text())
    columns = {column["name"]: column for column in document["columns"]}
    return ProfileSummary.from_json((out / "summary.json").read_text()), columns


def rules(summary: ProfileSummary) -> list[str]:
    """The broken requirements."""
    return [violation.rule for violation in summary.violations]


def test_a_csv_has_a_profile_for_people_and_programs(tmp_path: Path) -> None:
    """Figures in JSON and Parquet are equal, and the page shows each column with a picture."""
    summary, columns = profiled(tmp_path, {"a.csv": HEAD + LINES})

    assert (summary.format, summary.rows, summary.column_count, summary.violations) == ("csv", ROWS, 5, ())
    assert {name: column["type"] for name, column in columns.items()} == {
        "id": "int64",
        "name": "string",
        "v": "float64",
        "day": "date",
        "ok": "boolean",
    }
    v = columns["v"]
    assert (v["minimum"], v["maximum"], v["nulls"]) == ("0.0", "1499.5", 0)
    assert v["mean"] == pytest.approx(749.75)
    assert v["quantiles"]["0.5"] == pytest.approx(749.75, rel=0.05)
    assert sum(v["histogram"]["counts"]) == ROWS
    assert columns["name"]["top"][0] == {"value": "n0", "count": 429}
    assert columns["id"]["distinct"] == pytest.approx(ROWS, rel=0.1)
    table = pq.read_table(tmp_path / "profile/profile.parquet").to_pylist()
    assert [row["mean"] for row in table if row["name"] == "v"] == [v["mean"]]
    page = (tmp_path / "profile/profile.html").read_text()
    assert page.count("<svg") == 5
    assert "histogram of v" in page
    assert "<script" not in page
    assert "http" not in page


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_other_formats_have_the_same_figures(tmp_path: Path, format: str) -> None:
    """Several files are one table."""
    table = pa.table({"a": [1, 2, None, 4], "b": ["x", "y", "x", None], "c": [[1], [2, 3], None, []]})
    data = tmp_path / "data"
    data.mkdir()
    for index in range(2):
        part = table.slice(2 * index, 2)
        if format == "parquet":
            pq.write_table(part, data / f"part-{index}.parquet")
        else:
            lines = (json.dumps(row) for row in part.to_pylist())
            (data / f"part-{index}.jsonl").write_text("\n".join(lines) + "\n")
    summary, columns = profiled(tmp_path, {})
    assert (summary.format, summary.rows, summary.violations) == (format, 4, ())
    assert (columns["a"]["mean"], columns["a"]["nulls"]) == (pytest.approx(7 / 3), 1)
    assert columns["b"]["top"] == [{"value": "x", "count": 2}, {"value": "y", "count": 1}]


def test_broken_requirements_come_with_rows_that_break_them(tmp_path: Path) -> None:
    """Each kind of requirement names its column, the number of rows, and some of them."""
    columns = (
        ColumnTask("id", "int64", nullable=False, unique=True, minimum=1, maximum=2998),
        ColumnTask("nam", "string"),
        ColumnTask("name", pattern="n[0-5]", values=("n0", "n1", "n2", "n3", "n4", "n5")),
        ColumnTask("v", "int64"),
    )
    expectations = (
        ExpectationTask("order", "v <= id"),
        ExpectationTask("few", "ok", tolerated_share=0.5),
        ExpectationTask("typo", "nosuch > 1"),
    )
    summary, _ = profiled(
        tmp_path,
        {"a.csv": HEAD + LINES + "7,n1,-1,,true\n"},
        columns=columns,
        other_columns=False,
        expectations=expectations,
    )
    broken = {violation.rule: violation for violation in summary.violations}

    assert list(broken) == [
        "column day is not in the schema",
        "column ok is not in the schema",
        "id must be at least 1",
        "id must be at most 2998",
        "id must be unique",
        "column nam is missing; it has name",
        "name must match n[0-5]",
        "name must be one of n0, n1, n2, n3, n4, n5",
        "v must have the type int64; it has float64",
        'typo: nosuch > 1: Binder Error: Referenced column "nosuch" not found in FROM clause!',
    ]
    assert broken["id must be at least 1"].examples == ('row 1: {"id": 0}',)
    assert broken["id must be unique"].examples == ("7 in 2 rows",)
    assert broken["name must match n[0-5]"].rows == 428


@pytest.mark.parametrize(
    ("tail", "rule", "example"),
    [
        ('7,"n1,1,2024-01-01,true\n', "CSV: every quoted value ends with a quote", 'line 3002: 7,"n1'),
        ("5,6\n", "CSV: every line has as many values as the first one", "line 3002: 5,6"),
        ("5,6,7,2024-01-01,true,9\n", "CSV: every line has as many values as the first one", "line 3002: 5,6,7"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, tail: str, rule: str, example: str) -> None:
    """The other lines have their profile."""
    summary, columns = profiled(tmp_path, {"a.csv": HEAD + LINES + tail})
    (violation,) = summary.violations
    assert violation.rule == rule
    assert violation.rows == 1
    assert violation.examples[0].startswith(example)
    assert (summary.rows, columns["v"]["type"]) == (ROWS, "float64")


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (b'{"id": 7, "name": \n', "JSON lines: every line is one JSON object"),
        (b'{"id": 7} {"id": 8}\n', "JSON lines: every line is one JSON object"),
        (b'{"id": 7, "name": "M\xfcller"}\n', "JSON lines: every line is UTF-8"),
    ],
)
def test_a_broken_json_line_is_named(tmp_path: Path, broken: bytes, rule: str) -> None:
    """The other lines have their profile, and the number of the line is that of the file."""
    good = b"".join(b'{"id": %d, "name": "n"}\n' % number for number in range(50_000))
    summary, columns = profiled(tmp_path, {"a.jsonl": good + broken})
    (violation,) = summary.violations
    text = broken.decode(errors="replace").rstrip()
    assert (violation.rule, violation.rows, violation.examples) == (rule, 1, (f"line 50001: {text}",))
    assert (summary.rows, list(columns)) == (50_000, ["id", "name"])


def test_a_file_without_a_json_line_is_named(tmp_path: Path) -> None:
    """There is nothing to profile."""
    summary, _ = profiled(tmp_path, {"a.jsonl": b"id,name\n1,a\n"})
    (violation,) = summary.violations
    assert violation.rule.endswith("no line is left; JSON lines: every line is one JSON object; line 1: id,name")


@pytest.mark.parametrize(
    ("broken", "line", "rows"),
    [('1,"a\n2,b\n3,c\n', 'line 2: 1,"a', 0), ('1,"a" x\n2,b\n3,c\n', 'line 2: 1,"a" x', 2)],
)
def test_broken_quotes_in_the_first_rows_are_named(tmp_path: Path, broken: str, line: str, rows: int) -> None:
    """The table keeps the columns of its header, though no type can be guessed."""
    summary, columns = profiled(tmp_path, {"a.csv": f"id,name\n{broken}"})
    (violation,) = summary.violations
    assert violation.rule == "CSV: every quoted value ends with a quote"
    assert violation.examples[0].startswith(line)
    assert (list(columns), summary.rows) == (["id", "name"], rows)


TEXT = "id,name\n1,é\n2,b\n"
UTF_16_BE = b"\xfe\xff" + TEXT.encode("utf-16-be")


@pytest.mark.parametrize(
    "files",
    [
        {"a.csv": TEXT.encode("utf-8-sig")},
        {"a.csv": TEXT.encode("utf-16")},
        {"a.csv": UTF_16_BE},
        {"a.csv": TEXT.encode("utf-32")},
        {"a.csv": "id,name\n1,é\n", "b.csv": b"\xfe\xff" + "id,name\n2,b\n".encode("utf-16-be")},
        {"a.csv.gz": gzip.compress(UTF_16_BE)},
        {"a.tsv": TEXT.replace(",", "\t").encode("utf-16")},
        {"a.csv": TEXT.replace(",", ";")},
        {"a.jsonl": '{"id": 1, "name": "é"}\n{"id": 2, "name": "b"}\n'.encode("utf-8-sig")},
        {"a.jsonl": '{"id": 1, "name": "é"}\n{"id": 2, "name": "b"}\n'.encode("utf-16")},
    ],
)
def test_a_byte_order_mark_says_how_a_text_is_read(tmp_path: Path, files: dict[str, Any]) -> None:
    """Files of one table may differ."""
    summary, columns = profiled(tmp_path, files)
    assert (summary.rows, summary.violations, list(columns)) == (2, (), ["id", "name"])
    assert {entry["value"] for entry in columns["name"]["top"]} == {"é", "b"}


@pytest.mark.parametrize(
    ("files", "rule", "rows"),
    [
        ({"a.csv": TEXT.encode("latin-1")}, "CSV: every line is UTF-8", 1),
        ({"a.csv": codecs.BOM_UTF8 + TEXT.encode("latin-1")}, "CSV: every line is UTF-8", 1),
        ({"a.csv": "id,né\n1,a\n".encode("latin-1")}, "line 1 of a.csv is not UTF-8: invalid continuation byte", 0),
        ({"a.csv": TEXT.encode("utf-16-le")}, "a.csv has null bytes, so it is not a text in UTF-8; save the file", 0),
        ({"a.csv": TEXT.encode("utf-16")[:-1]}, "a.csv has the byte order mark of utf-16, and bytes that are not", 0),
        ({"a.csv": 'id,"name\n1,a\n'}, "line 1 of a.csv: a quoted name of a column does not end", 0),
        ({"a.jsonl": '{"a": "é"}\n'.encode("latin-1")}, "the table cannot be read as jsonl", 0),
        ({"a.csv.gz": gzip.compress(TEXT.encode() * 1000)[:-20]}, "a.csv.gz is not a whole gzip file", 0),
        ({"a.csv.gz": TEXT}, "a.csv.gz is not a whole gzip file", 0),
    ],
)
def test_a_text_in_another_encoding_is_named(tmp_path: Path, files: dict[str, Any], rule: str, rows: int) -> None:
    """No row and no name of a column is lost in silence."""
    summary, _ = profiled(tmp_path, files)
    assert summary.rows == rows
    (violation,) = summary.violations
    assert violation.rule.startswith(rule)


def test_a_column_of_mixed_types_is_text(tmp_path: Path) -> None:
    """No row is lost, though the first rows look like numbers; a schema names the rows that are not."""
    lines = "".join(f"{i}\n" for i in range(200_000)) + "none\n"
    summary, columns = profiled(tmp_path, {"a.csv": "n\n" + lines}, columns=(ColumnTask("n", "int64"),))
    assert (summary.rows, columns["n"]["type"]) == (200_001, "string")
    (violation,) = summary.violations
    assert (violation.rule, violation.rows) == ("n must have the type int64; it has string", 1)
    assert violation.examples == ('row 200001: {"n": "none"}',)


@pytest.mark.parametrize("count", [MAX_CARDS + 30, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_table_with_more_columns_than_the_page_has_a_profile(tmp_path: Path, count: int) -> None:
    """The summary has the first columns, the page more of them, the files all."""
    names = ",".join(f"c{i}" for i in range(count))
    rows = "\n".join(",".join(str(i * j % 97) for i in range(count)) for j in range(20))
    summary, columns = profiled(tmp_path, {"a.csv": f"{names}\n{rows}\n"})
    assert (summary.rows, summary.column_count, len(summary.columns), len(columns)) == (20, count, 200, count)
    assert len(summary.to_json()) < 64 * 1024
    page = (tmp_path / "profile/profile.html").read_text()
    assert page.count('<div class="card">') == MAX_CARDS
    assert f"{count - MAX_CARDS:,} more columns" in page


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.csv": HEAD}, ""),
        ({"a.csv": ""}, "the table is empty"),
        ({"a.png": b"\x89PNG"}, "the version is not a table"),
        ({"a.csv": HEAD, "b.parquet": b"PAR1"}, "the version is not a table"),
        ({"a.parquet": b"PAR1 and no more"}, "cannot be read as parquet"),
        ({"a.jsonl": '{"a":\n'}, "cannot be read as jsonl"),
    ],
)
def test_an_empty_or_unreadable_table_has_an_empty_profile(tmp_path: Path, files: dict[str, Any], words: str) -> None:
    """The reason is a violation, so that a version with requirements is not taken for right."""
    summary, _ = profiled(tmp_path, files)
    assert summary.rows == 0
    assert [words in rule for rule in rules(summary)] == ([True] if words else [])
    assert (tmp_path / "profile/profile.html").exists()


def test_names_and_values_of_a_table_are_no_markup(tmp_path: Path) -> None:
    """The page shows them as text."""
    profiled(tmp_path, {"a.csv": '"<script>alert(1)</script>"\n"<b>x</b>"\n'})
    page = (tmp_path / "profile/profile.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page


def test_a_large_table_is_profiled_in_bounded_memory(tmp_path: Path) -> None:
    """Two million rows with many distinct texts stay below 600 MiB, though the file has more than 100 MB."""
    folder = tmp_path / "data"
    folder.mkdir()
    with (folder / "a.csv").open("w") as stream:
        stream.write("id,text,v\n")
        for start in range(0, 2_000_000, 100_000):
            stream.write(
                "".join(
                    f"{i},text of row {i * 7919 % 2_000_003},{i % 1009 / 7:.6f}\n"
                    for i in range(start, start + 100_000)
                )
            )
    program = "import sys, pathlib; from ultramarine_data import tables; tables.MAX_MEMORY = 2**28\n"
    program += "from ultramarine_data.profiling import *\n"
    program += "write_profile(ProfileTask('a'), pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    peak = peak_memory(program, folder, tmp_path / "out", cwd=tmp_path, variables={})
    assert ProfileSummary.from_json((tmp_path / "out/summary.json").read_text()).rows == 2_000_000
    assert peak < 600 * 2**20


def test_the_program_takes_its_task_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs and outputs lie where the trainer's variables say."""
    for name in ("inputs", "outputs"):
        monkeypatch.setenv(f"ULTRAMARINE_{name.upper()}_DIR", str(tmp_path / name))
    (tmp_path / "inputs/data").mkdir(parents=True)
    (tmp_path / "inputs/data/a.csv").write_text(HEAD + LINES)
    (tmp_path / "task.json").write_text(ProfileTask("churn@1").to_json())
    monkeypatch.chdir(tmp_path)
    assert main(["profile"]) == 0
    assert ProfileSummary.from_json((tmp_path / "outputs/profile/summary.json").read_text()).rows == ROWS
