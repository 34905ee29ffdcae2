"""Environments of real packages: seconds of the build, bytes, and the seconds that unpacking adds to a pod's start.

The index is that of uv's own variables, or PyPI. Storage and disk are this machine's. Run it with PYTHONPATH as in
`make soak`: `python bench/environments.py lightgbm "scikit-learn==1.5.2 pandas"`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from serving import processor
from sights import table
from ultramarine_contract.common import ENV_STORAGE_ENDPOINT, ENV_TASK
from ultramarine_contract.environment_records import BuildRecord
from ultramarine_environment import building, storing
from ultramarine_environment.building import Places
from unit.conftest import serving_store

COLUMNS = ("requirements", "packages", "build s", "store s", "MiB", "archive MiB", "unpack s", "CPU s")
USUAL = ("lightgbm", "scikit-learn==1.5.2 pandas")
UNPACKS = 3
UNPACK = """
import sys, time
from pathlib import Path
from ultramarine_contract.environment_records import EnvironmentArchive
from ultramarine_contract.environments import unpack
from ultramarine_contract.storage import Storage
endpoint, uri, digest, folder = sys.argv[1:]
storage, began, used = Storage(endpoint), time.monotonic(), time.process_time()
unpack(storage, EnvironmentArchive(uri, digest), Path(folder))
print(time.monotonic() - began, time.process_time() - used)
"""


def main(sets: list[str]) -> None:
    """Measure each set of requirements, and print the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, serving_store(Path(folder, "buckets")) as store:
        (store.folder / "bench").mkdir()
        os.environ |= {**store.credentials, ENV_STORAGE_ENDPOINT: store.endpoint}
        for number, requirements in enumerate(sets):
            rows.append(measured(Path(folder, str(number)), store.endpoint, requirements))
    print(f"\n{processor()}, {os.cpu_count()} CPUs\n")
    print(table([dict(zip(COLUMNS, row, strict=True)) for row in rows]))


def measured(folder: Path, endpoint: str, requirements: str) -> tuple[str, ...]:
    """Build, store and unpack one environment; return its row, with the median of several starts."""
    places = Places(folder / "environment", folder / "none", folder / "none", folder / "log")
    places.environment.mkdir(parents=True)
    prefix = f"s3://bench/team-a/environments/{folder.name}/1"
    os.environ[ENV_TASK] = json.dumps({"prefix": prefix, "requirements": requirements.split()})
    if building.main(os.environ, places) or storing.main("store", os.environ, places):
        return (requirements, places.termination_log.read_text(), *[""] * 6)
    record = BuildRecord.from_json(places.termination_log.read_text())
    build = json.loads((places.environment / building.RESULT).read_text())["seconds"]
    seconds: list[tuple[float, ...]] = []
    for start in range(UNPACKS):
        argv = [sys.executable, "-c", UNPACK, endpoint, record.uri, record.digest, str(folder / f"pod{start}")]
        answer = subprocess.run(argv, check=True, capture_output=True, text=True)
        seconds.append(tuple(map(float, answer.stdout.split())))
        time.sleep(1)
    figures = (record.packages, build, record.seconds - build, record.unpacked_bytes / 2**20, record.bytes / 2**20)
    return (
        requirements,
        *(f"{figure:.4g}" for figure in figures),
        *(f"{figure:.2f}" for figure in sorted(seconds)[len(seconds) // 2]),
    )


if __name__ == "__main__":
    main(sys.argv[1:] or list(USUAL))
