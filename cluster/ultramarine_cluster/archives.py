"""Images from elsewhere: an archive, a folder, or a local store of images, into a cluster without a registry."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import buildah, images
from .console import TRANSFER, Progress, run, run_logged
from .errors import ClusterError, tail
from .paths import State, cache, lock

ENGINES = ("docker", "podman", "buildah")
NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
MAKE_ONE = "make an archive with `docker save`, `podman save` or `buildah push IMAGE oci-archive:FILE:IMAGE`"
# Images that a Dockerfile may build on without a registry: the launcher's Debian with Python takes their place.
STAND_INS = ("python:3.11-slim", "python:3.11-slim-bookworm", "debian:12-slim", "debian:bookworm-slim")
_BASE = re.compile(r"^\s*ARG\s+BASE\s*(?:=\s*(\S+))?\s*$", re.MULTILINE | re.IGNORECASE)
_OURS = re.compile(
    r"^\s*FROM\s+(?:--\S+\s+)*((?:docker\.io/)?ultramarine/([a-z-]+)(?:[:@]\S+)?)", re.MULTILINE | re.IGNORECASE
)
_UNREACHABLE = re.compile(r'(?:initializing source docker://|short-name ")([^\s"]+?)(?:"|: )')
# A full name that containerd takes; it refuses capitals and spaces only after a long build.
_NAME = re.compile(
    r"[A-Za-z0-9.-]+(:\d+)?/[a-z0-9]+((/|\.|__?|-+)[a-z0-9]+)*(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?", re.ASCII
)
# The prefix of names during an import. An archive's own names lack it.
_PASSING = "ultramarine.local/loading"
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
    """Import the image of an archive, a Dockerfile's folder or a local store into the cluster; return its name there.

    `name` is used if the archive has no name, or instead of its name.
    """
    if name and _NAME.fullmatch(full_name(name)) is None:
        raise ClusterError(f"{name} is not a name of an image", "write it in lower case, as in --as team/train:2")
    if Path(what).is_file():
        return _import(Path(what), state, kind, name)
    if Path(what).is_dir():
        return _build(Path(what), state, kind, name)
    with buildah.scratch_folder() as folder:
        _export(what, folder / "image.tar")
        return _import(folder / "image.tar", state, kind, name or what)


def remove(name: str, state: State) -> str:
    """Remove an image from elsewhere from the embedded cluster; return its full name.

    Its content stays until the image's last name is removed. Names with a digest go with the tag that they belong to,
    and with the last tag of their repository.
    """
    store, name = images.store(state), full_name(name)
    rows = [line.split() for line in run(*store, "images", "ls").splitlines()[1:]]
    digests = {row[0]: row[2] for row in rows if len(row) > 2}
    own = [row for row in digests if not row.startswith(("sha256:", "docker.io/ultramarine/")) and "@" not in row]
    if name not in own:
        raise ClusterError(f"{name} is not in the cluster", f"choose among {', '.join(own) or 'none'}")
    repository = _repository(name)
    left = {digests[row] for row in own if row != name and _repository(row) == repository}
    gone = {name} | {
        row
        for row, digest in digests.items()
        if row.startswith(f"{repository}@") and digest not in left and (not left or digest == digests[name])
    }
    # containerd's own name for the content, which keeps it on the disk.
    used = {digest for row, digest in digests.items() if row not in gone and not row.startswith("sha256:")}
    freed = {digests[row] for row in gone} - used
    gone |= {row for row, digest in digests.items() if row.startswith("sha256:") and digest in freed}
    run(*store, "images", "rm", "--sync", *sorted(gone))
    return name


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
            if "manifest.json" not in members:
                raise ValueError("it has neither index.json nor manifest.json")
            entries = document("manifest.json")
            names = [tag for entry in entries for tag in entry.get("RepoTags") or ()]
            return Contents(
                tuple(map(full_name, names)), frozenset(document(entry["Config"])["architecture"] for entry in entries)
            )
    except (tarfile.TarError, EOFError) as error:
        raise ClusterError(f"{path} is not an archive of an image: it is not a whole tar file", MAKE_ONE) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ClusterError(f"{path} is not an archive of an image: {reason}", MAKE_ONE) from error


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
    store, passing = images.store(state), f"{_PASSING}:{os.getpid()}"
    # --base-name leaves out the archive's own names, which other images in the cluster may have.
    words = ("images", "import", "--snapshotter", "overlayfs", "--base-name", _PASSING, "--index-name", passing)
    run(*store, *words, path.resolve(), timeout=TRANSFER)
    for other in (name, *([f"{_repository(name)}@{read.digest}"] if read.digest else [])):
        run(*store, "images", "tag", "--force", passing, other)  # pods may ask for it by tag or by digest
    run(*store, "images", "rm", passing)
    return name


def _build(folder: Path, state: State, kind: str | None, name: str) -> str:
    """Build the Dockerfile of a folder, import its image and return its name: that of the folder with the tag local."""
    dockerfile = folder / "Dockerfile"
    if not dockerfile.is_file():
        raise ClusterError(f"{folder} has no Dockerfile", "write one as docs/images.md shows, or give an archive")
    if kind is None:
        images.store(state)  # a cluster that is down is better known before a long build
    own = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    name = full_name(name or f"{own}:{images.LOCAL}")
    log, progress = cache() / "logs" / f"folder-{own}.log", Progress(120)
    log.unlink(missing_ok=True)
    text = dockerfile.read_text()
    base, stand_ins = _base(text, progress), _stand_ins(text, progress)
    try:
        with lock("images", wait=True, busy="another image build runs"):
            progress.begin(f"building the image {name}")
            if images.docker():
                arguments = ["--build-arg", f"BASE={base}"] if base else []
                for stand_in, ref in stand_ins.items():
                    arguments += ["--build-context", f"{stand_in}=docker-image://{ref}"]
                argv: list[str | Path] = ["docker", "build", *arguments, "-t", name, folder]
                run_logged(argv, log, progress, remedy="read the log, then fix the Dockerfile or its inputs")
            else:
                buildah.build(folder, dockerfile, name, base, log, progress, stand_ins)
    except ClusterError as error:
        raise _explained(error, dockerfile) from error
    progress.end()
    if kind is not None and images.docker():
        run("kind", "load", "docker-image", name, "--name", kind, timeout=TRANSFER)
        return name
    with buildah.scratch_folder() as scratch:
        if images.docker():
            run("docker", "save", "-o", scratch / "image.tar", name, timeout=TRANSFER)
        else:
            buildah.write_archive(name, scratch / "image.tar", log, progress)
        return _import(scratch / "image.tar", state, kind, name)


def _base(dockerfile: str, progress: Progress) -> str | None:
    """Return the argument BASE: the trainer's image, unless the Dockerfile has a default; None if it takes none."""
    if (argument := _BASE.search(dockerfile)) is None or (argument[1] and argument[1] not in STAND_INS):
        return None
    if argument[1] is None:
        return images.build("trainer")
    return None if images.docker() else buildah.base(progress)


