"""Imports: queries on PostgreSQL and SQLite, files of the storage, and files at an address."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from databases import Postgres, postgres
from measuring import peak_memory
from ultramarine_contract.dataset_records import PLACE_OF_SECRET, ImportSummary, ImportTask
from ultramarine_data.errors import DataError
from ultramarine_data.importing import https, import_data
from ultramarine_data.importing import postgres as reader

Import = Callable[..., ImportSummary]


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """A PostgreSQL with the table orders."""
    with postgres() as server:
        server.run(
            "CREATE TABLE orders AS SELECT i AS id, 'order ' || i AS name, i / 4.0 AS price, i::float8 / 3 AS share, "
            "i % 2 = 0 AS paid, DATE '2024-01-01' + (i % 90) AS day, to_char(DATE '2024-01-01' + (i % 90), 'YYYY-MM') "
            "AS month, TIMESTAMPTZ '2024-01-01 12:00:00+02' + i * INTERVAL '1 second' AS updated_at, "
            "jsonb_build_object('i', i) AS document, ARRAY[i, 2 * i] AS pair FROM generate_series(1, 1000) i"
        )
        server.run("CREATE TABLE texts (id int, text text)")
        server.run("INSERT INTO texts VALUES (1, ''), (2, NULL), (3, E'a,\"b\"\\nc'), (4, 'ä')")
        yield server


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """Import into tmp_path/data, with a secret, and return the summary."""

    def bring(secret: str = "", **task: Any) -> ImportSummary:
        monkeypatch.setenv(PLACE_OF_SECRET, secret)
        import_data(ImportTask(**task), tmp_path / "inputs", tmp_path / "data", tmp_path / "facts")
        return ImportSummary.from_json((tmp_path / "facts/summary.json").read_text())

    return bring


def rows(tmp_path: Path, order: str = "id") -> list[dict[str, Any]]:
    """The rows of the version."""
    return ds.dataset(tmp_path / "data", partitioning="hive").to_table().sort_by(order).to_pylist()


# ---- PostgreSQL


def test_a_query_becomes_parquet_with_types(database: Postgres, bring: Import, tmp_path: Path) -> None:
    """Values come as the database has them, in one file."""
    done = bring(database.address, query="SELECT * FROM orders;", watermark_column="updated_at")

    assert (done.changed, done.rows, done.watermark) == (True, 1000, "2024-01-01 10:16:40+00")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["part-00001.parquet"]
    schema = ds.dataset(tmp_path / "data").schema
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "id": "int32",
        "name": "string",
        "price": "double",
        "share": "double",
        "paid": "bool",
        "day": "date32[day]",
        "month": "string",
        "updated_at": "timestamp[us, tz=UTC]",
        "document": "string",
        "pair": "string",
    }
    first = rows(tmp_path)[0]
    assert (first["id"], first["name"], first["price"], first["paid"]) == (1, "order 1", 0.25, False)
    assert first["share"] == 1 / 3
    assert first["updated_at"].isoformat() == "2024-01-01T10:00:01+00:00"
    assert (first["document"], first["pair"]) == ('{"i": 1}', "{1,2}")


def test_empty_texts_are_not_missing_values(database: Postgres, bring: Import, tmp_path: Path) -> None:
    """Quotes, commas and line breaks stay."""
    bring(database.address, query="SELECT * FROM texts")
    assert [row["text"] for row in rows(tmp_path)] == ["", None, 'a,"b"\nc', "ä"]


def test_an_empty_result_is_a_table_with_columns(database: Postgres, bring: Import, tmp_path: Path) -> None:
    """The version has one file without rows."""
    assert bring(database.address, query="SELECT * FROM orders WHERE false").rows == 0
    assert ds.dataset(tmp_path / "data").schema.names[:2] == ["id", "name"]


def test_partitions_are_folders(database: Postgres, bring: Import, tmp_path: Path) -> None:
    """Each value of the column has one, and the rows are the same."""
    bring(database.address, query="SELECT * FROM orders", partition_by="month")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [f"month=2024-0{m}" for m in (1, 2, 3)]
    assert len(rows(tmp_path)) == 1000


def test_an_unchanged_watermark_makes_no_version(database: Postgres, bring: Import, tmp_path: Path) -> None:
    """Nothing is copied."""
    task = {"query": "SELECT * FROM orders", "watermark_column": "id"}
    assert bring(database.address, **task, watermark="1000") == ImportSummary(watermark="1000")
    assert list((tmp_path / "data").iterdir()) == []
    assert bring(database.address, **task, watermark="999").changed


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"query": "DELETE FROM orders RETURNING id"}, "source.sql.query"),
        ({"query": "WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone"}, "source.sql.query"),
        ({"query": "SELECT 1; DROP TABLE orders"}, "has a second statement"),
        ({"query": "SELECT nextval('numbers')"}, "writes"),
        ({"query": "SELECT nosuch FROM orders"}, 'column "nosuch" does not exist'),
        ({"query": "SELECT pg_sleep(30)", "timeout_seconds": 1}, "longer than source.sql.timeoutSeconds=1"),
        ({"query": "SELECT 1 AS a", "watermark_column": "b"}, "has no column b; it has a"),
        ({"query": "SELECT 1 AS a", "partition_by": "b"}, "has no column b; it has a"),
        ({"query": "SELECT DATE 'infinity' AS a"}, "cannot be stored"),
    ],
)
def test_a_query_that_cannot_be_imported_is_named(
    database: Postgres, bring: Import, task: dict[str, Any], words: str
) -> None:
    """It writes nothing, and no other attempt is worth it."""
    database.run("CREATE SEQUENCE IF NOT EXISTS numbers")
    with pytest.raises(DataError, match=words) as caught:
        bring(database.address, **task)
    assert not caught.value.transient
    assert database.run("SELECT count(*) FROM orders").strip() == "1000"


@pytest.mark.parametrize(
    ("change", "words", "transient"),
    [
        (lambda address: address.replace("secret", "wrong"), "password authentication failed", False),
        (lambda address: address.rpartition("/")[0] + "/nosuch", 'database "nosuch" does not exist', False),
        (lambda address: "postgresql://a:b@127.0.0.1:1/a", "does not answer", True),
        (lambda address: "mysql://a", "has no address of PostgreSQL", False),
        (lambda address: "", "has no address of PostgreSQL", False),
    ],
)
def test_a_database_that_is_away_is_worth_another_attempt(
    database: Postgres, bring: Import, monkeypatch: pytest.MonkeyPatch, change: Any, words: str, transient: bool
) -> None:
    """Wrong credentials are not, and no message has the password."""
    monkeypatch.setattr(reader, "PAUSE_SECONDS", 0.1)
    with pytest.raises(DataError, match=words) as caught:
        bring(change(database.address), query="SELECT 1 AS a")
    assert caught.value.transient is transient
    assert "secret" not in str(caught.value)


class Line:
    """A line to the database that forwards bytes until it falls silent, as a lost host does: it never closes."""

    def __init__(self, port: int, *, bytes: int) -> None:
        self._to, self._left = port, bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        for end in self._sockets:
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [client, server]
                for source, target, counts in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._forward, args=(source, target, counts), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if counts:
                    self._left -= len(data)
                if self._left > 0:
                    target.sendall(data)


@pytest.mark.parametrize(("bytes", "words"), [(0, "does not answer"), (100_000, "stopped answering")])
def test_a_database_that_falls_silent_is_worth_another_attempt(
    database: Postgres, bring: Import, monkeypatch: pytest.MonkeyPatch, bytes: int, words: str
) -> None:
    """Neither a connection nor a query waits for it without an end."""
    monkeypatch.setattr(reader, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(reader, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(reader, "SILENCE_SECONDS", 1)
    line = Line(database.port, bytes=bytes)
    address = database.address.replace(str(database.port), str(line.port))
    query = "SELECT i, md5(i::text) AS text FROM generate_series(1, 100000) i"
    try:
        with pytest.raises(DataError, match=words) as caught:
            bring(address, query=query, timeout_seconds=1)
    finally:
        line.close()
    assert caught.value.transient


@pytest.mark.slow
def test_ten_million_rows_are_imported_in_bounded_memory(database: Postgres, tmp_path: Path) -> None:
    """They are streamed: the process stays below 512 MiB."""
    columns = "i AS id, md5(i::text) AS name, i / 7.0::float8 AS value, now() AS updated_at"
    task = ImportTask(query=f"SELECT {columns} FROM generate_series(1, 10000000) i")
    program = "from ultramarine_data.__main__ import main; assert main(['import']) == 0"
    (tmp_path / "task.json").write_text(task.to_json())
    folders = {f"ULTRAMARINE_{name}_DIR": str(tmp_path / name.lower()) for name in ("INPUTS", "OUTPUTS")}
    peak = peak_memory(program, cwd=tmp_path, variables={**folders, PLACE_OF_SECRET: database.address})
    assert json.loads((tmp_path / "outputs/facts/summary.json").read_text())["rows"] == 10_000_000
    assert len(list((tmp_path / "outputs/data").iterdir())) == 10
    assert peak < 512 * 2**20


# ---- SQLite


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    """An SQLite file where the trainer fetches it."""
    path = tmp_path / "inputs/source/crm.sqlite"
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (id, month, share, mixed, picture)")
        values = [(i, f"2024-{i % 3 + 1:02}", i / 2, i if i % 2 else "x", b"\x00") for i in range(1000)]
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", values)
    connection.close()
    return path


def test_a_query_on_sqlite_has_the_types_of_its_values(sqlite_file: Path, bring: Import, tmp_path: Path) -> None:
    """A column with values of several types is text."""
    done = bring(folder="source", query="SELECT * FROM orders", partition_by="month", watermark_column="id")
    assert (done.rows, done.watermark) == (1000, "999")
    schema = ds.dataset(tmp_path / "data", partitioning="hive").schema
    types = {name: str(schema.field(name).type) for name in schema.names}
    expected = {"id": "int64", "share": "double", "mixed": "string", "picture": "binary", "month": "string"}
    assert types == expected
    assert rows(tmp_path)[1]["mixed"] == "1"
    assert not bring(folder="source", query="SELECT * FROM orders", watermark_column="id", watermark="999").changed


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("INSERT INTO orders VALUES (1, 2, 3, 4, 5)", "must be one SELECT that only reads, and begins with INSERT"),
        ("SELECT 1; DROP TABLE orders", "must be one SELECT that only reads, and has a second statement"),
        ("SELECT nosuch FROM orders", "no such column: nosuch; correct the query$"),
        ("WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT x FROM r", "timeoutSeconds=1"),
    ],
)
def test_a_query_on_sqlite_that_cannot_be_imported_is_named(
    sqlite_file: Path, bring: Import, query: str, words: str
) -> None:
    """The file stays as it is."""
    before = hashlib.sha256(sqlite_file.read_bytes()).digest()
    with pytest.raises(DataError, match=words):
        bring(folder="source", query=query, timeout_seconds=1)
    assert hashlib.sha256(sqlite_file.read_bytes()).digest() == before


# ---- Files


def test_files_of_the_storage_are_copied(bring: Import, tmp_path: Path) -> None:
    """The version has the paths of the source, and the mark of the copy."""
    (tmp_path / "inputs/source/sub").mkdir(parents=True)
    (tmp_path / "inputs/source/a.csv").write_text("a\n1\n")
    (tmp_path / "inputs/source/sub/b.csv").write_text("a\n2\n")
    assert bring(folder="source", etag='"a"') == ImportSummary(changed=True, etag='"a"')
    files = sorted(path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*.csv"))
    assert files == ["a.csv", "sub/b.csv"]


class Site(http.server.ThreadingHTTPServer):
    """A server of one file: answers before it, whether it cuts the file short, and what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.before: list[int] = []
        self.cuts = 0
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data/churn.csv?token=hidden"


