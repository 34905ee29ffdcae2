"""The parts of a release: the same bytes, whenever and wherever it is built."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from ultramarine_cluster import buildah, release, sbom
from ultramarine_cluster.paths import CLUSTER_FOLDER

sys.path.insert(0, str(CLUSTER_FOLDER))
import install


def image(path: Path, created: str, *, backwards: bool, layer: bytes = b"a layer") -> Path:
    """Write an archive as buildah does, of an image that was built at a time."""
    blobs: dict[str, bytes] = {}

    def put(content: bytes) -> dict[str, object]:
        digest = sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"digest": f"sha256:{digest}", "size": len(content)}

    packed = put(layer if layer.startswith(b"\x1f\x8b") else gzip.compress(layer, mtime=0))
    config = {
        "created": created,
        "history": [{"created": created, "comment": f"FROM {created}"}],
        "config": {"Cmd": ["a"]},
        "rootfs": {},
    }
    manifest = {"config": put(json.dumps(config).encode()), "layers": [packed], "annotations": {"base": created}}
    index = {"manifests": [put(json.dumps(manifest).encode())]}
    blobs |= {"index.json": json.dumps(index).encode(), "oci-layout": b"{}"}
    with tarfile.open(path, "w") as archive:
        for name in sorted(blobs, reverse=backwards):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(blobs[name]), len(created)
            archive.addfile(member, io.BytesIO(blobs[name]))
    return path


def test_an_image_has_one_digest_whenever_it_is_built(tmp_path: Path) -> None:
    """Two builds of one content give one file, which names the digest of its manifest and the release."""
    first = image(tmp_path / "1.tar", "2026-01-01T00:00:00Z", backwards=False)
    second = image(tmp_path / "2.tar", "2027-01-01T00:00:00.5Z", backwards=True)
    files = [tmp_path / "a.tar", tmp_path / "b.tar"]
    labels = {"version": "1.2.0"}
    digests = {
        release.seal(source, file, "r.example.com/x:1.2.0", labels, 86400)
        for source, file in zip((first, second), files, strict=True)
    }

    assert len(digests) == 1
    assert files[0].read_bytes() == files[1].read_bytes()
    with tarfile.open(files[0]) as archive:
        contents = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    (entry,) = json.loads(contents["index.json"])["manifests"]
    assert {entry["digest"]} == digests
    assert entry["annotations"]["io.containerd.image.name"] == "r.example.com/x:1.2.0"
    assert all(sha256(content).hexdigest() == name[-64:] for name, content in contents.items() if "blobs/" in name)
    manifest = json.loads(contents[f"blobs/sha256/{entry['digest'][7:]}"])
    config = json.loads(contents[f"blobs/sha256/{manifest['config']['digest'][7:]}"])
    assert config["created"] == config["history"][0]["created"] == "1970-01-02T00:00:00Z"
    assert config["config"]["Labels"]["org.opencontainers.image.version"] == "1.2.0"
    assert config["config"]["Cmd"] == ["a"]


def test_chart_and_wheel_do_not_tell_when_they_were_packed(tmp_path: Path) -> None:
    """Packages of the same files in another order, at another time and with other modes give the same bytes."""
    for number in (1, 2):
        names = ["b", "a"][:: 3 - 2 * number]
        with tarfile.open(tmp_path / f"chart{number}", "w:gz") as chart:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size, member.mtime, member.mode, member.uname = 1, number, 0o600 + number, str(number)
                chart.addfile(member, io.BytesIO(name.encode()))
        with zipfile.ZipFile(tmp_path / f"wheel{number}", "w") as wheel:
            for name in names:
                wheel.writestr(zipfile.ZipInfo(name, (2000 + number, 1, 1, 0, 0, 0)), name)
        release.pack_chart(tmp_path / f"chart{number}", tmp_path / f"chart{number}.tgz", 5)
        release.pack_wheel(tmp_path / f"wheel{number}", tmp_path / f"wheel{number}.whl", 5)

    assert (tmp_path / "chart1.tgz").read_bytes() == (tmp_path / "chart2.tgz").read_bytes()
    assert (tmp_path / "wheel1.whl").read_bytes() == (tmp_path / "wheel2.whl").read_bytes()
    with tarfile.open(tmp_path / "chart1.tgz") as chart, zipfile.ZipFile(tmp_path / "wheel1.whl") as wheel:
        assert chart.getnames() == wheel.namelist() == ["a", "b"]


def test_a_wheel_of_a_commit_before_1980_is_packed(tmp_path: Path) -> None:
    """A zip file cannot hold an earlier time, such as that of a repository without dates."""
    with zipfile.ZipFile(tmp_path / "wheel", "w") as wheel:
        wheel.writestr("a", "a")
    release.pack_wheel(tmp_path / "wheel", tmp_path / "wheel.whl", 0)

    with zipfile.ZipFile(tmp_path / "wheel.whl") as wheel:
        assert wheel.getinfo("a").date_time == (1980, 1, 1, 0, 0, 0)


def test_the_list_of_components_does_not_depend_on_the_order_in_a_layer(tmp_path: Path) -> None:
    """An image that was unpacked and packed again keeps its list."""
    files = {f"usr/lib/{name}-1.dist-info/METADATA": f"Name: {name}\nVersion: 1\n".encode() for name in "cab"}
    documents = set()
    for order in (files, dict(reversed(files.items()))):
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w:gz") as archive:
            for name, content in order.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        source = image(tmp_path / "image.tar", "2026-01-01T00:00:00Z", backwards=False, layer=layer.getvalue())
        documents.add(sbom.document("r.example.com/x:1.2.0", source))

    (document,) = documents
    assert [entry["name"] for entry in json.loads(document)["components"]] == ["a", "b", "c"]


def test_installed_packages_are_the_same_bytes_at_any_time(tmp_path: Path) -> None:
    """Bytecode names the time of its source, so all new files get the same time; those of the base image stay."""
    site = tmp_path / "site"
    trees = []
    for begin in (1_700_000_000, 1_800_000_000):
        site.mkdir()
        for name in ("base.py", "module.py", "sklearn/tests/test_it.py"):
            file = site / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("IS_LISTED = 'a' in {'a', 'b', 'c'}\n")
            os.utime(file, (begin + 1, begin + 1))
        os.utime(site / "base.py", (begin - 100, begin - 100))
        install.finish(site, begin)
        assert (site / "base.py").stat().st_mtime == begin - 100
        files = [path for path in sorted(site.rglob("*")) if path.is_file() and path.name != "base.py"]
        assert {path.stat().st_mtime for path in files if path.suffix == ".py"} == {0}
        trees.append({path.relative_to(site): path.read_bytes() for path in files})
        shutil.rmtree(site)

    assert trees[0] == trees[1]
    assert [path.suffix for path in trees[0]] == [".pyc", ".py"]


def test_the_base_image_does_not_tell_when_or_where_it_was_made(tmp_path: Path) -> None:
    """Files of the installation lose time, machine and day; files of packages keep the time that they have."""
    contents = {
        "etc/machine-id": "5eb1",
        "etc/passwd-": "root",
        "etc/shadow": "root:*:20424:0:99999:7:::\n_apt:*:20424:0:99999:7:::\n",
        "var/lib/dpkg/status-old": "",
        "var/lib/dpkg/status": "",
        "usr/bin/tool": "",
    }
    for name, content in contents.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        os.utime(file, (2_000, 2_000))
    os.utime(tmp_path / "usr/bin/tool", (500, 500))

    buildah._clamp(tmp_path, 1_000)

    left = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    times = {name: path.stat().st_mtime for name, path in left.items()}
    assert times == {"etc/shadow": 0, "var/lib/dpkg/status": 0, "usr/bin/tool": 500}
    assert left["etc/shadow"].read_text() == "root:*:0:0:99999:7:::\n_apt:*:0:0:99999:7:::\n"


def test_values_pin_images_by_digest() -> None:
    """The values of a release name each image by tag and digest, which the chart writes as one reference."""
    text = release.values("1.2.0", "r.example.com", {"operator": "sha256:ab"})

    assert YAML(typ="safe").load(text) == {
        "images": {"operator": {"repository": "r.example.com/operator", "tag": "1.2.0@sha256:ab"}}
    }


@pytest.mark.parametrize("version", ["1.2", "v1.2.0", "1.2.0-RC", "../1.2.0"])
def test_a_release_has_a_semantic_version(version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another text than a version is refused before anything is written."""
    assert release.main([version, "--folder", str(tmp_path / "dist")]) == 1
    assert "is not a version" in capsys.readouterr().err
    assert not (tmp_path / "dist").exists()


def test_uv_follows_the_settings_of_pip() -> None:
    """Settings from pip's files and variables become uv's variables, and others are left out."""
    listed = "\n".join(
        [
            ":env:.find-links='/wheels'",
            "global.index-url='https://pip.example.com/a=b'",
            "global.cert='/ca'",
            "list.x='1'",
        ]
    )

    assert install.settings(listed) == {
        "UV_FIND_LINKS": "/wheels",
        "UV_DEFAULT_INDEX": "https://pip.example.com/a=b",
        "SSL_CERT_FILE": "/ca",
    }
