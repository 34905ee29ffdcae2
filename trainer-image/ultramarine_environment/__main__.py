"""Commands of the pod that builds an environment: `tools DIR`, `build`, `store` and `delete`.

`tools` copies this program and uv to DIR: `python3 DIR/ultramarine_environment build` runs in a user's own image.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a folder, whose modules must not hide others
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main(arguments: list[str]) -> int:
    """Run one command and return the exit code."""
    command, rest = arguments[0] if arguments else "", arguments[1:]
    if command == "build" and not rest:
        from ultramarine_environment.building import main as build

        return build()
    if command == "tools" and len(rest) == 1:
        from ultramarine_environment.tools import copy

        copy(Path(rest[0]))
        return 0
    if command in ("store", "delete") and not rest:
        from ultramarine_environment import storing

        return storing.main(command)
    print("usage: ultramarine-environment tools DIR | build | store | delete", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
