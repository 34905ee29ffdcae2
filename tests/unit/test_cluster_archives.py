"""Archives of images, as docker, podman, buildah and skopeo write them: what is read in them, and what is refused."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
from ultramarine_cluster import __main__ as cli
from ultramarine_cluster import archives
from ultramarine_cluster.errors import ClusterError
from ultramarine_cluster.paths import State

NAME, REF = "io.containerd.image.name", "org.opencontainers.image.ref.name"


def archive(path: Path, files: dict[str, object]) -> Path:
    """A tar file with these documents."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as made:
        for name, document in files.items():
            content = json.dumps(document).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return path


def oci(path: Path, annotations: dict[str, str], architecture: str = "amd64") -> Path:
    """An OCI archive with one image in an index of its own, as builders for several machines write it."""
    return archive(
        path,
        {
            "oci-layout": {"imageLayoutVersion": "1.0.0"},
            "index.json": {"manifests": [{"digest": "sha256:aa", "annotations": annotations}]},
            "blobs/sha256/aa": {"manifests": [{"digest": "sha256:bb"}]},
            "blobs/sha256/bb": {"config": {"digest": "sha256:cc"}},
            "blobs/sha256/cc": {"architecture": architecture},
        },
    )


@pytest.mark.parametrize(
    ("annotations", "names"),
    [
        ({REF: "team-train:1"}, ("docker.io/library/team-train:1",)),
        ({REF: "1", NAME: "registry.example.com/team/train:1"}, ("registry.example.com/team/train:1",)),
        ({REF: "latest"}, ()),  # a tag alone, as skopeo writes it
        ({}, ()),
    ],
)
def test_an_oci_archive_says_its_names_and_machines(tmp_path, annotations, names):
    """By either annotation, also in a compressed archive."""
    contents = archives.contents(oci(tmp_path / "image.tar.gz", annotations))
    assert contents == archives.Contents(names, frozenset({"amd64"}), "sha256:aa")


def test_an_archive_of_docker_says_its_names_and_machines(tmp_path):
    """manifest.json has them, as `docker save` writes it."""
    entry = {"Config": "c.json", "RepoTags": ["team/train:1", "localhost/train:2"], "Layers": []}
    path = archive(tmp_path / "image.tar", {"manifest.json": [entry], "c.json": {"architecture": "arm64"}})
    assert archives.contents(path) == archives.Contents(
        ("docker.io/team/train:1", "localhost/train:2"), frozenset({"arm64"})
    )


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("train", "docker.io/library/train:latest"),
        ("train:1", "docker.io/library/train:1"),
        ("team/train:1", "docker.io/team/train:1"),
        ("localhost/train", "localhost/train:latest"),
        ("registry.example.com:5000/train", "registry.example.com:5000/train:latest"),
        ("train@sha256:aa", "docker.io/library/train@sha256:aa"),
    ],
)
def test_a_name_is_completed_as_for_a_pod(name, whole):
    """A pod's short name becomes the name under which the image is kept."""
    assert archives.full_name(name) == whole


@pytest.mark.parametrize("content", [b"", b"FROM scratch\n", b"PK\x03\x04"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    """Text, an empty file and another kind of archive are told apart from an image, with how to make one."""
    (tmp_path / "image.tar").write_bytes(content)
    with pytest.raises(ClusterError, match="is not an archive of an image") as caught:
        archives.contents(tmp_path / "image.tar")
    assert "docker save" in caught.value.remedy
    with pytest.raises(ClusterError, match="is not an archive of an image"):
        archives.contents(archive(tmp_path / "other.tar", {"readme": {}}))


def test_what_cannot_be_loaded_says_why(tmp_path, monkeypatch):
    """Another machine's image, one without a name, a folder, and a name that no store has."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path))
    for what, words in (
        (oci(tmp_path / "arm.tar", {REF: "train:1"}, "arm64"), "is for arm64, and this machine is amd64"),
        (oci(tmp_path / "anonymous.tar", {}), "does not name its image"),
        (tmp_path, "has no Dockerfile"),
        ("no-such:1", "docker, podman and buildah are not installed"),
    ):
        with pytest.raises(ClusterError, match=words):
            archives.load(str(what), State("full"))


STAND_IN = "python:3.11-slim=container-image://localhost/base:1"
BUILD = """\
import sys
words = sys.argv[1:]
if "build" in words:
    dockerfile = open(words[words.index("-f") + 1]).read()
    print(*(word for word in words if "base" in word.lower()))
    sys.exit(dockerfile.partition("sh ")[2].strip() or 0)
"""


@pytest.fixture
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without docker, whose buildah writes the argument BASE and fails as the Dockerfile says."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "buildah").write_text(f"#!{sys.executable}\n{BUILD}")
    (programs / "buildah").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("ULTRAMARINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(archives.buildah.packages, "ensure", lambda: "")
    monkeypatch.setattr(archives.buildah, "base", lambda progress: "localhost/base:1")
    monkeypatch.setattr(archives.images, "store", lambda state: ("ctr",))
    monkeypatch.setattr(archives.images, "build", lambda name: f"docker.io/ultramarine/{name}:1")
    monkeypatch.setattr(archives.images, "docker", lambda: False)
    return tmp_path


@pytest.mark.parametrize(
    ("dockerfile", "words"),
    [
        ("ARG BASE\nFROM ${BASE}\n", "BASE=docker.io/ultramarine/trainer:1"),
        ("ARG BASE=python:3.11-slim\nFROM ${BASE}\n", f"BASE=localhost/base:1 {STAND_IN}"),
        ("FROM python:3.11-slim\n", STAND_IN),
        ("FROM scratch\n", ""),
    ],
)
def test_a_folder_builds_on_images_that_are_here(no_engine: Path, monkeypatch: pytest.MonkeyPatch, dockerfile, words):
    """ARG BASE is the trainer; Docker's image of Python is the launcher's Debian; the name is that of the folder."""
    monkeypatch.setattr(archives.buildah, "write_archive", lambda *arguments: None)
    monkeypatch.setattr(archives, "_import", lambda path, state, kind, name: name)
    folder = no_engine / "My Server"
    folder.mkdir()
    (folder / "Dockerfile").write_text(dockerfile)

    assert archives.load(str(folder), State("full")) == "docker.io/library/my-server:local"
    log = (no_engine / "cache" / "logs" / "folder-my-server.log").read_text()
    assert log.splitlines()[1:] == [words]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("initializing source docker://tritonserver:1: pinging container registry", "builds on tritonserver:1, which"),
        ('creating build container: short-name "llama" did not resolve to an alias', "builds on llama, which cannot"),
        ("write /usr/lib/libtorch.so: no space left on device", "the disk is full"),
        ("while running runtime: exit status 1", "`buildah` ended with 1"),
    ],
)
def test_a_folder_that_cannot_be_built_says_why(no_engine: Path, failure: str, words: str):
    """A base image that no registry gives, and a full disk, are named; otherwise the log has the cause."""
    (no_engine / "Dockerfile").write_text(f"FROM x\nRUN sh {failure}\n")
    with pytest.raises(ClusterError, match=words) as caught:
        archives.load(str(no_engine), State("full"))
    assert failure in str(caught.value)


def test_a_name_is_given_to_one_image_from_elsewhere(capsys):
    """--as with an image of this repository, or with two, is refused before anything is built."""
    assert cli.main(["images", "load", "trainer", "--as", "x:1"]) == 1
    assert "--as needs exactly one" in capsys.readouterr().err
