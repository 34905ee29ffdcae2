"""Program of the init containers that fetch code: a private repository for the trainer, or any source for a server.

With --to FOLDER it fetches to that folder and reports a failure itself; otherwise the trainer reports it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ultramarine_contract import common as contract
from ultramarine_contract.errors import StorageError
from ultramarine_contract.locations import empty
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.training_records import TerminationRecord, TrainingTask

from ultramarine_trainer.data.credentials import Credentials, SourceError
from ultramarine_trainer.data.fetching import fetch
from ultramarine_trainer.data.git import AGAIN, check_out


def store(task: SourceTask, environment: Mapping[str, str], credentials: Path, folder: Path) -> str:
    """Fetch a repository or an archive into `folder`, and return a line for the log.

    Raises SourceError and StorageError. The files of an earlier attempt go first.
    """
    empty(folder)
    if task.git_url:
        commit = check_out(task, folder, Credentials(task.git_secret, credentials) if task.git_secret else None)
        return f"commit {commit} of {task.git_url}"
    from ultramarine_contract.storage import Storage  # boto3, which a repository does not need

    from ultramarine_trainer.data.source import unpack

    storage = Storage(
        environment.get(contract.ENV_STORAGE_ENDPOINT, ""), environment.get(contract.ENV_STORAGE_REGION, "")
    )
    return f"{task.uri} with digest {unpack(task, folder, storage)}"


def main() -> int:
    """Fetch what the operator wrote into ENV_TASK, and return the exit code."""
    task = TrainingTask.from_json(os.environ[contract.ENV_TASK])
    credentials = Path(contract.CREDENTIALS_DIR)
    if sys.argv[1:2] != ["--to"]:
        print(f"ultramarine-source: {fetch(task, credentials, Path(contract.SOURCE_DIR))}", file=sys.stderr)
        return 0
    assert task.source is not None
    try:
        print(f"ultramarine-source: {store(task.source, os.environ, credentials, Path(sys.argv[2]))}", file=sys.stderr)
        return 0
    except (SourceError, StorageError) as error:
        # The source of a script or of requirements: other fields, and other pods, than those of a job.
        message = error.message.replace("spec.source", "source").replace("training pods", "pods").removesuffix(AGAIN)
        print(f"ultramarine-source: {error.reason}: {message}", file=sys.stderr)
        Path(contract.TERMINATION_LOG).write_text(TerminationRecord(reason=error.reason, message=message).to_json())
        return 1
