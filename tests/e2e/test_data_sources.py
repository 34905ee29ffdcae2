"""Sources of Datasets: a file at an address, a PostgreSQL outside of the cluster, and an SQLite file."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import yaml
from conftest import Manifest, Platform, condition
from person import Person, data_scientist
from unit.databases import Postgres, postgres

PAGE, ORDERS, FILE = "source-page", "source-orders", "source-file"
WRITES, PASSWORD, AWAY = "source-writes", "source-password", "source-away"
SECRET, TOKEN = "source-database", "t0ken"
TABLE = """
CREATE TABLE orders AS SELECT i AS id, 'order ' || i AS name, to_char(DATE '2024-01-01' + i % 60, 'YYYY-MM') AS month
FROM generate_series(1, 200) i
"""
REFRESHED = "Refreshed"


class Site(ThreadingHTTPServer):
    """A server of one file, with the ETag of its content, for clients with a token."""

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), Page)
        self.content = b"first"
        self.answers: list[int] = []


class Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        content = self.server.content
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        is_known = self.headers.get("If-None-Match") == etag
        code = 403 if self.headers.get("Authorization") != f"Bearer {TOKEN}" else 304 if is_known else 200
        self.server.answers.append(code)
        self.send_response(code)
        self.send_header("ETag", etag)
        if code != 304:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if code == 200:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass(frozen=True)
class Outside:
    """Servers on this machine that pods reach."""

    site: Site
    database: Postgres


@pytest.fixture(scope="module")
def outside(platform: Platform) -> Iterator[Outside]:
    """Serve at the node's address, which a policy opens to the pods of jobs, and give a Secret the credentials."""
    (node,) = platform.target.json("get", "nodes")["items"]
    (host,) = (a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
    with postgres(host) as database, Site(host) as site:
        database.run(TABLE)
        threading.Thread(target=site.serve_forever, daemon=True).start()
        url = database.address
        texts = {
            "url": url,
            "wrong": url.replace("secret", "wr0ng"),
            "away": url.replace(f":{database.port}/", ":1/"),
            "token": TOKEN,
        }
        jobs = [f"{name}-import-{n}" for name in (PAGE, ORDERS, PASSWORD, AWAY) for n in range(1, 100)]
        imports = {"key": "ultramarine.dev/name", "operator": "In", "values": jobs}
        policy = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": SECRET},
            "spec": {
                "podSelector": {"matchExpressions": [imports]},  # of no other test's jobs
                "policyTypes": ["Egress"],
                "egress": [{"to": [{"ipBlock": {"cidr": f"{host}/32"}}]}],
            },
        }
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": texts}
        platform.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([policy, secret]))
        platform.apply(  # the last one takes its time, as it is tried again
            dataset(WRITES, query("url", "DELETE FROM orders RETURNING id")),
            dataset(PASSWORD, query("wrong", "SELECT 1 AS a")),
            dataset(AWAY, query("away", "SELECT 1 AS a")),
        )
        yield Outside(site, database)
        platform.delete("dset", PAGE, ORDERS, FILE, WRITES, PASSWORD, AWAY)
        platform.kubectl("delete", f"networkpolicy/{SECRET}", f"secret/{SECRET}")
        site.shutdown()


@pytest.fixture
def ada(platform: Platform, tmp_path: Path) -> Person:
    """A data scientist."""
    return Person(tmp_path, data_scientist(platform, "sources-ada", tmp_path))


def dataset(name: str, source: Manifest, **spec: object) -> Manifest:
    """A Dataset with a source."""
    return {"kind": "Dataset", "metadata": {"name": name}, "spec": {"source": source, **spec}}


def query(key: str, text: str, **fields: object) -> Manifest:
    """A query on the PostgreSQL at the address under a key of the Secret."""
    return {"sql": {"connectionSecretRef": {"name": SECRET, "key": key}, "query": text, **fields}}


def sqlite_file(folder: Path, rows: int) -> bytes:
    """Content of a database with so many rows."""
    path = folder / f"{rows}.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE visits (id, month)")
        connection.executemany("INSERT INTO visits VALUES (?, ?)", [(i, f"m{i % 3}") for i in range(rows)])
    connection.close()
    return path.read_bytes()


def ids(ada: Person, version: str) -> dict[str, list[int]]:
    """Download a version, and return the ids of its rows by partition."""
    folder = ada.folder / version
    ada.run("data", "get", version, str(folder))
    rows = ds.dataset(folder, partitioning="hive").to_table().to_pylist()
    months = sorted({row["month"] for row in rows})
    assert sorted(path.name for path in folder.iterdir()) == [f"month={month}" for month in months]
    return {month: sorted(row["id"] for row in rows if row["month"] == month) for month in months}


