"""Write a release into a folder: images, chart, wheel, lists of components, values with digests, and checksums.

`python -m ultramarine_cluster.release VERSION` gives the same bytes for the same commit and the same Debian packages:
every time is the commit's, every list is sorted. docs/releasing.md tells how to sign, publish and install a release.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from . import buildah, images, programs, sbom
from .build import ensure
from .console import run, say, step
from .errors import ClusterError
from .paths import REPOSITORY
from .pki import yaml
from .target import CHART, OWN_IMAGES

VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9a-z.]+)?")
REGISTRY = "docker.io/ultramarine"
SUMS = "SHA256SUMS"
SETUPTOOLS = "setuptools==80.9.0"
EARLIEST = 315532800  # 1980, before which a zip file knows no time


def main(argv: list[str] | None = None) -> int:
    """Write the release that the command line asks for; return 0 if it is complete."""
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("version", help="such as 1.2.0 or 1.2.0-rc.1")
    parser.add_argument("--registry", default="", help=f"where the images will be published (default: {REGISTRY})")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "dist", help="where to write (default: dist)")
    parser.add_argument("--image", nargs="+", choices=OWN_IMAGES, default=OWN_IMAGES, help="default: all")
    chosen = parser.parse_args(argv)
    try:
        write(chosen.version, chosen.registry.rstrip("/") or REGISTRY, chosen.folder, chosen.image)
    except ClusterError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def write(version: str, registry: str, folder: Path, names: Iterable[str]) -> None:
    """Write the release of the commit that is checked out."""
    if not VERSION.fullmatch(version):
        raise ClusterError(f"{version!r} is not a version", "give MAJOR.MINOR.PATCH, or that with -rc.1")
    if run("git", "-C", REPOSITORY, "status", "--porcelain"):
        raise ClusterError("the working tree differs from its commit", "commit or stash the changes")
    commit, seconds = run("git", "-C", REPOSITORY, "log", "-1", "--format=%H %ct").split()
    epoch = int(seconds)
    # The digests must not depend on the engine that a machine happens to have.
    os.environ["ULTRAMARINE_ENGINE"] = "buildah"
    images.docker.cache_clear()
    if folder.exists() and any(folder.iterdir()) and not (folder / SUMS).exists():
        raise ClusterError(f"{folder} has files that are not a release's", "name another folder, or remove them")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ensure(("helm", "ultramarine-storage"))
    digests = {}
    for name in names:
        with step(f"image {name}") as notes:
            labels = {"version": version, "revision": commit, "title": f"ultramarine-{name}", "licenses": "Apache-2.0"}
            file = folder / f"{name}-{version}.tar"
            digests[name] = _image(name, file, f"{registry}/{name}:{version}", labels, epoch)
            (folder / f"{name}-{version}.cdx.json").write_text(sbom.document(f"{registry}/{name}:{version}", file))
            notes.append(digests[name])
    with step("chart"):
        _chart(version, folder, epoch)
    with step("wheel"):
        build_wheel(version, folder, epoch)
    (folder / f"values-{version}.yaml").write_text(values(version, registry, digests))
    files = sorted(path for path in folder.iterdir())
    (folder / SUMS).write_text("".join(f"{_digest(path)}  {path.name}\n" for path in files))
    _sign(folder)
    say(f"\n{folder} holds the release {version} of commit {commit[:12]}: docs/releasing.md tells how to go on.")


def values(version: str, registry: str, digests: Mapping[str, str]) -> str:
    """Return the chart's values that name the images by their digests."""
    pinned = {
        name: {"repository": f"{registry}/{name}", "tag": f"{version}@{digest}"} for name, digest in digests.items()
    }
    return f"# The images of Ultramarine {version}, by digest.\n{yaml({'images': pinned})}"


