"""The images of the repository: built once for each content, loaded once into each cluster.

`build(name)` returns the reference of an image, whose tag is a digest of its inputs. `load(reference)` imports it into
the embedded cluster or into kind. The images of examples/ are based on the trainer's.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache as once
from hashlib import sha256
from pathlib import Path

from . import buildah, programs
from .console import TRANSFER, Progress, minutes, run, run_logged
from .errors import ClusterError
from .paths import CLUSTER_FOLDER, REPOSITORY, State, cache, lock

DOCKER_BASE = "python:3.11-slim"
EXAMPLE = "example-"  # prefix of the examples' images
MLFLOW = "mlflow"  # built on demand, as the examples are
LOCAL = "local"  # the tag in an example's manifest, which cannot know the digest


@dataclass(frozen=True)
class Image:
    """An image: its Dockerfile and its inputs, files and folders relative to the repository's root.

    The build sees only these inputs, so that the tag covers them all.
    """

    dockerfile: str
    inputs: tuple[str, ...] = ()
    # Files from outside the repository, at the root of the context.
    outside: tuple[Path, ...] = ()
    # True if the Dockerfile takes the argument BASE; `base` is that image, or empty for a plain Debian.
    based: bool = True
    base: str = ""
    # The folder that its Dockerfile copies from.
    context: str = "."
    seconds: float = 60


def table() -> dict[str, Image]:
    """The images by name."""
    common = ("pyproject.toml", "constraints.txt", ".dockerignore", "cluster/install.py", "contract")
    addons = ("coredns", "metrics-server", "local-path-provisioner")
    examples = sorted(file.parent.name for file in (REPOSITORY / "examples").glob("*/Dockerfile"))
    return {
        "operator": Image("operator/Dockerfile", (*common, "sdk/ultramarine/resources", "operator"), seconds=45),
        "trainer": Image("trainer-image/Dockerfile", (*common, "trainer-image"), seconds=90),
        "server": Image("server-image/Dockerfile", (*common, "server-image"), seconds=90),
        "gateway": Image("gateway-image/Dockerfile", (*common, "gateway-image"), seconds=60),
        "storage": _storage(),
        "addons": Image(
            str((CLUSTER_FOLDER / "addons" / "Dockerfile").relative_to(REPOSITORY)),
            outside=(*map(programs.path, addons), Path("/usr/bin/catatonit"), Path("/bin/busybox")),
            based=False,
            seconds=15,
        ),
        MLFLOW: Image("mlflow-image/Dockerfile", ("mlflow-image",), seconds=120),
        **{EXAMPLE + name: _example(f"examples/{name}") for name in examples},
    }


def _storage() -> Image:
    """Return the storage's image: Docker compiles its program in an image of Go; otherwise this machine's Go does."""
    if docker():
        return Image("storage-image/Dockerfile", ("storage-image",), based=False, seconds=180)
    return Image("cluster/storage/Dockerfile", outside=(programs.path("ultramarine-storage"),), based=False, seconds=10)


def _example(folder: str) -> Image:
    return Image(f"{folder}/Dockerfile", (f"{folder}/train.py",), base="trainer", context=folder, seconds=120)


def present() -> list[str]:
    """Return the platform's images whose Dockerfile exists, except those that are built on demand."""
    own = (name for name in table() if not name.startswith(EXAMPLE) and name != MLFLOW)
    return [name for name in own if (REPOSITORY / table()[name].dockerfile).exists()]


def reference(name: str) -> str:
    """Return the image's full reference for its current inputs; pods may omit `docker.io/`."""
    image = _image(name)
    made_of = sha256(_base_id(image).encode())
    for inside, path in _files(image):
        mode = "x" if os.access(path, os.X_OK) else "-"
        made_of.update(f"{inside}\0{mode}\0{_digest(path)}\n".encode())
    return f"docker.io/ultramarine/{name}:{made_of.hexdigest()[:12]}"


def build(name: str) -> str:
    """Build the image unless its content was built before; return its reference."""
    ref = reference(name)
    if built(ref):
        return ref
    if base := _image(name).base:
        build(base)
    # Images on one base share layers, so they are built one after another; the others wait for none of them.
    with lock("images" if _image(name).based else f"image-{name}", wait=True, busy="another image build runs"):
        if not built(ref):
            _build(name, ref)
    return ref


def build_archive(name: str) -> str:
    """Build the image and write the file that containerd imports, with every engine; return its reference."""
    ref = build(name)
    if not archive(ref).exists():
        archive(ref).parent.mkdir(parents=True, exist_ok=True)
        part = archive(ref).with_suffix(f".part{os.getpid()}")
        run("docker", "save", "-o", part, ref)
        part.rename(archive(ref))
    return ref


@contextmanager
def beside(names: Iterable[str]) -> Iterator[None]:
    """Build images by a process of its own during the block and after it; a failed block ends that process.

    Whoever builds one of them later waits for its lock, and builds it again if the process failed.
    """
    log = cache() / "logs" / "images.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "ultramarine_cluster", "images", "build", *names]
    with log.open("w") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
    try:
        yield
    except BaseException:
        process.terminate()
        raise


def built(ref: str) -> bool:
    """True if the image can be loaded."""
    if docker():
        return subprocess.run(["docker", "image", "inspect", ref], capture_output=True, check=False).returncode == 0
    return archive(ref).exists()


def archive(ref: str) -> Path:
    """Return the file from which containerd imports the image."""
    name, _, tag = ref.rpartition("/")[2].partition(":")
    return cache() / "images" / f"{name}-{tag}.tar"


def export(ref: str, path: Path) -> Path:
    """Write a built image as an archive that Python's tarfile reads, and return the file."""
    if docker():
        run("docker", "save", "-o", path, ref, timeout=TRANSFER)
    else:
        buildah.write_archive(ref, path, cache() / "logs" / "export.log", Progress(30), "gzip")
    return path


