"""Reading a request's body up to a limit, so that a large one costs neither memory nor its sender the answer."""

from __future__ import annotations

from starlette.requests import Request

BODY_LIMIT = 64 * 1024 * 1024  # bytes
_PATIENCE = 16  # times the limit; who sends more than that is cut off


class TooLarge(Exception):
    """The body exceeds the limit; `cut_off` when so much is still to come that the connection has to be closed."""

    def __init__(self, limit: int, *, cut_off: bool = False) -> None:
        super().__init__(f"the body is larger than {limit} bytes; send fewer rows in each request")
        self.cut_off = cut_off


async def read_body(request: Request, limit: int) -> bytes:
    """Return the whole body. Raises TooLarge without keeping it, at once where its length is announced."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        # The answer goes out before the body is read; the connection then swallows the rest. Closing it instead would
        # reset it under a client that is still sending, which would never see the answer.
        raise TooLarge(limit, cut_off=int(announced) > limit * _PATIENCE)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        else:
            chunks.clear()
        if size > limit * _PATIENCE:
            raise TooLarge(limit, cut_off=True)
    if size > limit:
        raise TooLarge(limit)
    return b"".join(chunks)
