"""The log: one JSON object a line, and each line that concerns an object says which."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from .meta import Key

_about: ContextVar[Key | None] = ContextVar("about", default=None)


@contextmanager
def about(key: Key) -> Iterator[None]:
    """Whatever is logged inside, also by libraries and in threads that are waited for, carries that object's name."""
    token = _about.set(key)
    try:
        yield
    finally:
        _about.reset(token)


class JsonLines(logging.Formatter):
    """One JSON object a line, for log collectors; `kind`, `namespace` and `name` where a line concerns an object."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (key := _about.get()) is not None:
            line |= key._asdict()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