def load(ref: str, state: State | None = None, *, kind: str | None = None) -> bool:
    """Import a built image into the embedded cluster, or into a kind cluster; return False if it was there.

    An example's image gets the tag `local` too.
    """
    if kind is not None:
        nodes = run("kind", "get", "nodes", "--name", kind).split()
        listed = [run("docker", "exec", node, "crictl", "images", "-o", "json") for node in nodes]
        needed = not all(f'"{ref}"' in text for text in listed)
        if needed:
            run("kind", "load", "docker-image", ref, "--name", kind, timeout=TRANSFER)
        stores: list[tuple[str | Path, ...]] = [("docker", "exec", node, "ctr", "-n", "k8s.io") for node in nodes]
    else:
        stores = [store(state or State("full"))]
        needed = ref not in run(*stores[0], "images", "ls", "-q").split()
        if needed and not archive(ref).exists():
            raise ClusterError(f"{ref} is not built", "build it first: ultramarine-cluster images build")
        if needed:
            run(*stores[0], "images", "import", "--snapshotter", "overlayfs", archive(ref))
    name = ref.rpartition(":")[0]
    if name.rpartition("/")[2].startswith(EXAMPLE):
        for words in stores:
            run(*words, "images", "tag", "--force", ref, f"{name}:{LOCAL}")
    return needed


def push(ref: str, registry: str) -> str:
    """Push a built image with the credentials of docker or buildah; return its name in the registry."""
    remote = f"{registry.rstrip('/')}/{ref.rpartition('/')[2]}"
    if docker():
        run("docker", "tag", ref, remote)
        run("docker", "push", remote, timeout=TRANSFER)
    else:
        buildah.push(ref, remote)
    return remote


@once
def docker() -> bool:
    """True if a Docker engine answers on this machine."""
    if shutil.which("docker") is None or os.environ.get("ULTRAMARINE_ENGINE") == "buildah":
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _image(name: str) -> Image:
    all_images = table()
    if name not in all_images:
        raise ClusterError(f"no image {name} exists", f"choose among {', '.join(all_images)}")
    if not (REPOSITORY / all_images[name].dockerfile).exists():
        raise ClusterError(f"{all_images[name].dockerfile} does not exist", "write it, or build another image")
    return all_images[name]


def _digest(path: Path) -> str:
    # A program's folder has a digest of its sources as its name, so 200 MB need not be read.
    if path.parent.parent == cache() and path.parent.name.startswith("bin-"):
        return path.parent.name
    return sha256(path.read_bytes()).hexdigest()


def _base_id(image: Image) -> str:
    if image.base:
        return reference(image.base)
    if not image.based:
        return ""
    return DOCKER_BASE if docker() else buildah.base_reference()


def _base(image: Image, progress: Progress) -> str | None:
    """Return the argument BASE, once that image exists."""
    if image.based and not image.base and not docker():
        return buildah.base(progress)
    return _base_id(image) or None


def _files(image: Image) -> Iterator[tuple[str, Path]]:
    """Yield the context: the path inside it and the source of every file."""
    yield image.dockerfile, REPOSITORY / image.dockerfile
    for entry in image.inputs:
        path = REPOSITORY / entry
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not _is_left_out(file):
                yield str(file.relative_to(REPOSITORY)), file
    for path in image.outside:
        if not path.exists():
            raise ClusterError(f"{path} does not exist", "run `ultramarine-cluster build` first")
        yield path.name, path


def _is_left_out(file: Path) -> bool:
    return any(part in ("__pycache__", "testing", "testing.py") or part.endswith(".egg-info") for part in file.parts)


def _build(name: str, ref: str) -> None:
    image = _image(name)
    log = cache() / "logs" / f"image-{name}.log"
    log.unlink(missing_ok=True)
    with buildah.scratch_folder() as context:
        for inside, path in _files(image):
            target = context / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            # A fixed time, so that every clone uses the same cached layers.
            shutil.copy2(path, target)
            os.utime(target, (0, 0))
        progress = Progress(image.seconds)
        base, folder = _base(image, progress), context / image.context
        if docker():
            argument = ["--build-arg", f"BASE={base}"] if base else []
            progress.begin(f"docker builds the image {name}")
            argv: list[str | Path] = ["docker", "build", *argument, "-t", ref, "-f", context / image.dockerfile, folder]
            run_logged(argv, log, progress, remedy="read the log, then fix the Dockerfile or its inputs")
        else:
            progress.begin(f"buildah builds the image {name}")
            buildah.build(folder, context / image.dockerfile, ref, base, log, progress, {})
            progress.begin(f"writing the image {name}")
            buildah.write_archive(ref, archive(ref), log, progress)
            _forget_older(name, keep=archive(ref))
    progress.end(f"          image {name} built in {minutes(time.monotonic() - progress.start)}: {ref}")


def _forget_older(name: str, keep: Path) -> None:
    """Remove older builds of this image, except the newest three, from the archives and from buildah's store."""
    archives = sorted(keep.parent.glob(f"{name}-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in archives[3:]:
        path.unlink(missing_ok=True)
        buildah.forget(f"docker.io/ultramarine/{name}:{path.stem.removeprefix(f'{name}-')}")


def store(state: State) -> tuple[str | Path, ...]:
    """Return the command that reads the embedded cluster's images."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(state.containerd_socket))
    except OSError as error:  # The socket of a killed cluster stays.
        message = f"containerd does not run at {state.containerd_socket}"
        raise ClusterError(message, "run `ultramarine-cluster up` first") from error
    return (programs.path("ctr"), "--address", state.containerd_socket, "-n", "k8s.io")
