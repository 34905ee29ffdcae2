"""What the collector has done so far, in a file beside the captures, where the server reads it for its metrics."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from ultramarine_contract.common import UNREADABLE, read_known

_NAME = "collected.json"


@dataclass
class Totals:
    """Captures that are stored, those that were no captures, and times that the storage did not take them."""

    written: int = 0
    unreadable: int = 0
    failed_writes: int = 0


def read_totals(folder: Path) -> Totals:
    """Return what was done so far; nothing before anything was."""
    try:
        totals = read_known(Totals, orjson.loads((folder / _NAME).read_bytes()))
    except (OSError, ValueError, *UNREADABLE):
        return Totals()
    return totals if all(type(number) is int for number in asdict(totals).values()) else Totals()


def write_totals(folder: Path, totals: Totals) -> None:
    """Write it down. Raises OSError."""
    new = folder / (_NAME + ".new")
    new.unlink(missing_ok=True)
    # A new file, whatever the server, whose model may be anybody's code, has put there meanwhile.
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(file, "wb") as stream:
        stream.write(orjson.dumps(asdict(totals)))
    new.rename(folder / _NAME)
