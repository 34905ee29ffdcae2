"""Datasets by the SDK and the command: uploads, references, profiles and their difference, aliases, metadata."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ultramarine
import yaml
from bare import Api
from operator_process import Operator
from test_command import User, user  # noqa: F401  the fixture
from ultramarine.datasets import NotUsable
from ultramarine.kube.errors import NotFound
from ultramarine.storage.work import FileInvalid
from ultramarine_contract.dataset_records import ProfileSummary, ProfileTask
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import Manifest
from ultramarine_contract.storage import Storage
from ultramarine_data.profiling import write_profile

OLD = "id,plan,left\n" + "".join(f"{i},free,{i % 2}\n" for i in range(100))
NEW = "id,plan,age\n" + "".join(f"{i},{'pro' if i % 4 else 'free'},{20 + i % 50}\n" for i in range(120))


def mark(api: Api, version: Manifest, state: str, message: str = "stored", **status: object) -> None:
    """Write a verdict into the status of a version, as the operator does."""
    now = version["metadata"]["creationTimestamp"]
    truth = "True" if state == "Ready" else "False"
    ready = {"type": "Ready", "status": truth, "reason": state, "message": message, "lastTransitionTime": now}
    api.status("dsv", version["metadata"]["name"], {"state": state, "conditions": [ready], **status})


def profiled(api: Api, store: Storage, version: Manifest, folder: Path, text: str) -> None:
    """Do the work of a profile's TrainingJob, and of the operator with what it stores."""
    name = version["metadata"]["name"]
    data, out = folder / name / "data", folder / name / "profile"
    data.mkdir(parents=True)
    (data / "churn.csv").write_text(text)
    write_profile(ProfileTask(name), data, out)
    record = store.upload_folder(out, f"s3://lake/profiles/{name}", "custom")
    summary = ProfileSummary.from_json((out / "summary.json").read_text())
    columns = [{"name": column.name, "type": column.type, "nulls": column.nulls} for column in summary.columns]
    profile = {"uri": record.uri, "digest": record.digest}
    facts = {"type": "table", "format": "csv", "rows": summary.rows, "columnCount": len(columns), "columns": columns}
    mark(api, version, "Ready", profile=profile, **facts)


@pytest.fixture
def tables(client: ultramarine.Client, api: Api, store: Storage, tmp_path: Path) -> list[Manifest]:
    """Two versions of the table churn with their profiles."""
    versions = []
    for text in (OLD, NEW):
        (tmp_path / "churn.csv").write_text(text)
        version = client.datasets.add(tmp_path / "churn.csv", "churn").version
        profiled(api, store, version, tmp_path / "profiles", text)
        versions.append(version)
    return versions


def test_an_upload_is_a_version_that_becomes_ready(
    client: ultramarine.Client,
    api: Api,
    operator: Operator,
    user: User,  # noqa: F811
) -> None:
    """The real operator verifies it; the same content makes no version, and each version is downloaded as it was."""
    file = user.folder / "weights.bin"
    file.write_bytes(b"old")
    assert user.run("data", "put", "weights.bin", "--register", "churn").stdout == "churn@1\n"
    again = user.run("data", "put", "weights.bin", "--register", "churn")
    assert (again.stdout, "has the same content already" in again.stderr) == ("churn@1\n", True)
    file.write_bytes(b"new")
    added = client.datasets.add(file, "churn")
    assert (added.is_new, added.version["metadata"]["name"]) == (True, "churn-2")
    assert client.datasets.wait(added.version)["status"]["bytes"] == 3

    assert [version["metadata"]["name"] for version in client.datasets.versions("churn")] == ["churn-2", "churn-1"]
    assert client.datasets.version("churn@latest")["metadata"]["name"] == "churn-2"
    old = client.datasets.download("churn@1", user.folder / "old")
    assert (old / "weights.bin").read_bytes() == b"old"
    user.run("data", "get", "churn@latest", "new")
    assert (user.folder / "new" / "weights.bin").read_bytes() == b"new"