def seal(source: Path, path: Path, name: str, labels: Mapping[str, str], epoch: int) -> str:
    """Write an OCI archive again with its name, labels and a time instead of those of its build; return its digest."""
    when = datetime.fromtimestamp(epoch, UTC).isoformat().replace("+00:00", "Z")
    with tarfile.open(source) as archive:

        def blob(digest: str) -> bytes:
            file = archive.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert file is not None
            return file.read()

        index = archive.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(json.load(index)["manifests"][0]["digest"]))
        config = json.loads(blob(manifest["config"]["digest"]))
        config["created"] = when
        for entry in config.get("history", ()):
            entry["created"] = when
            entry.pop("comment", None)  # the build's own id of the layer below
        inner = config.setdefault("config", {})
        inner["Labels"] = {f"org.opencontainers.image.{key}": value for key, value in labels.items()} | {
            "org.opencontainers.image.created": when
        }
        files: dict[str, bytes] = {}
        manifest["config"] |= _put(files, config)
        manifest.pop("annotations", None)  # the base image's name on the machine of the build
        entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", **_put(files, manifest)}
        entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
        files["index.json"] = _json({"schemaVersion": 2, "manifests": [entry]})
        files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
        layers = {f"blobs/{layer['digest'].replace(':', '/')}" for layer in manifest["layers"]}
        with tarfile.open(path, "w") as sealed:
            for inside in sorted({*files, *layers}):
                if inside in files:
                    sealed.addfile(_member(inside, len(files[inside]), epoch), io.BytesIO(files[inside]))
                else:
                    layer = archive.getmember(inside)
                    sealed.addfile(_member(inside, layer.size, epoch), archive.extractfile(layer))
    return str(entry["digest"])


def pack_chart(source: Path, path: Path, epoch: int) -> None:
    """Write Helm's package again, sorted, with a time and an owner that are the same everywhere."""
    with (
        tarfile.open(source) as made,
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as packed,
    ):
        for member in sorted((member for member in made if member.isfile()), key=lambda member: member.name):
            packed.addfile(_member(member.name, member.size, epoch), made.extractfile(member))


def pack_wheel(source: Path, path: Path, epoch: int) -> None:
    """Write a wheel again, sorted, with a time and modes that are the same everywhere."""
    when = datetime.fromtimestamp(max(epoch, EARLIEST), UTC).timetuple()[:6]
    with zipfile.ZipFile(source) as made, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(made.namelist()):
            member = zipfile.ZipInfo(name, when)
            member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            packed.writestr(member, made.read(name))


def _image(name: str, path: Path, reference: str, labels: Mapping[str, str], epoch: int) -> str:
    built = images.build(name)
    with buildah.scratch_folder() as scratch:
        return seal(images.export(built, scratch / "image.tar"), path, reference, labels, epoch)


def _chart(version: str, folder: Path, epoch: int) -> None:
    with buildah.scratch_folder() as scratch:
        words = ("package", CHART, "--version", version, "--app-version", version, "--destination", scratch)
        run(programs.path("helm"), *words)
        pack_chart(scratch / f"ultramarine-{version}.tgz", folder / f"ultramarine-{version}.tgz", epoch)


def build_wheel(version: str, folder: Path, epoch: int) -> Path:
    """Build the wheel from the commit's files, which bear the release's version; return its file."""
    with buildah.scratch_folder() as scratch:
        source = scratch / "source"
        source.mkdir()
        run("git", "-C", REPOSITORY, "archive", "--format=tar", "-o", scratch / "source.tar", "HEAD")
        run("tar", "-xf", scratch / "source.tar", "-C", source)
        project = source / "pyproject.toml"
        project.write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', project.read_text(), count=1))
        (scratch / "constraints.txt").write_text(f"{SETUPTOOLS}\n")
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", scratch, source],
            env={**os.environ, "PIP_CONSTRAINT": str(scratch / "constraints.txt")},
            check=True,
            capture_output=True,
        )
        (wheel,) = scratch.glob("*.whl")
        pack_wheel(wheel, folder / wheel.name, epoch)
        return folder / wheel.name


def _sign(folder: Path) -> None:
    """Sign the checksums by cosign if it is installed, with $COSIGN_KEY or by the signer's account."""
    if shutil.which("cosign") is None:
        say("cosign is not installed: the release is not signed")
        return
    key = ("--key", os.environ["COSIGN_KEY"]) if os.environ.get("COSIGN_KEY") else ()
    with step("signature"):
        subprocess.run(
            ["cosign", "sign-blob", "--yes", *key, "--bundle", folder / f"{SUMS}.sigstore.json", folder / SUMS],
            check=True,
        )


def _put(files: dict[str, bytes], document: Any) -> dict[str, Any]:
    """Add a document to the archive's files; return what refers to it."""
    content = _json(document)
    digest = sha256(content).hexdigest()
    files[f"blobs/sha256/{digest}"] = content
    return {"digest": f"sha256:{digest}", "size": len(content)}


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _member(name: str, size: int, epoch: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, epoch, 0o644
    return member


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
