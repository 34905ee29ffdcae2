"""UltramarineError and what follows from each of its kinds.

    UltramarineError
    |- InvalidSpec    the user has to change the object: condition Accepted=False, waits for a new generation
    |- NotYet         something that may come by itself is missing: a condition says what, and the key is tried again
    |- Conflict       somebody else owns the name or the field: a condition says who, and the key is tried again later
    |- Refused        the API server does not admit what we would write: a condition says why, tried again later
    |- NotLeading     this replica may not write now: the pass ends, and the key waits for whoever leads next
    |- StorageError   the object storage refused or did not answer
    '- GatewayError   the gateway of a namespace did not answer, or not as one of ours

Anything else that is raised is a bug of ours: it is logged with its traceback, the key backs off, the others go on.
"""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 10  # names in a message


def listed(names: Iterable[object], most: int = SHOWN, *, count: int = 0) -> str:
    """Names in a sentence: the first ones, and how many more there are; nothing if there are none.

    `count` says how many there are if not all of them are given.
    """
    known = [str(name) for name in names]
    more = max(count, len(known)) - len(known[:most])
    return ", ".join(known[:most]) + (f" and {more} more" if more > 0 and known else "")


class UltramarineError(Exception):
    """The root: `reason` is a word for conditions, `message` a sentence that names object, field and remedy."""

    reason = "Error"

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason


class InvalidSpec(UltramarineError):
    """The object asks for something that cannot be; only its author can mend it."""

    reason = "InvalidSpec"


class NotYet(UltramarineError):
    """Something is missing that may appear by itself."""

    reason = "Waiting"


class Conflict(UltramarineError):
    """Somebody else owns what we would have to write."""

    reason = "Conflict"


class Refused(UltramarineError):
    """The API server, or a webhook, does not admit an object that we would write; only a person can mend that."""

    reason = "Refused"


class NotLeading(UltramarineError):
    """This replica does not hold the Lease, so it must not write."""

    reason = "NotLeading"


class StorageError(UltramarineError):
    """The object storage refused or did not answer; `transient` says whether trying again can help."""

    reason = "StorageError"

    def __init__(self, message: str, reason: str = "", *, transient: bool = False) -> None:
        super().__init__(message, reason)
        self.transient = transient


class GatewayError(UltramarineError):
    """The gateway of a namespace did not answer, or not as one of ours; another look may find it well."""

    reason = "GatewayError"
