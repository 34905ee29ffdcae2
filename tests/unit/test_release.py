"""The parts of a release: the same bytes, whenever and wherever it is built."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from ultramarine_cluster import release
from ultramarine_cluster.paths import CLUSTER_FOLDER

sys.path.insert(0, str(CLUSTER_FOLDER))
import install


def image(path: Path, created: str, *, backwards: bool) -> Path:
    """Write an archive as buildah does, of an image that was built at a time."""
    blobs: dict[str, bytes] = {}

    def put(content: bytes) -> dict[str, object]:
        digest = sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"digest": f"sha256:{digest}", "size": len(content)}

    layer = put(gzip.compress(b"a layer", mtime=0))
    config = {
        "created": created,
        "history": [{"created": created, "comment": f"FROM {created}"}],
        "config": {"Cmd": ["a"]},
        "rootfs": {},
    }
    manifest = {"config": put(json.dumps(config).encode()), "layers": [layer], "annotations": {"base": created}}
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
