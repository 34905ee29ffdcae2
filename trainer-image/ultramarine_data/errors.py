"""The error of the program."""

from __future__ import annotations


class DataError(Exception):
    """Data or a source cannot be used; `transient` if another attempt may succeed."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient
