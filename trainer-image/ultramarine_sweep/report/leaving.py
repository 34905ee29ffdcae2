"""Files that a finished sweep leaves for users, made by processes that end.

The libraries that find importances, and those that draw, take several times the memory of a coordinator, and give none
of it back. So the coordinator has none of them: one process after the other does, and only while there is use for it.
If there are few trials they are all there at once, so that the end of a short sweep waits a second and not two.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ultramarine_contract.searchspace import read_space
from ultramarine_contract.sweep_records import SweepTask

from ultramarine_sweep.report.results import Results
from ultramarine_sweep.state.trial import Trial

_TASK, _TRIALS, _IMPORTANCES, _FILES = "task.json", "trials.jsonl", "importances.json", "files"
_FEW = 1000  # trials
_Made = Iterator[tuple[str, Iterable[bytes]]]  # names and contents


class Leaving:
    """Maker of the files of one sweep: runs `python -m ultramarine_sweep.report.leaving STEP` in a folder."""

    def __init__(self) -> None:
        self._begun: dict[str, subprocess.Popen[bytes]] = {}

    def prepare(self, task: SweepTask) -> None:
        """Begin to load what comes first, which takes a second; it ends by itself where it is not asked."""
        for step in _ORDER if _has_few(task) else _ORDER[:1]:
            self._process(step)

    def files(self, task: SweepTask, trials: Iterable[Trial]) -> Iterator[tuple[str, Path]]:
        """Name and place of all files that trials leave that have ended; none if there is no trial.

        They go with the last one. Raises OSError and subprocess.SubprocessError.
        """
        with tempfile.TemporaryDirectory(prefix="sweep-") as name:
            folder = Path(name)
            (folder / _TASK).write_text(task.to_json())
            with (folder / _TRIALS).open("w") as lines:
                lines.writelines(json.dumps(trial.to_record(), separators=(",", ":")) + "\n" for trial in trials)
                if not lines.tell():
                    return
            self.prepare(task)  # where it was not
            beside = [_BY_ITSELF] if _has_few(task) else []
            for step in beside:
                _tell(self._process(step), folder)
            for step in _ORDER:
                if step not in beside:
                    _tell(self._process(step), folder)
                _wait(self._process(step))
            for path in sorted((folder / _FILES).rglob("*")):
                if path.is_file():
                    yield path.relative_to(folder / _FILES).as_posix(), path

    def _process(self, step: str) -> subprocess.Popen[bytes]:
        """The process that does this step once it is told the folder."""
        if step not in self._begun:
            self._begun[step] = _begin(step)
        return self._begun[step]


def _has_few(task: SweepTask) -> bool:
    """True if all processes may be there at once: of many trials each takes more, and the sweep took its time."""
    return task.max_trials <= _FEW


def _begin(step: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-sP", "-m", "ultramarine_sweep.report.leaving", step]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path})


def _tell(process: subprocess.Popen[bytes], folder: Path) -> None:
    assert process.stdin
    with suppress(BrokenPipeError), process.stdin as words:  # it has ended, and says by its exit code how
        words.write(os.fsencode(folder))


def _wait(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, process.args)


def main() -> None:
    """Do one step; nothing, where standard input ends without a folder: the sweep needs no files any more."""
    load, make = _STEPS[sys.argv[1]]
    load()
    if not (folder := Path(os.fsdecode(sys.stdin.buffer.read()))).name:
        return
    for name, content in make(_results(folder)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.writelines(content)


def _load_forest() -> None:
    import sklearn.ensemble  # noqa: F401


def _load_pictures() -> None:
    import ultramarine_sweep.report.report  # noqa: F401


def _load_tables() -> None:
    import pyarrow as pa

    import ultramarine_sweep.report.study
    import ultramarine_sweep.report.table  # noqa: F401

    pa.array([])  # the first one looks for pandas, for a fifth of a second


def _find(results: Results) -> _Made:
    yield _IMPORTANCES, [json.dumps(results.importances).encode()]


def _draw(results: Results) -> _Made:
    from ultramarine_sweep.report.report import files

    for name, content in files(results).items():
        yield f"{_FILES}/{name}", [content]


def _tabulate(results: Results) -> _Made:
    from ultramarine_sweep.report.study import STUDY_NAME, study_lines
    from ultramarine_sweep.report.table import TABLE_NAME, table

    yield f"{_FILES}/{STUDY_NAME}", study_lines(results)
    yield f"{_FILES}/{TABLE_NAME}", [table(results)]


_STEPS: dict[str, tuple[Callable[[], None], Callable[[Results], _Made]]] = {
    "find": (_load_forest, _find),
    "draw": (_load_pictures, _draw),
    "tabulate": (_load_tables, _tabulate),
}

_ORDER = tuple(_STEPS)
_BY_ITSELF = "tabulate"  # needs nothing of the others


def _results(folder: Path) -> Results:
    """The sweep, with its importances once they are found."""
    task, importances_file = SweepTask.from_json((folder / _TASK).read_text()), folder / _IMPORTANCES
    with (folder / _TRIALS).open() as lines:
        trials = [Trial.of(json.loads(line)) for line in lines]
    importances = json.loads(importances_file.read_text()) if importances_file.exists() else None
    return Results(task.sweep, read_space(task.space), task.objectives, trials, importances)


if __name__ == "__main__":
    main()
    os._exit(0)  # to take the libraries down would take another quarter of a second, for which the sweep waits