def test_a_folder_is_one_version(client: ultramarine.Client, store: Storage, tmp_path: Path) -> None:
    """With all of its files, whose list names its content; an empty folder is refused."""
    folder = tmp_path / "images"
    (folder / "cats").mkdir(parents=True)
    with pytest.raises(FileInvalid, match="has no files"):
        client.datasets.add(folder, "pets")
    with pytest.raises(FileInvalid, match="does not exist"):
        client.datasets.add(tmp_path / "absent", "pets")
    (folder / "cats" / "1.png").write_bytes(b"1")
    (folder / "2.png").write_bytes(b"2")
    version = client.datasets.add(folder, "pets").version

    files = client.datasets.files(version).files
    assert sorted(entry.path for entry in files) == ["2.png", "cats/1.png"]
    assert client.datasets.files(version).digest == version["spec"]["digest"]
    assert version["spec"]["lineage"]["source"] == "upload of images"


def test_a_wrong_reference_is_named_with_the_nearest(client: ultramarine.Client, tables: list[Manifest]) -> None:
    """Datasets, aliases and versions."""
    datasets = client.datasets
    datasets.promote("churn@1", "golden")
    assert datasets.aliases("churn") == {"golden": "1"}
    assert datasets.version("churn@golden")["metadata"]["name"] == "churn-1"
    for reference, words in (
        ("chrun@1", "dataset chrun has no version in namespace .* Did you mean churn?"),
        ("churn@goldn", "dataset churn has no alias goldn. Did you mean golden?"),
        ("churn@9", "dataset churn has no version 9. Versions: 2, 1"),
    ):
        with pytest.raises(NotFound, match=words):
            datasets.version(reference)


def test_a_quarantined_version_is_neither_latest_nor_promoted(
    client: ultramarine.Client, api: Api, tables: list[Manifest]
) -> None:
    """Its number leads to it, and the reason is the one in its status."""
    mark(api, tables[1], "Quarantined", "id must be unique: 2 rows break it")
    datasets = client.datasets

    assert datasets.version("churn@latest")["metadata"]["name"] == "churn-1"
    with pytest.raises(NotUsable, match="churn-2 is Quarantined: id must be unique"):
        datasets.wait(datasets.version("churn@2"))
    with pytest.raises(InvalidSpec, match="version 2 of dataset churn is not ready: id must be unique"):
        datasets.promote("churn@2", "golden")
    with pytest.raises(InvalidSpec, match="the alias latest is always"):
        datasets.promote("churn@1", "latest")
    mark(api, tables[0], "Quarantined", "no row")
    with pytest.raises(NotFound, match="no version of dataset churn is ready: id must be unique"):
        datasets.version("churn@latest")


def test_an_upload_names_what_its_profile_finds(user: User, api: Api, tables: list[Manifest]) -> None:  # noqa: F811
    """A version that can be read has a warning; a quarantined one is on stdout, too, and the exit code is 1."""
    (user.folder / "churn.csv").write_text(NEW)
    lost = {"rule": "CSV: every line is UTF-8", "rows": 3, "examples": ["line 2: M?ller"]}
    mark(api, tables[1], "Ready", violations=[lost])
    done = user.run("data", "put", "churn.csv", "--register", "churn")
    assert done.stdout == "churn@2\n"
    assert "Warning: churn-2 breaks a rule: CSV: every line is UTF-8, in 3 rows; line 2: M?ller" in done.stderr
    mark(api, tables[1], "Quarantined", "id must be unique: 2 rows break it")
    done = user.run("data", "put", "churn.csv", "--register", "churn", code=1)
    assert (done.stdout, "churn-2 is Quarantined: id must be unique" in done.stderr) == ("churn@2\n", True)


