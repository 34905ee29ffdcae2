"""The program `ultramarine-data profile|import`: its task is in the file task.json of the folder it starts in."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ultramarine_contract.common import ENV_INPUTS_DIR, ENV_OUTPUTS_DIR, EXIT_DO_NOT_RETRY, INPUTS_DIR, OUTPUTS_DIR
from ultramarine_contract.dataset_records import DATA, FACTS, PROFILE, TASK_NAME, ImportTask, ProfileTask

from ultramarine_data.errors import DataError


def main(argv: Sequence[str] | None = None) -> int:
    """Do the work, and return the exit code; a DataError is the last line of the log."""
    works: dict[str, Callable[[str, Path, Path], None]] = {"profile": _profile, "import": _import}
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or arguments[0] not in works:
        print(f"usage: ultramarine-data {'|'.join(works)}", file=sys.stderr)
        return EXIT_DO_NOT_RETRY
    inputs = Path(os.environ.get(ENV_INPUTS_DIR, INPUTS_DIR))
    outputs = Path(os.environ.get(ENV_OUTPUTS_DIR, OUTPUTS_DIR))
    try:
        works[arguments[0]](Path(TASK_NAME).read_text(), inputs, outputs)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1 if error.transient else EXIT_DO_NOT_RETRY
    return 0


def _profile(task: str, inputs: Path, outputs: Path) -> None:
    from ultramarine_data.profiling import write_profile

    write_profile(ProfileTask.from_json(task), inputs / DATA, outputs / PROFILE)


def _import(task: str, inputs: Path, outputs: Path) -> None:
    from ultramarine_data.importing import import_data

    import_data(ImportTask.from_json(task), inputs, outputs / DATA, outputs / FACTS)


if __name__ == "__main__":
    sys.exit(main())
