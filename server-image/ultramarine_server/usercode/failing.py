"""Failures of a user's code: the words for the status and for clients, and the trace for the log."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from ultramarine_server.releases import concerns, misfit, other_releases, remedy

MAX_WORDS = 500  # characters of an exception in a message


class Failed(Exception):
    """The code cannot be used; reason and message go to the endpoint's status."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def failed(error: BaseException, action: str, folder: Path) -> Failed:
    """Return the failure of an `action` such as `init() of score.py`, whose code lies in `folder`, with the remedy."""
    show(error, folder)
    if isinstance(error, ModuleNotFoundError) and error.name and not _has(folder, error.name.partition(".")[0]):
        message = f"{action} needs the module {error.name}, which is not installed{_place(error, folder)}"
        return Failed("DependencyMissing", f"{message}. Add its package to environment.requirements.")
    model = Path(os.environ.get("AZUREML_MODEL_DIR", ""))
    if concerns(error) and "AZUREML_MODEL_DIR" in os.environ and (releases := other_releases(model)):
        why = f"{action} {words(error, folder)}. {misfit(model, releases)}"
        return Failed("DependencyMissing", f"{why}. For that release, {remedy(releases)}.")
    return Failed("ScoringFailed", f"{action} {words(error, folder)}. Correct the script; the pod's log has the trace.")


def words(error: BaseException, folder: Path) -> str:
    """Return the exception as the end of a sentence, with the line of the user's code."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r}){_place(error, folder)}"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if len(text) > MAX_WORDS:
        text = f"{text[:MAX_WORDS]}..."
    return f"raised {text}{_place(error, folder)}"


def show(error: BaseException, folder: Path) -> None:
    """Write the trace to the log, without the frames before the user's code."""
    trace = error.__traceback__
    while trace is not None and not _is_below(trace.tb_frame.f_code.co_filename, folder):
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace or error.__traceback__)
    sys.stderr.write("".join(lines))
    sys.stderr.flush()


def _has(folder: Path, module: str) -> bool:
    return (folder / module).exists() or (folder / f"{module}.py").exists()


def _place(error: BaseException, folder: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename and _is_below(error.filename, folder):
        return f" ({Path(error.filename).relative_to(folder)}, line {error.lineno})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_below(frame.filename, folder):
            return f" ({Path(frame.filename).relative_to(folder)}, line {frame.lineno})"
    return ""


def _is_below(file: str, folder: Path) -> bool:
    return file.startswith(f"{folder}/")
