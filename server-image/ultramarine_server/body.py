"""A request's body as it was before it was compressed."""

from __future__ import annotations

import zlib

from ultramarine_server.errors import BadRequest, Problem

MOST_STREAMS = 10_000  # in one body
_PIECE = 16 * 1024  # bytes
BODY_LIMIT = 64 * 1024 * 1024  # bytes, of the body as it comes and of what it holds
ENCODINGS = ("gzip", "deflate")
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's names for the three wrappings


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Return what is compressed in `body`. Raises Problem, with 413 as soon as it is more than `limit` bytes."""
    wrapping = _GZIP if encoding == "gzip" else _ZLIB if _is_zlib(body) else _RAW
    parts: list[bytes] = []
    room, streams, stream = limit + 1, 1, zlib.decompressobj(wrapping)
    rest = memoryview(body)
    try:
        while rest:
            if stream.eof:  # A gzip file may have several members.
                streams, stream = streams + 1, zlib.decompressobj(wrapping)
            if streams > MOST_STREAMS:
                raise BadRequest(f"the body has more than {MOST_STREAMS} {encoding} streams; send one")
            piece = rest[:_PIECE]  # zlib copies what a stream leaves of it.
            parts.append(stream.decompress(piece, room))
            rest = rest[len(piece) - len(stream.unused_data) :]
            room -= len(parts[-1])
            if room <= 0:
                message = f"the body is larger than {limit} bytes when it is inflated; send fewer rows in each request"
                raise Problem(413, message)
        if body and not stream.eof:
            raise BadRequest(f"the body ends in the middle of its {encoding} stream")
    except zlib.error as error:
        raise BadRequest(f"the body is not {encoding}, as content-encoding says: {error}") from error
    return b"".join(parts)


def _is_zlib(body: bytes) -> bool:
    return len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
