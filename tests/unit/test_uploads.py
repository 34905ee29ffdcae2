"""Local paths of manifests: which files are code, which bytes an archive has, and where inputs go."""

from __future__ import annotations

import copy
import gzip
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ultramarine.storage.code import code_files, pack
from ultramarine.storage.uploads import upload_local_paths
from ultramarine.storage.work import FileInvalid
from ultramarine_contract.errors import StorageError
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.storage import Storage
from ultramarine_trainer.data.source import prepare
from unit.test_data import Namespace, below

API = "ultramarine.dev/v1alpha1"


@pytest.fixture
def namespace(storage: Storage, bucket: str) -> Any:
    """The part of a platform that uploads need."""
    return Namespace(storage, f"s3://{bucket}/team-a/")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder with code."""
    folder = tmp_path / "code"
    for name in ("train.py", "lib/__init__.py", "lib/model.py", "lib/__pycache__/model.pyc", ".git/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def job(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": "TrainingJob", "metadata": {"name": "churn"}, "spec": spec}


def names(folder: Path) -> list[str]:
    return sorted(code_files(folder))


# Ignore files


def test_caches_and_repositories_are_no_code(code: Path) -> None:
    """Without an ignore file they are left out."""
    assert names(code) == ["lib/__init__.py", "lib/model.py", "train.py"]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ("*.csv", ["data/keep.txt", "train.py"]),
        ("data/", ["keep.csv", "train.py"]),
        ("data/*\n!data/keep.txt", ["data/keep.txt", "keep.csv", "train.py"]),
        ("*.csv\n!/keep.csv", ["data/keep.txt", "keep.csv", "train.py"]),
        ("/keep.csv", ["data/a.csv", "data/keep.txt", "data/raw/keep.csv/x", "train.py"]),
        ("data/**/x", ["data/a.csv", "data/keep.txt", "keep.csv", "train.py"]),
        ("# comment\n\n*.txt", ["data/a.csv", "data/raw/keep.csv/x", "keep.csv", "train.py"]),
    ],
)
def test_patterns_are_those_of_gitignore(tmp_path: Path, patterns: str, left: list[str]) -> None:
    """Folders, anchors, negation and stars mean what they mean to git."""
    for name in ("train.py", "keep.csv", "data/a.csv", "data/keep.txt", "data/raw/keep.csv/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".ultramarineignore").write_text(f"{patterns}\n.ultramarineignore\n")
    assert names(tmp_path) == left


def test_ignore_files_of_subfolders_win(code: Path) -> None:
    """Their patterns are relative to them, and override those above."""
    (code / ".gitignore").write_text("*.log\n")
    (code / "lib" / ".ultramarineignore").write_text("!keep.log\n/model.py\n")
    for name in ("a.log", "lib/a.log", "lib/keep.log", "model.py"):
        (code / name).write_text("1")
    left = [name for name in names(code) if not name.endswith("ignore")]
    assert left == ["lib/__init__.py", "lib/keep.log", "model.py", "train.py"]


def test_azures_ignore_file_is_read(code: Path) -> None:
    """Projects that come from there keep theirs; an ultramarineignore replaces it."""
    (code / ".gitignore").write_text("train.py\n")
    (code / ".amlignore").write_text("lib/\n.amlignore\n.gitignore\n")
    assert names(code) == ["train.py"]
    (code / ".ultramarineignore").write_text(".*ignore\n")
    assert names(code) == ["lib/__init__.py", "lib/model.py", "train.py"]


def test_ignored_folders_are_not_entered(code: Path) -> None:
    """They may have what cannot be stored."""
    (code / "data").mkdir()
    (code / "data" / "outside").symlink_to("/etc")
    with pytest.raises(StorageError, match="it is a link that leads out"):
        names(code)
    (code / ".ultramarineignore").write_text("data/\n")
    assert "train.py" in names(code)


def test_mistakes_name_the_path(tmp_path: Path) -> None:
    """A missing folder, an empty one, and patterns that leave nothing."""
    with pytest.raises(FileInvalid, match=r"source\.path .*absent does not exist"):
        code_files(tmp_path / "absent")
    with pytest.raises(FileInvalid, match="has no files"):
        code_files(tmp_path)


# Archives


def test_equal_code_gives_equal_bytes(code: Path, tmp_path: Path) -> None:
    """Times and owners do not count; the mode of a program does."""
    pack(code_files(code), tmp_path / "1.tar.gz")
    for path in code.rglob("*"):
        os.utime(path, (1, 1))
    pack(code_files(code), tmp_path / "2.tar.gz")
    assert (tmp_path / "1.tar.gz").read_bytes() == (tmp_path / "2.tar.gz").read_bytes()
    (code / "train.py").chmod(0o755)
    pack(code_files(code), tmp_path / "3.tar.gz")
    assert (tmp_path / "1.tar.gz").read_bytes() != (tmp_path / "3.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "3.tar.gz") as archive:
        assert archive.getmember("train.py").mode == 0o755
        assert {(member.uid, member.uname) for member in archive} == {(0, "")}
    assert gzip.decompress((tmp_path / "1.tar.gz").read_bytes())


def test_the_trainer_unpacks_the_archive(code: Path, namespace: Any, tmp_path: Path) -> None:
    """Long and odd names, modes, and times that a zip archive can have."""
    long = code / ("d" * 100) / ("e" * 150) / "Größe 1.py"
    long.parent.mkdir(parents=True)
    long.write_text("long")
    (code / "run.sh").write_text("#!/bin/sh")
    (code / "run.sh").chmod(0o700)
    (code / "link.py").symlink_to("train.py")
    source = upload_local_paths(namespace, job(source={"path": str(code)}))["spec"]["source"]
    record = prepare(SourceTask(**source), tmp_path / "none", tmp_path / "work", namespace.storage)
    assert record.digest == source["digest"]
    assert below(tmp_path / "work") == {name: path.read_bytes() for name, path in code_files(code).items()}
    assert os.access(tmp_path / "work" / "run.sh", os.X_OK)
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.write(tmp_path / "work" / "train.py")


# Manifests


def test_a_manifest_names_content(code: Path, namespace: Any, tmp_path: Path) -> None:
    """URIs and digests take the place of paths; other fields stay, and a second upload sends nothing."""
    (tmp_path / "churn.csv").write_text("1")
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep" / "1.png").write_bytes(b"1")
    (tmp_path / "images" / "manifest.json").write_text("{}")
    inputs = {
        "table": {"path": "churn.csv", "mode": "Stream"},
        "images": {"path": "images"},
        "old": {"uri": "s3://lake/old.csv"},
    }
    manifest = job(source={"path": "code"}, command=["python", "train.py"], inputs=inputs)
    notes: list[str] = []
    again: list[str] = []
    promised = upload_local_paths(namespace, copy.deepcopy(manifest), True, tmp_path, notes.append)
    assert notes == []
    spec = upload_local_paths(namespace, copy.deepcopy(manifest), False, tmp_path, notes.append)["spec"]
    assert promised["spec"] == spec == upload_local_paths(namespace, manifest, False, tmp_path, again.append)["spec"]
    assert (len(notes), again) == (3, [])
    assert spec["inputs"]["table"]["mode"] == "Stream"
    assert spec["inputs"]["old"] == {"uri": "s3://lake/old.csv"}
    assert spec["inputs"]["table"]["uri"].endswith("/churn.csv")
    namespace.storage.download(spec["inputs"]["images"]["uri"], tmp_path / "back")
    assert below(tmp_path / "back") == below(tmp_path / "images")


def test_inputs_are_not_code(code: Path, namespace: Any) -> None:
    """Data beside the script is uploaded once, and a change of it leaves the code's digest."""
    (code / "sets" / "old").mkdir(parents=True)
    for name in ("churn.csv", "sets/old/a.csv", "sets/b.csv"):
        (code / name).write_text("1")
    inputs = {"table": {"path": "churn.csv"}, "old": {"path": str(code / "sets" / ".." / "sets" / "old")}}
    manifest = job(source={"path": "."}, inputs=inputs)

    before = upload_local_paths(namespace, copy.deepcopy(manifest), True, code)["spec"]
    (code / "churn.csv").write_text("2")
    (code / "sets" / "old" / "a.csv").write_text("2")
    after = upload_local_paths(namespace, copy.deepcopy(manifest), True, code)["spec"]

    assert before["source"] == after["source"]
    assert before["inputs"] != after["inputs"]
    left = ["lib/__init__.py", "lib/model.py", "sets/b.csv", "train.py"]
    assert sorted(code_files(code, [code / "churn.csv", code / "sets/old", code, code.parent])) == left


