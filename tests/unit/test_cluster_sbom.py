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
        "var/lib/dpkg/status": b"Package: libc6\nVersion: 2.36-10\n\n",
        "usr/lib/.wh.c-2.dist-info": b"",
        "usr/lib/c-3.dist-info/METADATA": b"Name: c\nVersion: 3\n",
    }
    found = sbom._inside(oci(tmp_path / "image.tar", layer(**first), layer(**second)))
    assert sorted(found) == [("deb/debian", "libc6", "2.36-10"), ("pypi", "a-b", "1"), ("pypi", "c", "3")]
