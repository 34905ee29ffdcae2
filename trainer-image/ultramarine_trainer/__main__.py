"""`ultramarine-trainer COMMAND ARG...`: run one training attempt or, as a worker of a sweep, trial after trial."""

from __future__ import annotations

import os
import sys

from ultramarine.shared.contract import ENV_SWEEP

from ultramarine_trainer.run import run
from ultramarine_trainer.worker import Worker


def main() -> int:
    """Run the command given as arguments, or the sweep's, and return the exit code of the container."""
    return run(sys.argv[1:], os.environ, make=Worker if os.environ.get(ENV_SWEEP) else None)


if __name__ == "__main__":
    sys.exit(main())
