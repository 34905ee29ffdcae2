"""A server that reads each request and says the same words: what is left is the load generator. `trivial.py PORT`."""

import asyncio
import sys

import uvloop

_BODY = b'{"outputs":[{"name":"label","shape":[1],"datatype":"INT64","data":[0]}]}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class Same(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.got = transport, b""

    def data_received(self, data: bytes) -> None:
        self.got += data
        head, end, body = self.got.partition(b"\r\n\r\n")
        while end and len(body) >= (length := int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])):
            self.transport.write(_ANSWER)  # type: ignore[attr-defined]
            self.got = body[length:]
            head, end, body = self.got.partition(b"\r\n\r\n")


async def main() -> None:
    """Listen until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Same, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
