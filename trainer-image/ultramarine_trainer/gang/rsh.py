"""`ultramarine-rsh [OPTION]... HOST COMMAND...`: run a shell command line on another node of the gang, as ssh would.

Open MPI's plm_rsh and MPICH's Hydra start their daemons with it. The trainer of rank 0 passes the line on; what it
prints is in the log of the other pod.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence

SOCKET = "/tmp/ultramarine-gang.sock"
ENV_SOCKET = "ULTRAMARINE_GANG_SOCKET"  # where it is instead
LINE_LIMIT = 65536  # bytes
LOST = 255  # ssh's own exit code for everything that is not the command's

_WITH_VALUE = ("-l", "-p", "-i", "-o", "-F")  # options of ssh


def main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Have the line run, wait for its end, and return its exit code; LOST when it could not be run."""
    host, line = host_and_line(arguments)
    if not host or not line:
        return _refuse("give a host and a command")
    request = json.dumps({"host": host, "line": line}).encode() + b"\n"
    if len(request) > LINE_LIMIT:
        return _refuse(f"the command line has {len(request)} bytes; {LINE_LIMIT} are possible")
    path = environment.get(ENV_SOCKET) or SOCKET
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(request)
            answer = json.loads(connection.makefile().readline() or "{}")
    except (OSError, ValueError) as error:
        return _refuse(f"the trainer does not answer at {path}: {error}; this works on rank 0 of an mpi job only")
    if "code" not in answer:
        return _refuse(answer.get("error", f"node {host} was lost"))
    code = int(answer["code"])
    return 128 - code if code < 0 else code


def host_and_line(arguments: Sequence[str]) -> tuple[str, str]:
    """Return the host without a user's name, and the words after it joined as ssh joins them."""
    words = list(arguments)
    while words and words[0].startswith("-"):
        del words[: 2 if words[0] in _WITH_VALUE else 1]
    host, *rest = words or [""]
    return host.rpartition("@")[2], " ".join(rest)


def _refuse(message: str) -> int:
    print(f"ultramarine-rsh: {message}", file=sys.stderr)
    return LOST
