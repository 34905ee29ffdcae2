"""Retry policy of everything that waits for the object storage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import TypeVar

from .errors import StorageError

T = TypeVar("T")


def patiently(
    step: Callable[[], T],
    waits: Iterable[float],
    say: Callable[[StorageError, float], object],
    *,
    retry: Callable[[StorageError], bool] = lambda error: error.transient,
    pause: Callable[[float], object] = time.sleep,
) -> T:
    """Do `step`, and again after each of `waits` in seconds while `retry` is true of its StorageError.

    `say` gets the error and the wait that follows. Raises the last StorageError.
    """
    for wait in waits:
        try:
            return step()
        except StorageError as error:
            if not retry(error):
                raise
            say(error, wait)
        pause(wait)
    return step()


def forever(waits: Sequence[float]) -> Iterator[float]:
    """Yield `waits`, and then the last of them without end."""
    return chain(waits, repeat(waits[-1]))
