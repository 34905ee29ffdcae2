"""The images of the repository: built once for each content, loaded once into each cluster.

`build(name)` gives the reference of an image, whose tag is a digest of all that it is made of; `load(reference)`
puts it where the embedded cluster, or kind, finds it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache as once
from hashlib import sha256
from pathlib import Path

from . import buildah, programs
from .console import TRANSFER, Progress, minutes, run, run_logged
from .errors import ClusterError
from .paths import CLUSTER_FOLDER, REPOSITORY, State, cache, lock

DOCKER_BASE = "python:3.11-slim"


@dataclass(frozen=True)
class Image:
    """One image: its Dockerfile, and the files and folders that it is made of, relative to the repository's root.

    The build sees these inputs and nothing else, so an input that is not named here cannot slip past the tag.
    """

    dockerfile: str
    inputs: tuple[str, ...] = ()
    # Files from elsewhere, put at the root of the context.
    outside: tuple[Path, ...] = ()
    # Whether its Dockerfile takes the argument BASE.
    based: bool = True
    seconds: float = 60


def table() -> dict[str, Image]:
    """The images by name."""
    common = ("pyproject.toml", "constraints.txt", ".dockerignore")
    shared = (
        "operator/ultramarine/__init__.py",
        *(f"operator/ultramarine/shared/{module}.py" for module in ("__init__", "contract", "errors")),
        "operator/ultramarine/outside",
    )
    addons = ("coredns", "metrics-server", "local-path-provisioner", "versitygw")
    return {
        "operator": Image("operator/Dockerfile", (*common, "operator"), seconds=45),
        "trainer": Image("trainer-image/Dockerfile", (*common, *shared, "trainer-image"), seconds=90),
        "server": Image("server-image/Dockerfile", (*common, *shared, "server-image"), seconds=90),
        "addons": Image(
            str((CLUSTER_FOLDER / "addons" / "Dockerfile").relative_to(REPOSITORY)),
            outside=(*map(programs.path, addons), Path("/usr/bin/catatonit"), Path("/bin/busybox")),
            based=False,
            seconds=15,
        ),
    }


def present() -> list[str]:
    """The images whose Dockerfile exists."""
    return [name for name, image in table().items() if (REPOSITORY / image.dockerfile).exists()]


def reference(name: str) -> str:
    """The full reference of the image as the inputs are now; pods may write it without `docker.io/`."""
    image = _image(name)
    made_of = sha256((_base_id() if image.based else "").encode())
    for inside, path in _files(image):
        mode = "x" if os.access(path, os.X_OK) else "-"
        made_of.update(f"{inside}\0{mode}\0{_digest(path)}\n".encode())
    return f"docker.io/ultramarine/{name}:{made_of.hexdigest()[:12]}"


def build(name: str) -> str:
    """Build the image unless this very content was built before; give its reference."""
    ref = reference(name)
    if built(ref):
        return ref
    with lock("images", wait=True, busy="another image build runs"):
        if not built(ref):
            _build(name, ref)
    return ref


def build_archive(name: str) -> str:
    """Like `build`, and sure to leave the file that containerd imports, whichever engine built the image."""
    ref = build(name)
    if not archive(ref).exists():
        archive(ref).parent.mkdir(parents=True, exist_ok=True)
        part = archive(ref).with_suffix(f".part{os.getpid()}")
        run("docker", "save", "-o", part, ref)
        part.rename(archive(ref))
    return ref


def built(ref: str) -> bool:
    """Whether the image is there to be loaded."""
    if docker():
        return subprocess.run(["docker", "image", "inspect", ref], capture_output=True, check=False).returncode == 0
    return archive(ref).exists()


def archive(ref: str) -> Path:
    """The file that carries the image into containerd."""
    name, _, tag = ref.rpartition("/")[2].partition(":")
    return cache() / "images" / f"{name}-{tag}.tar"


def load(ref: str, state: State | None = None, *, kind: str | None = None) -> bool:
    """Put a built image into the embedded cluster, or into the kind cluster named; say whether that was needed."""
    if kind is not None:
        nodes = run("kind", "get", "nodes", "--name", kind).split()
        listed = [run("docker", "exec", node, "crictl", "images", "-o", "json") for node in nodes]
        if all(f'"{ref}"' in text for text in listed):
            return False
        run("kind", "load", "docker-image", ref, "--name", kind, timeout=TRANSFER)
        return True
    state = state or State("full")
    if ref in run(*_ctr(state), "images", "ls", "-q").split():
        return False
    if not archive(ref).exists():
        raise ClusterError(f"{ref} is not built", "build it first: ultramarine-cluster images build")
    run(*_ctr(state), "images", "import", "--snapshotter", "overlayfs", archive(ref))
    return True


def push(ref: str, registry: str) -> str:
    """Push a built image to a registry, with the credentials that docker or buildah have there; give its new name."""
    remote = f"{registry.rstrip('/')}/{ref.rpartition('/')[2]}"
    if docker():
        run("docker", "tag", ref, remote)
        run("docker", "push", remote, timeout=TRANSFER)
    else:
        buildah.push(ref, remote)
    return remote


@once
def docker() -> bool:
    """Whether a Docker engine answers on this machine."""
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _image(name: str) -> Image:
    known = table()
    if name not in known:
        raise ClusterError(f"there is no image {name}", f"choose among {', '.join(known)}")
    if not (REPOSITORY / known[name].dockerfile).exists():
        raise ClusterError(f"{known[name].dockerfile} does not exist", "write it, or build another image")
    return known[name]


def _digest(path: Path) -> str:
    # A program's folder is named by what it was made of; reading 200 MB again would tell no more.
    made_of_key = path.parent == programs.folder()
    return programs.key() if made_of_key else sha256(path.read_bytes()).hexdigest()


def _base_id() -> str:
    return DOCKER_BASE if docker() else buildah.base_reference()


def _files(image: Image) -> Iterator[tuple[str, Path]]:
    """The context: each file's path inside it, and where it lies."""
    yield image.dockerfile, REPOSITORY / image.dockerfile
    for entry in image.inputs:
        path = REPOSITORY / entry
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not _made_by_tools(file):
                yield str(file.relative_to(REPOSITORY)), file
    for path in image.outside:
        if not path.exists():
            raise ClusterError(f"{path} does not exist", "run `ultramarine-cluster build` first")
        yield path.name, path


