"""Text files as plain UTF-8: compressed files and those with the byte order mark of another encoding are converted."""

from __future__ import annotations

import codecs
import gzip
import io
import shutil
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from ultramarine_data.errors import DataError

MARKS = (  # the mark of UTF-16 LE begins that of UTF-32 LE
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
HEAD = 4096  # bytes in which a file of another encoding without a mark has a null byte
CHUNK = 1 << 20
REMEDY = "save the file as UTF-8"


def in_utf8(path: Path, folder: Path) -> Path:
    """Return the path of the same text in UTF-8: below `folder` if it had to be converted. Raises DataError."""
    try:
        with _opened(path) as stream:
            head = stream.read(HEAD)
            encoding = next((name for mark, name in MARKS if head.startswith(mark)), "utf-8")
            if encoding == "utf-8" and b"\0" in head:
                raise DataError(f"{path.name} has null bytes, so it is not a text in UTF-8; {REMEDY}")
            if encoding == "utf-8" and path.suffix != ".gz":
                return path
            stream.seek(0)
            return _converted(path, stream, encoding, folder)
    except UnicodeError as error:
        message = f"{path.name} has the byte order mark of {encoding}, and bytes that are not: {error}"
        raise DataError(f"{message}; {REMEDY}") from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path.name} is not a whole gzip file: {error}; compress it again") from error


def header(path: Path, limit: int) -> str:
    """Return the first line of a CSV file, with line breaks inside of quotes. Raises DataError."""
    line = b""
    with path.open("rb") as stream:
        while part := stream.readline(limit):
            line += part
            if line.count(b'"') % 2 == 0 or len(line) >= limit:
                break
    if line.count(b'"') % 2:
        raise DataError(f"line 1 of {path.name}: a quoted name of a column does not end; correct its quotes")
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"line 1 of {path.name} is not UTF-8: {error.reason}; {REMEDY}") from error


def _opened(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _converted(path: Path, stream: BinaryIO, encoding: str, folder: Path) -> Path:
    # Lines in another encoding stay as they are in what looks like UTF-8: the reader names them.
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{len(list(folder.iterdir()))}-{path.name.removesuffix('.gz')}"
    with target.open("w", encoding="utf-8", errors=errors, newline="") as sink:
        shutil.copyfileobj(io.TextIOWrapper(stream, encoding, errors, newline=""), sink, CHUNK)
    return target
