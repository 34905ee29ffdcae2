"""Errors of serving: the model cannot be served, or a request cannot be answered."""

from __future__ import annotations

from ultramarine_contract.errors import UltramarineError


class LoadError(UltramarineError):
    """The model cannot be served; reason and message go to the termination log, for the endpoint's status."""

    reason = "ModelInvalid"


class Problem(Exception):
    """A request cannot be answered: `status` is HTTP's, and `retry_after` is in seconds (0: do not retry)."""

    def __init__(self, status: int, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class BadRequest(Problem):
    """The client can fix the request; the message names input and field, what was expected and what came."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


class UnfitAnswer(Problem):
    """The model's code returned a value that cannot be sent; the message names the value, and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(500, message)


def unfit_values(error: Exception) -> BadRequest:
    """Return the error for values that a model refused, with the first line of the model's message.

    A long line is cut in the middle, because scikit-learn names the column behind the values.
    """
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if len(reason) > 300:
        reason = f"{reason[:200]} ... {reason[-95:]}"
    return BadRequest(f"the model cannot take these values: {reason}")