def test_half_an_input_is_completed(namespace: Any, tmp_path: Path) -> None:
    """A folder whose upload was interrupted gets what it lacks."""
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(3):
        (folder / str(number)).write_text(str(number))
    manifest = job(inputs={"set": {"path": str(folder)}})
    uri = upload_local_paths(namespace, copy.deepcopy(manifest))["spec"]["inputs"]["set"]["uri"]
    namespace.storage.delete(f"{uri}1")
    notes: list[str] = []
    upload_local_paths(namespace, manifest, note=notes.append)
    assert "set, 1 file, 1 B" in notes[0]
    assert namespace.storage.size(uri).files == 3


@pytest.mark.parametrize(
    "spec",
    [
        {"trialTemplate": {"spec": {"source": {"path": "."}}}},
        {"deployments": [{"name": "blue", "scoring": {"source": {"path": "."}, "entry": "score.py"}}]},
        {"python": {"requirementsFile": {"source": {"path": "."}, "path": "requirements.txt"}}},
    ],
)
def test_sources_are_uploaded_wherever_they_are(namespace: Any, code: Path, spec: dict[str, Any]) -> None:
    """Trials, scoring scripts and environments have a source too; its neighbours are left alone."""
    made = upload_local_paths(namespace, {"apiVersion": API, "kind": "Any", "spec": spec}, folder=code)
    assert "'path': '.'" not in str(made)
    assert "'digest': 'sha256:" in str(made)
    if "python" in spec:
        assert made["spec"]["python"]["requirementsFile"]["path"] == "requirements.txt"


