"""The end of a program that is still being imported, where it is the first process of a container."""

from __future__ import annotations

import os
import signal


def exit_on_signals() -> None:
    """Exit with 128 and the number at SIGTERM and SIGINT, until the program handles them itself.

    Linux drops signals without a handler for process 1 of a container: a pod deleted in its first half second would
    run on until its grace period has passed.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: os._exit(128 + number))
