"""HTTP/2 by hand: frames and headers that no library would send."""

from __future__ import annotations

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + bytes([SETTINGS, 0]) + bytes(4)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def packed(*headers: tuple[str, str]) -> bytes:
    """Headers as literals (RFC 7541, 6.2.2), whatever is in them."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def _text(text: str) -> bytes:
    data = text.encode("latin-1")
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, number = len(data) - 127, b"\x7f"
    while rest >= 128:
        number, rest = number + bytes([rest % 128 + 128]), rest // 128
    return number + bytes([rest]) + data
