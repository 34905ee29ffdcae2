"""The init container that fetches a private repository: credentials are mounted here alone, without the command.

It ends well also if the fetch fails, and leaves a record beside the files: the trainer then reports the failure.
"""

from __future__ import annotations

import json
from pathlib import Path

from ultramarine_contract.training_records import TrainingTask

from ultramarine_trainer.data.credentials import Credentials, SourceError
from ultramarine_trainer.data.git import check_out

RECORD, FILES = "record.json", "files"  # in the folder that both containers mount


def fetch(task: TrainingTask, credentials: Path, folder: Path) -> str:
    """Fetch the task's repository into `folder`, leave a record there, and return a line for the log."""
    source = task.source
    assert source is not None
    try:
        commit = check_out(source, folder / FILES, Credentials(source.git_secret, credentials))
        record: dict[str, str | bool] = {"commit": commit}
        line = f"source: commit {commit} of {source.git_url}"
    except SourceError as error:
        record = {"reason": error.reason, "message": error.message, "transient": error.transient}
        line = f"{error.reason}: {error.message}"
    (folder / RECORD).write_text(json.dumps(record))
    return line


def fetched(folder: Path) -> str:
    """Return the commit whose files are in FILES. Raises the SourceError of the init container."""
    record = json.loads((folder / RECORD).read_text())
    if "commit" in record:
        return str(record["commit"])
    raise SourceError(record["reason"], record["message"], transient=record["transient"])
