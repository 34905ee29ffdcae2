"""`ultramarine-trainer COMMAND ARG...`: run one training attempt."""

from __future__ import annotations

import os
import sys

from ultramarine_trainer.run import run


def main() -> int:
    """Run the command given as arguments and return the exit code of the container."""
    return run(sys.argv[1:], os.environ)


if __name__ == "__main__":
    sys.exit(main())
