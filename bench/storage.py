"""Embedded storage by the number of namespaces: small objects per second, large objects, memory.

The program runs on loopback with a folder of this machine; boto3 uses the keys of each namespace in turn. A write is
answered when it is on the disk. Run it by `make storage`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from pinned import memory
from serving import processor
from sights import table
from ultramarine_cluster import build, programs
from unit.conftest import free_port

BUCKET, MIB = "ultramarine", 2**20
SMALL, LARGE = 4 * 1024, 256 * MIB  # bytes
CLIENTS = 8


@contextmanager
def storage(folder: Path, namespaces: int) -> Iterator[tuple[str, int, list[str]]]:
    """Yield the storage with `number` accounts: its URL, the process, and the keys by namespace."""
    keys = [secrets.token_hex(16) for _ in range(namespaces)]
    (folder / "data").mkdir(parents=True)
    (folder / "accounts").mkdir()
    (folder / "accounts" / "root").write_text(secrets.token_hex(16))
    for number, key in enumerate(keys):
        (folder / "accounts" / f"namespace-team-{number}").write_text(key)
    address = f"127.0.0.1:{free_port()}"
    command = [str(programs.path("ultramarine-storage")), "-listen", address, "-data", str(folder / "data")]
    with subprocess.Popen([*command, "-accounts", str(folder / "accounts")], stdout=subprocess.DEVNULL) as process:
        time.sleep(1)
        yield f"http://{address}", process.pid, keys
        process.terminate()


def clients(url: str, keys: list[str]) -> list[Any]:
    """Return a client of each namespace."""
    session, config = boto3.Session(region_name="us-east-1"), Config(s3={"addressing_style": "path"})
    return [
        session.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id=f"namespace-team-{number}",
            aws_secret_access_key=key,
            config=config,
        )
        for number, key in enumerate(keys)
    ]


def rate(act: Callable[[int], Any], count: int) -> float:
    """Return the rate per second of an operation, with CLIENTS in parallel."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        began = time.perf_counter()
        list(pool.map(act, range(count)))
        return count / (time.perf_counter() - began)


def measured(namespaces: int, count: int) -> dict[str, str]:
    """Return a row of the table."""
    with tempfile.TemporaryDirectory() as below, storage(Path(below), namespaces) as (url, pid, keys):
        asked = clients(url, keys[:50])  # a boto3 client needs much memory
        at_start, body, large = memory(pid), secrets.token_bytes(SMALL), secrets.token_bytes(MIB) * (LARGE // MIB)

        def put(number: int) -> None:
            index = number % len(asked)
            asked[index].put_object(Bucket=BUCKET, Key=f"team-{index}/small/{number}", Body=body)

        def get(number: int) -> None:
            index = number % len(asked)
            assert asked[index].get_object(Bucket=BUCKET, Key=f"team-{index}/small/{number}")["Body"].read() == body

        puts, gets = rate(put, count), rate(get, count)
        began = time.perf_counter()
        asked[0].put_object(Bucket=BUCKET, Key="team-0/large", Body=large)
        written = time.perf_counter() - began
        began = time.perf_counter()
        assert len(asked[0].get_object(Bucket=BUCKET, Key="team-0/large")["Body"].read()) == LARGE
        read = time.perf_counter() - began
        numbers = {
            "namespaces": namespaces,
            "PUT 4 KiB/s": puts,
            "GET 4 KiB/s": gets,
            "PUT MiB/s": LARGE / MIB / written,
            "GET MiB/s": LARGE / MIB / read,
            "MiB at start": at_start / MIB,
            "MiB afterwards": memory(pid) / MIB,
        }
        return {name: f"{number:,.0f}" for name, number in numbers.items()}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespaces", type=int, nargs="+", default=[1, 50, 1000])
    parser.add_argument("--objects", type=int, default=2000, help="small objects that are written and read")
    arguments = parser.parse_args()
    build.ensure(("ultramarine-storage",))
    rows = [measured(namespaces, arguments.objects) for namespaces in arguments.namespaces]
    machine = f"{processor()}, {os.cpu_count()} cores, {platform.platform()}"
    print(f"{datetime.date.today()}, {machine}; boto3 {boto3.__version__}")
    print(table(rows))


if __name__ == "__main__":
    main()
