"""Images without an engine: a Debian made by debootstrap, Dockerfiles built by buildah, layers kept in the cache."""

from __future__ import annotations

import configparser
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from io import StringIO
from pathlib import Path

from . import packages
from .console import TRANSFER, Progress, run, run_logged, say
from .errors import ClusterError
from .paths import cache, write

SUITE = "bookworm"
SECURITY = f"deb http://deb.debian.org/debian-security {SUITE}-security main\n"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INCLUDE = "python3,python3-pip,ca-certificates,libgomp1"
# Files that no program reads inside an image.
TRIM = (
    "var/cache/apt", "var/lib/apt/lists", "var/log", "var/cache/debconf", "usr/share/doc", "usr/share/man",
    "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug", "var/cache/ldconfig",
)  # fmt: skip
_CERTIFICATES = Path("/etc/ssl/certs")
# Settings that name places on this machine.
_NOT_LENT = ("PIP_CONFIG_FILE", "PIP_CACHE_DIR", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_ROOT", "PIP_LOG")
_BUNDLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def base_reference() -> str:
    """Return the base image's name; its tag changes with the recipe."""
    made_of = repr((SUITE, SECURITY, INCLUDE, TRIM, platform.machine(), "python3 as python, pip unlocked, 2"))
    return f"localhost/ultramarine/base:{sha256(made_of.encode()).hexdigest()[:12]}"


def base(progress: Progress) -> str:
    """Make the base image if it is missing: a minimal Debian like the python:slim images."""
    ref = base_reference()
    packages.ensure()
    if ref in run(*_buildah(), "images", "--format", "{{.Name}}:{{.Tag}}").split():
        return ref
    log = cache() / "logs" / "image-base.log"
    log.unlink(missing_ok=True)
    progress.expected += 150
    progress.begin("debootstrap makes the base image (Debian with Python), once for this machine")
    began = time.time()
    with scratch_folder() as work:
        root = work / "root"
        argv: list[str | Path] = ["debootstrap", "--variant=minbase", f"--include={INCLUDE}", SUITE, root]
        run_logged(argv, log, progress, remedy="debootstrap needs root and a Debian mirror; read the log")
        _update(root, log, progress)
        _trim(root)
        _clamp(root, began)
        container = run(*_buildah(), "from", "scratch").strip()
        try:
            mounted = run(*_buildah(), "mount", container).strip()
            run_logged(["cp", "-a", f"{root}/.", mounted], log, progress, remedy="check the free space of the disk")
            run(*_buildah(), "umount", container)
            run(*_buildah(), "config", "--cmd", "python3", "--env", f"PATH={PATH}", container)
            run_logged([*_buildah(), "commit", "--quiet", container, ref], log, progress, remedy="read the log")
        finally:
            run(*_buildah(), "rm", container, check=False)
    return ref


def build(
    context: Path, dockerfile: Path, ref: str, base_ref: str | None, log: Path, progress: Progress,
    stand_ins: Mapping[str, str],
) -> None:  # fmt: skip
    """Build a Dockerfile with the machine's certificates and pip settings, which leave no trace in the image.

    A FROM with a name in `stand_ins` takes the image that it leads to.
    """
    packages.ensure()
    argument = ["--build-arg", f"BASE={base_ref}"] if base_ref else []
    for name, image in stand_ins.items():
        argument += ["--build-context", f"{name}=container-image://{image}"]
    with scratch_folder() as lent:
        run_logged(
            [*_buildah(), "build", "--layers", "--timestamp", "0", "--isolation", "chroot", *argument, *_lend(lent),
             "-t", ref, "-f", dockerfile, context],
            log,
            progress,
            remedy="read the log, then fix the Dockerfile or its inputs",
        )  # fmt: skip


def write_archive(ref: str, path: Path, log: Path, progress: Progress, compression: str = "zstd") -> None:
    """Write the image as an OCI archive, whole or not at all.

    zstd takes half of gzip's work, and containerd reads it; older registries and engines want gzip. There is no archive
    without compression: buildah 1.28 ignores --disable-compression.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part{os.getpid()}")
    part.unlink(missing_ok=True)
    level = ["--compression-level", "1"] if compression == "zstd" else []
    argv = [*_buildah(), "push", "--quiet", "--compression-format", compression, *level]
    run_logged([*argv, ref, f"oci-archive:{part}:{ref}"], log, progress, remedy="check the free space of the disk")
    part.rename(path)


def push(ref: str, remote: str) -> None:
    """Push an image from the store to a registry."""
    run(*_buildah(), "push", "--quiet", ref, f"docker://{remote}", timeout=TRANSFER)


def forget(ref: str) -> None:
    """Remove an image; layers that others share stay."""
    run(*_buildah(), "rmi", ref, check=False)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder on the cache's disk, because /tmp may be in memory."""
    parent = cache() / "work"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield Path(name)


def _buildah() -> list[str]:
    if shutil.which("buildah") is None:
        raise ClusterError("buildah is not installed", "run `ultramarine-cluster build` as root, which installs it")
    store = cache() / "buildah"
    return ["buildah", "--root", f"{store}/storage", "--runroot", f"{store}/run", "--storage-driver", "overlay"]


def _update(root: Path, log: Path, progress: Progress) -> None:
    """Install the security updates, which debootstrap leaves out; print a line if their archive does not answer."""
    (root / "etc/apt/sources.list.d/security.list").write_text(SECURITY)
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        for words in (["update"], ["upgrade", "--yes", "--no-install-recommends"]):
            run_logged(["chroot", root, "apt-get", "-q", *words], log, progress, remedy="read the log", env=env)
    except ClusterError as error:
        say(f"          the base image has no security updates: {error}")


def _trim(root: Path) -> None:
    for name in TRIM:
        for path in (root / name).iterdir() if (root / name).is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    # As in the python:slim images: `python` exists, and pip may install into the system.
    if not (root / "usr/bin/python").exists():
        (root / "usr/bin/python").symlink_to("python3")
    for lock_file in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        lock_file.unlink()
    # debootstrap copies the machine's own name and name servers.
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/resolv.conf").unlink(missing_ok=True)


def _clamp(root: Path, began: float) -> None:
    """Set the time of all that the installation wrote to 0; what packages brought keeps the time that they gave it.

    Files with the hour or the machine in them go.
    """
    for name in ("etc/machine-id", "var/lib/dbus/machine-id", "etc/.pwd.lock"):
        (root / name).unlink(missing_ok=True)
    for name in ("var/lib/dpkg", "var/cache/debconf", "etc"):
        for backup in (root / name).glob("*-old" if "var" in name else "*-"):
            backup.unlink()
    for file in (root / "etc/shadow",):
        # The day of the last change of each password, none of which exists.
        file.write_text(re.sub(r"(?m)^(\w[\w-]*:[^:]*:)\d+:", r"\g<1>0:", file.read_text()))
    for path in (root, *root.rglob("*")):
        if path.lstat().st_mtime >= began:
            os.utime(path, (0, 0), follow_symlinks=False)


def _lend(folder: Path) -> list[str]:
    """Return mounts for a build: the machine's certificates, its pip settings as one file, pip's downloads.

    Arguments or variables would stay in the image's history or configuration.
    """
    lent = ["-v", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"] if _CERTIFICATES.is_dir() else []
    downloads = cache() / "pip"
    downloads.mkdir(parents=True, exist_ok=True)
    lent += ["-v", f"{downloads}:/root/.cache/pip:rw"]
    settings, mounts = pip_settings(dict(os.environ))
    write(folder / "pip.conf", settings)
    return [*lent, "-v", f"{folder / 'pip.conf'}:/etc/pip.conf:ro", *mounts]


def pip_settings(environment: dict[str, str]) -> tuple[str, list[str]]:
    """Return the machine's pip settings, of files and variables, as one pip.conf, and the mounts that it needs."""
    merged = configparser.RawConfigParser()
    files = ["/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf", environment.get("PIP_CONFIG_FILE", "")]
    merged.read([Path(name).expanduser() for name in files if name])
    if not merged.has_section("global"):
        merged.add_section("global")
    for key, value in environment.items():
        if key.startswith("PIP_") and key not in _NOT_LENT:
            merged.set("global", key[4:].lower().replace("_", "-"), value)
    bundle = next((environment[name] for name in _BUNDLES if environment.get(name)), None)
    if bundle and not merged.has_option("global", "cert"):
        merged.set("global", "cert", bundle)
    mounts: list[str] = []
    for option in ("cert", "find-links"):
        if not merged.has_option("global", option):
            continue
        path = Path(merged.get("global", option))
        if not path.is_absolute() or path.is_relative_to(_CERTIFICATES):
            continue
        if path.exists():
            mounts += ["-v", f"{path}:{path}:ro"]
        else:
            merged.remove_option("global", option)
    text = StringIO()
    merged.write(text)
    return text.getvalue(), mounts