def _made_by_tools(file: Path) -> bool:
    return any(part == "__pycache__" or part.endswith(".egg-info") for part in file.parts)


def _build(name: str, ref: str) -> None:
    image = _image(name)
    log = cache() / "logs" / f"image-{name}.log"
    log.unlink(missing_ok=True)
    with buildah.scratch_folder() as context:
        for inside, path in _files(image):
            target = context / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            # One moment in time for all, so that a fresh clone hits the same cached layers.
            shutil.copy2(path, target)
            os.utime(target, (0, 0))
        progress = Progress(image.seconds)
        if docker():
            base = ["--build-arg", f"BASE={DOCKER_BASE}"] if image.based else []
            progress.begin(f"docker builds the image {name}")
            argv: list[str | Path] = ["docker", "build", *base, "-t", ref, "-f", context / image.dockerfile, context]
            run_logged(argv, log, progress, remedy="read the log; the Dockerfile or one of its inputs is at fault")
        else:
            base_ref = buildah.base(progress) if image.based else None
            progress.begin(f"buildah builds the image {name}")
            buildah.build(context, context / image.dockerfile, ref, base_ref, log, progress)
            progress.begin(f"writing the image {name}")
            buildah.write_archive(ref, archive(ref), log, progress)
            _forget_older(name, keep=archive(ref))
    progress.end(f"          image {name} built in {minutes(time.monotonic() - progress.start)}: {ref}")


def _forget_older(name: str, keep: Path) -> None:
    """Remove this image's older contents but the newest few, from the archives and from buildah's store."""
    archives = sorted(keep.parent.glob(f"{name}-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in archives[3:]:
        path.unlink(missing_ok=True)
        buildah.forget(f"docker.io/ultramarine/{name}:{path.stem.removeprefix(f'{name}-')}")


def _ctr(state: State) -> tuple[str | Path, ...]:
    if not state.containerd_socket.exists():
        raise ClusterError(f"no containerd at {state.containerd_socket}", "run `ultramarine-cluster up` first")
    return (programs.path("ctr"), "--address", state.containerd_socket, "-n", "k8s.io")