def test_a_version_is_shown_and_promoted(user: User, tables: list[Manifest]) -> None:  # noqa: F811
    """Its content, columns, origin and aliases, for people and for programs."""
    assert user.run("data", "promote", "churn@1", "--alias", "golden").stdout == "churn@golden is churn-1\n"
    shown = user.run("data", "show", "churn@golden").stdout
    for words in ("/churn-1\n", "state: Ready", "aliases: golden", "rows: 100", "source: upload of churn.csv"):
        assert words in shown
    assert ["plan", "string", "0"] in [line.split() for line in shown.splitlines()]
    document = json.loads(user.run("data", "show", "churn@2", "-o", "json").stdout)
    assert document["metadata"]["name"] == "churn-2"
    assert "has no alias gold. Did you mean golden?" in user.run("data", "show", "churn@gold", code=1).stderr


def test_two_versions_differ_in_rows_columns_and_drift(user: User, tables: list[Manifest]) -> None:  # noqa: F811
    """The largest drift comes first; equal versions have none."""
    lines = user.run("data", "diff", "churn@1", "churn@2").stdout.splitlines()
    assert lines[:3] == ["Rows: 100 -> 120 (+20)", "Added columns: age", "Removed columns: left"]
    assert [line.split()[0] for line in lines[3:]] == ["COLUMN", "plan", "id"]
    plan = yaml.safe_load(user.run("data", "diff", "churn@1", "churn@2", "-o", "yaml").stdout)["columns"][0]
    assert (plan["name"], plan["drift"]) == ("plan", pytest.approx(0.75))
    same = json.loads(user.run("data", "diff", "churn@1", "churn@1", "-o", "json").stdout)
    assert {column["drift"] for column in same["columns"]} == {0.0}


def test_a_version_without_a_profile_has_no_difference(
    client: ultramarine.Client,
    user: User,  # noqa: F811
    tables: list[Manifest],
) -> None:
    """The message names the version and the reason."""
    (user.folder / "a.bin").write_bytes(b"1")
    client.datasets.add(user.folder / "a.bin", "churn")
    message = user.run("data", "diff", "churn@1", "churn@3", code=1).stderr
    assert "DatasetVersion churn-3 has no profile: it is not a table" in message


def test_a_profile_that_is_being_made_is_awaited(
    client: ultramarine.Client, api: Api, store: Storage, tmp_path: Path, tables: list[Manifest]
) -> None:
    """Right after the upload, a comparison waits for the profile's TrainingJob."""
    (tmp_path / "churn.csv").write_text(OLD.replace("free", "pro"))
    version = client.datasets.add(tmp_path / "churn.csv", "churn").version
    name, now = version["metadata"]["name"], version["metadata"]["creationTimestamp"]
    working = {"type": "Profiled", "status": "False", "reason": "Profiling", "message": "", "lastTransitionTime": now}
    api.status("dsv", name, {"state": "Ready", "conditions": [working]})
    early = client.get("datasetversion", name)

    with ThreadPoolExecutor() as pool:
        profile = pool.submit(client.datasets.profile, early)
        profiled(api, store, version, tmp_path / "profiles", OLD.replace("free", "pro"))
        assert profile.result(60)["rows"] == 100


def test_metadata_have_each_file_and_column(user: User, tables: list[Manifest]) -> None:  # noqa: F811
    """As Croissant: the file with its digest, and a record set that refers to it."""
    document = json.loads(user.run("data", "croissant", "churn@2").stdout)
    assert (document["@type"], document["name"], document["version"]) == ("sc:Dataset", "churn", "2.0.0")
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    (file,) = document["distribution"]
    assert (file["@id"], file["encodingFormat"], file["contentSize"]) == ("churn.csv", "text/csv", f"{len(NEW)} B")
    fields = document["recordSet"][0]["field"]
    assert {field["name"]: field["dataType"] for field in fields} == {
        "id": "sc:Integer",
        "plan": "sc:Text",
        "age": "sc:Integer",
    }
    assert all(field["source"]["fileObject"] == {"@id": "churn.csv"} for field in fields)
