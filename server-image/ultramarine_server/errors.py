"""The two ways in which serving can go wrong: the model cannot be served, or a request cannot be answered."""

from __future__ import annotations

from ultramarine.shared.errors import UltramarineError


class LoadError(UltramarineError):
    """The model cannot be served; reason and message go to the termination log, for the endpoint's status."""

    reason = "ModelInvalid"


class BadRequest(Exception):
    """The client can mend it; the message names input and field, what was expected and what came."""
