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
    with pytest.raises(ClusterError, match=r"image.tar is not an archive of an image: [a-z ]+\n") as caught:
        archives.contents(tmp_path / "image.tar")
    assert "docker save" in caught.value.remedy
    with pytest.raises(ClusterError, match=r"it has neither index.json nor manifest.json\n"):
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


OURS = "ultramarine/server:any=container-image://docker.io/ultramarine/server:1"
STAND_IN = "python:3.11-slim=container-image://localhost/base:1"
BUILD = """\
import sys
words = sys.argv[1:]
if "build" in words:
    dockerfile = open(words[words.index("-f") + 1]).read()
    print(*(word for word in words if word.startswith("BASE=") or "=container-image:" in word))
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
        ("FROM ultramarine/server:any AS a\n", OURS),
        ("FROM scratch\n", ""),
    ],
)
def test_a_folder_builds_on_images_that_are_here(no_engine: Path, monkeypatch: pytest.MonkeyPatch, dockerfile, words):
    """ARG BASE is the trainer, ultramarine/NAME this repository's, Docker's Python the launcher's Debian."""
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
        ("while running runtime: exit status 1", "Dockerfile cannot be built: while running runtime: exit status 1"),
    ],
)
def test_a_folder_that_cannot_be_built_says_why(no_engine: Path, failure: str, words: str):
    """A base image that no registry gives, and a full disk, are named; otherwise the log has the cause."""
    (no_engine / "Dockerfile").write_text(f"FROM x\nRUN sh {failure}\n")
    with pytest.raises(ClusterError, match=words) as caught:
        archives.load(str(no_engine), State("full"))
    assert failure in str(caught.value)
    assert "--isolation" not in str(caught.value)  # the command line stays in the log


def test_a_name_is_given_to_one_image_from_elsewhere(capsys):
    """--as with an image of this repository, or with two, is refused before anything is built."""
    assert cli.main(["images", "load", "trainer", "--as", "x:1"]) == 1
    assert "--as needs exactly one" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["NB App", "nb:", "-x", "team/NB:1", "NB/app", ""])
def test_a_name_that_containerd_refuses_is_refused_before_the_build(tmp_path, name):
    """Names as pods write them pass; an empty one is that of the archive."""
    with pytest.raises(ClusterError, match="is not a name of an image" if name else "has no Dockerfile"):
        archives.load(str(tmp_path), State("full"), name=name)
    for right in ("nb", "nb:1", "team/nb-app:V1", "localhost:5000/a__b/c", "X.example.com/a@sha256:" + "a" * 64):
        with pytest.raises(ClusterError, match="has no Dockerfile"):
            archives.load(str(tmp_path), State("full"), name=right)


@pytest.fixture
def cluster_images(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The images of a containerd, name to digest; its import overwrites an archive's own names, then loses them."""
    held: dict[str, str] = {}

    def ctr(*argv: str | Path, timeout: float = 0) -> str:
        words = [str(word) for word in argv]
        match words[2]:
            case "import":
                contents = archives.contents(Path(words[-1]))
                prefix = words[words.index("--base-name") + 1] if "--base-name" in words else ""
                for name in contents.names:
                    if name.startswith(prefix):
                        held.pop(name, None)
                held[words[words.index("--index-name") + 1]] = Path(words[-1]).stem
            case "tag":
                held[words[-1]] = held[words[-2]]
            case "rm":
                for name in words[3:]:
                    if not name.startswith("--"):
                        del held[name]
        return "\n".join(["REF TYPE DIGEST", *(f"{name} type {digest}" for name, digest in held.items())])

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(archives.images, "store", lambda state: ("ctr",))
    monkeypatch.setattr(archives, "run", ctr)
    return held


def test_a_load_under_another_name_leaves_the_archives_own_name(tmp_path, cluster_images):
    """Two builds have the same name inside; the second one is loaded by --as."""
    archives.load(str(oci(tmp_path / "first.tar", {REF: "app:1"})), State("full"))
    archives.load(str(oci(tmp_path / "second.tar", {REF: "app:1"})), State("full"), name="app:2")
    tags = {name: digest for name, digest in cluster_images.items() if "@" not in name}
    assert tags == {"docker.io/library/app:1": "first", "docker.io/library/app:2": "second"}


def test_an_image_is_removed_with_its_last_name(cluster_images, capsys):
    """The platform's images, and what is not there, are refused with the names to choose from."""
    app, server = "docker.io/library/app", {"docker.io/ultramarine/server:1": "sha256:bb"}
    names = [f"{app}:1", f"{app}:2", f"{app}@sha256:manifest", "sha256:config"]
    stale = {f"{app}@sha256:overwritten": "sha256:cc", "sha256:config-overwritten": "sha256:cc"}
    cluster_images.update(dict.fromkeys(names, "sha256:aa") | stale | server)
    assert cli.main(["images", "remove", "app:1"]) == 0
    assert cluster_images == dict.fromkeys(names[1:], "sha256:aa") | stale | server
    assert cli.main(["images", "remove", "ultramarine/server:1"]) == 1
    assert f"choose among {app}:2\n" in capsys.readouterr().err
    assert cli.main(["images", "remove", "app:2"]) == 0
    assert cluster_images == server
