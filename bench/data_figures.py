"""Imports of a query from PostgreSQL against COPY, and profiles of a CSV against SUMMARIZE; for bench/pipelines.py."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import duckdb
from figures import Row
from ultramarine_contract.dataset_records import PLACE_OF_SECRET, ImportTask, ProfileTask
from unit.databases import Postgres, postgres
from unit.measuring import peak_memory

QUERY = "SELECT * FROM orders"
TABLE = """CREATE UNLOGGED TABLE orders AS SELECT i AS id, md5(i::text) AS name, i / 7.0::float8 AS price,
DATE '2024-01-01' + (i % 90)::int AS day, TIMESTAMPTZ '2024-01-01 12:00+00' + i * INTERVAL '1 second' AS updated_at
FROM generate_series(1::bigint, {rows}) i"""
PROGRAM = "from ultramarine_data.__main__ import main; assert main(['{work}']) == 0"

SUMMARIZE = """import sys, duckdb
rows = duckdb.connect().execute("SUMMARIZE SELECT * FROM read_csv('" + sys.argv[1] + "')").fetchall()
assert rows
"""
CSV = """COPY (SELECT i AS id, md5(i::VARCHAR) AS name, (i * 7919 % 1000003) / 7 AS price,
(['red', 'green', 'blue', NULL])[i % 4 + 1] AS colour, DATE '2024-01-01' + (i % 900)::INTEGER AS day,
i % 3 = 0 AS paid FROM range({rows}) t(i)) TO '{path}' (HEADER)"""
ROW_BYTES = 78  # of the CSV, on average


def imports(rows: int) -> list[Row]:
    """Import a table by our program, and write it as CSV by psql's COPY."""
    with postgres() as server:
        server.run(TABLE.format(rows=rows))
        server.run("VACUUM ANALYZE orders")  # or the first reader writes the hints of all rows
        return [_imported(server, rows), _copied(server, rows)]


def _imported(server: Postgres, rows: int) -> Row:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "task.json").write_text(ImportTask(query=QUERY).to_json())
        began = time.monotonic()
        variables = {**_folders(folder), PLACE_OF_SECRET: server.address}
        peak = peak_memory(PROGRAM.format(work="import"), cwd=folder, variables=variables)
        took = time.monotonic() - began
        written = _bytes(folder / "outputs/data")
    row = {
        "import": f"`source.sql`, {rows:,} rows to Parquet",
        "took": f"{took:.1f} s",
        "rows/s": f"{rows / took:,.0f}",
    }
    return row | {"written": f"{written / 2**20:.0f} MiB", "peak memory": f"{peak / 2**20:.0f} MiB"}


def _copied(server: Postgres, rows: int) -> Row:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "orders.csv"
        began = time.monotonic()
        with path.open("wb") as file:
            command = ["psql", "--no-psqlrc", "-q", "-c", f"COPY ({QUERY}) TO STDOUT (FORMAT csv)", server.address]
            subprocess.run(command, stdout=file, check=True)
        took = time.monotonic() - began
        written = path.stat().st_size
    row = {"import": "`psql`, COPY to CSV", "took": f"{took:.1f} s", "rows/s": f"{rows / took:,.0f}"}
    return row | {"written": f"{written / 2**20:.0f} MiB", "peak memory": "client only"}


def profiles(megabytes: int) -> list[Row]:
    """Profile a CSV by our program, and summarize it by DuckDB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "inputs/data/orders.csv"
        path.parent.mkdir(parents=True)
        rows = megabytes * 10**6 // ROW_BYTES
        duckdb.sql(CSV.format(rows=rows, path=path))
        (folder / "task.json").write_text(ProfileTask("orders@1").to_json())
        size = path.stat().st_size
        ours, all = PROGRAM.format(work="profile"), f"{size / 10**9:.2f} GB, {rows:,} rows, 6 columns"
        return [
            _measured(f"profile of {all}", ours, folder, _folders(folder), []),
            _measured("DuckDB's SUMMARIZE of the same", SUMMARIZE, folder, {}, [path]),
        ]


def _measured(title: str, program: str, folder: Path, variables: dict[str, str], words: list[Path]) -> Row:
    began = time.monotonic()
    peak = peak_memory(program, *words, cwd=folder, variables={**variables, "HOME": os.environ.get("HOME", "/")})
    return {"work": title, "took": f"{time.monotonic() - began:.1f} s", "peak memory": f"{peak / 2**20:,.0f} MiB"}


def _folders(folder: Path) -> dict[str, str]:
    return {f"ULTRAMARINE_{name}_DIR": str(folder / name.lower()) for name in ("INPUTS", "OUTPUTS")}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