class Page(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site = self.server
        site.headers.append(dict(self.headers))
        body = b"a\n1\n2\n"
        if site.before:
            self.send_response(site.before.pop(0))
            self.send_header("Location", site.url)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.headers.get("If-None-Match") == '"v1"':
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", '"v1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = site.cuts > 0
        site.cuts -= 1
        self.wfile.write(body[:3] if cut else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The server, which answers in a thread."""
    monkeypatch.setattr(https, "PAUSE_SECONDS", 0.01)
    server = Site()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_unless_its_etag_is_the_last(site: Site, bring: Import, tmp_path: Path) -> None:
    """The token reaches the server, and an unchanged file is not sent."""
    assert bring("abc", url=site.url) == ImportSummary(changed=True, etag='"v1"')
    assert (tmp_path / "data/churn.csv").read_bytes() == b"a\n1\n2\n"
    assert site.headers[0]["Authorization"] == "Bearer abc"
    assert bring("abc", url=site.url, etag='"v1"') == ImportSummary(etag='"v1"')


def test_a_server_that_is_busy_or_breaks_off_is_asked_again(site: Site, bring: Import, tmp_path: Path) -> None:
    """Nothing of a file that was cut short is kept."""
    site.before, site.cuts = [503, 429], 1
    assert bring(url=site.url).changed
    assert (tmp_path / "data/churn.csv").read_bytes() == b"a\n1\n2\n"
    assert len(site.headers) == 4


def test_a_redirect_is_followed(site: Site, bring: Import, tmp_path: Path) -> None:
    """Hosts of data sets send clients on to where the files are."""
    site.before = [302]
    assert bring(url=site.url).changed
    assert (tmp_path / "data/churn.csv").read_bytes() == b"a\n1\n2\n"


def test_a_refusal_is_final_and_an_absent_server_is_not(site: Site, bring: Import) -> None:
    """No message has the query of the address, which may be secret."""
    site.before = [404]
    with pytest.raises(DataError, match="answers HTTP 404") as caught:
        bring(url=site.url)
    assert not caught.value.transient
    assert "hidden" not in str(caught.value)
    with pytest.raises(DataError, match="does not answer") as caught:
        bring(url="http://127.0.0.1:1/a.csv")
    assert caught.value.transient
