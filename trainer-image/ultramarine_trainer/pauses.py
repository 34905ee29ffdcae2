"""What a trial has written to its checkpoint folder when it is paused, and has there again when it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ultramarine_contract.common import CHECKPOINTS_NAME, OutputRecord
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage

from ultramarine_trainer.checkpoints import BROKEN, fetch, look
from ultramarine_trainer.outputs import empty
from ultramarine_trainer.trial import Trial


class Pauses:
    """The checkpoints of a sweep's trials, which are stored below `prefix`. Both methods raise StorageError."""

    def __init__(self, storage: Storage, prefix: str, folder: Path, say: Callable[[str], None]) -> None:
        self._storage, self._prefix, self._folder, self._say = storage, prefix.rstrip("/"), folder, say

    def restore(self, trial: Trial) -> bool:
        """Fill the folder with what the trial goes on from, and with nothing else; say whether there is anything."""
        empty(self._folder)
        if trial.checkpoint is None:
            return False
        try:
            fetch(self._storage, trial.checkpoint.uri, trial.checkpoint.digest, self._folder)
        except StorageError as error:
            if error.reason not in BROKEN:
                raise
            self._say(f"trial {trial.number} begins anew, for its checkpoint is not whole: {error.message}")
            empty(self._folder)
            return False
        self._say(f"trial {trial.number} goes on from {trial.checkpoint.uri}")
        return True

    def store(self, number: int) -> OutputRecord | None:
        """Store what a trial whose command has ended can go on from; None where it has written nothing."""
        files = {path: self._folder / path for path in look(self._folder) or ()}
        if not files:
            return None
        uri = f"{self._prefix}/trials/{number}/{CHECKPOINTS_NAME}/"
        stored = self._storage.upload_folder(self._folder, uri, files=files)
        self._say(f"trial {number} is paused: {stored.bytes} bytes to {stored.uri}")
        return stored