def _stand_ins(dockerfile: str, progress: Progress) -> dict[str, str]:
    """Return images of this machine by names in a Dockerfile: this repository's with any tag, and STAND_INS."""
    ours = {name: images.build(image) for name, image in _OURS.findall(dockerfile) if image in images.table()}
    if images.docker() or not (others := [name for name in STAND_INS if name in dockerfile]):
        return ours
    return ours | dict.fromkeys(others, buildah.base(progress))


def _explained(error: ClusterError, dockerfile: Path) -> ClusterError:
    """Return the error of a build with the cause that the log's end shows."""
    end = "\n".join(tail(error.log, 30)) if error.log else ""
    if "no space left on device" in end:
        return ClusterError("the disk is full", "free some space, such as old images in the cache", log=error.log)
    if (unreachable := _UNREACHABLE.search(end)) is None:
        last = next((line for line in reversed(end.splitlines()) if line.strip()), error.reason)
        return ClusterError(f"{dockerfile} cannot be built: {last}", error.remedy, log=error.log)
    return ClusterError(
        f"{dockerfile} builds on {unreachable[1]}, which cannot be pulled here",
        f"build FROM {STAND_INS[0]} or on ARG BASE as docs/images.md shows, or load an archive built elsewhere",
        log=error.log,
    )


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
        f"{name} is neither an image of this repository ({', '.join(images.table())}) nor a file or folder, {stores}",
        "build the image, or give the path of an archive or of a folder with a Dockerfile",
    )
