"""Progress of transfers: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from ultramarine.display.terminal import size_text

if TYPE_CHECKING:
    from ultramarine_contract.storage import Progress

    from .session import Session

_SHOWN_BYTES = 4 * 1024 * 1024  # a smaller transfer ends before a bar could be read
_LINE_SECONDS = 10


@contextmanager
def transfer_bar(session: Session, verb: str) -> Iterator[Progress]:
    """Show the progress of transfers while the context is open; `verb` is such as Uploading."""
    try:
        with _bar(session, verb) if session.progress.is_terminal else nullcontext(_Lines(session, verb)) as progress:
            yield progress
    except KeyboardInterrupt:
        done, goes_on = ("sent", "sends") if verb == "Uploading" else ("received", "fetches")
        command = shlex.join(["ultramarine", *sys.argv[1:]])
        session.note(f"Interrupted; what was {done} is kept, and the same command {goes_on} the rest: {command}")
        raise


@contextmanager
def _bar(session: Session, verb: str) -> Iterator[Progress]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=session.progress, transient=True) as bars:
        task = bars.add_task(verb, total=None, visible=False)

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total, visible=total >= _SHOWN_BYTES and done < total)

        yield show


class _Lines:
    """Progress as plain lines, for logs."""

    def __init__(self, session: Session, verb: str) -> None:
        self._session, self._verb = session, verb
        self._next = time.monotonic() + _LINE_SECONDS

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_SECONDS
            percent = 100 * done // max(total, 1)
            self._session.note(f"{self._verb}: {percent} % of {size_text(total)}")
