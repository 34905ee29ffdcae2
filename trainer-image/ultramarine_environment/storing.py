"""Storing of an environment that is built, and its deletion: the part of the pod with the storage's keys."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

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
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage

from ultramarine_environment.building import BUILD, LOCK, PLACES, RESULT, Places

_LEVEL, _BLOCK = 3, 4 << 20  # of zstd; bytes
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
    result = json.loads((folder / RESULT).read_text())
    with tempfile.TemporaryDirectory() as name:
        packed = Path(name)
        archive = packed / ARCHIVE_NAME
        try:
            pack(folder, archive)
            shutil.copy(folder / LOCK, packed / LOCK_NAME)
            with archive.open("rb") as content:
                digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
        except OSError as error:
            message = f"cannot pack the environment: {error}; free space on the node"
            raise StorageError(message, "LocalDiskError", transient=True) from error
        size = archive.stat().st_size
        print(f"ultramarine-environment: packed {size} bytes in {time.monotonic() - began:.1f} s", flush=True)
        uri = storage.upload_folder(packed, task.prefix).uri
    seconds = round(result.pop("seconds") + time.monotonic() - began, 1)
    record = BuildRecord(uri + ARCHIVE_NAME, digest, size, lock=uri + LOCK_NAME, seconds=seconds, **result)
    storage.write(f"{task.prefix.rstrip('/')}/{RESULT_NAME}", record.to_json())
    print(f"ultramarine-environment: stored {record.uri} after {seconds} s", flush=True)
    return record


def delete(task: BuildTask, storage: Storage) -> None:
    """Delete all files of an environment; missing ones are not an error. Raises StorageError."""
    if not _PREFIX.fullmatch(task.prefix):
        raise ValueError(f"{task.prefix!r} is not the folder of an environment")
    storage.delete_artifact(f"{task.prefix.rstrip('/')}/")
    print(f"ultramarine-environment: deleted {task.prefix}", flush=True)


def pack(folder: Path, archive: Path) -> None:
    """Write the files and links of an environment to `archive`; equal files give equal bytes."""
    with (
        archive.open("wb") as file,
        io.BufferedWriter(_Compressed(file), _BLOCK) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in _members(folder):
            info = tar.gettarinfo(path, path.relative_to(folder).as_posix())
            info.mtime = info.uid = info.gid = 0
            info.uname = info.gname = ""
            if info.issym():
                tar.addfile(info)
                continue
            info.type, info.size = tarfile.REGTYPE, path.stat().st_size  # two names of one file become two files
            with path.open("rb") as content:
                tar.addfile(info, content)


class _Compressed(io.RawIOBase):
    """Writer of a zstd frame for each block. pyarrow's own stream has level 1, whose archives are a fifth larger."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._codec = file, pyarrow.Codec("zstd", _LEVEL)

    def writable(self) -> bool:
        return True

    def write(self, block: Any, /) -> int:
        self._file.write(self._codec.compress(block, asbytes=True))
        return len(block)


def _members(folder: Path) -> Iterator[Path]:
    """Yield files and links, sorted, without what belongs to the build alone."""
    for directory, folders, names in os.walk(folder):
        links = [name for name in folders if Path(directory, name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in links and Path(directory, name) != folder / BUILD)
        yield from (Path(directory, name) for name in sorted([*links, *names]))