def test_a_model_gets_the_list_of_its_files(namespace: Any, tmp_path: Path) -> None:
    """A version of a local folder has the digest that servers check, and a dry run names the same one."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"model")
    spec = {"model": "churn", "version": 1, "path": "model", "format": {"name": "onnx"}}
    manifest = {"apiVersion": API, "kind": "ModelVersion", "spec": spec}
    promised = upload_local_paths(namespace, copy.deepcopy(manifest), True, tmp_path)["spec"]
    made = upload_local_paths(namespace, manifest, False, tmp_path)["spec"]
    assert promised == made
    assert namespace.storage.artifact_digest(made["uri"]).digest == made["digest"]
    file = {**spec, "path": "model/model.onnx"}
    made = upload_local_paths(namespace, {**manifest, "spec": file}, False, tmp_path)["spec"]
    assert namespace.storage.object_digest(made["uri"], 100) == made["digest"]


def test_other_kinds_are_left_alone(namespace: Any) -> None:
    """A path of a foreign object is its own."""
    manifest = {"apiVersion": "v1", "kind": "X", "spec": {"source": {"path": "/absent"}}}
    assert upload_local_paths(namespace, copy.deepcopy(manifest)) == manifest


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"source": {"path": ".", "git": {}}}, "^TrainingJob [a-z0-9-]+: source has path and git"),
        ({"inputs": {"x": {"path": ".", "uri": "s3://lake/x"}}}, r"inputs\.x has path and uri"),
        ({"inputs": {"x": {"path": "absent.csv"}}}, r"inputs\.x\.path .*absent\.csv does not exist"),
    ],
)
def test_contradictions_are_refused(namespace: Any, code: Path, spec: dict[str, Any], words: str) -> None:
    """Two places for one thing, and a path without a file."""
    with pytest.raises(FileInvalid, match=words):
        upload_local_paths(namespace, job(**spec), folder=code)


def test_large_code_is_warned_of(namespace: Any, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning names the size, the largest file, and the ignore file."""
    monkeypatch.setattr("ultramarine.storage.uploads.WARN_BYTES", 100_000)
    (code / "weights.bin").write_bytes(os.urandom(200_000))
    notes: list[str] = []
    upload_local_paths(namespace, job(source={"path": str(code)}), note=notes.append)
    assert "Warning: the code has 195.7 KiB" in notes[0]
    assert "weights.bin" in notes[0]
    assert ".ultramarineignore" in notes[0]


def test_a_file_of_10_gb_is_no_code(code: Path) -> None:
    """It is refused before a byte of it is read, with its name, its size and the ignore file."""
    with (code / "huge.csv").open("wb") as stream:
        stream.truncate(10 * 2**30)
    with pytest.raises(FileInvalid, match=r"has 10\.0 GiB, such as .*huge\.csv.* Name data in .*ultramarineignore"):
        names(code)
