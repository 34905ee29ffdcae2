"""`ultramarine-trainer COMMAND ARG...`: run one training attempt or, as a worker of a sweep, trial after trial."""

from __future__ import annotations

import os
import sys

from ultramarine_contract.common import ENV_SWEEP, ENV_TRIAL

from ultramarine_trainer.attempt.keys import narrowed


def main() -> int:
    """Run the command given as arguments, or the sweep's, and return the exit code of the container."""
    environment = narrowed(os.environ)
    if environment is not None:
        # The same program again in the same process: what /proc tells of it has nothing of the namespace's keys.
        os.execve(sys.executable, sys.orig_argv, environment)
    from ultramarine_trainer.attempt.run import Attempt, run  # Only now, since all of it would be imported twice.
    from ultramarine_trainer.trials.job import TrialAttempt
    from ultramarine_trainer.trials.worker import Worker

    made = {ENV_SWEEP: Worker, ENV_TRIAL: TrialAttempt}
    return run(sys.argv[1:], os.environ, make=next((made[name] for name in made if os.environ.get(name)), Attempt))


if __name__ == "__main__":
    sys.exit(main())
