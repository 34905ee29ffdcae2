"""Images from elsewhere: an archive, or the store of docker, podman or buildah, into a cluster without a registry."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import buildah, images
from .console import TRANSFER, run
from .errors import ClusterError
from .paths import State

ENGINES = ("docker", "podman", "buildah")
NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
MAKE_ONE = "make an archive with `docker save`, `podman save` or `buildah push IMAGE oci-archive:FILE:IMAGE`"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Contents:
    """Contents of an archive: names of its images, of which the first is the whole archive's, and their machines.

    `digest` is that of the only image of an OCI archive.
    """

    names: tuple[str, ...]
    architectures: frozenset[str]
    digest: str = ""


def load(what: str, state: State, *, kind: str | None = None, name: str = "") -> str:
    """Import an archive's image, or an image of a local store, into the cluster; return its name there.

    `name` is used if the archive has no name, or instead of its name.
    """
    if Path(what).is_file():
        return _import(Path(what), state, kind, name)
    if Path(what).exists():
        raise ClusterError(f"{what} is a folder, not an archive", MAKE_ONE)
    with buildah.scratch_folder() as folder:
        _export(what, folder / "image.tar")
        return _import(folder / "image.tar", state, kind, name or what)


def full_name(name: str) -> str:
    """Return the name that containerd uses for a pod's `name`: with registry and tag."""
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}"
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"


def _repository(name: str) -> str:
    """The full name without tag and digest."""
    path, slash, last = name.partition("@")[0].rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}"


def contents(path: Path) -> Contents:
    """Read the index of an archive, by the rules of OCI or of docker."""
    try:
        with tarfile.open(path) as archive:
            members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}

            def document(inside: str) -> Any:
                file = archive.extractfile(members[inside])
                assert file is not None
                return json.load(file)

            if "index.json" in members:
                index = document("index.json")
                entries = index["manifests"]
                names = [name for entry in entries if (name := _name(entry.get("annotations") or {}))]
                digest = str(entries[0]["digest"]) if len(entries) == 1 else ""
                return Contents(tuple(map(full_name, names)), frozenset(_architectures(index, document)), digest)
            entries = document("manifest.json")
            names = [tag for entry in entries for tag in entry.get("RepoTags") or ()]
            return Contents(
                tuple(map(full_name, names)), frozenset(document(entry["Config"])["architecture"] for entry in entries)
            )
    except (tarfile.TarError, AttributeError, KeyError, TypeError, ValueError, EOFError) as error:
        raise ClusterError(
            f"{path} is not an archive of an image: {type(error).__name__}: {error}", MAKE_ONE
        ) from error


def _name(annotations: dict[str, str]) -> str:
    """Return the image's full name; empty if the archive has a tag alone, as skopeo writes it."""
    return next((name for key in NAME_KEYS if ":" in (name := annotations.get(key, ""))), "")


def _architectures(index: Any, document: Any) -> Iterator[str]:
    for entry in index["manifests"]:
        blob = document(f"blobs/{entry['digest'].replace(':', '/')}")
        if "manifests" in blob:
            yield from _architectures(blob, document)
        elif "config" in blob:
            config = document(f"blobs/{blob['config']['digest'].replace(':', '/')}")
            yield str(config.get("architecture", ""))


def _import(path: Path, state: State, kind: str | None, name: str) -> str:
    read = contents(path)
    machine = MACHINES.get(platform.machine(), platform.machine())
    if read.architectures - {""} and machine not in read.architectures:
        there = ", ".join(sorted(read.architectures))
        raise ClusterError(f"{path} is for {there}, and this machine is {machine}", f"build it for linux/{machine}")
    if not name and not read.names:
        raise ClusterError(f"{path} does not name its image", "name it: --as NAME:TAG")
    name = full_name(name) if name else read.names[0]
    if kind is not None:
        if name not in read.names:
            raise ClusterError(
                f"{path} holds {', '.join(read.names) or 'an image without a name'}, and kind cannot rename it",
                "leave out --as, or name the image in its archive",
            )
        run("kind", "load", "image-archive", path, "--name", kind, timeout=TRANSFER)
        return name
    # Imported under a name that the archive does not have: under its own name containerd loses the image.
    store, passing = images.store(state), f"ultramarine.local/loading:{os.getpid()}"
    words = ("images", "import", "--snapshotter", "overlayfs", "--index-name", passing, path.resolve())
    run(*store, *words, timeout=TRANSFER)
    for other in (name, *([f"{_repository(name)}@{read.digest}"] if read.digest else [])):
        run(*store, "images", "tag", "--force", passing, other)  # pods may ask for it by tag or by digest
    run(*store, "images", "rm", passing)
    return name


def _export(name: str, path: Path) -> None:
    """Write an image of the first local store that has it."""
    asked = [engine for engine in ENGINES if shutil.which(engine) and (engine != "docker" or images.docker())]
    for engine in asked:
        look = ("inspect", "--type", "image", name) if engine == "buildah" else ("image", "inspect", name)
        if subprocess.run([engine, *look], capture_output=True, check=False).returncode != 0:
            continue
        if engine == "buildah":
            run(engine, "push", "--quiet", name, f"oci-archive:{path}:{full_name(name)}", timeout=TRANSFER)
        else:
            run(engine, "save", "-o", path, name, timeout=TRANSFER)
        return
    stores = f"nor an image of {' or '.join(asked)}" if asked else "and docker, podman and buildah are not installed"
    raise ClusterError(
        f"{name} is neither an image of this repository ({', '.join(images.table())}) nor a file, {stores}",
        "build the image, or give the path of an archive",
    )