@pytest.mark.timeout(900)
def test_sources_outside_become_versions_when_they_change(
    ada: Person, platform: Platform, outside: Outside, tmp_path: Path
) -> None:
    """Each has one version at first, no other one at a refresh without a change, and a second one after a change."""
    site, database = outside.site, outside.database
    url = f"http://{database.host}:{site.server_port}/page.bin"
    uri = platform.put("sources/visits.sqlite", sqlite_file(tmp_path, 30))
    split = {"partitionBy": "month", "watermark": "id"}
    platform.apply(
        dataset(PAGE, {"https": {"url": url, "tokenSecretRef": {"name": SECRET, "key": "token"}}}),
        dataset(ORDERS, query("url", "SELECT * FROM orders;", **split)),
        dataset(FILE, {"sql": {"uri": uri, "query": "SELECT * FROM visits", **split}}),
    )
    imported = (PAGE, ORDERS, FILE)
    for name in imported:
        platform.wait("dset", name, lambda s: (s.get("refresh") or {}).get("outcome") == "Imported")
    assert {month: len(rows) for month, rows in ids(ada, f"{ORDERS}@1").items()} == {"2024-01": 113, "2024-02": 87}
    assert ids(ada, f"{FILE}@1") == {f"m{i}": list(range(i, 30, 3)) for i in range(3)}
    ada.run("data", "get", f"{PAGE}@1", "first")
    assert (ada.folder / "first" / "page.bin").read_bytes() == b"first"

    for name in imported:
        patch = {"spec": {"refresh": {"cron": "* * * * *"}}}
        platform.kubectl("patch", "dset", name, "--type=merge", "-p", json.dumps(patch))
    for name in imported:
        status = platform.wait("dset", name, lambda s: s["refresh"]["outcome"] == "Unchanged")
        assert status["versions"] == 1
        assert status["refresh"]["number"] >= 2
    assert site.answers[:2] == [200, 304]

    site.content = b"second"
    database.run("INSERT INTO orders VALUES (201, 'order 201', '2024-03')")
    platform.put("sources/visits.sqlite", sqlite_file(tmp_path, 33))
    for name in imported:
        platform.wait("dset", name, lambda s: s.get("latestVersion") == "2")
        platform.kubectl("patch", "dset", name, "--type=merge", "-p", '{"spec": {"refresh": {"suspend": true}}}')
    assert ids(ada, f"{ORDERS}@2")["2024-03"] == [201]
    assert ids(ada, f"{FILE}@2") == {f"m{i}": list(range(i, 33, 3)) for i in range(3)}
    edit = {"spec": {"source": {"sql": {"query": "SELECT id, month, name IS NULL AS anonymous FROM orders"}}}}
    platform.kubectl("patch", "dset", ORDERS, "--type=merge", "-p", json.dumps(edit))
    profiled = platform.wait("dsv", f"{ORDERS}-2", lambda s: condition(s, "Profiled").get("status") == "True")
    assert (profiled["format"], profiled["rows"]) == ("parquet", 201)
    lineage = platform.get("dsv", f"{ORDERS}-2")["spec"]["lineage"]
    assert (lineage["watermark"], lineage["query"]) == ("201", "SELECT * FROM orders;")
    platform.wait("dset", ORDERS, lambda s: s.get("latestVersion") == "3")  # although its watermark is the same


@pytest.mark.parametrize(
    ("name", "told", "reason", "words"),
    [
        (WRITES, "Accepted", "InvalidSpec", "source.sql.query"),
        (PASSWORD, REFRESHED, "Failed", "password authentication failed"),
        (AWAY, REFRESHED, "Failed", "does not answer"),
    ],
)
def test_a_source_that_gives_nothing_is_named(
    platform: Platform, outside: Outside, name: str, told: str, reason: str, words: str
) -> None:
    """A query that writes, a wrong password, and a database that is away; no message has the password."""
    failed = platform.wait("dset", name, lambda s: condition(s, told).get("reason") == reason)
    message = condition(failed, told)["message"]
    assert words in message
    assert not failed.get("versions")
    assert "secret@" not in message
    assert "wr0ng" not in message
    assert outside.database.run("SELECT count(*) FROM orders WHERE id <= 200").strip() == "200"
