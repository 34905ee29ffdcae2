"""Storing of an environment that is built, and its deletion: the part of the pod with the storage's keys.

Setup code of packages has written to the environment's folder: no link there is followed, and only files are read.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import stat
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pyarrow
from ultramarine_contract.common import (
    ENV_STORAGE_ENDPOINT,
    ENV_STORAGE_REGION,
    ENV_TASK,
    EXIT_DO_NOT_RETRY,
    EXIT_TRY_AGAIN,
    RESULT_NAME,
)
from ultramarine_contract.environment_records import ARCHIVE_NAME, LOCK_NAME, BuildRecord, BuildTask
from ultramarine_contract.environments import unfit
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage

from ultramarine_environment.building import BUILD, LOCK, PLACES, RESULT, Places

_LEVEL, _BLOCK = 3, 4 << 20  # of zstd; bytes
_LARGEST_RESULT = 1 << 16  # bytes
_PREFIX = re.compile(r"s3://[-a-z0-9.]+/[-a-z0-9.]+/environments/[^/]+/.+")


def main(command: str, variables: Mapping[str, str] = os.environ, places: Places = PLACES) -> int:
    """Store or delete what ENV_TASK names, and return the exit code; the BuildRecord goes into the termination log."""
    try:
        task = BuildTask.from_json(variables.get(ENV_TASK, ""))
        storage = Storage(variables.get(ENV_STORAGE_ENDPOINT, ""), variables.get(ENV_STORAGE_REGION, ""))
        if command == "delete":
            delete(task, storage)
            return 0
        record, code = store(task, storage, places.environment), 0
    except StorageError as error:
        record = BuildRecord(reason=error.reason, message=error.message)
        code = EXIT_TRY_AGAIN if error.transient else EXIT_DO_NOT_RETRY
    except ValueError as error:
        message = f"{ENV_TASK} holds no task of a build ({error}); this program is started by the operator"
        record, code = BuildRecord(reason="TaskInvalid", message=message), EXIT_DO_NOT_RETRY
    if record.reason:
        print(f"ultramarine-environment: {record.reason}: {record.message}", file=sys.stderr, flush=True)
    places.termination_log.write_bytes(record.to_json())
    return code


def store(task: BuildTask, storage: Storage, folder: Path) -> BuildRecord:
    """Archive and upload the environment in `folder`, and store its record. Raises StorageError."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        packed = Path(name)
        archive = packed / ARCHIVE_NAME
        try:
            result = _result(folder)
            with _open(folder / LOCK) as lock, (packed / LOCK_NAME).open("wb") as copy:
                shutil.copyfileobj(lock, copy)
            pack(folder, archive)
            with archive.open("rb") as content:
                digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
        except OSError as error:
            message = f"cannot pack the environment: {error}; free space on the node"
            raise StorageError(message, "LocalDiskError", transient=True) from error
        size = archive.stat().st_size
        print(f"ultramarine-environment: packed {size} bytes in {time.monotonic() - began:.1f} s", flush=True)
        uri = storage.upload_folder(packed, task.prefix).uri
    record = BuildRecord(
        uri + ARCHIVE_NAME,
        digest,
        size,
        result.unpacked_bytes,
        result.packages,
        uri + LOCK_NAME,
        result.python,
        round(result.seconds + time.monotonic() - began, 1),
        message=result.message,
    )
    storage.write(f"{task.prefix.rstrip('/')}/{RESULT_NAME}", record.to_json())
    print(f"ultramarine-environment: stored {record.uri} after {record.seconds} s", flush=True)
    return record


def delete(task: BuildTask, storage: Storage) -> None:
    """Delete all files of an environment; missing ones are not an error. Raises StorageError."""
    if not _PREFIX.fullmatch(task.prefix):
        raise ValueError(f"{task.prefix!r} is not the folder of an environment")
    storage.delete_artifact(f"{task.prefix.rstrip('/')}/")
    print(f"ultramarine-environment: deleted {task.prefix}", flush=True)


def pack(folder: Path, archive: Path) -> None:
    """Write the files and links of an environment to `archive`; equal files give equal bytes. Raises StorageError."""
    with (
        archive.open("wb") as file,
        io.BufferedWriter(_Compressed(file), _BLOCK) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for directory, folders, names, opened in os.fwalk(folder, onerror=_raise):
            above = Path(directory).relative_to(folder)
            if not above.parts and BUILD in folders:
                folders.remove(BUILD)
            for path in ((above / name).as_posix() for name in (*folders, *names)):
                if problem := unfit(path):
                    raise _refused(f"{path!r} cannot be a member of the archive, since {problem}")
            links = {name for name in (*folders, *names) if stat.S_ISLNK(os.lstat(name, dir_fd=opened).st_mode)}
            folders[:] = sorted(set(folders) - links)
            for name in sorted({*links, *names}):
                info = tarfile.TarInfo((above / name).as_posix())
                if name in links:
                    info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, os.readlink(name, dir_fd=opened)
                    tar.addfile(info)
                    continue
                with _open(name, opened) as content:
                    status = os.fstat(content.fileno())
                    info.mode, info.size = stat.S_IMODE(status.st_mode), status.st_size
                    tar.addfile(info, content)


def _result(folder: Path) -> BuildRecord:
    """Return what the container before this one knows of the record."""
    if (folder / BUILD).is_symlink():
        raise _refused(f"{BUILD} is not a folder")
    with _open(folder / RESULT) as file:
        content = file.read(_LARGEST_RESULT)
    try:
        return BuildRecord.from_json(content)
    except ValueError as error:
        raise _refused(f"{RESULT} is unusable: {error}") from error


def _open(path: str | Path, folder: int | None = None) -> BinaryIO:
    """Open a file, perhaps in an open folder, without links and without waiting. Raises StorageError for others."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOENT, errno.ENOTDIR):  # a link, a socket, or nothing
            raise _refused(f"{Path(path).name} is not a file") from error
        raise
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise _refused(f"{Path(path).name} is not a file")
    return os.fdopen(opened, "rb")


def _refused(problem: str) -> StorageError:
    remedy = "setup code of a package, or of spec.image, has made it; remove it there"
    return StorageError(f"the environment cannot be stored: {problem}; {remedy}", "EnvironmentInvalid")


def _raise(error: OSError) -> NoReturn:
    raise error


class _Compressed(io.RawIOBase):
    """Writer of a zstd frame for each block. pyarrow's own stream has level 1, whose archives are a fifth larger."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._codec = file, pyarrow.Codec("zstd", _LEVEL)

    def writable(self) -> bool:
        return True

    def write(self, block: Any, /) -> int:
        self._file.write(self._codec.compress(block, asbytes=True))
        return len(block)
