"""Datasets: from an upload to a version with a profile, read by jobs, pinned, and kept while a job reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Platform, condition
from manifests import training_job
from person import Person, data_scientist

ROWS = 500
HEADER = "id,plan,age\n"
OLD = HEADER + "".join(f"{i},{'pro' if i % 4 else 'free'},{20 + i % 50}\n" for i in range(ROWS))
NEW = HEADER + "".join(f"{i},pro,{30 + i % 50}\n" for i in range(ROWS + 20))
COUNT = """
import sys
from pathlib import Path

(file,) = Path(sys.argv[1]).rglob("*.csv")
print(f"rows={len(file.read_text().splitlines()) - 1}")
"""
COMMAND = ["python", "train.py", "$(inputs.table)"]
HOLDER = "datasets-holder"


@pytest.fixture(scope="module")
def kubeconfig(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of a data scientist, in a namespace without what an earlier run has left."""
    platform.delete("tj", "datasets-count", HOLDER)
    platform.delete("dset", "customers")  # before its versions, which its aliases keep
    platform.delete("dsv", "customers-1", "customers-2")
    return data_scientist(platform, "datasets", tmp_path_factory.mktemp("ada"))


@pytest.fixture
def ada(kubeconfig: Path, tmp_path: Path) -> Person:
    """The data scientist, with a cache of her own."""
    person = Person(tmp_path, kubeconfig)
    person.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    return person


def test_an_upload_is_read_and_kept_while_it_is_read(ada: Person, platform: Platform) -> None:
    """@latest is pinned once; a later version changes no run, and what a run reads is not deleted before its end."""
    file = ada.folder / "customers.csv"
    file.write_text(OLD)
    assert ada.run("data", "put", "customers.csv", "--register", "customers").stdout == "customers@1\n"
    profiled = platform.wait("dsv", "customers-1", lambda s: condition(s, "Profiled").get("status") == "True", 240)
    assert (profiled["state"], profiled["type"], profiled["rows"]) == ("Ready", "table", ROWS)
    assert [column["name"] for column in profiled["columns"]] == ["id", "plan", "age"]
    shown = ada.run("data", "show", "customers@1").stdout
    assert f"rows: {ROWS}\n" in shown
    assert "profile.html" in shown

    reads = {"table": {"dataset": "customers@latest"}}
    platform.apply(
        training_job("datasets-count", COUNT, command=COMMAND, inputs=reads, outputs={}),
        training_job(HOLDER, COUNT + "import time\ntime.sleep(900)\n", command=COMMAND, inputs=reads, outputs={}),
    )
    counted = platform.ended("datasets-count", 240)
    assert counted["state"] == "Succeeded", counted
    assert counted["metrics"]["latest"]["rows"] == ROWS
    platform.wait("tj", HOLDER, lambda s: s.get("state") == "Running", 240)

    file.write_text(NEW)
    assert ada.run("data", "put", "customers.csv", "--register", "customers").stdout == "customers@2\n"
    pin = {name: platform.status("tj", name)["datasets"]["table"] for name in ("datasets-count", HOLDER)}
    version = platform.get("dsv", "customers-1")["spec"]
    expected = {"version": "customers-1", "uri": version["uri"], "digest": version["digest"]}
    assert pin == {"datasets-count": expected, HOLDER: expected}

    platform.wait("dset", "customers", lambda s: s.get("inUse") == {"customers-1": f"TrainingJob {HOLDER}"})
    refused = ada.run("delete", "dsv", "customers-1", code=1).stderr
    assert f"DatasetVersion customers-1 is used by TrainingJob {HOLDER}" in refused
    assert "Dataset customers is used: customers-1 by" in ada.run("delete", "dset", "customers", code=1).stderr

    ada.run("cancel", HOLDER)
    platform.wait("dset", "customers", lambda s: not s.get("inUse"))
    platform.wait("dsv", "customers-2", lambda s: condition(s, "Profiled").get("status") == "True", 240)


def test_versions_are_compared_and_described(ada: Person) -> None:
    """Rows and drift, the alias that keeps a version, the files, and metadata for other tools."""
    difference = json.loads(ada.run("data", "diff", "customers@1", "customers@2", "-o", "json").stdout)
    assert difference["rows"] == [ROWS, ROWS + 20]
    drift = {column["name"]: column["drift"] for column in difference["columns"]}
    assert drift["plan"] == pytest.approx(0.25)

    promoted = ada.run("data", "promote", "customers@1", "--alias", "golden").stdout
    assert promoted == "customers@golden is customers-1\n"
    ada.run("data", "get", "customers@golden", "back")
    assert (ada.folder / "back" / "customers.csv").read_text() == OLD

    document = json.loads(ada.run("data", "croissant", "customers@golden").stdout)
    assert [file["name"] for file in document["distribution"]] == ["customers.csv"]


def test_a_version_goes_when_nobody_uses_it(ada: Person, platform: Platform) -> None:
    """Neither a run nor an alias."""
    platform.wait("dset", "customers", lambda s: s.get("inUse") == {"customers-1": "alias golden"})
    assert "is used by alias golden" in ada.run("delete", "dsv", "customers-1", code=1).stderr
    ada.run("delete", "dsv", "customers-2")
    ada.run("delete", "dset", "customers")
    ada.run("delete", "dsv", "customers-1")


def test_the_files_of_a_version_go_with_it_if_the_dataset_says_so(ada: Person, platform: Platform) -> None:
    """Delete: the upload goes with its version, by hand; the one of the other version stays."""
    platform.delete("dset", "shed-rows")
    platform.delete("dsv", "shed-rows-1", "shed-rows-2")
    deletes = {"type": "file", "deletionPolicy": "Delete"}
    platform.apply({"kind": "Dataset", "metadata": {"name": "shed-rows"}, "spec": deletes})
    file = ada.folder / "rows.bin"
    for number in (1, 2):
        file.write_text(f"rows {number}")
        assert ada.run("data", "put", "rows.bin", "--register", "shed-rows").stdout == f"shed-rows@{number}\n"
    first, second = (str(platform.get("dsv", f"shed-rows-{number}")["spec"]["uri"]) for number in (1, 2))
    platform.wait("dset", "shed-rows", lambda s: len(s.get("artifacts", [])) == 2)

    ada.run("delete", "dsv", "shed-rows-1")
    platform.wait("dset", "shed-rows", lambda s: [a["version"] for a in s.get("artifacts", [])] == ["2"], 240)
    platform.events("shed-rows", "ArtifactDeleted")
    assert "does not exist" in ada.run("data", "ls", first, code=1).stderr
    assert "rows.bin" in ada.run("data", "ls", second).stdout
