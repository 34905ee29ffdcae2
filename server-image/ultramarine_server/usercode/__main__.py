"""Start of a worker process: load the user's code, report to the server, and answer its requests, one at a time."""

from __future__ import annotations

import ctypes
import faulthandler
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1  # of prctl.h


def main() -> None:
    """Answer requests until the server closes the connection."""
    # Run as a file, this module's folder is first in sys.path, where the user's code must not find it.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from ultramarine_server import frames
    from ultramarine_server.usercode.failing import Failed

    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # A hanging function must not outlive the server.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    sys.path.append(sys.path.pop(0))  # behind the packages of the environment
    start, _ = frames.receive(connection)
    try:
        if "entry" in start:
            from ultramarine_server.usercode.script import Script

            code: Any = Script(start["folder"], start["entry"])
        else:
            sys.path += start["paths"]
            from ultramarine_server.usercode.loaded import LoadedModel

            code = LoadedModel(start)
    except Failed as failure:
        frames.send(connection, {"reason": failure.reason, "message": str(failure)})
        return
    frames.send(connection, {"ready": code.facts})
    while True:
        try:
            header, body = frames.receive(connection)
        except frames.Closed:
            return
        reply, content = code.answer(header, body)
        if len(content) > frames.MAX_BODY:
            message = f"the answer has {len(content)} bytes; at most {frames.MAX_BODY} can be sent. Return less."
            reply, content = {"status": 500, "error": message}, b""
        frames.send(connection, reply, content)


if __name__ == "__main__":
    main()
