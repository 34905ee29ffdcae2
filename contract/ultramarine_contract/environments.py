"""Unpacking of an environment's archive, in pods that run a user's code."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tarfile
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .environment_records import EnvironmentArchive
from .errors import StorageError
from .locations import empty, unsafe
from .storage import Storage

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

UNPACKED_NAME = ".unpacked"  # in the folder: the digest of the archive that is there, whole
_BLOCK = 1 << 20
_AHEAD = 4  # blocks that a thread may be ahead of their reader


def unpack(storage: Storage, archive: EnvironmentArchive, folder: Path) -> int:
    """Fetch an archive, and leave it in `folder` whole or not at all; return the number of its files.

    Links are made last, when the digest is known: until then `bin/python` is missing, and no member lies behind a link.
    A folder that has the archive already is left as it is. Raises StorageError with the remedy.
    """
    mark = folder / UNPACKED_NAME
    if mark.is_file() and mark.read_text() == archive.digest:
        return 0
    try:
        _clear(folder)
        source = _Verified(archive, storage.open(archive.uri).chunks)
        try:
            count, links = _write(source, folder)
            source.check()
            for path, target in links.items():
                (folder / path).symlink_to(target)
        except (tarfile.TarError, EOFError, ValueError, FileExistsError, NotADirectoryError) as error:
            raise _invalid(source, error) from error
        except OSError as error:
            if error.errno is None:  # of the decompressor
                raise _invalid(source, error) from error
            raise
        with mark.open("x") as file:  # never through a link
            file.write(archive.digest)
    except OSError as error:
        _clear(folder)
        raise _of_disk(archive, folder, error) from error
    except StorageError as error:
        _clear(folder)
        raise StorageError(f"environment: {error.message}", error.reason, transient=error.transient) from error
    return count


def unfit(name: str) -> str:
    """Return why an archive must not have a member of this name, or nothing."""
    if name.partition("/")[0] == UNPACKED_NAME:
        return "this name is reserved for the mark of a whole archive"
    return unsafe(name)


def _write(source: _Verified, folder: Path) -> tuple[int, dict[str, str]]:
    """Write the archive's files, and return their number and the links to make."""
    import pyarrow  # takes 0.2 s to import

    links: dict[str, str] = {}
    made, count = {""}, 0

    def make_parent(name: str) -> None:
        if (parent := name.rpartition("/")[0]) not in made:
            (folder / parent).mkdir(parents=True, exist_ok=True)
            made.add(parent)

    with (
        pyarrow.CompressedInputStream(pyarrow.PythonFile(source, "r"), "zstd") as plain,
        closing(_ahead(iter(partial(plain.read, _BLOCK), b""))) as blocks,
    ):
        stream = _Forward(_Blocks(blocks), _BLOCK)
        tar = tarfile.TarFile(fileobj=stream)
        while (member := tar.next()) is not None:
            if problem := unfit(member.name):
                raise ValueError(f"member {member.name!r}: {problem}")
            if member.issym():
                links[member.name] = member.linkname
            elif member.isreg():
                make_parent(member.name)
                mode = 0o755 if member.mode & 0o100 else 0o644
                target = os.open(f"{folder}/{member.name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                try:
                    left = member.size
                    while left and (block := stream.read(min(left, _BLOCK))):
                        left -= os.write(target, block)
                    if left:
                        raise EOFError(f"member {member.name!r} is cut")
                finally:
                    os.close(target)
                count += 1
            else:
                raise ValueError(f"member {member.name!r} is neither a file nor a link")
    for path in links:
        make_parent(path)
    return count, links


class _Forward(io.BufferedReader):
    """Reader for tarfile that goes forward only, from a stream that cannot seek."""

    position = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.position += len(data)
        return data

    def tell(self) -> int:
        return self.position

    def seek(self, target: int, whence: int = 0, /) -> int:
        if whence or target < self.position:
            raise tarfile.ReadError("the archive cannot be read in order")
        while self.position < target and self.read(min(target - self.position, _BLOCK)):
            continue
        return self.position


class _Blocks(io.RawIOBase):
    """Reader of the bytes of blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        room = memoryview(buffer)
        self._rest = self._rest or memoryview(next(self._blocks, b""))
        size = min(len(room), len(self._rest))
        room[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


class _Verified(_Blocks):
    """Archive as it arrives, whose digest is compared at its end."""

    def __init__(self, archive: EnvironmentArchive, chunks: Iterator[bytes]) -> None:
        self.archive, self._chunks = archive, chunks
        self._digest = hashlib.sha256()
        super().__init__(_ahead(self._digested()))

    def _digested(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._digest.update(chunk)
            yield chunk

    def check(self) -> None:
        """Read the rest. Raises StorageError DigestMismatch for any other content than the archive's."""
        for _ in self._blocks:
            continue
        digest = f"sha256:{self._digest.hexdigest()}"
        if digest != self.archive.digest:
            raise StorageError(
                f"{self.archive.uri} has digest {digest}, expected {self.archive.digest}; its content was changed"
                " after the build. Delete the Environment, and create it again",
                "DigestMismatch",
            )


def _ahead(blocks: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Yield blocks that a thread reads ahead, since network, digest and decompression need no interpreter."""
    pool = ThreadPoolExecutor(1)
    try:
        waiting = deque(pool.submit(next, blocks, b"") for _ in range(_AHEAD))
        while block := waiting.popleft().result():
            waiting.append(pool.submit(next, blocks, b""))
            yield block
    finally:
        pool.shutdown(cancel_futures=True)


def _clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / UNPACKED_NAME
    if mark.is_file():
        mark.unlink()  # first, since this may be interrupted
    empty(folder)


def _invalid(source: _Verified, error: Exception) -> StorageError:
    """Return the error for an archive that cannot be unpacked, or raise that of its digest."""
    source.check()
    remedy = "delete the Environment, and create it again"
    message = f"{source.archive.uri} is not an archive of an environment: {error}; {remedy}"
    return StorageError(message, "EnvironmentInvalid")


def _of_disk(archive: EnvironmentArchive, folder: Path, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(folder).free
        message = (
            f"environment: the disk is full; {archive.uri} has {archive.bytes} bytes packed, and {free} bytes are free"
            " without it. Free space on the node, or use fewer packages"
        )
        return StorageError(message, "DiskFull", transient=True)
    return StorageError(f"environment: the local disk failed: {error}", "LocalDiskError")
