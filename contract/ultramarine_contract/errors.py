"""UltramarineError and its subclasses, with the consequence of each.

    UltramarineError
    |- InvalidSpec    the user has to change the object: condition Accepted=False until a new generation.
    |- NotYet         something that may appear later is missing: a condition names it, and the key is retried.
    |- Conflict       another owner has the name or the field: a condition names it, and the key is retried.
    |- Refused        the API server does not admit a write: a condition says why, and the key is retried.
    |- NotLeading     this replica may not write now: the pass ends, and the key waits for the next leader.
    |- StorageError   the object storage refused or did not answer.
    '- GatewayError   the gateway of a namespace did not answer, or in an unknown format.

Any other exception is a bug of the platform. It is logged with its traceback, its key backs off, the others go on.
"""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 10  # names in a message


def listed(names: Iterable[object], most: int = SHOWN, *, count: int = 0) -> str:
    """Return names for a sentence: the first ones, and the number of the others; empty without names.

    `count` is the number of all names if not all of them are given.
    """
    texts = [str(name) for name in names]
    more = max(count, len(texts)) - len(texts[:most])
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 and texts else "")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 file, 0 files, 1234 files."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class UltramarineError(Exception):
    """Root of the errors: `reason` is a word for conditions, `message` names object, field and remedy."""

    reason = "Error"

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason


class InvalidSpec(UltramarineError):
    """The object asks for something impossible; only its author can fix it."""

    reason = "InvalidSpec"


class NotYet(UltramarineError):
    """Something is missing that may appear later."""

    reason = "Waiting"


class Conflict(UltramarineError):
    """Another owner has the object or field that the operator would write."""

    reason = "Conflict"


class Refused(UltramarineError):
    """The API server, or a webhook, does not admit an object; an administrator has to fix that."""

    reason = "Refused"


class NotLeading(UltramarineError):
    """This replica does not hold the Lease, so it must not write."""

    reason = "NotLeading"


class StorageError(UltramarineError):
    """The object storage refused or did not answer; `transient` is true if a retry can help."""

    reason = "StorageError"

    def __init__(self, message: str, reason: str = "", *, transient: bool = False) -> None:
        super().__init__(message, reason)
        self.transient = transient


class GatewayError(UltramarineError):
    """The gateway of a namespace did not answer, or in an unknown format; a retry can help."""

    reason = "GatewayError"
