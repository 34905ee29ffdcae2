"""Places of an attempt: the folders of its pod, and the result of its job in the storage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ultramarine_contract import common as contract
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import TerminationRecord


@dataclass(frozen=True)
class Places:
    """Paths of an attempt, and the waits for a storage that does not answer."""

    source: Path = Path(contract.SOURCE_DIR)
    work: Path = Path(contract.WORK_DIR)
    inputs: Path = Path(contract.INPUTS_DIR)
    outputs: Path = Path(contract.OUTPUTS_DIR)
    checkpoints: Path = Path(contract.CHECKPOINTS_DIR)
    environment: Path = Path(contract.ENVIRONMENT_DIR)
    termination_log: Path = Path(contract.TERMINATION_LOG)
    image: Path = field(default_factory=Path.cwd)  # WORKDIR of the image
    # Seconds between attempts. A result is worth more patience than a start, which another pod can make.
    input_waits: tuple[float, ...] = (2, 10)
    output_waits: tuple[float, ...] = (2, 5, 15, 30, 60, 120)
    log_patience: float = 30  # for the rest of the log, when all else is done


def store_result(storage: Storage, prefix: str, record: TerminationRecord) -> None:
    """Store the whole record of a job that succeeded; a termination log would have only a part of it."""
    storage.write(f"{prefix}/{contract.RESULT_NAME}", record.to_json(limit=sys.maxsize).encode())


@contextmanager
def about(field: str) -> Iterator[None]:
    """Name the field of the TrainingJob in an error of the storage."""
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{field}: {error.message}", error.reason, transient=error.transient) from error
