"""The lists of what is in the images, from archives of two layers."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

from ultramarine_cluster import sbom


def layer(**files: bytes) -> bytes:
    """A layer with these files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def oci(path: Path, *layers: bytes) -> Path:
    """An OCI archive of these layers."""
    blobs: dict[str, bytes] = {}

    def put(content: bytes) -> dict[str, str]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"digest": f"sha256:{digest}"}

    manifest = json.dumps({"layers": [put(content) for content in layers]}).encode()
    blobs["index.json"] = json.dumps({"manifests": [put(manifest)]}).encode()
    with tarfile.open(path, "w") as made:
        for name, content in blobs.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return path


def test_components_are_those_of_the_last_layer(tmp_path):
    """Debian's and Python's packages are listed once, without what a later layer has replaced or taken away."""
    first = {
        "var/lib/dpkg/status": b"Package: libc6\nVersion: 2.36-9\n\nPackage: gone\nVersion: 1\n",
        "usr/lib/A.b-1.dist-info/METADATA": b"Name: A.b\nVersion: 1\n\nwords",
        "usr/lib/c-2.dist-info/METADATA": b"Name: c\nVersion: 2\n",
        "usr/bin/script": b"#!/bin/sh\n",
    }
    second = {
        "var/lib/dpkg/status": b"Package: libc6\nSource: glibc (2.36-1)\nVersion: 1:2.36+10\n\n",
        "usr/lib/os-release": b'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n',
        "usr/lib/.wh.c-2.dist-info": b"",
        "usr/lib/c-3.dist-info/METADATA": b"Name: c\nVersion: 3\n",
    }
    components = sorted(sbom._inside(oci(tmp_path / "image.tar", layer(**first), layer(**second))))
    document = sbom._document("ultramarine/server:1", components)

    assert [entry.get("purl") for entry in document["components"]] == [
        "pkg:deb/debian/libc6@1%3A2.36%2B10?distro=debian-12&upstream=glibc%402.36-1",
        None,  # the distribution itself
        "pkg:pypi/a-b@1",
        "pkg:pypi/c@3",
    ]
    assert {"type": "operating-system", "name": "debian", "version": "12"}.items() <= document["components"][1].items()
