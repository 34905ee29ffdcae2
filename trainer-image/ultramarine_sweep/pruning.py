"""Deleting what trials have stored that were the best once and are no more, or paused, at the end of a sweep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator

from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage

SECONDS = 30.0  # for all of it


def prune(
    storage: Storage, prefix: str, kept: Collection[str], say: Callable[[str], None], seconds: float = SECONDS
) -> None:
    """Delete all that trials have stored below a sweep's prefix, but the URIs in `kept`; in `seconds`, or not wholly.

    What is stored is found by listing it, so nothing has to be remembered: a later call goes on.
    """
    until, is_over = time.monotonic() + seconds, threading.Event()

    def work() -> None:
        try:
            for uri in _artifacts(storage, f"{prefix}trials/"):
                if time.monotonic() >= until:
                    return
                if uri not in kept:
                    storage.delete_artifact(uri)
        except StorageError as error:
            say(f"outputs of trials that are not among the best stay in the storage: {error.message}")
        is_over.set()

    # Not awaited longer than that: a folder of very many files takes its time, and half of it is never taken for whole.
    thread = threading.Thread(target=work, name="pruning", daemon=True)
    thread.start()
    thread.join(seconds)
    if not is_over.is_set():
        say(f"some outputs of trials that are not among the best stay in the storage: {seconds:g} s were too few")


def _artifacts(storage: Storage, trials: str) -> Iterator[str]:
    """The folders trials/NUMBER/OUTPUT/DIGEST/; a checkpoint lies like an output."""
    for trial in storage.folders(trials):
        for output in storage.folders(trial):
            yield from storage.folders(output)
